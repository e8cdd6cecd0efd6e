//! The parts that all decoders share: token embedding, the transformer block, the head.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::checkpoint::{Config, QkNorm};
use crate::graph::GraphBuilder;
use crate::models::angles::{AngleTable, Turns};
use crate::models::{Pass, TOKENS};
use crate::ops::TensorType;
use crate::ops::attention::Attention;
use crate::ops::rope::Rope;
use crate::ops::swiglu::Gate;
use crate::work::ValueId;

/// The state that holds the rows of a sequence's images: (rows, hidden).
pub const IMAGES: &str = "images";

/// A decoder whose graph is being built.
pub struct Decoder<'a> {
    pub config: &'a Config,
    pub b: GraphBuilder<'a>,
    pub tokens: ValueId,
    /// W_e: (vocab, hidden)
    embedding: ValueId,
    /// cos and sin of every position, for all layers and for those with a window: see [`AngleTable`].
    angles: [(ValueId, Turns); 2],
    /// Weights of layers, by name: the executions of a shared layer use the same ones.
    weights: BTreeMap<String, ValueId>,
    pass: Pass,
    /// Number of blocks executed so far: each execution has its own KV cache.
    executed: usize,
}

impl<'a> Decoder<'a> {
    pub fn new(config: &'a Config, mut b: GraphBuilder<'a>, angles: &AngleTable, pass: Pass) -> Self {
        let context = angles.context;
        b.family(pass.family);
        let tokens = b.state(TOKENS, TensorType::u32([context]));
        let embedding = b.weight("model.embed_tokens.weight", config.vocab, config.hidden);
        let mut table = |name, data: &Arc<Vec<f32>>| {
            b.table(name, TensorType::f32([data.len() / config.head_dim, config.head_dim]), data.clone())
        };
        let all = (table("angles", &angles.data), angles.turns);
        let local = angles.local.as_ref().map(|local| (table("angles.local", local), Turns::default()));
        let angles = [all, local.unwrap_or(all)];
        Decoder { config, b, tokens, embedding, angles, weights: BTreeMap::new(), pass, executed: 0 }
    }

    /// x = scale · W_e[tokens], with rows of images where ids refer to them.
    pub fn embed(&mut self) -> ValueId {
        let mut x = self.b.embedding(self.tokens, self.embedding, self.pass.rows, self.config.embedding_scale);
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
        let n = self.norm(layer, "input_layernorm", x);
        let a = self.attention(layer, n);
        let x = self.b.add(x, a);

        let n = self.norm(layer, "post_attention_layernorm", x);
        let m = self.mlp(layer, n, Gate::Silu);
        let x = self.b.add(x, m);
        self.end_block(x)
    }

    /// Ends the block whose output is x.
    pub fn end_block(&mut self, x: ValueId) -> ValueId {
        if self.pass.want.hidden() {
            self.b.output(format!("layers.{}", self.executed), x);
        }
        self.executed += 1;
        x
    }

    /// x / rms(x) · gain
    pub fn norm(&mut self, layer: usize, part: &str, x: ValueId) -> ValueId {
        let gain = self.vector(layer, &format!("{part}.weight"), self.config.hidden);
        self.b.rms_norm(x, gain, self.config.norm_eps)
    }

    /// Attn(n) = softmax(q · kᵀ) · v · W_oᵀ, for each head; q and k are rotated by the angles of their positions.
    pub fn attention(&mut self, layer: usize, n: ValueId) -> ValueId {
        let (c, slot) = (self.config, self.executed);
        let (heads, kv_heads, d, eps) = (c.heads[layer], c.kv_heads[layer], c.head_dim, c.norm_eps);
        let mut q = self.linear(layer, "self_attn.q_proj", n, heads * d, c.qkv_bias);
        let mut k = self.linear(layer, "self_attn.k_proj", n, kv_heads * d, c.qkv_bias);
        let v = self.linear(layer, "self_attn.v_proj", n, kv_heads * d, c.qkv_bias);
        if c.qk_norm == QkNorm::Weighted {
            let [q_gain, k_gain] =
                ["q", "k"].map(|which| self.vector(layer, &format!("self_attn.{which}_norm.weight"), d));
            q = self.b.rms_norm(q, q_gain, eps);
            k = self.b.rms_norm(k, k_gain, eps);
        }
        if c.rope_layers[layer] {
            let (table, turns) = self.angles[usize::from(c.windows[layer].is_some())];
            let rope = |heads, angles| Rope { heads, head_dim: d, interleaved: c.rope.interleaved, angles };
            q = self.b.rope(q, table, rope(heads, turns.q));
            k = self.b.rope(k, table, rope(kv_heads, turns.k));
        }
        let cache = TensorType::kv(self.context(), kv_heads, d);
        let keys = self.b.state(format!("keys.{slot}"), cache.clone());
        let values = self.b.state(format!("values.{slot}"), cache);
        self.b.cache_write(k, keys);
        self.b.cache_write(v, values);
        let attention = Attention {
            scale: c.attention_scale,
            qk_norm: (c.qk_norm == QkNorm::Weightless && c.rope_layers[layer]).then_some(eps),
            window: c.windows[layer],
            ..Attention::new(heads, kv_heads, d)
        };
        let a = self.b.attention(q, keys, values, attention);
        self.linear(layer, "self_attn.o_proj", a, c.hidden, false)
    }

    /// MLP(n) = W_down · (f(W_gate · n) · W_up · n)
    pub fn mlp(&mut self, layer: usize, n: ValueId, f: Gate) -> ValueId {
        let (hidden, ffn) = (self.config.hidden, self.config.ffn[layer]);
        let gate = self.linear(layer, "mlp.gate_proj", n, ffn, false);
        let up = self.linear(layer, "mlp.up_proj", n, ffn, false);
        let h = self.b.swiglu(gate, up, f);
        self.linear(layer, "mlp.down_proj", h, hidden, false)
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

    /// x · Wᵀ, W: (rows, columns of x), plus a bias (rows) where there is one.
    fn linear(&mut self, layer: usize, part: &str, x: ValueId, rows: usize, bias: bool) -> ValueId {
        let (_, cols) = self.b.ty(x).matrix();
        let name = layer_tensor(layer, &format!("{part}.weight"));
        let b = &mut self.b;
        let w = *self.weights.entry(name.clone()).or_insert_with(|| b.weight(name, rows, cols));
        let bias = bias.then(|| self.vector(layer, &format!("{part}.bias"), rows));
        self.b.linear(x, w, bias)
    }

    fn vector(&mut self, layer: usize, part: &str, cols: usize) -> ValueId {
        let name = layer_tensor(layer, part);
        let b = &mut self.b;
        *self.weights.entry(name.clone()).or_insert_with(|| b.vector(name, cols))
    }
}

fn layer_tensor(layer: usize, part: &str) -> String {
    format!("model.layers.{layer}.{part}")
}
