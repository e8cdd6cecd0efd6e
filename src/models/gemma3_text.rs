//! Gemma 3 (Gemma Team, 2025, arXiv 2503.19786), its text models of 270M and 1B: embeddings times √hidden, norms before and
//! behind attention and the gated unit, whose gate is GELU, norms of q and k before rope. Five layers in six see a window and
//! have a θ of their own.
//!
//! Gains are 1 + w in the paper's code; here they are whole, as the checkpoint gives them. √hidden is rounded to the type that
//! is computed in, which is float32.

use crate::kernel::ValueId;
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
