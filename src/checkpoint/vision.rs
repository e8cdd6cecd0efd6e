//! The configuration of the vision half of a MobileVLM or a Qwen-VL.

use std::path::PathBuf;

/// A tower, and a projector that makes tokens of its features. Where files and tensor shapes disagree about widths, the
/// shapes are used.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    /// S: images are resized to S × S pixels.
    pub image_size: usize,
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Features of a patch.
    pub width: usize,
    pub heads: usize,
    /// Width of the feed-forward part.
    pub ffn: usize,
    /// Number of blocks that are executed; later blocks are not loaded.
    pub blocks: usize,
    pub norm_eps: f32,
    pub activation: Activation,
    pub projector: Projector,
    /// Means of red, green and blue, in 0 .. 1: pixels become (value − mean) / std.
    pub mean: [f32; 3],
    pub std: [f32; 3],
    /// The id of `<img>`, where ids mark the tokens of a picture; `</img>` is the next id.
    pub image_start: Option<u32>,
}

/// The nonlinearity of the tower's feed-forward part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// x · Φ(x)
    Gelu,
    /// x · σ(1.702 x)
    QuickGelu,
}

/// The projector, which turns patches into tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Projector {
    /// MobileVLM V1, `ldpnet`. `squeeze` is the inner width of its squeeze-excitation.
    Ldp { squeeze: usize },
    /// MobileVLM V2, `ldpnetv2`.
    Ldpv2,
    /// Qwen-VL's projector: 256 queries that attend to the patches.
    Resampler { heads: usize },
}

/// The location of the vision half, where the model's own files do not give it. At most one of the two is set.
#[derive(Clone, Debug, Default)]
pub struct VisionFiles {
    /// llama.cpp's second file: tower and projector for a language model of the architecture `llama` or `mobilevlm`.
    pub mmproj: Option<PathBuf>,
    /// A CLIP folder whose tower replaces the one that a MobileVLM folder contains or names.
    pub tower: Option<PathBuf>,
}

impl VisionConfig {
    /// Patches on a side of the image.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch
    }

    /// Patches of an image: N.
    pub fn patches(&self) -> usize {
        self.grid() * self.grid()
    }

    /// Tokens on a side of the grid that the language model receives.
    pub fn token_grid(&self) -> usize {
        match self.projector {
            Projector::Ldp { .. } => self.grid().div_ceil(2),
            Projector::Ldpv2 => 12,
            Projector::Resampler { .. } => 16,
        }
    }

    /// Whether pictures are stretched to a square without applying their orientation. Otherwise they are turned upright
    /// and padded.
    pub fn fills_square(&self) -> bool {
        matches!(self.projector, Projector::Resampler { .. })
    }

    /// Tokens of an image: M.
    pub fn tokens(&self) -> usize {
        self.token_grid() * self.token_grid()
    }
}
