//! Generation, step by step and through the public interface, on the CPU and on every adapter: caches, chunks, layer
//! sharing, splitting, interleaving and steps in flight must not change the result.

use std::path::{Path, PathBuf};

use crate::support::forward;
use crate::support::golden::{self, Golden};
use crate::support::parallel;
use crate::support::runtimes::{self, Runtime, worst};
use crate::support::scratch::Scratch;
use dunlin::backend::wgpu::counters;
use dunlin::backend::{Engine, Output, Step, Want};
use dunlin::checkpoint::Checkpoint;
use dunlin::tensor::DType;
use dunlin::work::{Family, Row};
use dunlin::{LoadOptions, Model, Prompt, Sampler, Stats, Stop, Weights};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

/// The tolerance of two ways to compute the same logits in f32 (whose standard deviation is 3): sums in another order
/// differ by about 1e-5, and the noise of the reference is 5e-5.
const SAME: f32 = 2e-4;

/// The tolerance of adapters against the CPU: the float32 column of `tests/golden/README.md`.
const LOGITS: f32 = 2e-3;

fn open(golden: &Golden) -> Checkpoint {
    Checkpoint::open(&golden.folder).unwrap_or_else(|error| panic!("{}: {error}", golden.name))
}

/// A prompt and its continuation.
fn sequence(golden: &Golden) -> Vec<u32> {
    [golden.ids("p0.input_ids"), golden.ids("p0.greedy_ids")].concat()
}

/// One shape of each kind: grouped queries, odd heads and sharing, a list for each layer, interleaved rope, wide heads.
const SHAPES: [&str; 5] = ["mobilellm_gqa", "mobilellm_ls", "mobilellm_pruned", "mobilellm_r1", "mobilellm_fp16_bin"];

#[test]
fn decode_with_a_cache_equals_full_recompute() {
    for golden in SHAPES.map(Golden::open) {
        let checkpoint = open(&golden);
        for runtime in runtimes::full() {
            let engine = runtime.load(&checkpoint);
            let (ids, prompt) = (sequence(&golden), golden.ids("p0.input_ids").len());
            let full = forward::logits(&*engine, &ids, ids.len());
            for (step, (_, logits)) in
                forward::greedy(&*engine, &ids[..prompt], ids.len() - prompt, &[]).into_iter().enumerate()
            {
                let error = worst(&logits, row(&full, prompt + step - 1));
                assert!(error <= SAME, "{} on {}: step {step} off by {error}", golden.name, runtime.label);
            }
        }
    }
}

fn row(output: &Output, row: usize) -> &[f32] {
    &output.data[row * output.cols..(row + 1) * output.cols]
}

#[test]
fn chunks_of_any_size_are_one_chunk() {
    let cases = [
        ("mobilellm_gqa", 131),
        ("mobilellm_ls", 67),
        ("mobilellm_r1", 35),
        ("gemma3", 67), // windows that begin inside a chunk
        ("gemma3_wide_heads", 35),
    ];
    for (golden, count) in cases {
        let golden = Golden::open(golden);
        let checkpoint = open(&golden);
        let ids = golden.ids("long.input_ids");
        let ids = &ids[..count.min(ids.len())];
        parallel::each(&runtimes::full(), |runtime| {
            let engine = runtime.load(&checkpoint);
            let whole = forward::logits(&*engine, ids, ids.len());
            for chunk in [1, 7, 64, 256] {
                let at = format!("{} on {} by {chunk}", golden.name, runtime.label);
                let error = worst(&forward::logits(&*engine, ids, chunk).data, &whole.data);
                assert!(error <= SAME, "{at}: off by {error}");
                let error = worst(&prefill(&*engine, ids, chunk), row(&whole, ids.len() - 1));
                assert!(error <= SAME, "{at}, filling the cache only: off by {error}");
            }
        });
    }
}

/// Runs a prompt as generation does: chunks without output, and a last one that chooses a token. Returns its logits.
fn prefill(engine: &dyn Engine, ids: &[u32], chunk: usize) -> Vec<f32> {
    let mut session = engine.session(ids.len() + 1).expect("session");
    session.set_tokens(0, ids).expect("tokens");
    for position in (0..ids.len()).step_by(chunk) {
        let rows = chunk.min(ids.len() - position);
        if position + rows == ids.len() {
            forward::prompt_with_logits(&mut *session, Row::at(position), rows);
        } else {
            forward::prompt(&mut *session, Row::at(position), rows, Want::Nothing);
        }
    }
    forward::sampled(&mut *session).remove(0).logits.expect("logits")
}

#[test]
fn sharing_layers_equals_copying_them_bit_for_bit() {
    let golden = Golden::open("mobilellm_ls");
    let scratch = Scratch::new();
    let copied = Checkpoint::open(copy_layers_out(&scratch, &golden.folder)).expect("a folder without sharing");
    let shared = open(&golden);
    assert_eq!((copied.config.layers, shared.config.layers), (6, 3));
    assert!(shared.config.layer_sharing && !copied.config.layer_sharing);
    let ids = sequence(&golden);
    for runtime in runtimes::all() {
        let (a, b) = (runtime.load(&shared), runtime.load(&copied));
        let (a_trace, b_trace) =
            (forward::outputs(&*a, &ids, Want::Trace, 256), forward::outputs(&*b, &ids, Want::Trace, 256));
        assert_eq!(a_trace.len(), 8, "embeddings, six passes, logits");
        for ((name, a), (b_name, b)) in a_trace.iter().zip(&b_trace) {
            assert_eq!(name, b_name);
            assert_eq!(bits(&a.data), bits(&b.data), "{name} on {}", runtime.label);
        }
        let greedy = |engine: &dyn Engine| -> Vec<(u32, Vec<u32>)> {
            let steps = forward::greedy(engine, &ids[..9], 24, &[]);
            steps.into_iter().map(|(id, logits)| (id, bits(&logits))).collect()
        };
        assert_eq!(greedy(&*a), greedy(&*b), "{}", runtime.label);
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// A copy of the folder in which every layer is stored twice, with sharing turned off in the configuration.
fn copy_layers_out(scratch: &Scratch, folder: &Path) -> PathBuf {
    let content = std::fs::read(folder.join("model.safetensors")).expect("weights");
    let tensors = safetensors::SafeTensors::deserialize(&content).expect("safetensors");
    let mut copies: Vec<(String, TensorView)> = Vec::new();
    for (name, view) in tensors.tensors() {
        match name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) {
            Some((layer, rest)) => {
                let layer: usize = layer.parse().expect("a layer");
                for copy in [2 * layer, 2 * layer + 1] {
                    copies.push((format!("model.layers.{copy}.{rest}"), view.clone()));
                }
            }
            None => copies.push((name, view)),
        }
    }
    assert!(copies.iter().all(|(_, view)| view.dtype() == Dtype::F32));
    let path = scratch.write("copied/model.safetensors", safetensors::serialize(copies, None).expect("a file"));
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(folder.join("config.json")).expect("config")).expect("config");
    config["num_hidden_layers"] = (2 * config["num_hidden_layers"].as_u64().expect("layers")).into();
    config["layer_sharing"] = false.into();
    scratch.write("copied/config.json", config.to_string());
    path.parent().expect("a folder").to_path_buf()
}

#[test]
fn weights_converted_while_loading_run_as_on_the_cpu() {
    for golden in ["mobilellm_fp16_bin", "mobilellm_pruned", "efficientllm"].map(Golden::open) {
        let ids = sequence(&golden);
        let mut sizes = Vec::new();
        for dtype in [DType::F16, DType::Q8_0, DType::Q4_0] {
            let mut checkpoint = open(&golden);
            checkpoint.convert(dtype).expect("a format for converting");
            let mut runtimes = runtimes::full();
            let cpu = runtimes.remove(0).load(&checkpoint);
            sizes.push(cpu.weight_bytes());
            let wanted = forward::logits(&*cpu, &ids, 256).data;
            for runtime in runtimes {
                let engine = runtime.load(&checkpoint);
                let error = worst(&forward::logits(&*engine, &ids, 256).data, &wanted);
                assert!(error <= LOGITS, "{} as {dtype} on {}: off by {error}", golden.name, runtime.label);
            }
            if dtype == DType::F16 {
                let error = worst(&wanted[..golden.f32("p0.logits").len()], &golden.f32("p0.logits"));
                assert!(error <= 0.3, "{} as f16: off by {error}", golden.name);
            }
        }
        assert!(sizes[0] > sizes[1] && sizes[1] > sizes[2], "{}: {sizes:?}", golden.name);
    }
}

#[test]
fn options_of_the_public_interface_reach_the_device() {
    let golden = Golden::open("mobilellm_fp16_bin");
    for runtime in runtimes::full() {
        let bytes = |options: &LoadOptions| generate(&runtime.model(&golden.folder, options), &[1, 2, 3], 2).1;
        let plain = bytes(&LoadOptions::new());
        assert_eq!((plain.prompt_tokens, plain.generated_tokens), (3, 2), "{}", runtime.label);
        let small = bytes(&LoadOptions::new().weights(Weights::Q4_0));
        // On a device the table of angles counts too: 2048 positions of 64 floats.
        assert!(3 * small.weight_bytes < 2 * plain.weight_bytes, "{}: {small:?} {plain:?}", runtime.label);
        let model = runtime.model(&golden.folder, &LoadOptions::new().context(7));
        assert_eq!(model.context(), 7);
    }
}

#[test]
fn weights_split_by_rows_are_the_same() {
    for golden in ["mobilellm_gqa", "llama_untied_sharded", "mobilellm_pruned"].map(Golden::open) {
        for dtype in [None, Some(DType::Q8_0)] {
            let mut checkpoint = open(&golden);
            dtype.map(|dtype| checkpoint.convert(dtype)).transpose().expect("a format for converting");
            let ids = &golden.ids("p0.input_ids");
            let ids = &ids[..ids.len().min(12)];
            for runtime in runtimes::all().iter().filter(|runtime| runtime.is_gpu()) {
                let whole = runtime.load(&checkpoint);
                let (logits, greedy) = (forward::logits(&*whole, ids, 256), forward::greedy(&*whole, ids, 8, &[]));
                for limit in if dtype.is_none() { vec![8 << 10, 48_000] } else { vec![8 << 10] } {
                    let at = format!("{} {dtype:?} on {} in bindings of {limit}", golden.name, runtime.label);
                    let split = runtime.load_with(&checkpoint, Some(limit));
                    assert!(split.dispatches_per_token() > whole.dispatches_per_token(), "{at}: nothing is split");
                    // If q, k and v are no longer fused, the same sums are computed in another order.
                    let error = worst(&forward::logits(&*split, ids, 256).data, &logits.data);
                    assert!(error <= 1e-5, "{at}: logits off by {error}");
                    for ((a, a_logits), (b, b_logits)) in forward::greedy(&*split, ids, 8, &[]).iter().zip(&greedy) {
                        let error = worst(a_logits, b_logits);
                        assert!(a == b && error <= 1e-5, "{at}: {a} for {b}, logits off by {error}");
                    }
                }
            }
        }
    }
}

/// The logits of a pass lie in one binding.
#[test]
fn a_pass_has_no_more_rows_than_a_binding_holds_logits() {
    let golden = Golden::open("mobilellm_gqa");
    let checkpoint = open(&golden);
    let (row, ids) = (4 * checkpoint.config.vocab as u64, golden.ids("long.input_ids"));
    for runtime in runtimes::full().iter().filter(|runtime| runtime.is_gpu()) {
        let whole = runtime.load(&checkpoint);
        assert_eq!(whole.chunk(), 256, "{}", runtime.label);
        for rows in [9, 40] {
            let small = runtime.load_with(&checkpoint, Some(rows * row + row / 2));
            assert_eq!((small.chunk() as u64, small.most_rows() as u64), (rows, rows), "{}", runtime.label);
            let ids = &ids[..100];
            let error =
                worst(&forward::logits(&*small, ids, small.chunk()).data, &forward::logits(&*whole, ids, 256).data);
            assert!(error <= SAME, "{} by {rows} rows: off by {error}", runtime.label);
        }
    }
}

/// A long prompt after a short one needs a larger arena than the one that is bound.
#[test]
fn a_session_that_has_decoded_takes_a_longer_pass() {
    let golden = Golden::open("mobilellm_gqa");
    let checkpoint = open(&golden);
    let ids = &golden.ids("long.input_ids")[..131];
    for runtime in runtimes::full() {
        let engine = runtime.load(&checkpoint);
        let wanted = forward::logits(&*engine, ids, ids.len());
        let mut session = engine.session(ids.len()).expect("session");
        session.set_tokens(0, ids).expect("tokens");
        let mut position = 0;
        // Short, token by token, long, then short and token by token again with the bindings of the larger arena.
        for (count, long) in [(5, false), (1, false), (1, false), (90, true), (1, false), (5, true), (1, false)] {
            if count > 1 {
                forward::prompt(&mut *session, Row::at(position), count, Want::Logits);
            } else {
                let rows = [Row::at(position)];
                let step = Step { rows: &rows, family: Family::Few, want: Want::Logits, logits: false, images: false };
                session.run(&step).expect("decode");
            }
            position += count;
            let (_, found) = session.outputs().expect("outputs").pop().expect("logits");
            let error = worst(row(&found, count - 1), row(&wanted, position - 1));
            let at = format!("{}: row {position}, long {long}", runtime.label);
            assert!(error <= SAME, "{at}: off by {error}");
        }
    }
}

fn generate(model: &Model, prompt: &[u32], count: usize) -> (Vec<u32>, Stats) {
    drain(model.generate(Prompt::tokens(prompt), &Sampler::greedy()).expect("a generation").max_tokens(count))
}

fn drain(mut generation: dunlin::Generation) -> (Vec<u32>, Stats) {
    let ids = generation.by_ref().map(|piece| piece.expect("a piece").id).collect();
    (ids, generation.stats())
}

#[test]
fn several_steps_in_flight_give_the_ids_of_one_at_a_time() {
    for golden in SHAPES.map(Golden::open) {
        let checkpoint = open(&golden);
        for runtime in runtimes::full() {
            let at = format!("{} on {}", golden.name, runtime.label);
            let engine = runtime.load(&checkpoint);
            let depth = engine.session(8).expect("session").depth();
            assert!(depth > 1 || !runtime.is_gpu(), "{at}: {depth} steps in flight");
            let model = runtime.model(&golden.folder, &LoadOptions::new());
            for prompt in golden.prompts().iter().filter(|prompt| ["p0", "p1"].contains(&prompt.as_str())) {
                let ids = golden.ids(&format!("{prompt}.input_ids"));
                let wanted = golden.ids(&format!("{prompt}.greedy_ids"));
                let (found, stats) = generate(&model, &ids, wanted.len());
                assert_eq!(found, wanted, "{at}: {prompt}");
                assert_eq!((stats.prompt_tokens, stats.generated_tokens), (ids.len(), wanted.len()), "{at}");
                assert_eq!(stats.stop, Some(Stop::Length), "{at}");
            }
        }
    }
}

#[test]
fn the_end_token_ends_it_and_nothing_after_it_comes_out() {
    let cases: Vec<Golden> = golden::text_cases().into_iter().filter(|golden| golden.has("eos.greedy_ids")).collect();
    assert!(!cases.is_empty());
    for golden in cases {
        for runtime in runtimes::full() {
            let model = runtime.model(&golden.folder, &LoadOptions::new());
            let (prompt, all) = (golden.ids("eos.input_ids"), golden.ids("eos.greedy_ids"));
            let (end, wanted) = all.split_last().expect("ids");
            assert_eq!(*end, 2, "{}", golden.name);
            let (found, stats) = generate(&model, &prompt, 100);
            assert_eq!(found, wanted, "{} on {}", golden.name, runtime.label);
            assert_eq!((stats.stop, stats.generated_tokens), (Some(Stop::Eos), wanted.len()));
        }
    }
}

#[test]
fn a_full_context_ends_it() {
    let golden = Golden::open("mobilellm_gqa");
    let (prompt, wanted) = (golden.ids("p0.input_ids"), golden.ids("p0.greedy_ids"));
    for runtime in runtimes::full() {
        for room in [0, 1, 5] {
            let model = runtime.model(&golden.folder, &LoadOptions::new().context(prompt.len() + room));
            let (found, stats) = generate(&model, &prompt, 100);
            assert_eq!(found, wanted[..room], "{} with room for {room}", runtime.label);
            assert_eq!(stats.stop, Some(Stop::Length));
        }
        let model = runtime.model(&golden.folder, &LoadOptions::new().context(prompt.len() - 1));
        let error = model.generate(Prompt::tokens(prompt.clone()), &Sampler::greedy()).expect_err("too long");
        assert!(error.to_string().contains("--context"), "{error}");
    }
}

#[test]
fn generations_do_not_disturb_each_other() {
    fn shared<T: Send + Sync + Clone>() {}
    shared::<Model>();
    let golden = Golden::open("mobilellm_ls");
    let prompts: Vec<(Vec<u32>, Vec<u32>)> = ["p0", "p1"]
        .iter()
        .map(|p| (golden.ids(&format!("{p}.input_ids")), golden.ids(&format!("{p}.greedy_ids"))))
        .collect();
    for runtime in runtimes::full() {
        let model = runtime.model(&golden.folder, &LoadOptions::new());
        let start = |model: &Model, i: usize| {
            let prompt = Prompt::tokens(prompts[i].0.clone());
            model.generate(prompt, &Sampler::greedy()).expect("a generation").max_tokens(prompts[i].1.len())
        };
        // A generation that is dropped half way, with steps in flight.
        let mut dropped = start(&model, 0);
        let first: Vec<u32> = dropped.by_ref().take(3).map(|piece| piece.expect("a piece").id).collect();
        assert_eq!(first, prompts[0].1[..3], "{}", runtime.label);
        drop(dropped);
        // Two generations that advance in turns, one of them from a clone of the model.
        let mut both = [start(&model, 0), start(&model.clone(), 1)];
        let mut found = [Vec::new(), Vec::new()];
        for _ in 0..32 {
            for (generation, found) in both.iter_mut().zip(&mut found) {
                found.extend(generation.next().map(|piece| piece.expect("a piece").id));
            }
        }
        assert_eq!(found, [prompts[0].1.clone(), prompts[1].1.clone()], "in turns on {}", runtime.label);
        drop(both);
        // Two generations on two threads.
        std::thread::scope(|scope| {
            let threads = [0, 1].map(|i| {
                (
                    i,
                    scope.spawn({
                        let model = model.clone();
                        move || drain(start(&model, i)).0
                    }),
                )
            });
            for (i, thread) in threads {
                assert_eq!(thread.join().expect("a thread"), prompts[i].1, "in threads on {}", runtime.label);
            }
        });
    }
}

#[test]
fn text_comes_whole_and_probabilities_are_those_of_the_logits() {
    let golden = Golden::open("mobilellm_gqa");
    let expected = golden::json("mobilellm_gqa/expected.json");
    for runtime in runtimes::full() {
        let model = runtime.model(&golden.folder, &LoadOptions::new());
        let generation = model.generate(Prompt::tokens(golden.ids("p0.input_ids")), &Sampler::greedy());
        let pieces: Vec<dunlin::Piece> =
            generation.expect("a generation").max_tokens(32).logprobs(5).map(|piece| piece.expect("a piece")).collect();
        let ids: Vec<u32> = pieces.iter().map(|piece| piece.id).collect();
        assert_eq!(ids, golden.ids("p0.greedy_ids"), "{}", runtime.label);
        let text: String = pieces.iter().map(|piece| piece.text.as_str()).collect();
        let mut decoder = model.tokenizer().expect("a tokenizer").continuation();
        let mut whole: String = ids.iter().map(|&id| decoder.push(id)).collect();
        whole += &decoder.finish();
        assert_eq!(text, whole, "{}", runtime.label);
        assert!(expected["prompts"].is_object());
        let logits = golden.f32("p0.greedy_logits");
        for (piece, row) in pieces.iter().zip(logits.chunks(512)) {
            let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let offset = most + row.iter().map(|l| (l - most).exp()).sum::<f32>().ln();
            assert_eq!((piece.top.len(), piece.top[0]), (5, (piece.id, piece.logprob)));
            assert!(piece.top.is_sorted_by(|a, b| a.1 >= b.1));
            for &(id, logprob) in &piece.top {
                let wanted = row[id as usize] - offset;
                assert!((logprob - wanted).abs() <= LOGITS, "{}: {logprob} for {wanted}", runtime.label);
            }
        }
    }
}

/// ARCHITECTURE.md, invariant 11. The first two steps may compile, bind and allocate; the third only submits, once.
#[test]
fn a_decoding_step_creates_nothing_and_submits_once() {
    let golden = Golden::open("mobilellm_gqa");
    for runtime in runtimes::all().iter().filter(|runtime| runtime.is_gpu()) {
        let engine = runtime.load(&open(&golden));
        let prompt = golden.ids("p0.input_ids");
        let mut session = engine.session(prompt.len() + 40).expect("session");
        session.set_tokens(0, &prompt).expect("tokens");
        let before = (counters::created(), counters::submitted());
        forward::prompt(&mut *session, Row::at(0), prompt.len(), Want::Token);
        for position in prompt.len()..prompt.len() + 2 {
            forward::decode(&mut *session, &[Row::at(position)]);
        }
        (0..3).for_each(|_| drop(forward::sampled(&mut *session)));
        assert!(counters::created() > before.0 && counters::submitted() > before.1, "nothing is counted");
        let before = (counters::created(), counters::submitted());
        for position in prompt.len() + 2..prompt.len() + 32 {
            forward::decode(&mut *session, &[Row::at(position)]);
            forward::sampled(&mut *session);
        }
        assert_eq!(counters::created(), before.0, "on {}", runtime.label);
        assert_eq!(counters::submitted(), before.1 + 30, "on {}", runtime.label);
        steady_at_full_depth(runtime, &*engine, &prompt);
    }
}

/// The same with the largest number of steps in flight that the session allows.
fn steady_at_full_depth(runtime: &Runtime, engine: &dyn Engine, prompt: &[u32]) {
    let mut session = engine.session(prompt.len() + 40).expect("session");
    session.set_tokens(0, prompt).expect("tokens");
    forward::prompt(&mut *session, Row::at(0), prompt.len(), Want::Token);
    let depth = session.depth();
    for position in prompt.len()..prompt.len() + depth - 1 {
        forward::decode(&mut *session, &[Row::at(position)]);
    }
    forward::sampled(&mut *session);
    let before = counters::created();
    for position in prompt.len() + depth - 1..prompt.len() + 32 {
        forward::decode(&mut *session, &[Row::at(position)]);
        forward::sampled(&mut *session);
    }
    assert_eq!(counters::created(), before, "{depth} steps in flight on {}", runtime.label);
}
