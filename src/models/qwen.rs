//! Qwen (2023, arXiv 2309.16609) and Qwen-VL (2023, arXiv 2308.12966): a decoder with biases on q, k and v, whose
//! angles and queries change beyond the trained length; a ViT-bigG tower; and a position-aware adapter, 256 queries
//! that attend to the patches. Xiaomi's MobileVLM (2024, arXiv 2409.14818) is Qwen-VL with further training.
//!
//! An id ≥ `vocab` refers to a row of the images that were encoded before.

use crate::checkpoint::VisionConfig;
use crate::graph::GraphBuilder;
use crate::work::ValueId;
pub use crate::models::mobilellm::hidden;
use crate::models::{PIXELS, PROJECTED, clip};
use crate::ops::TensorType;
use crate::ops::attention::Attention;
use crate::ops::conv2d::Conv2d;

/// Input `pixels` (3, S, S); outputs `vision.features` (N, width) and `vision.projected` (256, hidden).
pub fn image(b: &mut GraphBuilder, config: &VisionConfig, hidden: usize, heads: usize) {
    let pixels = b.input(PIXELS, TensorType::f32([3, config.image_size, config.image_size]));
    let features = features(b, config, pixels);
    let tokens = resampled(b, config, features, hidden, heads);
    b.output("vision.features", features);
    b.output(PROJECTED, tokens);
}

/// Patches with their positions, a norm, then blocks with two-way attention: (N, width). No class token, no last norm.
fn features(b: &mut GraphBuilder, config: &VisionConfig, pixels: ValueId) -> ValueId {
    let (n, width) = (config.patches(), config.width);
    let w = b.weight("visual.patch_embedding.weight", width, 3 * config.patch * config.patch);
    let x = b.conv2d(pixels, w, Conv2d { size: config.image_size, patch: config.patch });
    let x = with_positions(b, x, "visual.positions", n);
    let mut x = clip::norm(b, config, x, "visual.pre_norm");
    for index in 0..config.blocks {
        x = clip::block(b, config, x, &format!("visual.blocks.{index}"));
    }
    x
}

/// kv = LN(x · Wᵀ);  a = Attn(queries, kv + positions, kv);  LN(a) · proj: (256, h). The stored queries include their
/// norm and positions.
fn resampled(b: &mut GraphBuilder, config: &VisionConfig, x: ValueId, h: usize, heads: usize) -> ValueId {
    const NAME: &str = "visual.resampler";
    let (n, m) = (config.patches(), config.tokens());
    let head_dim = h / heads;
    let cache = TensorType::kv(n, heads, head_dim);
    let keys = b.state("resampler.keys", cache.clone());
    let values = b.state("resampler.values", cache);

    let mut kv = x;
    if config.width != h {
        let w = b.weight(format!("{NAME}.kv_proj.weight"), h, config.width);
        kv = b.linear(x, w, None);
    }
    let kv = clip::norm(b, config, kv, &format!("{NAME}.kv_norm"));
    let placed = with_positions(b, kv, &format!("{NAME}.kv_positions"), n);
    let queries = b.vector(format!("{NAME}.queries"), m * h);
    let queries = b.constant_rows(queries, m);
    let q = clip::linear(b, queries, &format!("{NAME}.q_proj"), h, h);
    let k = clip::linear(b, placed, &format!("{NAME}.k_proj"), h, h);
    let v = clip::linear(b, kv, &format!("{NAME}.v_proj"), h, h);
    b.cache_write(k, keys);
    b.cache_write(v, values);
    let attention = Attention { causal: false, cross: Some(n), ..Attention::new(heads, heads, head_dim) };
    let a = b.attention(q, keys, values, attention);
    let a = clip::linear(b, a, &format!("{NAME}.out_proj"), h, h);

    let a = clip::norm(b, config, a, "visual.post_norm");
    let proj = b.weight("visual.proj.weight", h, h);
    b.linear(a, proj, None)
}

/// x with a position added to each of its `n` rows.
fn with_positions(b: &mut GraphBuilder, x: ValueId, name: &str, n: usize) -> ValueId {
    let (_, cols) = b.ty(x).matrix();
    let positions = b.vector(name, n * cols);
    let positions = b.constant_rows(positions, n);
    b.add(x, positions)
}
