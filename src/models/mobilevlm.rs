//! MobileVLM (Chu et al., 2023, arXiv 2312.16886) and MobileVLM V2 (2024, arXiv 2402.03766): a CLIP tower and a
//! projector convert a picture into tokens, which MobileLLaMA reads together with its text tokens.
//!
//! An id ≥ `vocab` refers to a row of the images that were encoded before.

use crate::checkpoint::VisionConfig;
use crate::graph::GraphBuilder;
pub use crate::models::mobilellm::hidden;
use crate::models::{PIXELS, PROJECTED, clip, projector};
use crate::ops::TensorType;

/// Input `pixels` (3, S, S); outputs `vision.features` (N, width) and `vision.projected` (M, hidden).
pub fn image(b: &mut GraphBuilder, config: &VisionConfig, hidden: usize) {
    let pixels = b.input(PIXELS, TensorType::f32([3, config.image_size, config.image_size]));
    let features = clip::features(b, config, pixels);
    let tokens = projector::tokens(b, config, features, hidden);
    b.output("vision.features", features);
    b.output(PROJECTED, tokens);
}
