//! The published models of each architecture, for users who look for a model: `dunlin info --models` prints the list.

/// An architecture and its published models.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The name in `config.json`.
    pub architecture: &'static str,
    /// The name in GGUF files, where GGUF has the architecture.
    pub gguf: Option<&'static str>,
    pub models: &'static str,
    pub tried: Tried,
}

/// The weights that the architecture has been tested with, besides random weights and their reference outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// The published weights of this model.
    Real(&'static str),
    /// None: there are no published weights.
    Random,
}

/// Every architecture, in the order of [`super::ARCHITECTURES`].
pub const KNOWN: &[Known] = &[
    known("mobilellm", Some("llama"), "MobileLLM 125M to 1.5B, MobileLLM-LS, pruned ones"),
    Known {
        tried: Tried::Real("SmolLM2-135M-Instruct"),
        ..known("llama", Some("llama"), "Llama 2, Llama 3.x, SmolLM, SmolLM2, MobileLLaMA, EfficientLLM")
    },
    known("llama4_text", Some("llama4"), "MobileLLM-R1 140M to 950M"),
    known("qwen2", Some("qwen2"), "Qwen2, Qwen2.5 0.5B to 72B, pruned ones"),
    known("qwen3", Some("qwen3"), "Qwen3 0.6B to 32B, dense"),
    known("smollm3", Some("smollm3"), "SmolLM3 3B"),
    known("gemma3_text", Some("gemma3"), "Gemma 3 270M, 1B"),
    known("mobilevlm", Some("llama"), "MobileVLM, MobileVLM V2 1.7B to 7B; in GGUF with an mmproj file"),
    known("qwen", None, "Qwen 1; with a picture tower Qwen-VL, Qwen-VL-Chat, Xiaomi's MobileVLM"),
];

const fn known(architecture: &'static str, gguf: Option<&'static str>, models: &'static str) -> Known {
    Known { architecture, gguf, models, tried: Tried::Random }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::ARCHITECTURES;

    #[test]
    fn every_architecture_is_known_and_in_the_readme() {
        let names: Vec<&str> = KNOWN.iter().map(|known| known.architecture).collect();
        assert_eq!(names, ARCHITECTURES);
        let readme = include_str!("../../README.md");
        for known in KNOWN {
            let cell = format!("| `{}`", known.architecture);
            assert!(readme.contains(&cell), "README's table of models has no row of {}", known.architecture);
        }
    }
}
