//! Golden folders load with the right configuration, and broken files get one clear sentence.

use std::path::{Path, PathBuf};

use super::*;

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case)
}

fn open(case: &str) -> Checkpoint {
    Checkpoint::open(&golden(case)).unwrap_or_else(|error| panic!("{case}: {error}"))
}

/// V·h·(1 or 2) + Σ (2·h·H·D + 2·h·K·D + 3·h·F + 2h) + h
fn parameters(config: &Config) -> usize {
    let h = config.hidden;
    let layer =
        |l: usize| 2 * h * config.head_dim * (config.heads[l] + config.kv_heads[l]) + 3 * h * config.ffn[l] + 2 * h;
    config.vocab * h * (2 - config.tied as usize) + (0..config.layers).map(layer).sum::<usize>() + h
}

#[test]
fn golden_folders() {
    // (case, hidden, heads, kv heads, head dim, ffn, tied)
    let uniform = |n: usize, layers: usize| vec![n; layers];
    let cases = [
        ("mobilellm_gqa", 144, uniform(9, 3), uniform(3, 3), 16, uniform(200, 3), true),
        ("mobilellm_bf16", 144, uniform(9, 3), uniform(3, 3), 16, uniform(200, 3), true),
        ("mobilellm_ls", 120, uniform(6, 3), uniform(2, 3), 20, uniform(184, 3), true),
        ("mobilellm_pruned", 128, vec![8, 6, 4, 6], vec![4, 3, 2, 3], 16, vec![200, 152, 96, 136], true),
        ("llama_untied_sharded", 140, uniform(7, 3), uniform(1, 3), 20, uniform(212, 3), false),
        ("mobilellm_r1", 144, uniform(9, 3), uniform(3, 3), 16, uniform(216, 3), true),
        ("efficientllm", 128, uniform(6, 3), uniform(6, 3), 16, uniform(154, 3), true),
    ];
    for (case, hidden, heads, kv_heads, head_dim, ffn, tied) in cases {
        let checkpoint = open(case);
        let config = &checkpoint.config;
        assert_eq!(
            (config.hidden, config.vocab, config.head_dim, config.tied),
            (hidden, 512, head_dim, tied),
            "{case}"
        );
        assert_eq!((&config.heads, &config.kv_heads, &config.ffn), (&heads, &kv_heads, &ffn), "{case}");
        assert_eq!(config.layers, heads.len(), "{case}");
        assert_eq!(config.layer_sharing, case == "mobilellm_ls", "{case}");
        assert_eq!(config.eos, [if case == "efficientllm" { 0 } else { 2 }], "{case}");
        assert_eq!(
            (config.qk_norm, config.rope.interleaved),
            (case == "mobilellm_r1", case == "mobilellm_r1"),
            "{case}"
        );
        assert_eq!(config.rope_layers, vec![true; config.layers], "{case}");
        assert_eq!(checkpoint.parameters(), parameters(config), "{case}");
        let norm = checkpoint.take("model.norm.weight", &[hidden]).expect(case);
        assert_eq!(norm.dtype, DType::F32, "{case}");
        assert!(norm.to_f32().iter().all(|value| (0.1..3.0).contains(value)), "{case}");
    }
}

#[test]
fn published_parameter_counts() {
    // (name, hidden, layers, heads, kv heads, ffn, parameters with a shared head)
    let models = [
        ("125M", 576, 30, 9, 3, 1536, 124_635_456),
        ("350M", 960, 32, 15, 5, 2560, 345_355_200),
        ("600M", 1152, 40, 18, 6, 3072, 603_188_352),
        ("1B", 1280, 54, 20, 5, 3584, 1_005_461_760),
        ("1.5B", 1600, 54, 25, 5, 4352, 1_511_188_800),
    ];
    let config = open("mobilellm_gqa").config;
    for (name, hidden, layers, heads, kv_heads, ffn, expected) in models {
        let config = Config {
            vocab: 32000,
            hidden,
            layers,
            heads: vec![heads; layers],
            kv_heads: vec![kv_heads; layers],
            ffn: vec![ffn; layers],
            head_dim: 64,
            ..config.clone()
        };
        assert_eq!(parameters(&config), expected, "{name}");
    }
}

/// A file of tests/fixtures/blocks: the number of values, and what follows it.
fn block_fixture(name: &str) -> (usize, Vec<u8>) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/blocks").join(format!("{name}.bin"));
    let bytes = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    (u32::from_le_bytes(*bytes.first_chunk().unwrap()) as usize, bytes[4..].to_vec())
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect()
}

#[test]
fn blocks_decode_as_gguf_does() {
    for dtype in DType::ALL {
        let (count, bytes) = block_fixture(&format!("dequantize_{dtype}"));
        let (blocks, expected) = bytes.split_at(dtype.row_bytes(count));
        let mut values = vec![0.0; count];
        quant::dequantize_row(dtype, blocks, &mut values);
        for (i, (value, expected)) in values.iter().zip(floats(expected)).enumerate() {
            let same = value.to_bits() == expected.to_bits() || value.is_nan() && expected.is_nan();
            assert!(same, "{dtype}: element {i} is {value:e}, expected {expected:e}");
        }
    }
}

#[test]
fn rows_quantize_as_gguf_does() {
    for dtype in [DType::F16, DType::Q8_0, DType::Q4_0] {
        let (count, bytes) = block_fixture(&format!("quantize_{dtype}"));
        let (values, expected) = bytes.split_at(4 * count);
        let mut blocks = Vec::new();
        quantize::quantize_row(dtype, &floats(values), &mut blocks);
        let size = dtype.row_bytes(32);
        for (row, (block, expected)) in blocks.chunks(size).zip(expected.chunks(size)).enumerate() {
            assert_eq!(block, expected, "{dtype}: row {row}");
        }
    }
}

#[test]
fn dots_multiply_what_is_decoded() {
    for dtype in DType::ALL {
        let blocks = if dtype.block().0 == 256 { 2 } else { 3 * 32 / dtype.block().0 };
        // Plain types have rows of any length.
        for cols in if dtype.block().0 == 1 { vec![1, 31, 32, 154] } else { vec![blocks * dtype.block().0] } {
            // Scales must be of usual size, so that blocks come from a fixture's end.
            let (count, bytes) = block_fixture(&format!("dequantize_{dtype}"));
            let row = match dtype {
                DType::F16 | DType::BF16 => [0x12, 0x3c].repeat(cols),
                _ => bytes[dtype.row_bytes(count) - dtype.row_bytes(cols)..dtype.row_bytes(count)].to_vec(),
            };
            let mut weights = vec![0.0; cols];
            quant::dequantize_row(dtype, &row, &mut weights);
            let x: Vec<Vec<f32>> =
                (0..4).map(|r| (0..cols).map(|i| ((i * 37 + r * 11) % 64) as f32 / 32.0 - 1.0).collect()).collect();
            let sums = quant::dot_rows(dtype, &row, std::array::from_fn::<_, 4, _>(|r| &x[r][..]));
            for (r, sum) in sums.into_iter().enumerate() {
                let products = || weights.iter().zip(&x[r]).map(|(&w, &x)| w as f64 * x as f64);
                let (expected, size) = (products().sum::<f64>(), products().map(f64::abs).sum::<f64>());
                assert!((sum as f64 - expected).abs() <= 1e-6 * size, "{dtype} × {cols}: {sum}, expected {expected}");
            }
            assert_eq!(quant::dot_row(dtype, &row, &x[0]), sums[0], "{dtype} × {cols}");
        }
    }
}

/// The real model, where scripts have fetched it.
#[test]
fn smollm2() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    if !file.is_file() {
        eprintln!("skipped: {} is not there", file.display());
        return;
    }
    let checkpoint = Checkpoint::open(&file).unwrap();
    let config = &checkpoint.config;
    assert_eq!((config.hidden, config.layers, config.vocab, config.head_dim), (576, 30, 49152, 64));
    assert_eq!((config.heads[29], config.kv_heads[29], config.ffn[29], config.tied), (9, 3, 1536, true));
    assert_eq!((config.bos, &config.eos[..], config.context), (Some(1), &[2][..], 8192));
    assert_eq!(checkpoint.parameters(), 134_515_008);
    assert_eq!(checkpoint.parameters(), parameters(config));
    assert!((config.rope.inv_freq[1] - 100_000f32.powf(-1.0 / 32.0)).abs() < 1e-7);
    let count = |element: &str| checkpoint.tensors().filter(|tensor| tensor.element == element).count();
    assert_eq!((count("q4_1"), count("q8_0"), count("f32")), (210, 1, 61));
    let q = checkpoint.take("model.layers.0.self_attn.q_proj.weight", &[576, 576]).unwrap();
    assert_eq!(q.order, RowOrder::Interleaved { head_dim: 64 });
    let Source::Gguf(gguf) = checkpoint.source() else { panic!("not a GGUF file") };
    let tokens = gguf.metadata("tokenizer.ggml.tokens").and_then(Value::as_array).unwrap();
    assert_eq!(tokens.strings().unwrap().nth(1), Some("<|im_start|>"));
    let types = gguf.metadata("tokenizer.ggml.token_type").and_then(Value::as_array).unwrap();
    assert_eq!(types.numbers().unwrap().nth(1), Some(3.0));
}
