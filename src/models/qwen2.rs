//! Qwen2 (Yang et al., 2024, arXiv 2407.10671) and Qwen2.5: Llama's block with biases on q, k and v.

pub use crate::models::mobilellm::hidden;
