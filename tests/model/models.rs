//! Golden checkpoints on the CPU and on every adapter: hidden states, logits, greedy ids, perplexity.

use crate::support::golden::{self, Golden};
use crate::support::runtimes::{self, Runtime};
use crate::support::tolerance::{F16, F32, Greedy, Tolerance, close, same_ids};
use crate::support::{adapters, forward, parallel, real_model};
use dunlin::backend::{self, Want};
use dunlin::checkpoint::Checkpoint;

fn tolerance(runtime: &Runtime) -> Tolerance {
    if runtime.auto { F16 } else { F32 }
}

#[test]
fn golden_text_cases() {
    let (runtimes, cases) = (runtimes::with_cooperative(), golden::text_cases());
    let pairs: Vec<_> = cases.iter().flat_map(|golden| runtimes.iter().map(move |runtime| (golden, runtime))).collect();
    parallel::each(&pairs, |(golden, runtime)| check(golden, runtime));
}

/// Compares one runtime with all expected values of a golden case.
fn check(golden: &Golden, runtime: &Runtime) {
    let checkpoint = Checkpoint::open(&golden.folder).unwrap_or_else(|e| panic!("{}: {e}", golden.name));
    let engine = runtime.load(&checkpoint);
    let (engine, tolerance) = (&*engine, tolerance(runtime));
    let at = |what: &str| format!("{} on {}: {what}", golden.name, runtime.label);

    let ids = golden.ids("p0.input_ids");
    let traced = forward::outputs(engine, &ids, Want::Trace, 256);
    let hidden = golden.f32("p0.hidden_states");
    let layers = traced.len() - 1;
    for (i, (name, output)) in traced[..layers].iter().enumerate() {
        let wanted = &hidden[i * output.data.len()..(i + 1) * output.data.len()];
        close(&at(name), &output.data, wanted, tolerance.hidden_absolute, tolerance.hidden_relative);
    }
    assert_eq!(hidden.len(), layers * traced[0].1.data.len(), "{}", at("number of layers"));
    close(&at("logits"), &traced[layers].1.data, &golden.f32("p0.logits"), tolerance.logits, f32::INFINITY);

    for prompt in golden.prompts() {
        let ids = golden.ids(&format!("{prompt}.input_ids"));
        let logits = format!("{prompt}.greedy_logits");
        let wanted = Greedy {
            ids: golden.ids(&format!("{prompt}.greedy_ids")),
            margins: golden.margins(&prompt),
            logits: if golden.has(&logits) { golden.f32(&logits) } else { Vec::new() },
        };
        let found = forward::greedy(engine, &ids, wanted.ids.len(), &checkpoint.config.eos);
        if golden.has(&format!("{prompt}.last_logits")) {
            let wanted = golden.f32(&format!("{prompt}.last_logits"));
            close(&at(&format!("{prompt} last logits")), &found[0].1, &wanted, tolerance.logits, f32::INFINITY);
        }
        if golden.has(&logits) && tolerance.exact_ids {
            let found: Vec<f32> = found.iter().flat_map(|(_, logits)| logits.clone()).collect();
            let wanted = &wanted.logits[..found.len()];
            close(&at(&logits), &found, wanted, tolerance.logits, f32::INFINITY);
        }
        same_ids(&at(&prompt), &found, &wanted, tolerance);
    }

    if golden.has("long.logits") {
        let logits = forward::logits(engine, &golden.ids("long.input_ids"), 256);
        let found: Vec<f32> =
            golden.ids("long.positions").iter().flat_map(|&p| row(&logits, p as usize).to_vec()).collect();
        close(&at("long logits"), &found, &golden.f32("long.logits"), tolerance.logits, f32::INFINITY);
    }

    let ids = golden.ids("ppl.input_ids");
    let logits = forward::logits(engine, &ids, 256);
    let found: Vec<f64> = (1..ids.len()).map(|t| nll(row(&logits, t - 1), ids[t])).collect();
    let wanted = golden.f32("ppl.token_nll");
    let mean = |sum: f64| sum / wanted.len() as f64;
    let (found, wanted) = (mean(found.iter().sum()), mean(wanted.iter().map(|&v| f64::from(v)).sum()));
    assert!((found - wanted).abs() <= tolerance.mean_nll, "{}: {found} for {wanted}", at("mean nll"));
}

fn row(output: &backend::Output, row: usize) -> &[f32] {
    &output.data[row * output.cols..(row + 1) * output.cols]
}

fn nll(logits: &[f32], id: u32) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from(l - most).exp()).sum();
    sum.ln() - f64::from(logits[id as usize] - most)
}

#[test]
fn smollm2() {
    let Some(path) = real_model::smollm2() else { return };
    let checkpoint = Checkpoint::open(path).expect("SmolLM2");
    let (logits, greedy) = (golden::json("smollm2_logits.json"), golden::json("smollm2_greedy.json"));
    let ids = |value: &serde_json::Value| -> Vec<u32> {
        value.as_array().expect("ids").iter().map(|id| id.as_u64().expect("id") as u32).collect()
    };
    // Of the rasterisers only lavapipe runs this test; it has every kernel.
    let slow = |runtime: &Runtime| runtime.label.starts_with("gl:llvmpipe") || runtime.label.contains("SwiftShader");
    let (left_out, run): (Vec<Runtime>, Vec<Runtime>) = runtimes::with_cooperative().into_iter().partition(slow);
    for runtime in &left_out {
        let label = &runtime.label;
        adapters::say(&format!("skipped: SmolLM2 on {label}: it would take minutes; the golden cases run there"));
    }
    for runtime in &run {
        let (engine, tolerance) = (runtime.load(&checkpoint), tolerance(runtime));
        // On the CPU auto rounds rows of activations to 8 bits: a step of max / 127 has an error of max / 440, and an element
        // is about max / 2, so a product is off by 0.45 % of its size. The rows that the head reads are sums of such
        // products, and the head rounds them once more: √2 · 0.45 %.
        let rounds = runtime.auto && !runtime.is_gpu();
        let (absolute, relative) =
            if rounds { (f32::INFINITY, 6.4e-3) } else { (tolerance.smollm2_logits, f32::INFINITY) };
        for (name, prompt) in logits["prompts"].as_object().expect("prompts") {
            let at = format!("{name} on {}", runtime.label);
            let found = forward::greedy(&*engine, &ids(&prompt["input_ids"]), 1, &[]).pop().expect("one").1;
            let best = ids(&prompt["last_top20_ids"]);
            let wanted = golden::numbers(&prompt["last_top20_logits"]);
            let of_best: Vec<f32> = best.iter().map(|&id| found[id as usize]).collect();
            close(&at, &of_best, &wanted, absolute, relative);
            let first = (0..found.len()).max_by(|&a, &b| found[a].total_cmp(&found[b])).expect("logits");
            assert_eq!(first as u32, best[0], "{at}: first id");
        }
        for (name, prompt) in greedy["prompts"].as_object().expect("prompts") {
            let margins = golden::numbers(&prompt["greedy_gap_per_step"]);
            let wanted = Greedy { ids: ids(&prompt["greedy_ids"]), margins, logits: Vec::new() };
            let found = forward::greedy(&*engine, &ids(&prompt["input_ids"]), wanted.ids.len(), &checkpoint.config.eos);
            let logits = if rounds { tolerance.logits } else { tolerance.smollm2_logits };
            let tolerance = Tolerance { logits, ..tolerance };
            same_ids(&format!("{name} on {}", runtime.label), &found, &wanted, tolerance);
        }
    }
}
