//! The tensors of Qwen 1 and of Qwen-VL, which have the same decoder → tensors under canonical names.
//!
//! h: hidden size, V: rows of the vocabulary, F: feed-forward width. In the vision half, S: image size, p: patch, g = S
//! / p, N = g²: patches, W: width, M: feed-forward width, O: output width, which is h.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::config::{self, Description, layer_tensor};
use super::files::Files;
use super::stored::{Element, Stored};
use super::vision::{Activation, Projector, VisionConfig};
use super::vision_tensors::{MEAN, STD};
use super::{json, tiktoken};
use crate::error::{Error, Result};
use crate::tensor::{Bytes, DType, RowOrder};

/// The prefix of canonical names in the vision half.
const VISUAL: &str = "visual.";
/// The prefix of the vision half's names in files.
const FILE_VISUAL: &str = "transformer.visual.";

/// Side of the position tables, a grid of 16 × 16, which is a constant of the published code.
const GRID: usize = 16;
/// Epsilon of all norms of the vision half.
const NORM_EPS: f32 = 1e-6;
/// Features of a head of the resampler.
const RESAMPLER_HEAD: usize = 128;

#[derive(Deserialize)]
struct Json {
    visual: Option<Visual>,
}

/// The key `visual` of `config.json`.
#[derive(Deserialize)]
struct Visual {
    image_size: usize,
    patch_size: usize,
    width: usize,
    layers: usize,
    heads: usize,
    mlp_ratio: f64,
    output_dim: usize,
    image_start_id: usize,
    n_queries: Option<usize>,
}

/// Tensors by canonical name.
type Named = BTreeMap<String, Stored>;

/// Tensors by their names in the files. Each one is removed when it is used.
struct Tensors<'a> {
    path: &'a Path,
    tensors: Named,
}

impl Tensors<'_> {
    /// Removes a tensor and checks that it has `shape`.
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Stored> {
        let stored = self.tensors.remove(name).ok_or_else(|| config::missing(self.path, name))?;
        if stored.shape != shape || shape.contains(&0) {
            return Err(Error::checkpoint(format!(
                "{}: tensor `{name}` has shape {:?}, expected {shape:?}; the configuration may be of another model",
                stored.file.display(),
                stored.shape,
            )));
        }
        Ok(stored)
    }

    /// Calls [`Tensors::take`] for `NAME.weight` and `NAME.bias`.
    fn take_both(&mut self, name: &str, shape: &[usize]) -> Result<[Stored; 2]> {
        Ok([self.take(&format!("{name}.weight"), shape)?, self.take(&format!("{name}.bias"), &shape[..1])?])
    }
}

/// Inserts a weight and its bias under `name`.
fn put(named: &mut Named, name: &str, [weight, bias]: [Stored; 2]) {
    named.insert(format!("{name}.weight"), weight);
    named.insert(format!("{name}.bias"), bias);
}

/// Completes a Qwen folder from its tensors, which have their names in the files: returns the tensors of the decoder,
/// and the vision half where there is one.
pub fn read(
    files: &Files,
    description: &mut Description,
    tensors: Named,
) -> Result<(Named, Option<(VisionConfig, Named)>)> {
    let path = files.path();
    let config_file = path.join("config.json");
    let json: Json = json::parse(&config_file, &files.read(&config_file)?)?;
    let visual = json.visual;
    refuse_unknown(path, &tensors, description.layers, visual.as_ref())?;
    let known = known_ids(files, description, visual.as_ref(), &config_file)?;

    let mut tensors = Tensors { path, tensors };
    let language = decoder(&mut tensors, description, known)?;
    let vision = match visual {
        Some(visual) => Some(visual.read(&mut tensors, description.hidden, &config_file)?),
        None => None,
    };
    Ok((language, vision))
}

/// The number of ids that have a text, where the files tell it. Later rows of the embedding were never trained: no text
/// is encoded to them, and sampling never chooses them. Also sets the ids that end an answer.
fn known_ids(
    files: &Files,
    description: &mut Description,
    visual: Option<&Visual>,
    config_file: &Path,
) -> Result<Option<usize>> {
    let tokenizer = tiktoken::read(files)?;
    let ranks = tokenizer.as_ref().map(|tokenizer| tokenizer.tokens.len());
    // `<img>` is the seventh of the tags.
    let of_visual = visual.map(|visual| {
        visual.image_start_id.checked_sub(tiktoken::SPECIALS + 6).ok_or_else(|| {
            let id = visual.image_start_id;
            Error::checkpoint(format!(
                "{}: image_start_id of visual is {id}, which is too small",
                config_file.display()
            ))
        })
    });
    let of_visual = of_visual.transpose()?;
    if let (Some(ranks), Some(of_visual)) = (ranks, of_visual)
        && ranks != of_visual
    {
        return Err(Error::checkpoint(format!(
            "{}: image_start_id of visual is {}, expected {} for the {ranks} tokens of {}",
            config_file.display(),
            of_visual + tiktoken::SPECIALS + 6,
            ranks + tiktoken::SPECIALS + 6,
            tiktoken::FILE,
        )));
    }
    let ranks = ranks.or(of_visual);
    // An answer ends with <|endoftext|>, <|im_start|> or <|im_end|>: the first special tokens after the ranks.
    if let Some(first) = ranks.map(|ranks| ranks as u32).or(description.eos.first().copied()) {
        description.eos = (first..first.saturating_add(3)).collect();
    }
    let specials = tiktoken::SPECIALS + if visual.is_some() { tiktoken::TAGS.len() } else { 0 };
    Ok(ranks.map(|ranks| ranks + specials))
}

/// Refuses tensors that are not in the list, and thereby variants of this model that cannot be run (GPTQ).
fn refuse_unknown(path: &Path, tensors: &Named, layers: usize, visual: Option<&Visual>) -> Result<()> {
    let mut known: BTreeSet<String> =
        ["transformer.wte.weight", "transformer.ln_f.weight", "lm_head.weight"].map(String::from).into();
    for layer in 0..layers {
        known.extend(LAYER.iter().map(|part| format!("transformer.h.{layer}.{part}")));
    }
    if let Some(visual) = visual {
        known.extend(VISION.iter().map(|part| format!("{FILE_VISUAL}{part}")));
        for block in 0..visual.layers.min(config::MOST_LAYERS) {
            known.extend(BLOCK.iter().flat_map(|part| {
                ["weight", "bias"].map(|kind| format!("{FILE_VISUAL}transformer.resblocks.{block}.{part}.{kind}"))
            }));
        }
    }
    let mut unknown = tensors.keys().filter(|name| !known.contains(*name));
    let Some(name) = unknown.next() else { return Ok(()) };
    let more = match unknown.count() {
        0 => " is".to_string(),
        count => format!(" and {count} more are"),
    };
    Err(Error::unsupported(format!(
        "{}: tensor `{name}`{more} not part of a Qwen model of {layers} layers as dunlin runs it, in f32, f16 or bf16",
        path.display(),
    )))
}

/// The tensors of a layer of the decoder.
const LAYER: [&str; 8] = [
    "ln_1.weight",
    "attn.c_attn.weight",
    "attn.c_attn.bias",
    "attn.c_proj.weight",
    "ln_2.weight",
    "mlp.w1.weight",
    "mlp.w2.weight",
    "mlp.c_proj.weight",
];

/// The modules of a block of the tower, each with a weight and a bias.
const BLOCK: [&str; 6] = ["ln_1", "ln_2", "attn.in_proj", "attn.out_proj", "mlp.c_fc", "mlp.c_proj"];

/// The tensors of the vision half outside its blocks.
const VISION: [&str; 18] = [
    "conv1.weight",
    "positional_embedding",
    "ln_pre.weight",
    "ln_pre.bias",
    "attn_pool.query",
    "attn_pool.pos_embed",
    "attn_pool.kv_proj.weight",
    "attn_pool.attn.in_proj_weight",
    "attn_pool.attn.in_proj_bias",
    "attn_pool.attn.out_proj.weight",
    "attn_pool.attn.out_proj.bias",
    "attn_pool.ln_q.weight",
    "attn_pool.ln_q.bias",
    "attn_pool.ln_kv.weight",
    "attn_pool.ln_kv.bias",
    "ln_post.weight",
    "ln_post.bias",
    "proj",
];

/// The tensors of the decoder. The thirds of c_attn are q, k and v; the activation is applied to the output of w2.
fn decoder(tensors: &mut Tensors, description: &Description, known: Option<usize>) -> Result<Named> {
    let h = description.hidden;
    let mut named = Named::new();
    let vocab = tensors.tensors.get("transformer.wte.weight").and_then(|stored| stored.shape.first().copied());
    let vocab = vocab.ok_or_else(|| config::missing(tensors.path, "transformer.wte.weight"))?;
    let known = known.unwrap_or(vocab);
    if known > vocab {
        return Err(Error::checkpoint(format!(
            "{}: the tokenizer has {known} ids, but `transformer.wte.weight` has {vocab} rows; they are not of one model",
            tensors.path.display(),
        )));
    }
    let ffn = |layer: usize| format!("transformer.h.{layer}.mlp.w1.weight");
    named.insert(config::EMBEDDING.into(), tensors.take("transformer.wte.weight", &[vocab, h])?.rows(0..known));
    named.insert(config::NORM.into(), tensors.take("transformer.ln_f.weight", &[h])?);
    if !description.tied || tensors.tensors.contains_key("lm_head.weight") {
        named.insert(config::HEAD.into(), tensors.take("lm_head.weight", &[vocab, h])?.rows(0..known));
    }
    for layer in 0..description.layers {
        let from = |part: &str| format!("transformer.h.{layer}.{part}");
        let stated = tensors.tensors.get(&ffn(layer)).and_then(|stored| stored.shape.first().copied());
        let f = stated.ok_or_else(|| config::missing(tensors.path, &ffn(layer)))?;
        let [c_attn, bias] = tensors.take_both(&from("attn.c_attn"), &[3 * h, h])?;
        for (i, part) in ["q", "k", "v"].into_iter().enumerate() {
            let [weight, bias] = [&c_attn, &bias].map(|all| all.rows(i * h..(i + 1) * h));
            let pair = if part == "v" { [weight, bias] } else { rotated(description, weight, bias)? };
            put(&mut named, &layer_tensor(layer, &format!("self_attn.{part}_proj")), pair);
        }
        for (part, name, shape) in [
            ("ln_1", "input_layernorm", &[h][..]),
            ("attn.c_proj", "self_attn.o_proj", &[h, h]),
            ("ln_2", "post_attention_layernorm", &[h]),
            ("mlp.w1", "mlp.up_proj", &[f, h]),
            ("mlp.w2", "mlp.gate_proj", &[f, h]),
            ("mlp.c_proj", "mlp.down_proj", &[h, f]),
        ] {
            let stored = tensors.take(&from(&format!("{part}.weight")), shape)?;
            named.insert(layer_tensor(layer, &format!("{name}.weight")), stored);
        }
    }
    Ok(named)
}

/// q or k with its rows reordered so that rope's pairs are half a head apart, where rope rotates a part of a head.
fn rotated(description: &Description, weight: Stored, bias: Stored) -> Result<[Stored; 2]> {
    let (Some(head_dim), Some(rotated)) = (description.head_dim, description.rope.rotated) else {
        return Ok([weight, bias]);
    };
    let order = RowOrder::PartlyRotated { head_dim, rotated };
    let before = bias.load("a bias", None)?.to_f32();
    let values = (0..before.len()).map(|row| before[order.stored(row)]).collect::<Vec<f32>>();
    let shape = bias.shape.clone();
    Ok([Stored { order, ..weight }, floats(&bias.file, shape, values)])
}

/// A tensor whose values were computed while the checkpoint was read.
fn floats(file: &Arc<std::path::PathBuf>, shape: Vec<usize>, values: Vec<f32>) -> Stored {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let element = Element::Run(DType::F32);
    Stored {
        file: file.clone(),
        element,
        shape,
        view: None,
        bytes: Bytes::new(bytes),
        order: RowOrder::Stored,
        less_1: false,
    }
}

impl Visual {
    fn config(&self, hidden: usize, file: &Path) -> Result<VisionConfig> {
        let bad = |what: String| Err(Error::checkpoint(format!("{}: {what}", file.display())));
        let queries = self.n_queries.unwrap_or(GRID * GRID);
        if queries != GRID * GRID {
            return bad(format!("n_queries of visual is {queries}, expected {}", GRID * GRID));
        }
        if self.output_dim != hidden || !hidden.is_multiple_of((hidden / RESAMPLER_HEAD).max(1)) {
            return bad(format!("output_dim of visual is {}, expected the hidden size, {hidden}", self.output_dim));
        }
        if hidden < RESAMPLER_HEAD {
            return bad(format!("hidden_size is {hidden}, and the resampler has heads of {RESAMPLER_HEAD}"));
        }
        let sizes = [self.image_size, self.patch_size, self.width, self.heads, self.layers];
        if sizes.contains(&0)
            || self.layers > config::MOST_LAYERS
            || self.image_size / self.patch_size.max(1) > MOST_GRID
        {
            return bad("image_size, patch_size, width, heads or layers of visual are of no model".into());
        }
        if self.image_size < self.patch_size || !self.width.is_multiple_of(self.heads) {
            let what = "patch_size of visual is larger than image_size, or heads do not divide width";
            return bad(what.into());
        }
        let ffn = self.width as f64 * self.mlp_ratio;
        if !(1.0..1e6).contains(&ffn) {
            return bad(format!("mlp_ratio of visual is {}, such as 4.9231 is expected", self.mlp_ratio));
        }
        Ok(VisionConfig {
            image_size: self.image_size,
            patch: self.patch_size,
            width: self.width,
            heads: self.heads,
            ffn: ffn as usize,
            blocks: self.layers,
            norm_eps: NORM_EPS,
            activation: Activation::Gelu,
            projector: Projector::Resampler { heads: hidden / RESAMPLER_HEAD },
            mean: MEAN,
            std: STD,
        })
    }

    fn read(&self, tensors: &mut Tensors, hidden: usize, file: &Path) -> Result<(VisionConfig, Named)> {
        let config = self.config(hidden, file)?;
        let (w, m, o, p) = (config.width, config.ffn, hidden, config.patch);
        let (n, g, rows) = (config.patches(), config.grid(), GRID * GRID);
        let from = |part: &str| format!("{FILE_VISUAL}{part}");
        let to = |part: &str| format!("{VISUAL}{part}");
        let mut named = Named::new();

        let conv = tensors.take(&from("conv1.weight"), &[w, 3, p, p])?;
        named.insert(to("patch_embedding.weight"), conv.reshaped(vec![w, 3 * p * p]));
        // The position table is added to activations, so it is resized once for this grid and kept in f32.
        let table = tensors.take(&from("positional_embedding"), &[rows, w])?;
        let resized = resize(&table.load("positional_embedding", None)?.to_f32(), g, w);
        named.insert(to("positions"), floats(&table.file, vec![n * w], resized));
        put(&mut named, &to("pre_norm"), tensors.take_both(&from("ln_pre"), &[w])?);

        for block in 0..config.blocks {
            let from = |part: &str| from(&format!("transformer.resblocks.{block}.{part}"));
            let to = |part: &str| to(&format!("blocks.{block}.{part}"));
            // q, k and v of each head are adjacent.
            let d = w / config.heads;
            let all = tensors.take_both(&from("attn.in_proj"), &[3 * w, w])?;
            for (i, part) in ["q", "k", "v"].into_iter().enumerate() {
                let pair = all.each_ref().map(|all| all.rows_of_every(i * d, d, 3 * d));
                put(&mut named, &to(&format!("self_attn.{part}_proj")), pair);
            }
            for (part, name, shape) in [
                ("ln_1", "layer_norm1", &[w][..]),
                ("ln_2", "layer_norm2", &[w]),
                ("attn.out_proj", "self_attn.out_proj", &[w, w]),
                ("mlp.c_fc", "mlp.fc1", &[m, w]),
                ("mlp.c_proj", "mlp.fc2", &[w, m]),
            ] {
                put(&mut named, &to(name), tensors.take_both(&from(part), shape)?);
            }
        }

        let pool = |part: &str| from(&format!("attn_pool.{part}"));
        let to_pool = |part: &str| to(&format!("resampler.{part}"));
        if w != o {
            let kv = tensors.take(&pool("kv_proj.weight"), &[o, w])?;
            named.insert(to_pool("kv_proj.weight"), kv);
        }
        put(&mut named, &to_pool("kv_norm"), tensors.take_both(&pool("ln_kv"), &[o])?);
        let table = tensors.take(&pool("pos_embed"), &[rows, o])?;
        let positions = table.load("pos_embed", None)?.to_f32();
        named.insert(to_pool("kv_positions"), floats(&table.file, vec![n * o], resize(&positions, g, o)));
        // The queries are the same for every picture: ln_q(query) + pos_embed.
        let query = tensors.take(&pool("query"), &[rows, o])?.load("query", None)?.to_f32();
        let norm = tensors.take_both(&pool("ln_q"), &[o])?.map(|stored| stored.load("ln_q", None));
        let [gain, bias] = norm;
        let (gain, bias) = (gain?.to_f32(), bias?.to_f32());
        let mut queries = layer_norm(&query, &gain, &bias);
        queries.iter_mut().zip(&positions).for_each(|(query, position)| *query += position);
        named.insert(to_pool("queries"), floats(&table.file, vec![rows * o], queries));
        // q, k and v are thirds of the matrix here, unlike in the tower.
        let weight = tensors.take(&pool("attn.in_proj_weight"), &[3 * o, o])?;
        let bias = tensors.take(&pool("attn.in_proj_bias"), &[3 * o])?;
        for (i, part) in ["q", "k", "v"].into_iter().enumerate() {
            let pair = [&weight, &bias].map(|all| all.rows(i * o..(i + 1) * o));
            put(&mut named, &to_pool(&format!("{part}_proj")), pair);
        }
        put(&mut named, &to_pool("out_proj"), tensors.take_both(&pool("attn.out_proj"), &[o, o])?);
        put(&mut named, &to("post_norm"), tensors.take_both(&from("ln_post"), &[o])?);
        // x · proj: its columns are the rows of a linear layer.
        named.insert(to("proj.weight"), tensors.take(&from("proj"), &[o, o])?.transposed());
        Ok((config, named))
    }
}

/// Upper limit of patches on a side of the grid, because the positions of all patches are computed.
const MOST_GRID: usize = 128;

/// A table of 16 × 16 positions for a grid of `side` × `side`, as PyTorch's `interpolate` makes it: bicubic, a = −¾, corners
/// not aligned, taps clamped at the border, no filter when shrinking. `x`: (256, cols).
fn resize(x: &[f32], side: usize, cols: usize) -> Vec<f32> {
    if side == GRID {
        return x.to_vec();
    }
    let taps: Vec<[(usize, f64); 4]> = (0..side)
        .map(|o| {
            let at = (o as f64 + 0.5) * GRID as f64 / side as f64 - 0.5;
            let (first, t) = (at.floor(), at - at.floor());
            let tap = |i: usize| {
                let place = (first as i64 + i as i64 - 1).clamp(0, GRID as i64 - 1);
                (place as usize, cubic(t + 1.0 - i as f64))
            };
            std::array::from_fn(tap)
        })
        .collect();
    // First along the rows of the grid, then along its columns.
    let mut wide = vec![0.0f64; GRID * side * cols];
    for (to, from) in wide.chunks_exact_mut(side * cols).zip(x.chunks_exact(GRID * cols)) {
        for (to, taps) in to.chunks_exact_mut(cols).zip(&taps) {
            for (c, to) in to.iter_mut().enumerate() {
                *to = taps.iter().map(|&(place, weight)| weight * f64::from(from[place * cols + c])).sum();
            }
        }
    }
    let row = side * cols;
    let mut out = vec![0.0f32; side * row];
    for (to, taps) in out.chunks_exact_mut(row).zip(&taps) {
        for (i, to) in to.iter_mut().enumerate() {
            *to = taps.iter().map(|&(place, weight)| weight * wide[place * row + i]).sum::<f64>() as f32;
        }
    }
    out
}

/// Keys' cubic convolution with a = −¾, at a given distance from the centre.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.75;
    let x = x.abs();
    if x <= 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A
    } else {
        0.0
    }
}

/// LayerNorm by rows, in f64.
fn layer_norm(x: &[f32], gain: &[f32], bias: &[f32]) -> Vec<f32> {
    let cols = gain.len();
    let mut out = Vec::with_capacity(x.len());
    for x in x.chunks_exact(cols) {
        let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / cols as f64;
        let variance = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / cols as f64;
        let factor = 1.0 / (variance + f64::from(NORM_EPS)).sqrt();
        let norm = |(c, &v): (usize, &f32)| ((f64::from(v) - mean) * factor) as f32 * gain[c] + bias[c];
        out.extend(x.iter().enumerate().map(norm));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_resized_as_pytorch_does() {
        // The table is a plane, whose inner points cubic interpolation reproduces: x at (o + ½) · 16 / side − ½.
        let plane: Vec<f32> = (0..256).map(|i| (i % 16) as f32 + 100.0 * (i / 16) as f32).collect();
        for side in [10, 24, 32] {
            let out = resize(&plane, side, 1);
            let at = |o: usize| (o as f32 + 0.5) * 16.0 / side as f32 - 0.5;
            for (y, x) in [(side / 2, side / 2 - 1), (side / 3, side / 2)] {
                let wanted = at(x) + 100.0 * at(y);
                // a = −¾ does not reproduce a plane exactly: at t = ½ the taps are −3/32, 19/32, 19/32, −3/32.
                assert!((out[y * side + x] - wanted).abs() < 12.0, "{side}: {} for {wanted}", out[y * side + x]);
            }
        }
        assert_eq!(resize(&plane, 16, 1), plane);
        let taps: Vec<f64> = [1.5, 0.5, -0.5, -1.5].map(cubic).into();
        assert_eq!(taps, [-3.0 / 32.0, 19.0 / 32.0, 19.0 / 32.0, -3.0 / 32.0]);
    }
}
