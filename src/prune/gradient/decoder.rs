//! Forward and backward pass of a decoder: embedding, blocks, head and loss.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::block::{Activations, Block};
use super::layer::{Layer, Matrices};
use super::rows::both;
use crate::checkpoint::{Checkpoint, Config, QkNorm};
use crate::cpu::dense::{Dense, View};
use crate::cpu::gradient::{add_rms_norm_gradient, rms_norm, softmax_gradient};
use crate::error::{Error, Result};
use crate::models;
use crate::ops::rope::{Angles, Rope};
use crate::prune::streams::Each;
use crate::tensor::Tensor;
use crate::threads::Team;

/// The tensors of a layer that [`Decoder`] supports. With other tensors a model is a different function.
const KNOWN: [&str; 12] = [
    "input_layernorm.weight",
    "mlp.down_proj.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "post_attention_layernorm.weight",
    "self_attn.k_proj.bias",
    "self_attn.k_proj.weight",
    "self_attn.o_proj.weight",
    "self_attn.q_proj.bias",
    "self_attn.q_proj.weight",
    "self_attn.v_proj.bias",
    "self_attn.v_proj.weight",
];

/// A decoder in f32, whose gradients can be computed.
pub struct Decoder {
    config: Config,
    /// cos and sin of each position's angles: (window, D)
    angles: Arc<Vec<f32>>,
    embedding: Tensor, // (vocab, hidden)
    norm: Vec<f32>,    // (hidden)
    head: Vec<f32>,    // (vocab, hidden)
    pub layers: Vec<Layer>,
}

/// The part of a batch that is in memory at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Windows that go through the model together.
    pub windows: usize,
    /// Number of layer passes whose activations are recomputed in the backward pass.
    pub recomputed: usize,
    pub bytes: usize,
}

impl Decoder {
    /// Reads a checkpoint for windows of `window` ids.
    pub fn load(checkpoint: &Checkpoint, window: usize) -> Result<Self> {
        let c = &checkpoint.config;
        let layer_part =
            |name: &str| name.strip_prefix("model.layers.")?.split_once('.').map(|(_, part)| part.to_owned());
        let unknown = |part: &String| !KNOWN.contains(&part.as_str());
        if let Some(part) = checkpoint.tensors().filter_map(|tensor| layer_part(tensor.name)).find(unknown) {
            return Err(Error::unsupported(format!(
                "{}: the layers have a tensor `{part}`, through which dunlin knows no gradients; take --importance l2",
                checkpoint.path.display(),
            )));
        }
        if let Some(keys) = c.windows.iter().flatten().find(|&&keys| keys < window) {
            return Err(Error::unsupported(format!(
                "{}: a layer attends to the last {keys} tokens only, and no gradients are known for windows of {window} ids; \
                 give windows of at most {keys} ids, or take --importance l2",
                checkpoint.path.display(),
            )));
        }
        let vector = |name: &str, size| Ok::<_, Error>(checkpoint.take(name, &[size])?.to_f32());
        let embedding = checkpoint.take("model.embed_tokens.weight", &[c.vocab, c.hidden])?;
        let head = match c.tied {
            true => embedding.to_f32(),
            false => checkpoint.take("lm_head.weight", &[c.vocab, c.hidden])?.to_f32(),
        };
        let layer = |layer: usize| {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            let bias = |part: &str, heads: usize| match checkpoint.dtype(&name(part)) {
                Some(_) => vector(&name(part), heads * c.head_dim),
                None => Ok(Vec::new()),
            };
            Ok(Layer {
                matrices: Matrices::load(checkpoint, layer)?,
                attention_norm: vector(&name("input_layernorm.weight"), c.hidden)?,
                mlp_norm: vector(&name("post_attention_layernorm.weight"), c.hidden)?,
                q_bias: bias("self_attn.q_proj.bias", c.heads[layer])?,
                k_bias: bias("self_attn.k_proj.bias", c.kv_heads[layer])?,
                v_bias: bias("self_attn.v_proj.bias", c.kv_heads[layer])?,
            })
        };
        Ok(Decoder {
            config: c.clone(),
            angles: models::angles(c, window)?.data,
            embedding,
            norm: vector("model.norm.weight", c.hidden)?,
            head,
            layers: (0..c.layers).map(layer).collect::<Result<_>>()?,
        })
    }

    /// Gradients of all layers, set to zero.
    pub fn gradients(&self) -> Vec<Matrices> {
        self.layers.iter().map(|layer| layer.matrices.zeros()).collect()
    }

    /// The division of a batch of `batch` windows that keeps within `limit` bytes: first it reduces the windows at a
    /// time, down to one, and only then recomputes activations.
    pub fn memory(&self, batch: usize, window: usize, limit: usize) -> Memory {
        let passes: Vec<usize> = self.passes().collect();
        // Bytes per window: the streams of all passes, and the activations of each pass.
        let streams = 4 * window * self.config.hidden * (passes.len() + 2);
        let kept: Vec<usize> = passes.iter().map(|&layer| self.block(layer, window).activation_bytes()).collect();
        let most = kept.iter().copied().max().unwrap_or(0);
        let whole = streams + most + kept.iter().sum::<usize>();
        let windows = (limit / whole).clamp(1, batch.max(1));
        // The backward pass needs the last passes first. The current pass is always in memory.
        let mut bytes = windows * whole;
        let mut recomputed = 0;
        while bytes > limit && recomputed < kept.len() {
            bytes -= windows * kept[recomputed];
            recomputed += 1;
        }
        Memory { windows, recomputed, bytes }
    }

    /// The layers in execution order.
    fn passes(&self) -> impl Iterator<Item = usize> {
        let repeats = if self.config.layer_sharing { 2 } else { 1 };
        (0..self.config.layers).flat_map(move |layer| std::iter::repeat_n(layer, repeats))
    }

    /// The mean loss of a batch of windows of the same length. Adds to `gradients`, and calls `seen` with layer, input
    /// and output of each pass, (rows, hidden), for some of the windows at a time. Stops where `go_on` breaks.
    pub fn batch(
        &self,
        windows: &[Vec<u32>],
        memory: Memory,
        team: &Team,
        gradients: &mut [Matrices],
        seen: &mut Each,
        go_on: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> ControlFlow<(), f64> {
        let window = windows[0].len();
        let scale = 1.0 / (windows.len() * (window - 1)) as f32;
        let passes: Vec<usize> = self.passes().collect();
        let mut loss = 0.0;
        for some in windows.chunks(memory.windows) {
            let mut x = self.embed(some);
            let mut kept: Vec<(Option<Activations>, Vec<f32>)> = Vec::with_capacity(passes.len());
            for (pass, &layer) in passes.iter().enumerate() {
                let (activations, y) = self.block(layer, window).forward(&x, team);
                seen(layer, &x, &y);
                kept.push(((pass >= memory.recomputed).then_some(activations), x));
                x = y;
            }
            let (sum, mut dx) = self.head_gradient(&x, some, scale, team);
            loss += sum;
            for (&layer, (activations, x)) in passes.iter().zip(kept).rev() {
                let block = self.block(layer, window);
                let activations = activations.unwrap_or_else(|| block.forward(&x, team).0);
                dx = block.backward(&x, &activations, dx, &mut gradients[layer], team);
            }
            go_on(some.len())?;
        }
        ControlFlow::Continue(loss)
    }

    /// The output of each pass for some windows, (rows, hidden).
    pub fn hidden(&self, windows: &[Vec<u32>], team: &Team) -> Vec<Vec<f32>> {
        let mut x = self.embed(windows);
        let forward = |layer: usize| {
            x = self.block(layer, windows[0].len()).forward(&x, team).1;
            x.clone()
        };
        self.passes().map(forward).collect()
    }

    /// x = W_e[ids]
    fn embed(&self, windows: &[Vec<u32>]) -> Vec<f32> {
        let hidden = self.config.hidden;
        let mut x = vec![0.0; windows.iter().map(Vec::len).sum::<usize>() * hidden];
        for (id, x) in windows.iter().flatten().zip(x.chunks_exact_mut(hidden)) {
            self.embedding.read_row(*id as usize, x);
        }
        x
    }

    fn block(&self, layer: usize, window: usize) -> Block<'_> {
        let c = &self.config;
        let rotates = c.rope_layers[layer];
        Block {
            layer: &self.layers[layer],
            window,
            hidden: c.hidden,
            heads: c.heads[layer],
            kv_heads: c.kv_heads[layer],
            head_dim: c.head_dim,
            ffn: c.ffn[layer],
            eps: c.norm_eps,
            angles: &self.angles,
            rope: rotates.then_some(Rope {
                heads: 1,
                head_dim: c.head_dim,
                interleaved: c.rope.interleaved,
                angles: Angles::default(),
            }),
            qk_norm: (c.qk_norm == QkNorm::Weightless && rotates).then_some(c.norm_eps),
        }
    }

    /// The sum of the losses of some windows, times `scale`, and its gradient with respect to x (rows, hidden).
    ///
    /// n = RMS(x)   logits = n · Wᵀ   dlogits = scale · (softmax − onehot)   dn = dlogits · W
    fn head_gradient(&self, x: &[f32], windows: &[Vec<u32>], scale: f32, team: &Team) -> (f64, Vec<f32>) {
        /// Rows whose logits are in memory at a time.
        const ROWS: usize = 256;
        let (hidden, vocab) = (self.config.hidden, self.config.vocab);
        let window = windows[0].len();
        let targets: Vec<Option<u32>> =
            windows.iter().flat_map(|ids| ids[1..].iter().map(|&id| Some(id)).chain([None])).collect();
        assert_eq!((targets.len(), x.len()), (windows.len() * window, targets.len() * hidden), "rows of the head");
        let mut dx = vec![0.0; x.len()];
        let mut loss = 0.0;
        for ((x, dx), targets) in x.chunks(ROWS * hidden).zip(dx.chunks_mut(ROWS * hidden)).zip(targets.chunks(ROWS)) {
            let m = targets.len();
            let mut n = vec![0.0; x.len()];
            rms_norm(x, &self.norm, self.config.norm_eps, &mut n);
            let mut logits = vec![0.0; m * vocab];
            let (a, b) = (View::new(&n, hidden), View::new(&self.head, hidden).t());
            Dense { a, b, size: [m, hidden, vocab], add: false }.run(team, &mut logits);
            let mut losses = vec![0.0; m];
            both(team, (&mut logits, vocab), (&mut losses, 1), |row, logits, loss| match targets[row] {
                None => logits.fill(0.0),
                Some(target) => {
                    let logit = logits[target as usize];
                    let (sum, most) = softmax_gradient(logits, target as usize, scale);
                    loss[0] = most + sum.ln() - logit;
                }
            });
            loss += losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
            let (a, b) = (View::new(&logits, vocab), View::new(&self.head, hidden));
            Dense { a, b, size: [m, vocab, hidden], add: false }.run(team, &mut n);
            add_rms_norm_gradient(x, &self.norm, self.config.norm_eps, &n, dx);
        }
        (loss * f64::from(scale), dx)
    }
}
