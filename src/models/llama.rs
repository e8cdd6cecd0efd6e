//! Llama (Touvron et al., 2023, arXiv 2302.13971) and models with the same block: SmolLM2, MobileLLaMA, EfficientLLM,
//! and GGUF files of the architecture `llama`, which may contain a MobileLLM with shared layers.

pub use crate::models::mobilellm::hidden;
