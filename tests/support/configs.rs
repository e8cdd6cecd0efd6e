//! Models without files: configurations of real models, and random configurations that test plans.

use std::collections::BTreeMap;

use dunlin::checkpoint::beyond::{Beyond, Ntk};
use dunlin::checkpoint::{Config, QkNorm, RopeConfig};
use dunlin::graph::Graph;
use dunlin::ops::{Elem, TensorType};
use dunlin::tensor::DType;
use dunlin::work::{DeviceProfile, layout};

/// A decoder with equal layers; the caller sets the rest.
pub fn uniform(
    architecture: &str,
    hidden: usize,
    layers: usize,
    heads: [usize; 2],
    ffn: usize,
    vocab: usize,
) -> Config {
    let head_dim = hidden / heads[0];
    Config {
        architecture: architecture.into(),
        vocab,
        hidden,
        layers,
        heads: vec![heads[0]; layers],
        kv_heads: vec![heads[1]; layers],
        ffn: vec![ffn; layers],
        head_dim,
        norm_eps: 1e-5,
        rope: RopeConfig {
            interleaved: false,
            inv_freq: inv_freq(head_dim, 1e4),
            local: None,
            most_positions: None,
            beyond: Beyond::default(),
        },
        rope_layers: vec![true; layers],
        windows: vec![None; layers],
        qk_norm: QkNorm::None,
        attention_scale: 1.0 / (head_dim as f32).sqrt(),
        embedding_scale: 1.0,
        qkv_bias: false,
        layer_sharing: false,
        tied: true,
        context: 2048,
        bos: Some(1),
        eos: vec![2],
        vision: None,
    }
}

fn inv_freq(head_dim: usize, base: f32) -> Vec<f32> {
    (0..head_dim / 2).map(|i| base.powf(-2.0 * i as f32 / head_dim as f32)).collect()
}

/// The real models, by name.
pub fn named() -> Vec<(&'static str, Config)> {
    let m125 = uniform("mobilellm", 576, 30, [9, 3], 1536, 32000);
    let mut r1 = uniform("llama4_text", 576, 15, [9, 3], 2048, 128_256);
    r1.rope.interleaved = true;
    r1.qk_norm = QkNorm::Weightless;
    let qwen25 = Config { qkv_bias: true, ..uniform("qwen2", 896, 24, [14, 2], 4864, 151_936) };
    let qwen3 =
        Config { qk_norm: QkNorm::Weighted, ..of_heads(128, uniform("qwen3", 1024, 28, [16, 8], 3072, 151_936)) };
    let mut smollm3 = uniform("smollm3", 2048, 36, [16, 4], 11008, 128_256);
    smollm3.rope_layers = (1..=36).map(|layer| layer % 4 != 0).collect();
    let mut qwen_vl =
        Config { qkv_bias: true, tied: false, context: 8192, ..uniform("qwen", 4096, 32, [32, 32], 11008, 151_860) };
    qwen_vl.rope.beyond = Beyond { trained: 2048, ntk: Some(Ntk { base: 10_000.0, rotated: 128 }), logn: true };
    let mut pruned = uniform("mobilellm", 960, 4, [15, 5], 2560, 32000);
    pruned.heads = vec![15, 9, 12, 6];
    pruned.kv_heads = vec![5, 3, 4, 2];
    pruned.ffn = vec![2560, 1811, 901, 2083];
    vec![
        ("MobileLLM-125M", m125.clone()),
        ("MobileLLM-LS-125M", Config { layer_sharing: true, ..m125.clone() }),
        ("MobileLLM-350M", uniform("mobilellm", 960, 32, [15, 5], 2560, 32000)),
        ("MobileLLM-1.5B", uniform("mobilellm", 1600, 54, [25, 5], 4352, 32000)),
        ("MobileLLM-350M pruned", pruned),
        ("MobileLLM-R1-140M", r1),
        ("SmolLM2-135M", Config { architecture: "llama".into(), vocab: 49152, ..m125 }),
        ("Qwen2.5-0.5B", qwen25),
        ("Qwen3-0.6B", qwen3),
        ("Llama-3.2-1B", uniform("llama", 2048, 16, [32, 8], 8192, 128_256)),
        ("SmolLM3-3B", smollm3),
        ("Gemma-3-270M", gemma3(640, 18, 4, 2048)),
        ("Gemma-3-1B", gemma3(1152, 26, 4, 6912)),
        ("Qwen-VL", qwen_vl),
        ("MobileLLaMA-1.4B", Config { tied: false, ..uniform("llama", 2048, 24, [16, 16], 5632, 32000) }),
        ("MobileLLaMA-2.7B", Config { tied: false, ..uniform("llama", 2560, 32, [32, 32], 6912, 32000) }),
    ]
}

/// The model with heads of another size.
fn of_heads(head_dim: usize, config: Config) -> Config {
    let rope = RopeConfig { inv_freq: inv_freq(head_dim, 1e4), ..config.rope };
    Config { head_dim, rope, attention_scale: 1.0 / (head_dim as f32).sqrt(), ..config }
}

/// A Gemma 3, in which one layer in six has full attention.
fn gemma3(hidden: usize, layers: usize, heads: usize, ffn: usize) -> Config {
    let config = of_heads(256, uniform("gemma3_text", hidden, layers, [heads, 1], ffn, 262_144));
    let rope = RopeConfig { local: Some(inv_freq(256, 1e6)), ..config.rope };
    let windows = (1..=layers).map(|layer| (layer % 6 != 0).then_some(512)).collect();
    Config { rope, windows, qk_norm: QkNorm::Weighted, embedding_scale: (hidden as f32).sqrt(), ..config }
}

/// The matrices of a model: name, rows, columns.
pub fn matrices(config: &Config) -> Vec<(String, usize, usize)> {
    let (c, h, d) = (config, config.hidden, config.head_dim);
    let mut matrices = vec![("model.embed_tokens.weight".to_string(), c.vocab, h)];
    if !c.tied {
        matrices.push(("lm_head.weight".to_string(), c.vocab, h));
    }
    for layer in 0..c.layers {
        let (q, kv, ffn) = (c.heads[layer] * d, c.kv_heads[layer] * d, c.ffn[layer]);
        let mut push = |part: &str, rows, cols| {
            matrices.push((format!("model.layers.{layer}.{part}.weight"), rows, cols));
        };
        push("self_attn.q_proj", q, h);
        push("self_attn.k_proj", kv, h);
        push("self_attn.v_proj", kv, h);
        push("self_attn.o_proj", h, q);
        push("mlp.gate_proj", ffn, h);
        push("mlp.up_proj", ffn, h);
        push("mlp.down_proj", h, ffn);
    }
    matrices
}

/// The vectors of a model: name, columns.
pub fn vectors(config: &Config) -> Vec<(String, usize)> {
    let norm = |layer, part: &str| (format!("model.layers.{layer}.{part}.weight"), config.hidden);
    let layers = (0..config.layers).flat_map(|l| [norm(l, "input_layernorm"), norm(l, "post_attention_layernorm")]);
    let bias = |layer, part: &str, heads: &[usize]| {
        (format!("model.layers.{layer}.self_attn.{part}_proj.bias"), heads[layer] * config.head_dim)
    };
    let biases = (0..if config.qkv_bias { config.layers } else { 0 })
        .flat_map(|l| [bias(l, "q", &config.heads), bias(l, "k", &config.kv_heads), bias(l, "v", &config.kv_heads)]);
    let gemma = if config.architecture == "gemma3_text" { config.layers } else { 0 };
    let behind = (0..gemma).flat_map(|l| [norm(l, "pre_feedforward_layernorm"), norm(l, "post_feedforward_layernorm")]);
    let of_heads = if config.qk_norm == QkNorm::Weighted { config.layers } else { 0 };
    let of_heads = (0..of_heads).flat_map(|l| {
        ["q", "k"].map(|which| (format!("model.layers.{l}.self_attn.{which}_norm.weight"), config.head_dim))
    });
    layers
        .chain(behind)
        .chain(of_heads)
        .chain(biases)
        .chain([("model.norm.weight".to_string(), config.hidden)])
        .collect()
}

/// A random format for each matrix, among those whose blocks divide its rows. In half of the cases one format for all.
pub fn random_formats(config: &Config, random: &mut Random) -> BTreeMap<String, DType> {
    let all = random.one_of(&DType::ALL);
    let mixed = random.below(2) == 0;
    let format = |(name, _, cols): (String, usize, usize)| {
        let wanted = if mixed { random.one_of(&DType::ALL) } else { all };
        let fits = cols % wanted.block().0 == 0;
        (name, if fits { wanted } else { random.one_of(&[DType::F32, DType::F16, DType::BF16]) })
    };
    matrices(config).into_iter().map(format).collect()
}

/// A small model of any widths: layers that differ, heads of any size, shared layers, layers without rope.
pub fn random_config(random: &mut Random) -> Config {
    let layers = 1 + random.below(4);
    // Widths are often whole blocks, so that every format is tested.
    let width = |random: &mut Random| match random.below(4) {
        0 => 2 + random.below(300),
        1 => 32 * (1 + random.below(8)),
        _ => 256 * (1 + random.below(2)),
    };
    let hidden = width(random);
    let head_dim = random.one_of(&[2, 6, 16, 20, 22, 32, 64, 64, 128, 256]);
    let kv_heads: Vec<usize> = (0..layers).map(|_| 1 + random.below(4)).collect();
    let heads = kv_heads.iter().map(|kv| kv * (1 + random.below(5))).collect();
    let architectures = ["mobilellm", "llama", "llama4_text", "qwen2", "qwen3", "smollm3", "gemma3_text"];
    let mut config = uniform(random.one_of(&architectures), hidden, layers, [1, 1], 1, 2);
    config.vocab = 2 + random.below(3000);
    config.head_dim = head_dim;
    (config.heads, config.kv_heads) = (heads, kv_heads);
    config.ffn = (0..layers).map(|_| width(random)).collect();
    config.rope = RopeConfig {
        interleaved: random.below(2) == 0,
        inv_freq: inv_freq(head_dim, 1e4),
        local: (random.below(2) == 0).then(|| inv_freq(head_dim, 1e6)),
        most_positions: None,
        beyond: Beyond::default(),
    };
    if random.below(3) == 0 {
        let ntk = (head_dim > 2 && random.below(2) == 0).then_some(Ntk { base: 10_000.0, rotated: head_dim });
        config.rope.beyond = Beyond { trained: 2 + random.below(40), ntk, logn: random.below(2) == 0 };
    }
    config.rope_layers = (0..layers).map(|_| random.below(5) > 0).collect();
    let window = |random: &mut Random| (random.below(2) == 0).then(|| 1 + random.below(12));
    config.windows = (0..layers).map(|_| window(random)).collect();
    config.qk_norm = random.one_of(&[QkNorm::None, QkNorm::Weightless, QkNorm::Weighted]);
    config.attention_scale = 0.5 / (head_dim as f32).sqrt();
    config.embedding_scale = random.one_of(&[1.0, 2.5]);
    config.qkv_bias = random.below(2) == 0;
    config.layer_sharing = config.architecture == "mobilellm" && random.below(2) == 0;
    config.tied = random.below(2) == 0;
    config
}

/// The smallest binding limit with which a graph can run: weights are split into tiles of rows, other values are not.
pub fn least_binding(graph: &Graph, profile: &DeviceProfile) -> u64 {
    let least = |ty: &TensorType| match ty.elem {
        Elem::Weight(dtype) => {
            let cols = ty.matrix().1;
            4 * layout::codes_words(dtype, layout::TILE, cols).max(layout::scales_words(dtype, layout::TILE, cols))
                as u64
        }
        _ => ty.bytes(profile).next_multiple_of(16),
    };
    graph.values.iter().map(|value| least(&value.ty)).max().unwrap_or(0)
}

/// xorshift64*: it gives the same numbers on every machine.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.bits() >> 33) as usize % limit
    }

    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}
