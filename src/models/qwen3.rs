//! Qwen3 (Yang et al., 2025, arXiv 2505.09388): Llama's block with an RMS norm of each head of q and k before rope. The
//! total width of the heads may differ from the hidden size.

pub use crate::models::mobilellm::hidden;
