//! The vision half of a MobileVLM or of a Qwen-VL, as its files describe it.

use std::path::PathBuf;

/// A tower and what makes tokens of its features. Widths come from the shapes of tensors where files and shapes disagree.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    /// S: images are brought to S × S pixels.
    pub image_size: usize,
    /// Pixels of a patch's side.
    pub patch: usize,
    /// Features of a patch.
    pub width: usize,
    pub heads: usize,
    /// Width of the feed-forward part.
    pub ffn: usize,
    /// Blocks that are executed; later ones are not loaded.
    pub blocks: usize,
    pub norm_eps: f32,
    pub activation: Activation,
    pub projector: Projector,
    /// Of red, green and blue, in 0 .. 1: pixels become (value − mean) / std.
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

/// The nonlinearity of the tower's feed-forward part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// x · Φ(x)
    Gelu,
    /// x · σ(1.702 x)
    QuickGelu,
}

/// What turns patches into tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Projector {
    /// MobileVLM V1, `ldpnet`. `squeeze` is the inner width of its squeeze-excitation.
    Ldp { squeeze: usize },
    /// MobileVLM V2, `ldpnetv2`.
    Ldpv2,
    /// Qwen-VL's: 256 queries that look at the patches.
    Resampler { heads: usize },
}

/// Where the vision half is, where the model's own files do not say. At most one of the two.
#[derive(Clone, Debug, Default)]
pub struct VisionFiles {
    /// llama.cpp's second file: tower and projector for a language model of the architecture `llama` or `mobilevlm`.
    pub mmproj: Option<PathBuf>,
    /// A CLIP folder whose tower is used instead of the one that a MobileVLM folder holds or names.
    pub tower: Option<PathBuf>,
}

impl VisionConfig {
    /// Patches a side.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch
    }

    /// Patches of an image: N.
    pub fn patches(&self) -> usize {
        self.grid() * self.grid()
    }

    /// Tokens a side of the grid that the language model gets.
    pub fn token_grid(&self) -> usize {
        match self.projector {
            Projector::Ldp { .. } => self.grid().div_ceil(2),
            Projector::Ldpv2 => 12,
            Projector::Resampler { .. } => 16,
        }
    }

    /// Whether pictures are stretched to a square as they lie in their files. Else they are turned upright and padded.
    pub fn stretches(&self) -> bool {
        matches!(self.projector, Projector::Resampler { .. })
    }

    /// Tokens of an image: M.
    pub fn tokens(&self) -> usize {
        self.token_grid() * self.token_grid()
    }
}
