//! The tensors of Qwen 1 and of Qwen-VL, which have the same decoder → tensors under canonical names.
//!
//! h: hidden size, V: rows of the vocabulary, F: feed-forward width. In the vision half, S: image size, p: patch, g = S
//! / p, N = g²: patches, W: width, M: feed-forward width, O: output width, which is h.

use std::collections::BTreeMap;
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
/// Special tokens before `<img>`, which is the seventh of the tags.
const BEFORE_IMAGE: usize = tiktoken::SPECIALS + 6;
/// Tokens of single bytes, which every tokenizer has.
const BYTES: usize = 256;

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
        stored.check_shape(name, shape)?;
        Ok(stored)
    }

    /// Calls [`Tensors::take`] for `NAME.weight` and `NAME.bias`.
    fn take_both(&mut self, name: &str, shape: &[usize]) -> Result<[Stored; 2]> {
        Ok([self.take(&format!("{name}.weight"), shape)?, self.take(&format!("{name}.bias"), &shape[..1])?])
    }

    /// Removes a tensor and converts it to f32.
    fn take_values(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        Ok(self.take(name, shape)?.load(name, None)?.to_f32())
    }

    /// The number of rows of a matrix, where the configuration does not give it.
    fn rows(&self, name: &str) -> Result<usize> {
        let stored = self.tensors.get(name).ok_or_else(|| config::missing(self.path, name))?;
        stored.shape.first().copied().filter(|&rows| rows > 0).ok_or_else(|| {
            let (file, shape) = (stored.file.display(), &stored.shape);
            Error::checkpoint(format!("{file}: tensor `{name}` has shape {shape:?}, expected a matrix with rows"))
        })
    }

    /// Refuses matrices of GPTQ, which take the places of those that dunlin reads.
    fn refuse_gptq(&self) -> Result<()> {
        let Some(name) = self.tensors.keys().find(|name| name.ends_with(".qweight")) else { return Ok(()) };
        Err(Error::unsupported(format!(
            "{}: tensor `{name}` is quantised by GPTQ, which dunlin does not run for Qwen; take the model in f32, f16 or \
             bf16, and quantise it with --weights",
            self.path.display(),
        )))
    }

    /// Refuses tensors that were not taken.
    fn finish(self, layers: usize) -> Result<()> {
        config::refuse_unknown(self.path, self.tensors.keys().map(String::as_str), config::QWEN, layers)
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
    let vision = visual.as_ref().map(|visual| visual.config(description.hidden, &config_file)).transpose()?;
    let known = known_ids(files, description, visual.as_ref(), &config_file)?;

    let mut tensors = Tensors { path, tensors };
    tensors.refuse_gptq()?;
    let language = decoder(&mut tensors, description, known)?;
    let vision = match vision {
        Some(config) => Some((config.clone(), picture_half(&mut tensors, &config, description.hidden)?)),
        None => None,
    };
    tensors.finish(description.layers)?;
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
    let image_start = visual.map(|visual| visual.image_start(config_file)).transpose()?;
    let of_visual = image_start.map(|id| id as usize - BEFORE_IMAGE);
    if let (Some(ranks), Some(of_visual)) = (ranks, of_visual)
        && ranks != of_visual
    {
        return Err(Error::checkpoint(format!(
            "{}: image_start_id of visual is {}, expected {} for the {ranks} tokens of {}",
            config_file.display(),
            of_visual + BEFORE_IMAGE,
            ranks + BEFORE_IMAGE,
            tiktoken::FILE,
        )));
    }
    let ranks = ranks.or(of_visual);
    // An answer ends with <|endoftext|>, <|im_start|> or <|im_end|>: the first special tokens after the ranks. Where
    // generation_config.json lists several end ids, <|endoftext|> is the lowest.
    if let Some(first) = ranks.map(|ranks| ranks as u32).or(description.eos.iter().min().copied()) {
        description.eos = (first..first.saturating_add(3)).collect();
    }
    let specials = tiktoken::SPECIALS + if visual.is_some() { tiktoken::TAGS.len() } else { 0 };
    Ok(ranks.map(|ranks| ranks + specials))
}

/// The tensors of the decoder. The thirds of c_attn are q, k and v; the activation is applied to the output of w2.
fn decoder(tensors: &mut Tensors, description: &Description, known: Option<usize>) -> Result<Named> {
    let h = description.hidden;
    let mut named = Named::new();
    let vocab = tensors.rows("transformer.wte.weight")?;
    let known = known.unwrap_or(vocab);
    if known > vocab {
        return Err(Error::checkpoint(format!(
            "{}: {} or image_start_id of config.json stands for {known} ids, but `transformer.wte.weight` has {vocab} \
             rows; they are not of one model",
            tensors.path.display(),
            tiktoken::FILE,
        )));
    }
    named.insert(config::EMBEDDING.into(), tensors.take("transformer.wte.weight", &[vocab, h])?.rows(0..known));
    named.insert(config::NORM.into(), tensors.take("transformer.ln_f.weight", &[h])?);
    if !description.tied || tensors.tensors.contains_key("lm_head.weight") {
        named.insert(config::HEAD.into(), tensors.take("lm_head.weight", &[vocab, h])?.rows(0..known));
    }
    for layer in 0..description.layers {
        let from = |part: &str| format!("transformer.h.{layer}.{part}");
        let f = tensors.rows(&from("mlp.w1.weight"))?;
        let c_attn = from("attn.c_attn");
        let [weight, bias] = tensors.take_both(&c_attn, &[3 * h, h])?.map(Stored::in_order);
        for (i, part) in ["q", "k", "v"].into_iter().enumerate() {
            let pair = [&weight, &bias].map(|all| all.rows(i * h..(i + 1) * h));
            let pair = if part == "v" { pair } else { rotated(description, &format!("{c_attn}.bias"), pair)? };
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
/// `name` is the name of the bias.
fn rotated(description: &Description, name: &str, [weight, bias]: [Stored; 2]) -> Result<[Stored; 2]> {
    let (Some(head_dim), Some(rotated)) = (description.head_dim, description.rope.rotated) else {
        return Ok([weight, bias]);
    };
    let order = RowOrder::PartlyRotated { head_dim, rotated };
    let before = bias.load(name, None)?.to_f32();
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
    /// The id of `<img>`.
    fn image_start(&self, file: &Path) -> Result<u32> {
        // The ids of all tags fit in u32.
        let (least, most) = (BYTES + BEFORE_IMAGE, u32::MAX - tiktoken::TAGS.len() as u32);
        let id = u32::try_from(self.image_start_id).ok().filter(|&id| id as usize >= least && id <= most);
        id.ok_or_else(|| {
            Error::checkpoint(format!(
                "{}: image_start_id of visual is {}, expected a number from {least} (after {BYTES} bytes and \
                 {BEFORE_IMAGE} special tokens) to {most}, such as 151857",
                file.display(),
                self.image_start_id,
            ))
        })
    }

    fn config(&self, hidden: usize, file: &Path) -> Result<VisionConfig> {
        let bad = |what: String| Err(Error::checkpoint(format!("{}: {what}", file.display())));
        let queries = self.n_queries.unwrap_or(GRID * GRID);
        if queries != GRID * GRID {
            return bad(format!("n_queries of visual is {queries}, expected {}", GRID * GRID));
        }
        if self.output_dim != hidden {
            return bad(format!("output_dim of visual is {}, expected the hidden size, {hidden}", self.output_dim));
        }
        let heads = hidden / RESAMPLER_HEAD;
        if heads == 0 || !hidden.is_multiple_of(heads) {
            return bad(format!(
                "output_dim of visual is {hidden}, expected at least {RESAMPLER_HEAD} and a multiple of the resampler's \
                 heads, one for every {RESAMPLER_HEAD}: {heads}"
            ));
        }
        for (key, found, most) in [
            ("image_size", self.image_size, MOST_SIDE),
            ("patch_size", self.patch_size, self.image_size),
            ("width", self.width, usize::MAX),
            ("heads", self.heads, self.width),
            ("layers", self.layers, config::MOST_LAYERS),
        ] {
            if !(1..=most).contains(&found) {
                return bad(match most {
                    usize::MAX => format!("{key} of visual is {found}, expected at least 1"),
                    _ => format!("{key} of visual is {found}, expected a number from 1 to {most}"),
                });
            }
        }
        let grid = self.image_size / self.patch_size;
        if grid > MOST_GRID {
            return bad(format!(
                "image_size and patch_size of visual are {} and {}, which is {grid} patches on a side, expected at most \
                 {MOST_GRID}",
                self.image_size, self.patch_size
            ));
        }
        if !self.width.is_multiple_of(self.heads) {
            return bad(format!("width of visual is {}, expected a multiple of heads, {}", self.width, self.heads));
        }
        let ffn = self.width as f64 * self.mlp_ratio;
        if !(1.0..1e6).contains(&ffn) {
            return bad(format!(
                "mlp_ratio of visual is {}, which makes {} features of {}, expected a ratio such as 4.9231",
                self.mlp_ratio, ffn as usize, self.width
            ));
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
            projector: Projector::Resampler { heads },
            mean: MEAN,
            std: STD,
            image_start: Some(self.image_start(file)?),
        })
    }
}

/// The tensors of tower and resampler.
fn picture_half(tensors: &mut Tensors, config: &VisionConfig, hidden: usize) -> Result<Named> {
    let (w, m, o, p) = (config.width, config.ffn, hidden, config.patch);
    let (n, g, rows) = (config.patches(), config.grid(), GRID * GRID);
    let from = |part: &str| format!("{FILE_VISUAL}{part}");
    let to = |part: &str| format!("{VISUAL}{part}");
    let mut named = Named::new();

    let conv = tensors.take(&from("conv1.weight"), &[w, 3, p, p])?;
    let file = conv.file.clone();
    named.insert(to("patch_embedding.weight"), conv.reshaped(vec![w, 3 * p * p]));
    // The position table is added to activations, so it is resized once for this grid and kept in f32.
    let table = tensors.take_values(&from("positional_embedding"), &[rows, w])?;
    named.insert(to("positions"), floats(&file, vec![n * w], resize(&table, g, w)));
    put(&mut named, &to("pre_norm"), tensors.take_both(&from("ln_pre"), &[w])?);

    for block in 0..config.blocks {
        let from = |part: &str| from(&format!("transformer.resblocks.{block}.{part}"));
        let to = |part: &str| to(&format!("blocks.{block}.{part}"));
        // q, k and v of each head are adjacent.
        let d = w / config.heads;
        let all = tensors.take_both(&from("attn.in_proj"), &[3 * w, w])?.map(Stored::in_order);
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
    let positions = tensors.take_values(&pool("pos_embed"), &[rows, o])?;
    named.insert(to_pool("kv_positions"), floats(&file, vec![n * o], resize(&positions, g, o)));
    // The queries are the same for every picture: ln_q(query) + pos_embed.
    let query = tensors.take_values(&pool("query"), &[rows, o])?;
    let gain = tensors.take_values(&pool("ln_q.weight"), &[o])?;
    let bias = tensors.take_values(&pool("ln_q.bias"), &[o])?;
    let mut queries = layer_norm(&query, &gain, &bias);
    queries.iter_mut().zip(&positions).for_each(|(query, position)| *query += position);
    named.insert(to_pool("queries"), floats(&file, vec![rows * o], queries));
    // q, k and v are thirds of the matrix here, unlike in the tower.
    let weight = tensors.take(&pool("attn.in_proj_weight"), &[3 * o, o])?.in_order();
    let bias = tensors.take(&pool("attn.in_proj_bias"), &[3 * o])?.in_order();
    for (i, part) in ["q", "k", "v"].into_iter().enumerate() {
        let pair = [&weight, &bias].map(|all| all.rows(i * o..(i + 1) * o));
        put(&mut named, &to_pool(&format!("{part}_proj")), pair);
    }
    put(&mut named, &to_pool("out_proj"), tensors.take_both(&pool("attn.out_proj"), &[o, o])?);
    put(&mut named, &to("post_norm"), tensors.take_both(&from("ln_post"), &[o])?);
    // x · proj: its columns are the rows of a linear layer.
    named.insert(to("proj.weight"), tensors.take(&from("proj"), &[o, o])?.transposed());
    Ok(named)
}

/// Upper limit of patches on a side of the grid, because the positions of all patches are computed.
const MOST_GRID: usize = 128;
/// Upper limit of pixels on a side of the picture, because every picture is resized to it.
const MOST_SIDE: usize = 8192;

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

    /// `torch.nn.functional.interpolate(x, size=(side, side), mode="bicubic", align_corners=False)` in f64 of the table
    /// ((7 i² + 13 i) mod 101) / 8. With a = −½ or with its filter, values differ by 0.05 to 2.
    #[test]
    fn positions_are_resized_as_pytorch_does() {
        let table: Vec<f32> = (0..256).map(|i| ((7 * i * i + 13 * i) % 101) as f32 / 8.0).collect();
        for (side, wanted) in [
            (
                10,
                [(0, 0, 2.71715), (0, 9, 6.33253), (9, 5, 5.61656), (3, 2, 5.96008), (5, 6, 7.57489), (9, 9, 5.53488)],
            ),
            (
                24,
                [
                    (0, 0, -1.17033),
                    (0, 23, 6.68023),
                    (23, 12, 7.18637),
                    (8, 6, 10.31164),
                    (12, 16, 10.6773),
                    (23, 23, 6.68869),
                ],
            ),
        ] {
            // Two columns, of which the second is the negative of the first.
            let both: Vec<f32> = table.iter().flat_map(|&value| [value, -value]).collect();
            let out = resize(&both, side, 2);
            for (y, x, wanted) in wanted {
                let found = &out[2 * (y * side + x)..][..2];
                assert!((found[0] - wanted).abs() < 1e-4, "{side}: {} at {y}, {x}, expected {wanted}", found[0]);
                assert_eq!(found[1], -found[0]);
            }
        }
        assert_eq!(resize(&table, 16, 1), table);
    }
}
