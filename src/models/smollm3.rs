//! SmolLM3 (Hugging Face, 2025): Llama's block; every fourth layer has no rope (NoPE, Yang et al., 2025, arXiv
//! 2501.18795).

pub use crate::models::mobilellm::hidden;
