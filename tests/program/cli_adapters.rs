//! The commands that load a model, compared with golden values on the CPU and on every adapter.

use std::process::Command;

use crate::support::adapters;
use crate::support::golden::{self, Golden};
use crate::support::program::{fails, fails_as, json_lines, stdout};
use crate::support::scratch::Scratch;
use dunlin::checkpoint::Checkpoint;
use serde_json::{Value, json};

/// The arguments for `--device`, `cpu` and the index of each adapter, with the backend's name in statistics.
fn devices() -> Vec<(String, String)> {
    let adapters = adapters::all().into_iter().map(|adapter| (adapter.index.to_string(), adapter.backend));
    [("cpu".to_string(), "cpu".to_string())].into_iter().chain(adapters).collect()
}

fn folder(golden: &Golden) -> &str {
    golden.folder.to_str().expect("UTF-8")
}

fn list(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

#[test]
fn run_gives_the_golden_ids() {
    for golden in golden::text_cases() {
        let prompt = list(&golden.ids("p0.input_ids"));
        let wanted = golden.ids("p0.greedy_ids");
        for (device, backend) in devices() {
            let at = format!("{} on {device}", golden.name);
            let arguments = ["run", folder(&golden), "--tokens", &prompt, "--device", &device, "--precision", "f32"];
            let mut lines = json_lines(&[&arguments[..], &["--json", "--max-tokens", "32"]].concat());
            let stats = lines.pop().expect("statistics")["stats"].take();
            let found: Vec<u64> = lines.iter().map(|line| line["token"].as_u64().expect("an id")).collect();
            assert_eq!(found, wanted.iter().map(|&id| u64::from(id)).collect::<Vec<_>>(), "{at}");
            for line in &lines {
                assert!(line["text"].is_string() && line["logprob"].as_f64().expect("a number") <= 0.0, "{at}: {line}");
                assert_eq!(line["top"], json!([]), "{at}");
            }
            assert_eq!(stats["prompt_tokens"], golden.ids("p0.input_ids").len(), "{at}");
            assert_eq!((&stats["generated_tokens"], &stats["stop"]), (&json!(32), &json!("length")), "{at}");
            assert_eq!(stats["backend"], *backend, "{at}");
            for key in ["load_s", "prefill_s", "decode_s"] {
                assert!(stats[key].as_f64().expect(key) > 0.0, "{at}: {key}");
            }
            assert!(stats["weight_bytes"].as_u64().expect("bytes") > 100_000, "{at}");
            // Five dispatches a layer, seven where branches have norms of their own, besides embedding, head and
            // sampling.
            let config = Checkpoint::open(&golden.folder).expect("a golden folder").config;
            let passes = if config.layer_sharing { 2 * config.layers } else { config.layers };
            let dispatches = stats["dispatches_per_token"].as_u64().expect("a count") as usize;
            let each = if config.architecture == "gemma3_text" { 7 } else { 5 };
            let most = if device == "cpu" { 0 } else { each * passes + 4 };
            assert!(dispatches <= most && (dispatches > 0 || device == "cpu"), "{at}: {dispatches} of {most}");
        }
    }
}

/// The next best kernels replace those that are refused; on a rasteriser these are the kernels for hardware.
#[test]
fn run_gives_the_golden_ids_without_refused_kernels() {
    let golden = Golden::open("mobilellm_gqa");
    let prompt = list(&golden.ids("p0.input_ids"));
    let wanted: Vec<u64> = golden.ids("p0.greedy_ids").into_iter().map(u64::from).collect();
    for (device, _) in devices() {
        let common = [folder(&golden), "--device", &device, "--precision", "f32"];
        let refused = ["--refuse", "quads_subgroup", "--refuse", "gemm_subgroup", "--refuse", "attention/broadcast"];
        let rest = ["--tokens", &prompt, "--json", "--max-tokens", "32"];
        let mut lines = json_lines(&[&["run"], &common[..], &refused, &rest].concat());
        lines.pop().expect("statistics");
        let found: Vec<u64> = lines.iter().map(|line| line["token"].as_u64().expect("an id")).collect();
        assert_eq!(found, wanted, "on {device}");

        let text = stdout(&[&["inspect"], &common[..], &refused, &["--plan"]].concat());
        assert!(text.contains("quads_subgroup") == text.contains(": it is refused"), "on {device}: {text}");
        assert!(text.contains("× attention      attention/row"), "on {device}: {text}");
    }
    let refuse = |device: &str, name: &str, parts: &[&str]| {
        fails(&["run", folder(&golden), "--device", device, "--tokens", "1", "--refuse", name], parts);
    };
    for (device, _) in devices().iter().filter(|(device, _)| device != "cpu") {
        refuse(device, "attention/row", &["no kernel is left", "`attention`", "attention/row", "refuse"]);
    }
    refuse("cpu", "no such kernel", &["`no such kernel`", "inspect"]);
}

/// Hidden states and logits under `--precision f32`, with the tolerances of `tests/golden/README.md`.
#[test]
fn trace_writes_the_golden_hidden_states() {
    let scratch = Scratch::new();
    for golden in ["mobilellm_ls", "mobilellm_pruned"].map(Golden::open) {
        let ids = golden.ids("p0.input_ids");
        let (hidden, logits) = (golden.f32("p0.hidden_states"), golden.f32("p0.logits"));
        let width = golden.f32("p0.final_norm").len() / ids.len();
        let passes = hidden.len() / ids.len() / width - 1;
        for (device, _) in devices() {
            let at = format!("{} on {device}", golden.name);
            let out = scratch.path("trace.safetensors");
            let arguments = ["trace", folder(&golden), "--tokens", &list(&ids), "--device", &device];
            let more = ["--precision", "f32", "--out", out.to_str().expect("UTF-8")];
            assert_eq!(stdout(&[&arguments[..], &more].concat()), "", "{at}");
            let bytes = std::fs::read(&out).expect("the file");
            let trace = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
            assert_eq!(trace.len(), passes + 2, "{at}");
            let check = |name: &str, wanted: &[f32], cols: usize, most: f32| {
                let view = trace.tensor(name).unwrap_or_else(|_| panic!("{at}: no {name}"));
                assert_eq!(view.dtype(), safetensors::Dtype::F32, "{at}: {name}");
                assert_eq!(view.shape(), [ids.len(), cols], "{at}: {name}");
                let found = view.data().as_chunks().0.iter().map(|&four| f32::from_le_bytes(four));
                for (found, wanted) in found.zip(wanted) {
                    assert!((found - wanted).abs() <= most, "{at}: {name}: {found} for {wanted}");
                }
            };
            for (pass, wanted) in hidden.chunks(ids.len() * width).enumerate() {
                let name = if pass == 0 { "embeddings".into() } else { format!("layers.{}", pass - 1) };
                check(&name, wanted, width, 1e-3);
            }
            check("logits", &logits, 512, 2e-3);
        }
    }
}

#[test]
fn score_gives_the_golden_perplexity() {
    for golden in ["mobilellm_gqa", "llama_untied_sharded", "mobilellm_bf16"].map(Golden::open) {
        let wanted = golden.f32("ppl.token_nll");
        let mean = wanted.iter().map(|&nll| f64::from(nll)).sum::<f64>() / wanted.len() as f64;
        let ids = list(&golden.ids("ppl.input_ids"));
        for (device, _) in devices() {
            // With auto, arithmetic may be float16.
            for (precision, most) in [("f32", 1e-4), ("auto", 1e-2)] {
                let at = format!("{} on {device} in {precision}", golden.name);
                let arguments = ["score", folder(&golden), "--tokens", &ids, "--device", &device, "--json"];
                let score = json_lines(&[&arguments[..], &["--precision", precision]].concat()).pop().expect("a line");
                assert_eq!(score["tokens"], 96, "{at}");
                assert_eq!(score["token_nll"].as_array().expect("a list").len(), 95, "{at}");
                let found = score["mean_nll"].as_f64().expect("a number");
                assert!((found - mean).abs() <= most, "{at}: {found} for {mean}");
                let perplexity = score["perplexity"].as_f64().expect("a number");
                assert!((perplexity / found.exp() - 1.0).abs() < 1e-9, "{at}: {perplexity}");
            }
        }
    }
}

#[test]
fn devices_are_found_by_every_form_of_their_name() {
    let golden = Golden::open("mobilellm_gqa");
    let backend = |device: &str| {
        let arguments = ["run", folder(&golden), "--tokens", "1,5", "--max-tokens", "1", "--json", "--device", device];
        json_lines(&arguments).pop().expect("statistics")["stats"]["backend"].as_str().expect("a name").to_string()
    };
    assert_eq!(backend("cpu"), "cpu");
    let info: Value = json_lines(&["info", "--json"]).remove(0);
    let listed = info["adapters"].as_array().expect("a list");
    let real = listed.iter().any(|adapter| adapter["software"] == false && adapter["unusable"].is_null());
    // A software rasteriser is used only on request.
    assert_eq!(backend("auto") == "cpu", !real);
    for adapter in adapters::all() {
        let entry = &listed[adapter.index];
        assert_eq!((&entry["name"], &entry["backend"]), (&json!(adapter.name), &json!(adapter.backend)));
        assert_eq!(entry["index"], adapter.index);
        assert!(entry["limits"]["max_storage_buffer_binding_size"].as_u64().expect("a limit") >= 1 << 20);
        assert!(entry["features"].is_array() && entry["driver"].is_string());
        assert_eq!(backend(&adapter.index.to_string()), adapter.backend);
        let part: String = adapter.name.chars().take(8).collect();
        assert_eq!(backend(&format!("{}:{part}", adapter.backend.to_uppercase())), adapter.backend);
        assert!(stdout(&["info"]).contains(&adapter.label()));
    }
    if !adapters::all().is_empty() {
        assert_ne!(backend("gpu"), "cpu");
    }
    let many = listed.len().to_string();
    fails(
        &["run", folder(&golden), "--tokens", "1", "--device", &many],
        &[&format!("no adapter {many}"), if listed.is_empty() { "none" } else { "0 " }],
    );
}

/// Every command that loads a model explains why it cannot when there is no adapter, and the CPU still works.
#[cfg(target_os = "linux")]
#[test]
fn without_an_adapter_gpu_is_a_sentence_and_auto_the_cpu() {
    let golden = Golden::open("mobilellm_gqa");
    let hidden = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dunlin"));
        for key in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES", "__EGL_VENDOR_LIBRARY_FILENAMES"] {
            command.env(key, "/nonexistent.json");
        }
        command.env("LIBGL_DRIVERS_PATH", "/nonexistent").args(arguments).output().expect("the program starts")
    };
    let scratch = Scratch::new();
    let out = scratch.path("trace.safetensors");
    for command in [
        vec!["run", folder(&golden), "--tokens", "1,2"],
        vec!["score", folder(&golden), "--tokens", "1,2"],
        vec!["trace", folder(&golden), "--tokens", "1,2", "--out", out.to_str().expect("UTF-8")],
    ] {
        for (device, part) in [("gpu", "no GPU adapter"), ("0", "no adapter 0"), ("vulkan:x", "`vulkan:x`")] {
            let arguments = [&command[..], &["--device", device]].concat();
            fails_as(&hidden(&arguments), &format!("{arguments:?} without adapters"), &[part, "--device cpu"]);
        }
    }
    assert!(!out.exists());
    let output = hidden(&["run", folder(&golden), "--tokens", "1,2", "--json", "--max-tokens", "1"]);
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains(r#""backend":"cpu""#));
    let info = hidden(&["info", "--json"]);
    assert_eq!(serde_json::from_slice::<Value>(&info.stdout).expect("JSON"), json!({"adapters": []}));
}

#[test]
fn sampled_text_is_the_same_again_on_each_device() {
    let golden = Golden::open("mobilellm_gqa");
    for (device, _) in devices() {
        let ids = |seed: &str| -> Vec<Value> {
            let arguments = ["run", folder(&golden), "--tokens", "1,5,9", "--device", &device, "--json"];
            let sampling = ["--temperature", "1.3", "--top-k", "60", "--top-p", "0.95", "--min-p", "0.01"];
            let more = ["--repeat-penalty", "1.2", "--seed", seed, "--max-tokens", "16", "--logprobs", "3"];
            let mut lines = json_lines(&[&arguments[..], &sampling, &more].concat());
            assert!(lines.pop().expect("statistics")["stats"].is_object());
            assert!(lines.iter().all(|line| line["top"].as_array().is_some_and(|top| top.len() == 3)), "{lines:?}");
            lines.into_iter().map(|mut line| line["token"].take()).collect()
        };
        assert_eq!(ids("3"), ids("3"), "{device}");
        assert_ne!(ids("3"), ids("4"), "{device}");
    }
}

#[test]
fn a_window_and_a_context_are_kept_on_each_device() {
    let golden = Golden::open("mobilellm_gqa");
    let ids = list(&golden.ids("ppl.input_ids"));
    for (device, _) in devices() {
        let score = |window: &str| {
            let arguments = ["score", folder(&golden), "--tokens", &ids, "--device", &device, "--json"];
            json_lines(&[&arguments[..], &["--precision", "f32", "--window", window]].concat()).pop().expect("a line")
        };
        let windows = score("32");
        assert_eq!(windows["token_nll"].as_array().expect("a list").len(), 3 * 31, "{device}");
        let arguments = ["run", folder(&golden), "--tokens", "1,5,9", "--device", &device, "--context", "8", "--json"];
        let lines = json_lines(&arguments);
        assert_eq!((lines.len(), &lines[5]["stats"]["stop"]), (6, &json!("length")), "{device}");
        let long = list(&[7; 9]);
        let arguments = ["run", folder(&golden), "--tokens", &long, "--device", &device, "--context", "8"];
        fails(&arguments, &["9 tokens", "context of 8", "--context"]);
        fails(&["run", folder(&golden), "--tokens", "1,512", "--device", &device], &["token 512", "512 ids"]);
    }
}

/// The plan that `inspect` prints has as many dispatches as the statistics report, and `inspect` can print each of its
/// kernels.
#[test]
fn inspect_prints_what_runs() {
    for golden in ["mobilellm_ls", "mobilellm_r1"].map(Golden::open) {
        for adapter in adapters::all() {
            let index = adapter.index.to_string();
            let plan = stdout(&["inspect", folder(&golden), "--plan", "--device", &index]);
            assert_eq!(plan, stdout(&["inspect", folder(&golden), "--plan", "--device", &index]), "made twice");
            let arguments =
                ["run", folder(&golden), "--tokens", "1", "--max-tokens", "1", "--json", "--device", &index];
            let stats = json_lines(&arguments).pop().expect("statistics")["stats"].take();
            let dispatches = stats["dispatches_per_token"].as_u64().expect("a count");
            assert!(plan.contains(&dispatches.to_string()), "{dispatches} dispatches are not in {plan}");
            let summary = stdout(&["inspect", folder(&golden), "--device", &index]);
            assert!(summary.contains("dispatches"), "{summary}");
        }
    }
}

/// `tests/device/ops.rs` runs all kernels; this test checks that correct ones are reported as correct.
#[test]
fn check_compares_an_adapter_with_the_cpu() {
    let few = ["check", "--operator", "add", "--operator", "cache_write"];
    let found = json_lines(&[&few[..], &["--json"]].concat());
    let adapters = adapters::all();
    assert_eq!(found.len(), adapters.len(), "each adapter in turn");
    for (adapter, found) in adapters.iter().zip(&found) {
        let label = adapter.label();
        assert_eq!(found["device"], label);
        let [cache_write, add] = &found["operators"].as_array().expect("operators")[..] else { panic!("{found}") };
        assert_eq!((&add["operator"], &cache_write["operator"]), (&json!("add"), &json!("cache_write")), "{label}");
        for operator in [add, cache_write] {
            assert!(operator["cases"].as_u64().expect("a count") >= 5, "{label}: {operator}");
            assert!(operator["worst_f32"].as_f64().expect("a number") <= 1.0, "{label}: {operator}");
            assert_eq!(operator["worst_f16"].is_null(), !adapter.f16, "{label}: {operator}");
            assert_eq!(operator["wrong"], json!([]), "{label}");
        }
        let index = adapter.index.to_string();
        let table = stdout(&[&few[..], &["--device", &index]].concat());
        let cases = [add, cache_write].map(|operator| operator["cases"].as_u64().expect("a count")).iter().sum::<u64>();
        assert!(table.starts_with(&label) && table.contains(&format!("all {cases} cases are right")), "{table}");
    }
    fails(&["check", "--device", "cpu"], &["the CPU path is what devices are compared with"]);
    if let Some(adapter) = adapters.first() {
        let index = adapter.index.to_string();
        fails(&["check", "--device", &index, "--operator", "nope"], &["no operator `nope`", "rms_norm"]);
    }
}
