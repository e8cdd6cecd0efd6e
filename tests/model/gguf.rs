//! Golden checkpoints as GGUF files, written by the tests' own writer: ids, logits and tokens equal those of the
//! folders, on the CPU and on every adapter. For quantised files, adapters agree with the CPU.

use std::path::{Path, PathBuf};

use crate::support::gguf::{self, Naming, Writer, ggml};
use crate::support::golden::{self, Golden};
use crate::support::pictures::{greedy, prompt, tensor};
use crate::support::runtimes::{self, worst};
use crate::support::scratch::Scratch;
use crate::support::tolerance::{F16, F32, Greedy, Tolerance, close, same_ids};
use crate::support::vocabulary::with_sentencepiece;
use crate::support::{forward, pairs, real_model};
use dunlin::checkpoint::{Checkpoint, Source, VisionFiles};
use dunlin::formats::quantize_row;
use dunlin::ops::Given;
use dunlin::tensor::DType;
use dunlin::{LoadOptions, Model, Tokenizer};

/// The largest difference from PyTorch's logits, and between adapters and the CPU: `tests/golden/README.md`, float32.
const LOGITS: f32 = 2e-3;
/// The tolerance between models of the same numbers on one device: the order of the rows of q and k changes no sum.
const SAME: f32 = 1e-5;

/// A folder as GGUF, with its tensors as they are stored; vectors of `.bin` files become f32.
fn stored(folder: &Path) -> Writer {
    if !folder.join("pytorch_model.bin").exists() {
        return gguf::from_folder(folder, |_, ggml_type, bytes| (ggml_type, bytes.to_vec()));
    }
    let checkpoint = Checkpoint::open(folder).expect("a golden folder");
    let tensors = checkpoint.tensors().map(|info| {
        let tensor = checkpoint.take(info.name, info.shape).expect("a tensor of the list");
        (info.name.to_string(), info.shape.to_vec(), tensor.dtype.gguf(), tensor.bytes.to_vec())
    });
    gguf::from_tensors(folder, tensors.collect())
}

fn write(scratch: &Scratch, name: &str, writer: &Writer) -> PathBuf {
    scratch.write(&format!("{name}.gguf"), writer.finish())
}

#[test]
fn golden_cases_are_the_same_as_gguf() {
    let scratch = Scratch::new();
    let runtimes = runtimes::full();
    // GGUF files do not state which layers of Gemma have full attention nor the scale of scores: the architecture
    // determines both.
    for golden in golden::text_cases().into_iter().filter(|golden| golden.name != "gemma3_wide_heads") {
        let file = write(&scratch, &golden.name, &stored(&golden.folder));
        let (folder, file) = (Checkpoint::open(&golden.folder), Checkpoint::open(&file));
        let (folder, file) =
            (folder.expect("a golden folder"), file.unwrap_or_else(|e| panic!("{}: {e}", golden.name)));
        assert_eq!(file.config.heads, folder.config.heads, "{}", golden.name);
        assert_eq!(file.config.ffn, folder.config.ffn, "{}", golden.name);
        for runtime in &runtimes {
            let at = format!("{} as GGUF on {}", golden.name, runtime.label);
            let (engine, original) = (runtime.load(&file), runtime.load(&folder));
            let ids = golden.ids("p0.input_ids");
            let logits = forward::logits(&*engine, &ids, 256).data;
            let error = worst(&logits, &golden.f32("p0.logits"));
            assert!(error <= LOGITS, "{at}: logits off by {error}");
            let own = forward::logits(&*original, &ids, 256).data;
            if golden.name == "llama3" {
                // The file stores the divisors of the angles in float32, which changes each frequency by an ulp.
                let error = worst(&logits, &own);
                assert!(error <= 10.0 * SAME, "{at}: off by {error} from the folder's logits");
            } else {
                assert_eq!(logits, own, "{at}: the folder's logits");
            }
            let wanted = golden.ids("p0.greedy_ids");
            let found = forward::greedy(&*engine, &ids, wanted.len(), &file.config.eos);
            assert!(found.iter().map(|(id, _)| *id).eq(wanted), "{at}: greedy ids");
        }
    }
}

/// A language model and its mmproj file hold the same tensors as the folder that they were made from.
#[test]
fn pairs_are_the_same_as_mobilevlm_folders() {
    let scratch = Scratch::new();
    for case in ["mobilevlm_v1_grid4", "mobilevlm_v1_grid8", "mobilevlm_v2_grid16", "mobilevlm_v2_grid24"] {
        let folder = golden::root().join(case);
        let original = Checkpoint::open(&folder).unwrap_or_else(|error| panic!("{case}: {error}"));
        let values = |checkpoint: &Checkpoint, name: &str, shape: &[usize]| {
            checkpoint.take(name, shape).unwrap_or_else(|error| panic!("{case}: {error}")).to_f32()
        };
        for naming in [Naming::Legacy, Naming::Newer] {
            for matrices in [ggml::F32, ggml::F16] {
                let name = format!("{case} {naming:?} {matrices}");
                let (language, mmproj) = pairs::files(&scratch, &folder, naming, matrices);
                let files = VisionFiles { mmproj: Some(mmproj), tower: None };
                let pair = Checkpoint::open_with(&language, &files).unwrap_or_else(|error| panic!("{name}: {error}"));
                assert_eq!(pair.config, original.config, "{name}");
                assert_eq!(pair.parameters(), original.parameters(), "{name}");
                for info in original.tensors() {
                    let mut wanted = values(&original, info.name, info.shape);
                    let found = values(&pair, info.name, info.shape);
                    if found != wanted {
                        // In f16 files all tensors are rounded, except vectors and tensors that only this file stores
                        // flat.
                        assert_eq!(matrices, ggml::F16, "{name}: {}", info.name);
                        wanted.iter_mut().for_each(|value| *value = half::f16::from_f32(*value).to_f32());
                    }
                    assert!(found == wanted, "{name}: {}", info.name);
                }
            }
        }
    }
}

/// Pairs of files give the same answers about pictures as the folders.
#[test]
fn pairs_answer_as_mobilevlm_folders() {
    let scratch = Scratch::new();
    let runtimes = runtimes::full();
    for golden in golden::vision_cases() {
        let folder = runtimes[0].model(&golden.folder, &LoadOptions::new());
        // Adapters run one case of each projector; the CPU runs all cases.
        let everywhere = ["mobilevlm_v1_grid8", "mobilevlm_v2_grid24"].contains(&golden.name.as_str());
        for naming in [Naming::Legacy, Naming::Newer] {
            for (matrices, tolerance) in [(ggml::F32, F32), (ggml::F16, F16)] {
                let (language, mmproj) = pairs::files(&scratch, &golden.folder, naming, matrices);
                let options = LoadOptions::new().mmproj(mmproj);
                for runtime in runtimes.iter().filter(|runtime| !runtime.is_gpu() || everywhere) {
                    let at = format!("{} {naming:?} {matrices} on {}", golden.name, runtime.label);
                    let model = runtime.model(&language, &options);
                    check_pair(&at, &golden, &model, tolerance);
                    for name in ["p0", "p1", "p2", "two", "text"] {
                        let ids = |model: &Model| model.encode(&prompt(&golden, name)).expect("ids");
                        assert_eq!(ids(&model), ids(&folder), "{at}: ids of {name}");
                    }
                    if matrices == ggml::F32 && !runtime.is_gpu() {
                        let trace = |model: &Model| model.trace(prompt(&golden, "two")).expect("a trace").tensors;
                        for ((name, found), (wanted_name, wanted)) in trace(&model).iter().zip(&trace(&folder)) {
                            assert_eq!((name, &found.shape), (wanted_name, &wanted.shape), "{at}");
                            close(&format!("{at}: {name}"), &found.data, &wanted.data, SAME, f32::INFINITY);
                        }
                    }
                }
            }
        }
    }
}

/// Compares a pair with the golden values for one picture and for two.
fn check_pair(at: &str, golden: &Golden, model: &Model, tolerance: Tolerance) {
    let trace = model.trace(prompt(golden, "p0")).expect("a trace");
    for (name, wanted) in [
        ("vision.features", "img0.vision_features"),
        ("vision.projected", "img0.projector_out"),
        ("embeddings", "p0.inputs_embeds"),
    ] {
        let (absolute, relative) = (tolerance.hidden_absolute, tolerance.hidden_relative);
        close(&format!("{at}: {name}"), tensor(&trace, name), &golden.f32(wanted), absolute, relative);
    }
    for name in ["p0", "two"] {
        let wanted = Greedy {
            ids: golden.ids(&format!("{name}.greedy_ids")),
            margins: golden.margins(name),
            logits: Vec::new(),
        };
        let found = greedy(model, prompt(golden, name), wanted.ids.len(), 1);
        same_ids(&format!("{at}: {name}"), &found, &wanted, tolerance);
    }
}

#[test]
fn sentencepiece_in_gguf_gives_the_folder_ids() {
    let scratch = Scratch::new();
    let mut strings = 0;
    for golden in golden::text_cases() {
        let table = golden.folder.join("tokenizer_expected.json");
        if !table.exists() || !golden.folder.join("tokenizer.model").exists() {
            continue;
        }
        let writer = with_sentencepiece(stored(&golden.folder), &golden.folder, 0);
        let tokenizer = Tokenizer::load(write(&scratch, &golden.name, &writer)).expect("a tokenizer");
        for case in golden::json(&format!("{}/tokenizer_expected.json", golden.name))["strings"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text).unwrap(), ids(&case["ids"]), "{}: {text:?}", golden.name);
            let without = tokenizer.encode_without_special(text).unwrap();
            assert_eq!(without, ids(&case["ids_no_special"]), "{}: {text:?}", golden.name);
            strings += 1;
        }
    }
    assert!(strings > 200, "{strings} strings");
}

/// A small model with the whole vocabulary and the merges of SmolLM2.
#[test]
fn byte_level_merges_in_gguf_give_the_reference_ids() {
    let Some(path) = real_model::smollm2() else { return };
    let checkpoint = Checkpoint::open(path).expect("SmolLM2");
    let Source::Gguf(file) = checkpoint.source() else { panic!("SmolLM2 is a GGUF file") };
    let array = |key: &str| file.metadata(&format!("tokenizer.ggml.{key}")).and_then(|value| value.as_array()).unwrap();
    let strings = |key: &str| array(key).strings().unwrap().collect::<Vec<_>>();
    let kinds: Vec<i32> = array("token_type").numbers().unwrap().map(|kind| kind as i32).collect();
    let pre = file.metadata("tokenizer.ggml.pre").and_then(|value| value.as_str()).unwrap();

    let writer = toy(DType::F16, 64)
        .string("tokenizer.ggml.model", "gpt2")
        .string("tokenizer.ggml.pre", pre)
        .strings("tokenizer.ggml.tokens", &strings("tokens"))
        .strings("tokenizer.ggml.merges", &strings("merges"))
        .i32s("tokenizer.ggml.token_type", &kinds)
        .bool("tokenizer.ggml.add_bos_token", false);
    let scratch = Scratch::new();
    let tokenizer = Tokenizer::load(write(&scratch, "toy", &writer)).expect("a tokenizer");
    let table = golden::json("smollm2_tokenizer.json");
    for case in table["strings"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), ids(&case["ids"]), "{text:?}");
    }
}

fn ids(value: &serde_json::Value) -> Vec<u32> {
    value.as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

/// Compares logits on every adapter with the CPU's, and the greedy ids. The margins of this small model are arbitrary,
/// so ids are equal only up to the first step whose margin on the CPU is less than twice the tolerance.
fn check_against_cpu(name: &str, path: &Path, prompt: &[u32]) {
    let checkpoint = Checkpoint::open(path).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut runtimes = runtimes::full();
    let cpu = runtimes.remove(0).load(&checkpoint);
    let wanted = forward::logits(&*cpu, prompt, 256).data;
    let wanted_ids = forward::greedy(&*cpu, prompt, 16, &[]);
    let spread = wanted.iter().fold(0f32, |most, logit| most.max(logit.abs()));
    assert!(spread > 0.5, "{name}: logits that differ, not {spread}");
    for runtime in runtimes {
        let at = format!("{name} on {}", runtime.label);
        let engine = runtime.load(&checkpoint);
        let error = worst(&forward::logits(&*engine, prompt, 256).data, &wanted);
        assert!(error <= LOGITS, "{at}: logits off by {error}");
        for (step, ((id, logits), (wanted, row))) in
            forward::greedy(&*engine, prompt, 16, &[]).into_iter().zip(&wanted_ids).enumerate()
        {
            let error = worst(&logits, row);
            assert!(error <= LOGITS, "{at}: logits of step {step} off by {error}");
            if id != *wanted {
                let margin = row[*wanted as usize] - row[id as usize];
                assert!(margin < 2.0 * LOGITS, "{at}: step {step} chose {id}, the CPU {wanted} by {margin}");
                break;
            }
        }
    }
}

/// Matrices whose rows are whole blocks; the others become f16, as in llama.cpp.
#[test]
fn quantised_golden_cases_run_as_on_the_cpu() {
    let scratch = Scratch::new();
    for name in ["mobilellm_pruned", "efficientllm"] {
        let golden = Golden::open(name);
        for dtype in [DType::Q8_0, DType::Q4_0] {
            let quantised = |shape: &[usize], ggml_type: u32, bytes: &[u8]| {
                let &[_, cols] = shape else { return (ggml_type, bytes.to_vec()) };
                let dtype = if cols % 32 == 0 { dtype } else { DType::F16 };
                (dtype.gguf(), quantise(dtype, cols, &widen(ggml_type, bytes)))
            };
            let writer = gguf::from_folder(&golden.folder, quantised);
            let path = write(&scratch, &format!("{name}_{dtype}"), &writer);
            check_against_cpu(&format!("{name} in {dtype}"), &path, &golden.ids("p0.input_ids"));
        }
    }
}

fn quantise(dtype: DType, cols: usize, values: &[f32]) -> Vec<u8> {
    let size = dtype.row_bytes(cols);
    let mut bytes = vec![0; values.len() / cols * size];
    for (row, bytes) in values.chunks(cols).zip(bytes.chunks_mut(size)) {
        quantize_row(dtype, row, bytes);
    }
    bytes
}

fn widen(ggml_type: u32, bytes: &[u8]) -> Vec<f32> {
    match ggml_type {
        ggml::F32 => bytes.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect(),
        ggml::BF16 => bytes.as_chunks().0.iter().map(|&two| half::bf16::from_le_bytes(two).to_f32()).collect(),
        other => panic!("golden cases hold no type {other}"),
    }
}

/// A Llama of two layers with random weights of one format, a vocabulary of 307 and rows of 256 and 512.
fn toy(dtype: DType, context: u32) -> Writer {
    const HIDDEN: usize = 256;
    const FFN: usize = 512;
    let mut writer = Writer::new("llama")
        .u32("llama.context_length", context)
        .u32("llama.embedding_length", HIDDEN as u32)
        .u32("llama.block_count", 2)
        .u32("llama.feed_forward_length", FFN as u32)
        .u32("llama.attention.head_count", 8)
        .u32("llama.attention.head_count_kv", 2)
        .u32("llama.rope.dimension_count", 32)
        .f32("llama.rope.freq_base", 10_000.0)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
    let mut seed = 0;
    let mut matrix = |writer: Writer, name: String, rows: usize, cols: usize| {
        seed += 1;
        let tensor = Given::weight(dtype, rows, cols).tensor(seed);
        writer.tensor(&name, &[rows, cols], dtype.gguf(), tensor.bytes.to_vec())
    };
    let gain = || (0..HIDDEN).flat_map(|i| (0.75 + (i % 7) as f32 / 14.0).to_le_bytes()).collect::<Vec<u8>>();
    writer = matrix(writer, "token_embd.weight".into(), 307, HIDDEN);
    writer = writer.tensor("output_norm.weight", &[HIDDEN], ggml::F32, gain());
    for layer in 0..2 {
        let name = |tensor: &str| format!("blk.{layer}.{tensor}.weight");
        for norm in ["attn_norm", "ffn_norm"] {
            writer = writer.tensor(&name(norm), &[HIDDEN], ggml::F32, gain());
        }
        for (tensor, rows, cols) in [
            ("attn_q", 256, HIDDEN),
            ("attn_k", 64, HIDDEN),
            ("attn_v", 64, HIDDEN),
            ("attn_output", HIDDEN, 256),
            ("ffn_gate", FFN, HIDDEN),
            ("ffn_up", FFN, HIDDEN),
            ("ffn_down", HIDDEN, FFN),
        ] {
            writer = matrix(writer, name(tensor), rows, cols);
        }
    }
    writer
}

#[test]
fn every_format_runs_as_on_the_cpu() {
    let scratch = Scratch::new();
    let prompt: Vec<u32> = (0..37).map(|i| (i * 83 + 5) % 307).collect();
    for dtype in DType::ALL {
        let path = write(&scratch, dtype.name(), &toy(dtype, 128));
        check_against_cpu(&format!("a toy in {dtype}"), &path, &prompt);
    }
}
