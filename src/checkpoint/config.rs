//! The configuration of a checkpoint: its files' description, completed by the shapes of its tensors → [`Config`].

use std::collections::BTreeMap;
use std::path::Path;

use super::beyond::Beyond;
use super::stored::Stored;
use super::vision::VisionConfig;
use crate::error::{Error, Result};

/// The configuration of a decoder. Where files and tensor shapes disagree about widths, the shapes are used.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The name of the model's builder in `models`: `mobilellm`, `llama`, `qwen2`, ….
    pub architecture: String,
    pub vocab: usize,
    pub hidden: usize,
    /// Number of stored layers; with `layer_sharing` each is executed twice in a row.
    pub layers: usize,
    /// Query heads of each layer. Every list in this struct has `layers` entries.
    pub heads: Vec<usize>,
    /// Key/value heads of each layer.
    pub kv_heads: Vec<usize>,
    /// Feed-forward width of each layer.
    pub ffn: Vec<usize>,
    pub head_dim: usize,
    pub norm_eps: f32,
    pub rope: RopeConfig,
    /// Whether layer i rotates q and k (`no_rope_layers[i] == 1` in Hugging Face files, where the name is inverted).
    pub rope_layers: Vec<bool>,
    /// The largest number of positions that layer i attends to, its own included; `None` means all.
    pub windows: Vec<Option<usize>>,
    pub qk_norm: QkNorm,
    /// The factor of attention scores: 1/√head_dim in most models.
    pub attention_scale: f32,
    /// The factor of embeddings before the first layer: 1 in most models.
    pub embedding_scale: f32,
    /// Whether q, k and v each have a bias (Qwen2).
    pub qkv_bias: bool,
    /// MobileLLM-LS: execution order 0, 0, 1, 1, …
    pub layer_sharing: bool,
    /// Whether the output head is the embedding matrix.
    pub tied: bool,
    /// The longest context the model was made for (`max_position_embeddings`).
    pub context: usize,
    pub bos: Option<u32>,
    /// Ids that end a generation.
    pub eos: Vec<u32>,
    /// The vision half of a vision-language model.
    pub vision: Option<VisionConfig>,
}

/// How the heads of q and k are normalised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QkNorm {
    #[default]
    None,
    /// To unit mean square after rope, without a weight, in layers with rope (Llama 4).
    Weightless,
    /// By an RMS norm with a weight, before rope (Qwen3, Gemma 3).
    Weighted,
}

/// Rotary position embedding. Angles are `position · inv_freq[i]` for i in 0..head_dim/2.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// Pairs are (2i, 2i+1) instead of (i, i + head_dim/2).
    pub interleaved: bool,
    /// θ_i, with any scaling (linear, llama3, `rope_freqs`) applied.
    pub inv_freq: Vec<f32>,
    /// θ_i of layers with a window, where these layers have their own (Gemma 3).
    pub local: Option<Vec<f32>>,
    /// The longest context for which `inv_freq` is valid (`dynamic` scaling changes it beyond); `None` means any.
    pub most_positions: Option<usize>,
    /// Changes beyond the length that the model was trained for.
    pub beyond: Beyond,
}

/// The content of `config.json` or GGUF metadata. Widths per layer may be wrong or missing: the tensor shapes decide.
#[derive(Clone, Debug)]
pub(super) struct Description {
    pub architecture: String,
    pub hidden: usize,
    pub layers: usize,
    /// Query heads of each layer.
    pub heads: Vec<usize>,
    /// The size of a head, where the file states it or it follows from other keys.
    pub head_dim: Option<usize>,
    /// The key that states `head_dim`, for error messages; `None` where the size was computed from other keys.
    pub head_dim_key: Option<&'static str>,
    pub norm_eps: f32,
    pub rope: RopeDescription,
    /// The rope of layers with a window, where these layers have their own.
    pub local_rope: Option<RopeDescription>,
    pub rope_layers: Vec<bool>,
    pub windows: Vec<Option<usize>>,
    pub qk_norm: QkNorm,
    /// The factor of attention scores, where it is not 1/√head_dim.
    pub attention_scale: Option<f32>,
    pub embedding_scale: f32,
    /// Whether gains of norms are stored less 1.
    pub gains_less_1: bool,
    pub qkv_bias: bool,
    pub layer_sharing: bool,
    /// Whether the embedding matrix is the head, even if there is a tensor for the head.
    pub tied: bool,
    pub context: usize,
    pub bos: Option<u32>,
    pub eos: Vec<u32>,
}

/// θ_i = base^(−2i / head_dim), then scaled. If only `rotated` elements are rotated, `rotated` replaces head_dim and
/// the remaining θ are 0.
#[derive(Clone, Debug)]
pub(super) struct RopeDescription {
    pub interleaved: bool,
    pub base: f64,
    pub scaling: Scaling,
    /// Number of elements of a head that are rotated, where not all of them are.
    pub rotated: Option<usize>,
    pub beyond: Beyond,
}

/// The rule that derives the frequencies of a longer context from θ.
#[derive(Clone, Debug)]
pub(super) enum Scaling {
    None,
    /// θ up to the context that the model was made for. Beyond, θ depends on the length, which is not implemented here.
    Dynamic,
    /// θ / factor
    Linear {
        factor: f64,
    },
    /// By wavelength λ = 2π / θ: θ of short wavelengths is kept, of long ones divided by `factor`, with a ramp between.
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        context: f64,
    },
    /// θ_i / divisor_i
    Divisors(Vec<f32>),
}

impl Description {
    /// The configuration of the model with these `tensors`. Reads only the shapes of the tensors.
    pub fn resolve(self, path: &Path, tensors: &BTreeMap<String, Stored>) -> Result<Config> {
        let shape = |name: &str| -> Result<(usize, usize)> {
            let stored = tensors.get(name).ok_or_else(|| missing(path, name))?;
            match stored.shape[..] {
                [rows, cols] if rows > 0 && cols > 0 => Ok((rows, cols)),
                _ => Err(Error::checkpoint(format!(
                    "{}: tensor `{name}` has shape {:?}, expected a matrix",
                    stored.file.display(),
                    stored.shape,
                ))),
            }
        };
        let (vocab, hidden) = shape(EMBEDDING)?;
        if hidden != self.hidden {
            return Err(Error::checkpoint(format!(
                "{}: tensor `{EMBEDDING}` has shape [{vocab}, {hidden}], but the configuration says hidden size {}",
                path.display(),
                self.hidden,
            )));
        }
        let head_dim = match self.head_dim {
            Some(head_dim) => head_dim,
            None => {
                let (rows, _) = shape(&layer_tensor(0, Q))?;
                if rows % self.heads[0] == 0 { rows / self.heads[0] } else { hidden / self.heads[0] }
            }
        };
        if head_dim == 0 || head_dim % 2 != 0 {
            return Err(Error::checkpoint(format!(
                "{}: heads of {head_dim} elements cannot be rotated in pairs; check head_dim and num_attention_heads",
                path.display(),
            )));
        }
        if let Some(key) = self.head_dim_key {
            self.check_head_dim(key, head_dim, path, &|layer| Ok(shape(&layer_tensor(layer, Q))?.0))?;
        }
        let heads_of = |name: &str| -> Result<usize> {
            let (rows, _) = shape(name)?;
            if rows % head_dim != 0 {
                return Err(Error::checkpoint(format!(
                    "{}: tensor `{name}` has {rows} rows, which are no whole heads of {head_dim}",
                    path.display(),
                )));
            }
            Ok(rows / head_dim)
        };
        let (mut heads, mut kv_heads, mut ffn) = (Vec::new(), Vec::new(), Vec::new());
        for layer in 0..self.layers {
            let (q, kv) = (heads_of(&layer_tensor(layer, Q))?, heads_of(&layer_tensor(layer, K))?);
            if q % kv != 0 {
                return Err(Error::checkpoint(format!(
                    "{}: layer {layer} has {q} query heads for {kv} key/value heads, which do not divide them evenly",
                    path.display(),
                )));
            }
            heads.push(q);
            kv_heads.push(kv);
            ffn.push(shape(&layer_tensor(layer, GATE))?.0);
        }
        Ok(Config {
            architecture: self.architecture,
            vocab,
            hidden,
            layers: self.layers,
            heads,
            kv_heads,
            ffn,
            head_dim,
            norm_eps: self.norm_eps,
            rope: RopeConfig {
                interleaved: self.rope.interleaved,
                inv_freq: self.rope.inv_freq(head_dim, path)?,
                local: self.local_rope.map(|rope| rope.inv_freq(head_dim, path)).transpose()?,
                most_positions: matches!(self.rope.scaling, Scaling::Dynamic).then_some(self.context),
                beyond: self.rope.beyond,
            },
            rope_layers: self.rope_layers,
            windows: self.windows,
            qk_norm: self.qk_norm,
            attention_scale: self.attention_scale.unwrap_or(1.0 / (head_dim as f32).sqrt()),
            embedding_scale: self.embedding_scale,
            qkv_bias: self.qkv_bias,
            layer_sharing: self.layer_sharing,
            tied: self.tied || !tensors.contains_key(HEAD),
            context: self.context,
            bos: self.bos,
            eos: self.eos,
            vision: None,
        })
    }

    /// Refuses a head size that contradicts every layer where another size fits all. The row count alone cannot tell 9
    /// heads of 16 from 18 of 8, so a wrong size would run and give nonsense. A pruned model may have fewer heads than
    /// its file says; it passes if one layer has its full heads, or if no single size fits all layers.
    fn check_head_dim(
        &self,
        key: &str,
        head_dim: usize,
        path: &Path,
        rows_of: &dyn Fn(usize) -> Result<usize>,
    ) -> Result<()> {
        let first = rows_of(0)?;
        let fits = first / self.heads[0];
        for layer in 0..self.layers {
            let (rows, heads) = (rows_of(layer)?, self.heads[layer]);
            if heads.checked_mul(head_dim) == Some(rows) || heads.checked_mul(fits) != Some(rows) {
                return Ok(());
            }
        }
        Err(Error::checkpoint(format!(
            "{}: {key} is {head_dim} and {} heads make {} rows, but `{}` has {first}; it should be {fits}",
            path.display(),
            self.heads[0],
            self.heads[0].saturating_mul(head_dim),
            layer_tensor(0, Q),
        )))
    }
}

impl RopeDescription {
    fn inv_freq(&self, head_dim: usize, path: &Path) -> Result<Vec<f32>> {
        if let Scaling::Divisors(divisors) = &self.scaling
            && divisors.len() != head_dim / 2
        {
            return Err(Error::checkpoint(format!(
                "{}: tensor `rope_freqs.weight` has {} elements, expected {}",
                path.display(),
                divisors.len(),
                head_dim / 2,
            )));
        }
        let rotated = self.rotated.unwrap_or(head_dim);
        let scaled = |i: usize| {
            if i >= rotated / 2 {
                return 0.0;
            }
            let theta = self.base.powf(-2.0 * i as f64 / rotated as f64);
            match &self.scaling {
                Scaling::None | Scaling::Dynamic => theta,
                Scaling::Linear { factor } => theta / factor,
                Scaling::Divisors(divisors) => theta / divisors[i] as f64,
                Scaling::Llama3 { factor, low, high, context } => {
                    let waves = context * theta / std::f64::consts::TAU;
                    let keep = ((waves - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 - keep) * theta / factor + keep * theta
                }
            }
        };
        Ok((0..head_dim / 2).map(|i| scaled(i) as f32).collect())
    }
}

/// Gemma 3 without a vision half.
pub(super) const GEMMA3: &str = "gemma3_text";

/// The architecture of a model with a vision half. Its language half has the architecture `llama`.
pub(super) const MOBILEVLM: &str = "mobilevlm";
/// Qwen 1 and Qwen-VL.
pub(super) const QWEN: &str = "qwen";

/// Upper limit of the layer count in a file, so that a wrong number causes no large allocation.
pub(super) const MOST_LAYERS: usize = 4096;
/// 2^31: positions fit in signed 32-bit integers on every device.
pub(super) const MOST_CONTEXT: usize = 1 << 31;

/// Whether `value` can be the epsilon of a norm: other values make every activation NaN or zero.
pub(super) fn is_epsilon(value: f64) -> bool {
    value >= 0.0 && (value as f32).is_finite()
}

// The tensors whose shapes complete the configuration, by canonical name.

pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(super) const NORM: &str = "model.norm.weight";
pub(super) const HEAD: &str = "lm_head.weight";
const Q: &str = "self_attn.q_proj.weight";
const K: &str = "self_attn.k_proj.weight";
const GATE: &str = "mlp.gate_proj.weight";

pub(super) fn layer_tensor(layer: usize, name: &str) -> String {
    format!("model.layers.{layer}.{name}")
}

pub(super) fn missing(path: &Path, name: &str) -> Error {
    Error::checkpoint(format!("{}: tensor `{name}` is missing; the download may be incomplete", path.display()))
}

/// An error if there are `unknown` tensors: a model that ignores some of its weights is a different model.
pub(super) fn refuse_unknown<'a>(
    path: &Path,
    mut unknown: impl Iterator<Item = &'a str>,
    architecture: &str,
    layers: usize,
) -> Result<()> {
    let Some(name) = unknown.next() else { return Ok(()) };
    let (more, verb) = match unknown.count() {
        0 => (String::new(), " is"),
        count => (format!(" and {count} more are"), ""),
    };
    Err(Error::unsupported(format!(
        "{}: tensor `{name}`{more}{verb} not part of a {architecture} model of {layers} layers as dunlin runs it",
        path.display(),
    )))
}
