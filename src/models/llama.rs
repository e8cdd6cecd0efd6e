//! Llama (Touvron et al., 2023, arXiv 2302.13971) and what shares its block: SmolLM2, MobileLLaMA, EfficientLLM, and
//! GGUF files of the architecture `llama`, which may hold a MobileLLM with shared layers.

pub use crate::models::mobilellm::hidden;
