//! Pruning: choices and removed rows equal those of the authors' program on the golden cases, and the results are valid
//! models.

use std::ops::ControlFlow;
use std::path::Path;

use dunlin::checkpoint::Checkpoint;
use dunlin::{
    Calibration, Device, Importance, LayerImportance, Model, Prompt, PruneOptions, Pruned, QueryHeads, Sampler,
};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::support::adapters;
use crate::support::golden::{self, Golden, numbers};
use crate::support::scratch::Scratch;
use crate::support::tolerance::close;

/// The options of a case.
fn options(expected: &Value) -> PruneOptions {
    let number = |key: &str| expected[key].as_u64().unwrap_or_else(|| panic!("{key}")) as usize;
    let importance = match expected["importance"].as_str() {
        Some("taylor") => Importance::Taylor,
        Some("l2") => Importance::L2,
        Some("l1") => Importance::L1,
        other => panic!("importance {other:?}"),
    };
    let layers = match expected["layer_importance"].as_str() {
        Some("cosine") => LayerImportance::Cosine,
        Some("euclidean") => LayerImportance::Euclidean,
        Some("manhattan") => LayerImportance::Manhattan,
        other => panic!("layer importance {other:?}"),
    };
    PruneOptions::target(number("target_parameters"))
        .steps(number("iterative_steps"))
        .amplitude(expected["amplitude"].as_f64().expect("amplitude"))
        .ratio(expected["pruning_ratio"].as_f64().expect("ratio"))
        .importance(importance)
        .layer_importance(layers)
        .batch(number("batch_size"))
}

fn prune(case: &Golden, device: &Device, options: &PruneOptions) -> Pruned {
    let calibration = Calibration::open(case.folder.join("expected.safetensors")).expect("calibration");
    let run = dunlin::prune(&case.folder, device, &calibration, options, |_| ControlFlow::Continue(()));
    run.expect(&case.name).expect("nobody stopped it")
}

/// Compares lists of numbers layer by layer: equal within `tolerance` of the largest value of each layer.
fn near(what: &str, found: &Value, expected: &Value, tolerance: f32) {
    let (found, expected) = (found.as_array().expect(what), expected.as_array().expect(what));
    assert_eq!(found.len(), expected.len(), "{what}");
    if expected.first().is_some_and(Value::is_array) {
        for (layer, (found, expected)) in found.iter().zip(expected).enumerate() {
            near(&format!("{what} of layer {layer}"), found, expected, tolerance);
        }
        return;
    }
    let (found, expected) = (numbers(&found.clone().into()), numbers(&expected.clone().into()));
    let largest = expected.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let error = (found - expected).abs();
        assert!(error <= tolerance * largest, "{what}, {i}: {found}, expected {expected}");
    }
}

/// Compares the report with that of the authors' program. Sums of f32 in another order differ by about 1e-6; choices
/// must be equal.
fn report_is_the_authors(report: &Value, expected: &Value, case: &str) {
    for key in [
        "importance",
        "taylor",
        "group_reduction",
        "layer_importance",
        "iterative_steps",
        "amplitude",
        "pruning_ratio",
        "batch_size",
        "parameters_before",
        "target_parameters",
        "steps_run",
        "parameters_after",
    ] {
        assert_eq!(report[key], expected[key], "{case}: {key}");
    }
    let margin = |report: &Value| report["smallest_relative_margin_of_a_choice"].as_f64().expect("a margin");
    assert!((margin(report) - margin(expected)).abs() < 1e-4, "{case}: {} {}", margin(report), margin(expected));
    let steps = |report: &Value| report["steps"].as_array().expect("steps").clone();
    assert_eq!(steps(report).len(), steps(expected).len(), "{case}: steps");
    for (step, (found, expected)) in steps(report).iter().zip(&steps(expected)).enumerate() {
        for (key, expected) in expected.as_object().expect("a step") {
            let (what, found) = (format!("{case}, step {}: {key}", step + 1), &found[key]);
            match key.as_str() {
                "batch_losses" | "layer_importance_sum" | "layer_importance_normalised" | "target_sparsity" => {
                    near(&what, found, expected, 1e-4);
                }
                "importance" => {
                    for kind in ["attn", "mlp"] {
                        near(&format!("{what}.{kind}"), &found[kind], &expected[kind], 1e-4);
                    }
                }
                _ => assert_eq!(found, expected, "{what}"),
            }
        }
    }
}

/// Compares every tensor of two files of weights, byte for byte.
fn same_weights(found: &Path, expected: &Path) {
    let [found, expected] = [found, expected].map(|file| std::fs::read(file).expect("weights"));
    let [found, expected] = [&found, &expected].map(|bytes| SafeTensors::deserialize(bytes).expect("safetensors"));
    let names = |file: &SafeTensors| {
        let mut names: Vec<String> = file.names().into_iter().map(str::to_owned).collect();
        names.sort();
        names
    };
    assert_eq!(names(&found), names(&expected));
    for name in expected.names() {
        let [found, expected] = [&found, &expected].map(|file| file.tensor(name).expect(name));
        assert_eq!((found.dtype(), found.shape()), (expected.dtype(), expected.shape()), "{name}");
        assert!(found.data() == expected.data(), "{name} is another");
    }
}

fn json(file: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(file).expect("JSON")).expect("JSON")
}

#[test]
fn choices_and_weights_are_those_of_the_authors() {
    for case in golden::prune_cases() {
        let (name, expected) = (&case.name, case.expected());
        let pruned = prune(&case, &Device::cpu(), &options(&expected));
        report_is_the_authors(&serde_json::to_value(&pruned.report).expect("JSON"), &expected, name);

        let scratch = Scratch::new();
        let folder = scratch.path("pruned");
        pruned.save(&folder, false).expect("a folder");
        same_weights(&folder.join("model.safetensors"), &case.folder.join("pruned/model.safetensors"));
        assert_eq!(json(&folder.join("config.json")), json(&case.folder.join("pruned/config.json")), "{name}");

        // 1e-3 is the golden cases' tolerance for logits in f32.
        let model = Model::load(&folder, &Device::cpu()).expect("the result loads");
        let trace = model.trace(case.ids("probe.input_ids")).expect("the result runs");
        let (_, logits) = trace.tensors.last().expect("logits");
        close(name, &logits.data, &case.f32("probe.logits_after"), 1e-3, f32::INFINITY);
    }
}

#[test]
fn choices_are_the_same_on_every_adapter() {
    for adapter in adapters::all() {
        for case in golden::prune_cases() {
            let (name, expected) = (&case.name, case.expected());
            let device = Device::parse(&adapter.index.to_string()).expect("an adapter");
            let pruned = prune(&case, &device, &options(&expected));
            report_is_the_authors(&serde_json::to_value(&pruned.report).expect("JSON"), &expected, name);
            assert_eq!(pruned.report.device.as_ref(), Some(&adapter.name));
        }
    }
}

/// A model in 16 bits with grouped queries; the calibration data are text.
#[test]
fn sixteen_bits_are_copied_and_text_is_drawn_by_the_seed() {
    let case = Golden::open("mobilellm_bf16");
    let texts: Vec<String> =
        (0..12).map(|i| format!("The {i} birds of the north dive for fish in the cold sea. ").repeat(4)).collect();
    let calibration = Calibration::documents(texts);
    let before = Checkpoint::open(&case.folder).expect("a model");
    let options = PruneOptions::target(before.parameters() * 9 / 10).steps(8).samples(6).window(24).batch(4);
    let run = |seed: u64, query_heads| {
        let options = options.clone().seed(seed).query_heads(query_heads);
        let run = dunlin::prune(&case.folder, &Device::cpu(), &calibration, &options, |_| ControlFlow::Continue(()));
        run.expect("a run").expect("nobody stopped it")
    };
    let pruned = run(7, QueryHeads::Own);
    assert_eq!((pruned.report.seed, pruned.report.query_heads), (Some(7), "own"));
    assert!(pruned.report.parameters_after < before.parameters() * 9 / 10);
    let losses = |pruned: &Pruned| pruned.report.steps.iter().map(|step| step.batch_losses.clone()).collect::<Vec<_>>();
    let first = losses(&pruned);
    // Each step draws new windows; the same seed draws the same ones.
    assert!(first.len() > 1 && first[0] != first[1]);
    assert_eq!(losses(&run(7, QueryHeads::Own)), first);
    assert_ne!(losses(&run(8, QueryHeads::Own))[0], first[0]);

    let scratch = Scratch::new();
    let folder = scratch.path("pruned");
    pruned.save(&folder, false).expect("a folder");
    let after = Checkpoint::open(&folder).expect("the result");
    assert_eq!(after.parameters(), pruned.report.parameters_after);
    let last = pruned.report.steps.last().expect("a step");
    assert_eq!((&after.config.kv_heads, &after.config.ffn), (&last.num_key_value_heads, &last.intermediate_size));
    // The result is a model with the original's tokenizer.
    let model = Model::load(&folder, &Device::cpu()).expect("the result loads");
    assert!(model.generate(Prompt::raw("The bird"), &Sampler::greedy()).expect("a prompt").max_tokens(2).count() > 0);
}

/// Every layout of files, biases, lists of widths, and names that only one architecture has: what remains of each matrix are
/// rows and columns of the original, bit for bit and in order, and the other tensors are the same.
#[test]
fn what_remains_is_a_part_of_the_original() {
    const CASES: [&str; 6] =
        ["mobilellm_fp16_bin", "llama_untied_sharded", "qwen2", "mobilellm_pruned", "mobilellm_r1", "mobilellm_ls"];
    for name in CASES {
        let case = Golden::open(name);
        let before = Checkpoint::open(&case.folder).expect(name);
        let ids: Vec<u32> = (0..32).map(|i| (7 * i + 3) % before.config.vocab as u32).collect();
        let calibration = Calibration::windows(ids.chunks(16).map(<[u32]>::to_vec).collect()).expect("windows");
        let options = PruneOptions::target(before.parameters() * 8 / 10).steps(6);
        let run = dunlin::prune(&case.folder, &Device::cpu(), &calibration, &options, |_| ControlFlow::Continue(()));
        let pruned = run.expect(name).expect("nobody stopped it");
        let (scratch, last) = (Scratch::new(), pruned.report.steps.last().expect("a step"));
        let folder = scratch.path("pruned");
        pruned.save(&folder, false).expect(name);
        let after = Checkpoint::open(&folder).expect(name);
        assert!(after.parameters() < before.parameters() * 8 / 10, "{name}");
        assert_eq!(after.config.heads, last.num_attention_heads, "{name}");
        assert_eq!((&after.config.kv_heads, &after.config.ffn), (&last.num_key_value_heads, &last.intermediate_size));
        let names = |checkpoint: &Checkpoint| checkpoint.tensors().map(|t| t.name.to_owned()).collect::<Vec<_>>();
        assert_eq!(names(&after), names(&before), "{name}");
        for tensor in before.tensors() {
            let (old, new) = (lines(&before, tensor.name), lines(&after, tensor.name));
            let mut rest = old.iter();
            assert!(new.iter().all(|line| rest.any(|old| old == line)), "{name}: {}", tensor.name);
            assert!(new.len() == old.len() || tensor.name.contains("_proj."), "{name}: {}", tensor.name);
        }
        // In files only Llama 4's feed-forward has another name.
        let bytes = std::fs::read(folder.join("model.safetensors")).expect("weights");
        let files = SafeTensors::deserialize(&bytes).expect("safetensors");
        let other = files.names().iter().filter(|tensor| tensor.contains(".feed_forward.")).count();
        assert_eq!(other, if name == "mobilellm_r1" { 3 * before.config.layers } else { 0 }, "{name}");
        // What was pruned can be pruned again, without gradients too.
        let options = PruneOptions::target(after.parameters() * 9 / 10).steps(6).importance(Importance::L1);
        let options = options.layer_importance(LayerImportance::Euclidean);
        let run = dunlin::prune(&folder, &Device::cpu(), &calibration, &options, |_| ControlFlow::Continue(()));
        let again = run.expect(name).expect("nobody stopped it");
        assert!(again.report.parameters_after < after.parameters() * 9 / 10, "{name}");
    }
}

/// The rows of a tensor, or the columns of a matrix whose columns are removed, as bits.
fn lines(checkpoint: &Checkpoint, name: &str) -> Vec<Vec<u32>> {
    let shape = checkpoint.tensors().find(|tensor| tensor.name == name).expect(name).shape.to_vec();
    let values = checkpoint.take(name, &shape).expect(name).to_f32();
    let bits: Vec<u32> = values.iter().map(|value| value.to_bits()).collect();
    let cols = if shape.len() == 1 { 1 } else { shape[1] };
    let by_columns = name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
    match by_columns {
        true => (0..cols).map(|column| bits.iter().skip(column).step_by(cols).copied().collect()).collect(),
        false => bits.chunks_exact(cols).map(<[u32]>::to_vec).collect(),
    }
}

#[test]
fn layers_alike_need_no_importance() {
    let case = Golden::open("prune_l2");
    let uniform = options(&case.expected()).layer_importance(LayerImportance::Uniform);
    let pruned = prune(&case, &Device::cpu(), &uniform);
    for (index, step) in pruned.report.steps.iter().enumerate() {
        let share = (index + 1) as f64 / 12.0;
        assert!(step.target_sparsity.iter().all(|s| *s == share), "{step:?}");
        assert!(step.intermediate_size.iter().all(|size| *size == (72.0 * (1.0 - share)) as usize), "{step:?}");
    }
    assert!(pruned.report.device.is_none());
}

#[test]
fn a_run_stops_when_it_is_told_to() {
    for case in golden::prune_cases() {
        let name = &case.name;
        let calibration = Calibration::open(case.folder.join("expected.safetensors")).expect("calibration");
        let mut shares = Vec::new();
        let run = dunlin::prune(&case.folder, &Device::cpu(), &calibration, &options(&case.expected()), |progress| {
            shares.push(progress.share);
            if progress.step == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(run.expect(name).is_none(), "{name}");
        assert!(shares.len() > 4 && shares.iter().all(|share| (0.0..=1.0).contains(share)), "{name}: {shares:?}");
    }
}
