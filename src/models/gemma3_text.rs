//! Gemma 3 (Gemma Team, 2025, arXiv 2503.19786), the text models of 270M and 1B: embeddings times √hidden, norms before
//! and after attention and the gated unit, GELU as the gate, and norms of q and k before rope. Five layers in six have
//! a sliding window and a θ of their own.
//!
//! The paper's code stores gains as w and multiplies by 1 + w; the checkpoint here returns 1 + w. √hidden is rounded to
//! the type of the computation, which is float32.

use crate::work::ValueId;
use crate::models::blocks::Decoder;
use crate::ops::swiglu::Gate;

pub fn hidden(decoder: &mut Decoder) -> ValueId {
    let mut x = decoder.embed();
    for layer in 0..decoder.config.layers {
        x = block(decoder, layer, x);
    }
    x
}

/// x = x + RMS(Attn(RMS(x)));  x = x + RMS(MLP(RMS(x)))
fn block(decoder: &mut Decoder, layer: usize, x: ValueId) -> ValueId {
    let n = decoder.norm(layer, "input_layernorm", x);
    let a = decoder.attention(layer, n);
    let a = decoder.norm(layer, "post_attention_layernorm", a);
    let x = decoder.b.add(x, a);

    let n = decoder.norm(layer, "pre_feedforward_layernorm", x);
    let m = decoder.mlp(layer, n, Gate::GeluTanh);
    let m = decoder.norm(layer, "post_feedforward_layernorm", m);
    let x = decoder.b.add(x, m);
    decoder.end_block(x)
}
