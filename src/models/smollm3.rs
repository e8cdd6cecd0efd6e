//! SmolLM3 (Hugging Face, 2025): Llama's block; every fourth layer has no rope (NoPE, Yang et al., 2025, arXiv
//! 2501.18795).

use crate::kernel::ValueId;
use crate::models::blocks::Decoder;

pub fn hidden(decoder: &mut Decoder) -> ValueId {
    let mut x = decoder.embed();
    for layer in 0..decoder.config.layers {
        x = decoder.block(layer, x);
    }
    x
}
