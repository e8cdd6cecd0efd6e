//! Random models as GGUF files of any size, written a few blocks at a time: MobileVLM V2-1.7B in q4_0.
//!
//! Weights are scaled so that hidden states stay near unit size, logits have a standard deviation of about 3, and heads
//! look at some positions more than at others.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::support::configs::Random;
use crate::support::gguf::{ALIGNMENT, Info, Writer, ggml};
use crate::support::vocabulary::with_sentencepiece;

/// MobileLLaMA-1.4B: hidden size, layers, heads, feed-forward width, vocabulary.
pub const HIDDEN: usize = 2048;
pub const LAYERS: usize = 24;
const HEADS: usize = 16;
const FFN: usize = 5632;
pub const VOCAB: usize = 32000;

/// CLIP ViT-L/14 at 336 pixels; the last of its 24 blocks is not in the file.
const IMAGE: usize = 336;
const PATCH: usize = 14;
const PATCHES: usize = (IMAGE / PATCH) * (IMAGE / PATCH);
const WIDTH: usize = 1024;
const BLOCKS: usize = 23;
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

/// Writes the two files of a MobileVLM V2-1.7B in the layout of llama.cpp's converters. `tokenizer` is a folder with a
/// `tokenizer.model`. Returns the bytes of the tensors of the language model and of the vision half.
pub fn mobilevlm(language: &Path, mmproj: &Path, tokenizer: &Path) -> (u64, u64) {
    let writer = Writer::new("llama")
        .u32("llama.context_length", 2048)
        .u32("llama.embedding_length", HIDDEN as u32)
        .u32("llama.block_count", LAYERS as u32)
        .u32("llama.feed_forward_length", FFN as u32)
        .u32("llama.attention.head_count", HEADS as u32)
        .u32("llama.attention.head_count_kv", HEADS as u32)
        .u32("llama.rope.dimension_count", (HIDDEN / HEADS) as u32)
        .f32("llama.rope.freq_base", 10_000.0)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-6)
        .u32("llama.vocab_size", VOCAB as u32)
        .u32("tokenizer.ggml.bos_token_id", 1)
        .u32("tokenizer.ggml.eos_token_id", 2);
    let language = write(language, &with_sentencepiece(writer, tokenizer, VOCAB), &language_tensors(), 1);
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
        .u32("clip.vision.block_count", BLOCKS as u32)
        .f32s("clip.vision.image_mean", &MEAN)
        .f32s("clip.vision.image_std", &STD)
        .bool("clip.use_gelu", false);
    (language, write(mmproj, &writer, &vision_tensors(), 2))
}

/// 1,364,297,728 parameters.
fn language_tensors() -> Vec<Tensor> {
    let gain = |name: String| vector(name, HIDDEN, 1.0, 0.1);
    let mut tensors = vec![
        // A row of the embedding is a hidden state, whose elements have a deviation of 1.
        matrix("token_embd.weight", VOCAB, HIDDEN, (HIDDEN as f32).sqrt()),
        gain("output_norm.weight".into()),
        matrix("output.weight", VOCAB, HIDDEN, 3.0),
    ];
    for layer in 0..LAYERS {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        tensors.extend([
            gain(name("attn_norm")),
            matrix(name("attn_q"), HIDDEN, HIDDEN, SHARP),
            matrix(name("attn_k"), HIDDEN, HIDDEN, SHARP),
            matrix(name("attn_v"), HIDDEN, HIDDEN, 1.0),
            matrix(name("attn_output"), HIDDEN, HIDDEN, BRANCH),
            gain(name("ffn_norm")),
            matrix(name("ffn_gate"), FFN, HIDDEN, 1.0),
            matrix(name("ffn_up"), FFN, HIDDEN, 1.0),
            matrix(name("ffn_down"), HIDDEN, FFN, 2.0 * BRANCH),
        ]);
    }
    tensors
}

/// Tensors in the older naming: fc1 is `ffn_down`, fc2 is `ffn_up`. Convolutions are f16, as in the converter's output.
fn vision_tensors() -> Vec<Tensor> {
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
    for block in 0..BLOCKS {
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
    tensors.extend(linear("mm.model.mlp.0".into(), HIDDEN, WIDTH, 1.0));
    tensors.extend(linear("mm.model.mlp.2".into(), HIDDEN, HIDDEN, 1.0));
    tensors.push(half("mm.model.peg.0.weight", &[HIDDEN, 3, 3], 0.2));
    tensors.push(vector("mm.model.peg.0.bias", HIDDEN, 0.0, 0.05));
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
