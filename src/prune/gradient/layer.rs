//! The weights of a layer in f32, and values of the same shapes, such as gradients.

use crate::checkpoint::Checkpoint;
use crate::error::Result;

/// The seven matrices of a layer, or one value for each of their elements.
#[derive(Clone, Debug, Default)]
pub struct Matrices {
    pub q: Vec<f32>,    // (heads · D, hidden)
    pub k: Vec<f32>,    // (kv heads · D, hidden)
    pub v: Vec<f32>,    // (kv heads · D, hidden)
    pub o: Vec<f32>,    // (hidden, heads · D)
    pub gate: Vec<f32>, // (ffn, hidden)
    pub up: Vec<f32>,   // (ffn, hidden)
    pub down: Vec<f32>, // (hidden, ffn)
}

impl Matrices {
    /// The matrices of a layer of a checkpoint.
    pub fn load(checkpoint: &Checkpoint, layer: usize) -> Result<Self> {
        let c = &checkpoint.config;
        let (q, kv, h, ffn) = (c.heads[layer] * c.head_dim, c.kv_heads[layer] * c.head_dim, c.hidden, c.ffn[layer]);
        let take = |part: &str, shape: [usize; 2]| {
            Ok(checkpoint.take(&format!("model.layers.{layer}.{part}.weight"), &shape)?.to_f32())
        };
        Ok(Matrices {
            q: take("self_attn.q_proj", [q, h])?,
            k: take("self_attn.k_proj", [kv, h])?,
            v: take("self_attn.v_proj", [kv, h])?,
            o: take("self_attn.o_proj", [h, q])?,
            gate: take("mlp.gate_proj", [ffn, h])?,
            up: take("mlp.up_proj", [ffn, h])?,
            down: take("mlp.down_proj", [h, ffn])?,
        })
    }

    /// Zeros in the shapes of the matrices.
    pub fn zeros(&self) -> Self {
        let zeros = |x: &Vec<f32>| vec![0.0; x.len()];
        Matrices {
            q: zeros(&self.q),
            k: zeros(&self.k),
            v: zeros(&self.v),
            o: zeros(&self.o),
            gate: zeros(&self.gate),
            up: zeros(&self.up),
            down: zeros(&self.down),
        }
    }
}

/// A layer's weights in f32. The biases are empty in a model without biases.
#[derive(Debug, Default)]
pub struct Layer {
    pub matrices: Matrices,
    pub attention_norm: Vec<f32>, // (hidden)
    pub mlp_norm: Vec<f32>,       // (hidden)
    pub q_bias: Vec<f32>,         // (heads · D)
    pub k_bias: Vec<f32>,         // (kv heads · D)
    pub v_bias: Vec<f32>,         // (kv heads · D)
}
