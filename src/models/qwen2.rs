//! Qwen2 (Yang et al., 2024, arXiv 2407.10671) and Qwen2.5: Llama's block with biases on q, k and v.

use crate::kernel::ValueId;
use crate::models::blocks::Decoder;

pub fn hidden(decoder: &mut Decoder) -> ValueId {
    let mut x = decoder.embed();
    for layer in 0..decoder.config.layers {
        x = decoder.block(layer, x);
    }
    x
}
