//! The sentences that decoders share: tokens to vectors, a transformer block, the head.

use std::sync::Arc;

use crate::checkpoint::Config;
use crate::graph::GraphBuilder;
use crate::kernel::ValueId;
use crate::models::{Pass, TOKENS};
use crate::ops::TensorType;
use crate::ops::attention::Attention;
use crate::ops::rope::Rope;

/// The state that holds the rows of a sequence's images: (rows, hidden).
pub const IMAGES: &str = "images";

/// A decoder being written down.
pub struct Decoder<'a> {
    pub config: &'a Config,
    pub b: GraphBuilder<'a>,
    pub tokens: ValueId,
    /// W_e: (vocab, hidden)
    embedding: ValueId,
    /// cos and sin of every position: (context, head_dim)
    angles: ValueId,
    weights: Vec<Option<Layer>>,
    pass: Pass,
    /// Blocks executed so far: each has its own KV cache.
    executed: usize,
}

/// The weights of one stored layer; a shared layer has them once.
#[derive(Clone, Copy)]
struct Layer {
    attention_norm: ValueId, // (hidden)
    q: ValueId,              // (heads · D, hidden)
    k: ValueId,              // (kv heads · D, hidden)
    v: ValueId,              // (kv heads · D, hidden)
    o: ValueId,              // (hidden, heads · D)
    mlp_norm: ValueId,       // (hidden)
    gate: ValueId,           // (ffn, hidden)
    up: ValueId,             // (ffn, hidden)
    down: ValueId,           // (hidden, ffn)
}

impl<'a> Decoder<'a> {
    pub fn new(config: &'a Config, mut b: GraphBuilder<'a>, angles: &Arc<Vec<f32>>, pass: Pass) -> Self {
        let context = angles.len() / config.head_dim;
        b.family(pass.family);
        let tokens = b.state(TOKENS, TensorType::u32([context]));
        let embedding = b.weight("model.embed_tokens.weight", config.vocab, config.hidden);
        let table = TensorType::f32([context, config.head_dim]);
        let angles = b.table("angles", table, angles.clone());
        let weights = vec![None; config.layers];
        Decoder { config, b, tokens, embedding, angles, weights, pass, executed: 0 }
    }

    /// x = W_e[tokens], and rows of images where ids name them.
    pub fn embed(&mut self) -> ValueId {
        let mut x = self.b.embedding(self.tokens, self.embedding, self.pass.rows);
        if self.pass.images {
            let c = self.config;
            let rows = self.b.state(IMAGES, TensorType::f32([self.context(), c.hidden]));
            x = self.b.splice_rows(self.tokens, x, rows, c.vocab);
        }
        if self.pass.want.hidden() {
            self.b.output("embeddings", x);
        }
        x
    }

    /// x = x + Attn(RMS(x));  x = x + MLP(RMS(x))
    pub fn block(&mut self, layer: usize, x: ValueId) -> ValueId {
        let w = self.layer(layer);
        let (c, slot) = (self.config, self.executed);
        let (heads, kv_heads, d, eps) = (c.heads[layer], c.kv_heads[layer], c.head_dim, c.norm_eps);
        let context = self.context();
        let keys = self.b.state(format!("keys.{slot}"), TensorType::kv(context, kv_heads, d));
        let values = self.b.state(format!("values.{slot}"), TensorType::kv(context, kv_heads, d));

        let n = self.b.rms_norm(x, w.attention_norm, eps);
        let mut q = self.b.linear(n, w.q, None);
        let mut k = self.b.linear(n, w.k, None);
        let v = self.b.linear(n, w.v, None);
        if c.rope_layers[layer] {
            let rope = |heads| Rope { heads, head_dim: d, interleaved: c.rope.interleaved };
            q = self.b.rope(q, self.angles, rope(heads));
            k = self.b.rope(k, self.angles, rope(kv_heads));
        }
        self.b.cache_write(k, keys);
        self.b.cache_write(v, values);
        let qk_norm = (c.qk_norm && c.rope_layers[layer]).then_some(eps);
        let a = self.b.attention(q, keys, values, Attention { heads, kv_heads, head_dim: d, qk_norm, causal: true });
        let o = self.b.linear(a, w.o, None);
        let x = self.b.add(x, o);

        let n = self.b.rms_norm(x, w.mlp_norm, eps);
        let gate = self.b.linear(n, w.gate, None);
        let up = self.b.linear(n, w.up, None);
        let h = self.b.swiglu(gate, up);
        let down = self.b.linear(h, w.down, None);
        let x = self.b.add(x, down);

        if self.pass.want.hidden() {
            self.b.output(format!("layers.{slot}"), x);
        }
        self.executed += 1;
        x
    }

    /// logits = RMS(x) · Wᵀ; W is the embedding where the model shares it.
    pub fn head(&mut self, x: ValueId) -> ValueId {
        let c = self.config;
        let norm = self.b.vector("model.norm.weight", c.hidden);
        let head = if c.tied { self.embedding } else { self.b.weight("lm_head.weight", c.vocab, c.hidden) };
        let n = self.b.rms_norm(x, norm, c.norm_eps);
        self.b.linear(n, head, None)
    }

    fn context(&self) -> usize {
        self.b.ty(self.tokens).shape[0]
    }

    fn layer(&mut self, layer: usize) -> Layer {
        if let Some(weights) = self.weights[layer] {
            return weights;
        }
        let c = self.config;
        let (q, kv, h, ffn) = (c.heads[layer] * c.head_dim, c.kv_heads[layer] * c.head_dim, c.hidden, c.ffn[layer]);
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        let b = &mut self.b;
        let weights = Layer {
            attention_norm: b.vector(name("input_layernorm"), h),
            q: b.weight(name("self_attn.q_proj"), q, h),
            k: b.weight(name("self_attn.k_proj"), kv, h),
            v: b.weight(name("self_attn.v_proj"), kv, h),
            o: b.weight(name("self_attn.o_proj"), h, q),
            mlp_norm: b.vector(name("post_attention_layernorm"), h),
            gate: b.weight(name("mlp.gate_proj"), ffn, h),
            up: b.weight(name("mlp.up_proj"), ffn, h),
            down: b.weight(name("mlp.down_proj"), h, ffn),
        };
        self.weights[layer] = Some(weights);
        weights
    }
}
