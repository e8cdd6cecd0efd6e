//! Random models as GGUF files of any size, written a few blocks at a time: MobileVLM V2-1.7B, and
//! decoders of other shapes, in q4_0.
//!
//! Weights are scaled so that hidden states stay near unit size, logits have a standard deviation of about 3, and heads
//! look at some positions more than at others.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::support::configs::Random;
use crate::support::gguf::{ALIGNMENT, Info, Writer, ggml};
use crate::support::vocabulary::with_sentencepiece;

/// The shape of a decoder. All heads have `hidden / heads` elements.
#[derive(Clone, Copy)]
pub struct Shape {
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub ffn: usize,
    pub vocab: usize,
    pub context: usize,
    /// Whether the head is the embedding.
    pub tied: bool,
}

/// MobileLLaMA-1.4B, the language model of MobileVLM V2-1.7B.
pub const MOBILELLAMA: Shape =
    Shape { hidden: 2048, layers: 24, heads: 16, kv_heads: 16, ffn: 5632, vocab: 32000, context: 2048, tied: false };

/// CLIP ViT-L/14 at 336 pixels; the last of its 24 blocks is not in the file.
const IMAGE: usize = 336;
const PATCH: usize = 14;
const PATCHES: usize = (IMAGE / PATCH) * (IMAGE / PATCH);
const WIDTH: usize = 1024;
pub const BLOCKS: usize = 23;
const TOWER_HEADS: usize = 16;
const TOWER_FFN: usize = 4096;
const MEAN: [f32; 3] = [0.48145466, 0.4578275, 0.40821073];
#[allow(clippy::excessive_precision, reason = "the digits that OpenAI published")]
const STD: [f32; 3] = [0.26862954, 0.26130258, 0.27577711];

/// A tensor with random elements: its shape, and the type, mean and standard deviation of its elements.
struct Tensor {
    name: String,
    shape: Vec<usize>,
    ggml_type: u32,
    mean: f32,
    deviation: f32,
}

/// A matrix in q4_0, for which x · Wᵀ is `gain` times as large as x.
fn matrix(name: impl Into<String>, rows: usize, cols: usize, gain: f32) -> Tensor {
    let deviation = gain / (cols as f32).sqrt();
    Tensor { name: name.into(), shape: vec![rows, cols], ggml_type: ggml::Q4_0, mean: 0.0, deviation }
}

fn vector(name: impl Into<String>, count: usize, mean: f32, deviation: f32) -> Tensor {
    Tensor { name: name.into(), shape: vec![count], ggml_type: ggml::F32, mean, deviation }
}

/// The gain of q and k for which scores have a standard deviation of 2.
const SHARP: f32 = std::f32::consts::SQRT_2;

/// The output of each half of a block, relative to a residual of unit size, that keeps the residual near unit size over
/// dozens of blocks. The nonlinearity of the feed-forward half about halves its input.
const BRANCH: f32 = 0.3;

/// Writes a language model in the layout of llama.cpp's converter. `tokenizer` is a folder with a `tokenizer.model`.
/// Returns the bytes of its tensors.
pub fn language(file: &Path, shape: &Shape, tokenizer: &Path) -> u64 {
    let writer = Writer::new("llama")
        .u32("llama.context_length", shape.context as u32)
        .u32("llama.embedding_length", shape.hidden as u32)
        .u32("llama.block_count", shape.layers as u32)
        .u32("llama.feed_forward_length", shape.ffn as u32)
        .u32("llama.attention.head_count", shape.heads as u32)
        .u32("llama.attention.head_count_kv", shape.kv_heads as u32)
        .u32("llama.rope.dimension_count", (shape.hidden / shape.heads) as u32)
        .f32("llama.rope.freq_base", 10_000.0)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-6)
        .u32("llama.vocab_size", shape.vocab as u32)
        .u32("tokenizer.ggml.bos_token_id", 1)
        .u32("tokenizer.ggml.eos_token_id", 2);
    write(file, &with_sentencepiece(writer, tokenizer, shape.vocab), &language_tensors(shape), 1)
}

/// Writes the vision half of a MobileVLM V2-1.7B with so many blocks of the tower. Returns the bytes of its tensors.
pub fn mmproj(file: &Path, blocks: usize) -> u64 {
    let writer = Writer::new("clip")
        .bool("clip.has_text_encoder", false)
        .bool("clip.has_vision_encoder", true)
        .bool("clip.has_llava_projector", true)
        .string("clip.projector_type", "ldpv2")
        .u32("clip.vision.image_size", IMAGE as u32)
        .u32("clip.vision.patch_size", PATCH as u32)
        .u32("clip.vision.embedding_length", WIDTH as u32)
        .u32("clip.vision.feed_forward_length", TOWER_FFN as u32)
        .u32("clip.vision.projection_dim", 768)
        .u32("clip.vision.attention.head_count", TOWER_HEADS as u32)
        .f32("clip.vision.attention.layer_norm_epsilon", 1e-5)
        .u32("clip.vision.block_count", blocks as u32)
        .f32s("clip.vision.image_mean", &MEAN)
        .f32s("clip.vision.image_std", &STD)
        .bool("clip.use_gelu", false);
    write(file, &writer, &vision_tensors(blocks), 2)
}

/// Of MobileLLaMA 1,364,297,728 parameters.
fn language_tensors(shape: &Shape) -> Vec<Tensor> {
    let &Shape { hidden, ffn, vocab, .. } = shape;
    let cached = hidden / shape.heads * shape.kv_heads;
    let gain = |name: String| vector(name, hidden, 1.0, 0.1);
    let mut tensors = vec![
        // A row of the embedding is a hidden state, whose elements have a deviation of 1.
        matrix("token_embd.weight", vocab, hidden, (hidden as f32).sqrt()),
        gain("output_norm.weight".into()),
    ];
    if !shape.tied {
        tensors.push(matrix("output.weight", vocab, hidden, 3.0));
    }
    for layer in 0..shape.layers {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        tensors.extend([
            gain(name("attn_norm")),
            matrix(name("attn_q"), hidden, hidden, SHARP),
            matrix(name("attn_k"), cached, hidden, SHARP),
            matrix(name("attn_v"), cached, hidden, 1.0),
            matrix(name("attn_output"), hidden, hidden, BRANCH),
            gain(name("ffn_norm")),
            matrix(name("ffn_gate"), ffn, hidden, 1.0),
            matrix(name("ffn_up"), ffn, hidden, 1.0),
            matrix(name("ffn_down"), hidden, ffn, 2.0 * BRANCH),
        ]);
    }
    tensors
}

/// Tensors in the older naming: fc1 is `ffn_down`, fc2 is `ffn_up`. Convolutions are f16, as in the converter's output.
fn vision_tensors(blocks: usize) -> Vec<Tensor> {
    let hidden = MOBILELLAMA.hidden;
    let half = |name: &str, shape: &[usize], deviation: f32| Tensor {
        name: name.into(),
        shape: shape.to_vec(),
        ggml_type: ggml::F16,
        mean: 0.0,
        deviation,
    };
    let norm = |name: &str| {
        [vector(format!("{name}.weight"), WIDTH, 1.0, 0.1), vector(format!("{name}.bias"), WIDTH, 0.0, 0.1)]
    };
    let linear = |name: String, rows, cols, gain| {
        [matrix(format!("{name}.weight"), rows, cols, gain), vector(format!("{name}.bias"), rows, 0.0, 0.05)]
    };
    let taps = (3 * PATCH * PATCH) as f32;
    let mut tensors = vec![
        vector("v.class_embd", WIDTH, 0.0, 1.0),
        half("v.patch_embd.weight", &[WIDTH, 3, PATCH, PATCH], 1.0 / taps.sqrt()),
        matrix("v.position_embd.weight", PATCHES + 1, WIDTH, 0.5 * (WIDTH as f32).sqrt()),
    ];
    tensors.extend(norm("v.pre_ln"));
    for block in 0..blocks {
        let name = |part: &str| format!("v.blk.{block}.{part}");
        tensors.extend(norm(&name("ln1")));
        tensors.extend(linear(name("attn_q"), WIDTH, WIDTH, SHARP));
        tensors.extend(linear(name("attn_k"), WIDTH, WIDTH, SHARP));
        tensors.extend(linear(name("attn_v"), WIDTH, WIDTH, 1.0));
        tensors.extend(linear(name("attn_out"), WIDTH, WIDTH, BRANCH));
        tensors.extend(norm(&name("ln2")));
        tensors.extend(linear(name("ffn_down"), TOWER_FFN, WIDTH, 1.0));
        tensors.extend(linear(name("ffn_up"), WIDTH, TOWER_FFN, 2.0 * BRANCH));
    }
    tensors.extend(linear("mm.model.mlp.0".into(), hidden, WIDTH, 1.0));
    tensors.extend(linear("mm.model.mlp.2".into(), hidden, hidden, 1.0));
    tensors.push(half("mm.model.peg.0.weight", &[hidden, 3, 3], 0.2));
    tensors.push(vector("mm.model.peg.0.bias", hidden, 0.0, 0.05));
    tensors
}

impl Tensor {
    fn bytes(&self) -> usize {
        let count: usize = self.shape.iter().product();
        match self.ggml_type {
            ggml::F32 => 4 * count,
            ggml::F16 => 2 * count,
            ggml::Q4_0 => 18 * count / 32,
            other => panic!("no {other} is drawn"),
        }
    }

    /// Writes the elements of the whole tensor.
    fn draw(&self, to: &mut impl Write, random: &mut Random) -> std::io::Result<()> {
        let count = self.shape.iter().product();
        // Uniform in ±√3: the deviation is 1.
        let mut uniform = || {
            let unit = (random.bits() >> 40) as f32 / (1u64 << 24) as f32;
            self.mean + self.deviation * 3f32.sqrt() * (2.0 * unit - 1.0)
        };
        match self.ggml_type {
            ggml::F32 => (0..count).try_for_each(|_| to.write_all(&uniform().to_le_bytes())),
            ggml::F16 => (0..count).try_for_each(|_| to.write_all(&half::f16::from_f32(uniform()).to_le_bytes())),
            ggml::Q4_0 => (0..count / 32).try_for_each(|_| to.write_all(&self.block(random))),
            other => panic!("no {other} is drawn"),
        }
    }

    /// A block: a scale of either sign, because codes are −8 to 7 with a mean of −0.5, and 16 bytes of codes.
    fn block(&self, random: &mut Random) -> [u8; 18] {
        const CODES: f32 = 4.637; // root of the mean square of −8 to 7
        let bits = random.bits();
        let size = 0.5 + (bits >> 48) as f32 / 65536.0;
        let sign = if bits & 1 == 0 { 1.0 } else { -1.0 };
        let scale = half::f16::from_f32(sign * size * self.deviation / CODES);
        let mut block = [0; 18];
        block[..2].copy_from_slice(&scale.to_le_bytes());
        block[2..10].copy_from_slice(&random.bits().to_le_bytes());
        block[10..].copy_from_slice(&random.bits().to_le_bytes());
        block
    }
}

/// Writes a file, and returns the bytes of its tensors.
fn write(path: &Path, writer: &Writer, tensors: &[Tensor], seed: u64) -> u64 {
    let infos = tensors.iter().map(|tensor| Info {
        name: &tensor.name,
        shape: &tensor.shape,
        ggml_type: tensor.ggml_type,
        bytes: tensor.bytes(),
    });
    let mut random = Random::new(seed);
    let all = || -> std::io::Result<()> {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        file.write_all(&writer.head(infos))?;
        for tensor in tensors {
            tensor.draw(&mut file, &mut random)?;
            let bytes = tensor.bytes();
            file.write_all(&[0; ALIGNMENT][..bytes.next_multiple_of(ALIGNMENT) - bytes])?;
        }
        file.flush()
    };
    all().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    tensors.iter().map(|tensor| tensor.bytes() as u64).sum()
}
