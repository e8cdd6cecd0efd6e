//! MobileLLM (Liu et al., 2024, arXiv 2402.14905): deep and thin, grouped-query attention, SwiGLU, a shared embedding.
//!
//! MobileLLM-LS (§3.3, "immediate block-wise weight sharing") executes each block twice in a row: 0, 0, 1, 1, …
//! The weights are shared and the KV caches are not: each execution attends to its own keys and values.
//! In models pruned by Adapt-Pruner (arXiv 2502.03460), every layer has its own number of heads and feed-forward width.

use crate::work::ValueId;
use crate::models::blocks::Decoder;

pub fn hidden(decoder: &mut Decoder) -> ValueId {
    let repeats = if decoder.config.layer_sharing { 2 } else { 1 };
    let mut x = decoder.embed();
    for layer in 0..decoder.config.layers {
        for _ in 0..repeats {
            x = decoder.block(layer, x);
        }
    }
    x
}
