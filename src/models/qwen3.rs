//! Qwen3 (Yang et al., 2025, arXiv 2505.09388): Llama's block with an RMS norm of each head of q and k before rope. The
//! total width of the heads may differ from the hidden size.

use crate::kernel::ValueId;
use crate::models::blocks::Decoder;

pub fn hidden(decoder: &mut Decoder) -> ValueId {
    let mut x = decoder.embed();
    for layer in 0..decoder.config.layers {
        x = decoder.block(layer, x);
    }
    x
}
