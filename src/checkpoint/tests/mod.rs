//! Golden folders load with the right configuration, and broken files give one clear error.

mod broken;
mod configs;
#[allow(dead_code, reason = "the types of blocks are for the tests of whole models")]
#[path = "../../../tests/support/gguf.rs"]
pub(crate) mod gguf_writer;
mod mmprojs;
mod pickles;
mod qwen;
#[path = "../../../tests/support/scratch.rs"]
mod scratch;
mod towers;
mod vision_folders;

use std::path::{Path, PathBuf};

use super::*;

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case)
}

fn open(case: &str) -> Checkpoint {
    Checkpoint::open(golden(case)).unwrap_or_else(|error| panic!("{case}: {error}"))
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
        ("mobilellm_fp16_bin", 192, uniform(3, 3), uniform(1, 3), 64, uniform(264, 3), true),
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
            (if case == "mobilellm_r1" { QkNorm::Weightless } else { QkNorm::None }, case == "mobilellm_r1"),
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

/// The real model, where the scripts have downloaded it.
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
    assert_eq!((config.bos, &config.eos[..], config.context), (Some(1), &[2, 0][..], 8192));
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

/// The same model as a folder and as GGUF: equal configurations, equal rows in logical order.
#[test]
fn gguf_holds_the_same_model() {
    let cases = [
        "mobilellm_gqa",
        "mobilellm_bf16",
        "mobilellm_ls",
        "mobilellm_pruned",
        "llama_untied_sharded",
        "mobilellm_r1",
        "efficientllm",
        "qwen2",
        "qwen3",
        "qwen3_wide_heads",
        "llama3",
        "smollm3",
        "gemma3",
    ];
    for case in cases {
        let folder = open(case);
        let file = gguf_writer::from_folder(&golden(case), |_, ggml_type, bytes| (ggml_type, bytes.to_vec())).finish();
        let gguf = Checkpoint::from_gguf(Path::new("case.gguf"), Bytes::new(file)).expect(case);
        let mut wanted = Config { architecture: gguf.config.architecture.clone(), ..folder.config.clone() };
        if case == "llama3" {
            // The file stores divisors in float32, which changes each frequency by an ulp.
            let found = &gguf.config.rope.inv_freq;
            let pairs = found.iter().zip(&wanted.rope.inv_freq);
            assert!(pairs.into_iter().all(|(found, wanted)| (found / wanted - 1.0).abs() < 3e-7), "{found:?}");
            wanted.rope.inv_freq = found.clone();
        }
        assert_eq!(gguf.config, wanted, "{case}");
        assert_eq!(gguf.parameters(), folder.parameters(), "{case}");
        for info in folder.tensors() {
            let ours = folder.take(info.name, info.shape).unwrap();
            let theirs = gguf.take(info.name, info.shape).unwrap();
            assert_eq!(ours.to_f32(), theirs.to_f32(), "{case}: {}", info.name);
            // The converter permutes rows for `llama` and `smollm3`.
            let permuted = matches!(gguf.config.architecture.as_str(), "llama" | "smollm3");
            if info.name.ends_with("q_proj.weight") && permuted {
                assert_ne!(&ours.bytes[..], &theirs.bytes[..], "{case}: {} is not permuted", info.name);
            }
        }
    }
}

/// Keys and tensors that only some files have.
#[test]
fn gguf_variants() {
    let writer =
        || gguf_writer::from_folder(&golden("mobilellm_gqa"), |_, ggml_type, bytes| (ggml_type, bytes.to_vec()));
    let read = |file: Vec<u8>| Checkpoint::from_gguf(Path::new("case.gguf"), Bytes::new(file));
    let plain = read(writer().finish()).unwrap().config;
    let mut second = writer().finish();
    second[4] = 2;
    assert_eq!(read(second).unwrap().config, plain);

    let divisors: Vec<u8> = (1..=8).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let freqs = writer().tensor("rope_freqs.weight", &[8], gguf_writer::ggml::F32, divisors.clone());
    for (i, value) in read(freqs.finish()).unwrap().config.rope.inv_freq.into_iter().enumerate() {
        assert!((value * (i + 1) as f32 / plain.rope.inv_freq[i] - 1.0).abs() < 1e-6);
    }
    let linear = writer().string("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 4.0);
    assert_eq!(read(linear.finish()).unwrap().config.rope.inv_freq[2], plain.rope.inv_freq[2] / 4.0);
    let gemma = || gguf_writer::from_folder(&golden("gemma3"), |_, ggml_type, bytes| (ggml_type, bytes.to_vec()));
    let windows = |writer: gguf_writer::Writer| read(writer.finish()).unwrap().config.windows;
    let (some, pattern) = (Some(12), "gemma3.attention.sliding_window_pattern");
    assert_eq!(windows(gemma().u32(pattern, 2)), [some, None, some, None, some, None, some]);
    let flags = gemma().i32s(pattern, &[0, 1, 1, 0, 1, 1, 1]);
    assert_eq!(windows(flags), [None, some, some, None, some, some, some]);
    assert!(read(gemma().i32s(pattern, &[0, 1]).finish()).unwrap_err().to_string().contains("7 layers"));
    let local = read(gemma().f32("gemma3.rope.freq_base_swa", 1e6).finish()).unwrap().config.rope;
    assert_eq!(local.local.unwrap(), local.inv_freq);
    let capped = read(gemma().f32("gemma3.final_logit_softcapping", 30.0).finish()).unwrap_err().to_string();
    assert!(capped.contains("final_logit_softcapping"), "{capped}");
    // End of text, of a turn, of a message: each of these ids ends a reply.
    let ends = writer().u32("tokenizer.ggml.eot_token_id", 7).u32("tokenizer.ggml.eom_token_id", 9);
    assert_eq!(read(ends.finish()).unwrap().config.eos, [2, 7, 9]);
    // Without keys their texts tell them, if they are control or user-defined tokens.
    let named = writer()
        .strings("tokenizer.ggml.tokens", &["<unk>", "<end_of_turn>", "</s>", "<|im_end|>", "<|eot_id|>", "<EOT>"])
        .i32s("tokenizer.ggml.token_type", &[2, 3, 3, 4, 1, 5]);
    assert_eq!(read(named.finish()).unwrap().config.eos, [2, 1, 3]);
    assert!(read(writer().bool("llama.layer_sharing", true).finish()).unwrap().config.layer_sharing);

    let refused = [
        (writer().string("llama.rope.scaling.type", "yarn"), "`yarn`"),
        (writer().u32("llama.expert_count", 8), "experts"),
        (writer().u32("split.count", 2), "several files"),
        (writer().tensor("rope_freqs.weight", &[4], gguf_writer::ggml::F32, divisors[..16].to_vec()), "expected 8"),
        (writer().tensor("blk.0.attn_q.bias", &[8], gguf_writer::ggml::F32, divisors.clone()), "blk.0.attn_q.bias"),
        (writer().tensor("blk.0.attn_q.weight", &[8], gguf_writer::ggml::F32, divisors), "twice"),
    ];
    for (writer, word) in refused {
        let error = read(writer.finish()).expect_err(word).to_string();
        assert!(error.contains(word) && error.contains("case.gguf"), "{error}");
    }
}

/// `--weights`: matrices are quantised row by row, in logical order, and vectors stay f32.
#[test]
fn weights_are_converted_when_taken() {
    let case = "mobilellm_pruned";
    let original = open(case);
    let encode = |_: &[usize], ggml_type, bytes: &[u8]| (ggml_type, bytes.to_vec());
    let permuted = gguf_writer::from_folder(&golden(case), encode).finish();
    for (weights, largest_error) in [(DType::F16, 1e-3), (DType::Q8_0, 1e-2), (DType::Q4_0, 1.3e-1)] {
        let mut file = open(case);
        let mut permuted = Checkpoint::from_gguf(Path::new("case.gguf"), Bytes::new(permuted.clone())).unwrap();
        file.convert(weights).unwrap();
        permuted.convert(weights).unwrap();
        assert_eq!(file.take("model.norm.weight", &[128]).unwrap().dtype, DType::F32);
        // Rows of 152 are not a multiple of 32 and become f16.
        let matrices = [
            ("model.embed_tokens.weight", [512, 128], weights),
            ("model.layers.1.self_attn.q_proj.weight", [96, 128], weights),
            ("model.layers.1.mlp.down_proj.weight", [128, 152], DType::F16),
        ];
        for (name, shape, dtype) in matrices {
            let (exact, ours) = (original.take(name, &shape).unwrap().to_f32(), file.take(name, &shape).unwrap());
            assert_eq!(ours.dtype, dtype, "{name} as {weights}");
            assert_eq!(ours.to_f32(), permuted.take(name, &shape).unwrap().to_f32(), "{name} as {weights}");
            let largest = exact.iter().fold(0f32, |largest, value| largest.max(value.abs()));
            for (value, exact) in ours.to_f32().iter().zip(exact) {
                assert!((value - exact).abs() <= largest * largest_error, "{name} as {weights}: {value} for {exact}");
            }
        }
    }
    assert!(open(case).convert(DType::Q4_K).unwrap_err().to_string().contains("q4_k"));
}

/// Pages of a mapped file can be read again after a release, with the same content.
#[test]
fn released_tensors_can_be_read_again() {
    let checkpoint = open("mobilellm_gqa");
    let embedding = checkpoint.take("model.embed_tokens.weight", &[512, 144]).unwrap();
    let before = embedding.to_f32();
    embedding.bytes.release();
    assert_eq!(embedding.to_f32(), before);
}
