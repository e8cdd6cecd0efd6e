//! A random Qwen-VL of full size as a folder: 9.66 billion parameters in bf16, whose tensors are views of five
//! storages, so that the file has 1.5 GB.
//!
//! Weights are scaled so that hidden states stay near unit size and logits have a standard deviation of about 3.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::support::configs::Random;

/// Qwen-VL: hidden size, feed-forward width, rows of the vocabulary and the number of rows that have a text.
pub const HIDDEN: usize = 4096;
const FFN: usize = 11008;
const ROWS: usize = 151_936;
pub const VOCAB: usize = 151_860;
/// Dimensions of the vision tower.
const WIDTH: usize = 1664;
const TOWER_FFN: usize = 8192;
const PATCH: usize = 14;
const POSITIONS: usize = 256;

/// The number of layers of the decoder and of blocks of the tower.
#[derive(Clone, Copy)]
pub struct Depth {
    pub layers: usize,
    pub blocks: usize,
}

/// All of Qwen-VL.
pub const WHOLE: Depth = Depth { layers: 32, blocks: 48 };

/// The storage that tensors are views of. Its elements are uniform, with this mean and standard deviation.
struct Storage {
    key: &'static str,
    elements: usize,
    mean: f32,
    deviation: f32,
}

/// Elements for which x · Wᵀ is as large as x if x has 4096 elements. The vocabulary is the largest matrix; the storage
/// has room for several offsets of it.
const MATRIX: Storage = Storage { key: "0", elements: ROWS * HIDDEN + (1 << 24), mean: 0.0, deviation: 1.0 / 64.0 };
/// The output of each half of a block that keeps a residual of unit size near that size over dozens of blocks.
const BRANCH: Storage = Storage { key: "1", elements: 1 << 26, mean: 0.0, deviation: 0.3 / 64.0 };
const GAIN: Storage = Storage { key: "2", elements: 1 << 16, mean: 1.0, deviation: 0.1 };
const BIAS: Storage = Storage { key: "3", elements: 1 << 16, mean: 0.0, deviation: 0.05 };
const TABLE: Storage = Storage { key: "4", elements: 1 << 21, mean: 0.0, deviation: 0.5 };
/// The weights of the last norm, large enough for logits to differ.
const LAST: Storage = Storage { key: "5", elements: HIDDEN, mean: 3.0, deviation: 0.1 };

const STORAGES: [&Storage; 6] = [&MATRIX, &BRANCH, &GAIN, &BIAS, &TABLE, &LAST];

/// Writes the folder. Returns the number of parameters of the model.
pub fn write(folder: &Path, depth: Depth) -> u64 {
    let tensors = tensors(depth);
    let visual = serde_json::json!({
        "image_size": 448, "patch_size": PATCH, "width": WIDTH, "layers": depth.blocks, "heads": 16,
        "mlp_ratio": 4.9231, "output_dim": HIDDEN, "image_start_id": 151_857,
    });
    let config = serde_json::json!({
        "model_type": "qwen", "architectures": ["QWenLMHeadModel"], "hidden_size": HIDDEN,
        "num_hidden_layers": depth.layers, "num_attention_heads": 32, "kv_channels": 128,
        "intermediate_size": 2 * FFN, "layer_norm_epsilon": 1e-6, "seq_length": 2048, "visual": visual,
    });
    let all = || -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("config.json"), config.to_string())?;
        let mut zip =
            ZipWriter::new(BufWriter::with_capacity(1 << 20, File::create(folder.join("pytorch_model.bin"))?));
        let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        zip.start_file("archive/data.pkl", options)?;
        zip.write_all(&pickle(&tensors))?;
        for (seed, storage) in (1..).zip(STORAGES) {
            zip.start_file(format!("archive/data/{}", storage.key), options)?;
            storage.draw(&mut zip, &mut Random::new(seed))?;
        }
        zip.finish()?.flush()
    };
    all().unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    tensors.iter().map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum()
}

/// A tensor, and the storage that it is a view of.
struct Tensor {
    name: String,
    shape: Vec<usize>,
    storage: &'static Storage,
}

fn tensors(depth: Depth) -> Vec<Tensor> {
    let mut tensors = Vec::new();
    let mut push = |name: String, shape: &[usize], storage| tensors.push(Tensor { name, shape: shape.into(), storage });
    for name in ["transformer.wte.weight", "lm_head.weight"] {
        push(name.into(), &[ROWS, HIDDEN], &MATRIX);
    }
    push("transformer.ln_f.weight".into(), &[HIDDEN], &LAST);
    for layer in 0..depth.layers {
        let name = |part: &str| format!("transformer.h.{layer}.{part}");
        push(name("ln_1.weight"), &[HIDDEN], &GAIN);
        push(name("attn.c_attn.weight"), &[3 * HIDDEN, HIDDEN], &MATRIX);
        push(name("attn.c_attn.bias"), &[3 * HIDDEN], &BIAS);
        push(name("attn.c_proj.weight"), &[HIDDEN, HIDDEN], &BRANCH);
        push(name("ln_2.weight"), &[HIDDEN], &GAIN);
        push(name("mlp.w1.weight"), &[FFN, HIDDEN], &MATRIX);
        push(name("mlp.w2.weight"), &[FFN, HIDDEN], &MATRIX);
        push(name("mlp.c_proj.weight"), &[HIDDEN, FFN], &BRANCH);
    }
    let name = |part: &str| format!("transformer.visual.{part}");
    push(name("conv1.weight"), &[WIDTH, 3, PATCH, PATCH], &MATRIX);
    push(name("positional_embedding"), &[POSITIONS, WIDTH], &TABLE);
    push(name("attn_pool.query"), &[POSITIONS, HIDDEN], &TABLE);
    push(name("attn_pool.pos_embed"), &[POSITIONS, HIDDEN], &TABLE);
    push(name("attn_pool.kv_proj.weight"), &[HIDDEN, WIDTH], &MATRIX);
    push(name("attn_pool.attn.in_proj_weight"), &[3 * HIDDEN, HIDDEN], &MATRIX);
    push(name("attn_pool.attn.in_proj_bias"), &[3 * HIDDEN], &BIAS);
    push(name("proj"), &[HIDDEN, HIDDEN], &MATRIX);
    let mut both = |name: String, shape: &[usize], storage| {
        push(format!("{name}.weight"), shape, storage);
        push(format!("{name}.bias"), &shape[..1], &BIAS);
    };
    both(name("attn_pool.attn.out_proj"), &[HIDDEN, HIDDEN], &MATRIX);
    for (norm, width) in
        [("ln_pre", WIDTH), ("attn_pool.ln_q", HIDDEN), ("attn_pool.ln_kv", HIDDEN), ("ln_post", HIDDEN)]
    {
        both(name(norm), &[width], &GAIN);
    }
    for block in 0..depth.blocks {
        let name = |part: &str| name(&format!("transformer.resblocks.{block}.{part}"));
        both(name("ln_1"), &[WIDTH], &GAIN);
        both(name("ln_2"), &[WIDTH], &GAIN);
        both(name("attn.in_proj"), &[3 * WIDTH, WIDTH], &MATRIX);
        both(name("attn.out_proj"), &[WIDTH, WIDTH], &BRANCH);
        both(name("mlp.c_fc"), &[TOWER_FFN, WIDTH], &MATRIX);
        both(name("mlp.c_proj"), &[WIDTH, TOWER_FFN], &BRANCH);
    }
    tensors
}

impl Storage {
    fn draw(&self, to: &mut impl Write, random: &mut Random) -> std::io::Result<()> {
        // Uniform in ±√3: the deviation is 1. The upper half of an f32 is its bf16.
        let uniform = |i: usize| self.mean + self.deviation * 3f32.sqrt() * (i as f32 / 2048.0 - 1.0);
        let table: Vec<[u8; 2]> = (0..4096).map(|i| ((uniform(i).to_bits() >> 16) as u16).to_le_bytes()).collect();
        let mut left = self.elements;
        let mut bytes = Vec::with_capacity(1 << 20);
        while left > 0 {
            bytes.clear();
            while bytes.len() < 1 << 20 && left > 0 {
                let bits = random.bits();
                for part in 0..left.min(4) {
                    bytes.extend_from_slice(&table[(bits >> (16 * part + 4)) as usize & 4095]);
                }
                left -= left.min(4);
            }
            to.write_all(&bytes)?;
        }
        Ok(())
    }
}

/// The state dict as `torch.save` writes it. Each tensor begins at its own offset in its storage.
fn pickle(tensors: &[Tensor]) -> Vec<u8> {
    let mut out = b"\x80\x02}(".to_vec();
    let text = |out: &mut Vec<u8>, text: &str| {
        out.push(b'X');
        out.extend((text.len() as u32).to_le_bytes());
        out.extend(text.as_bytes());
    };
    let int = |out: &mut Vec<u8>, value: usize| {
        out.push(b'J');
        out.extend(i32::try_from(value).expect("a number of 31 bits").to_le_bytes());
    };
    let mut random = Random::new(99);
    for Tensor { name, shape, storage } in tensors {
        let count: usize = shape.iter().product();
        let offset = random.below((storage.elements - count) / 64 + 1) * 64;
        text(&mut out, name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend(b"ctorch\nBFloat16Storage\n");
        text(&mut out, storage.key);
        text(&mut out, "cpu");
        int(&mut out, storage.elements);
        out.extend(b"tQ");
        int(&mut out, offset);
        let strides = (0..shape.len()).map(|i| shape[i + 1..].iter().product()).collect::<Vec<usize>>();
        for list in [shape, &strides] {
            out.push(b'(');
            list.iter().for_each(|&value| int(&mut out, value));
            out.push(b't');
        }
        out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    out.extend(b"u.");
    out
}
