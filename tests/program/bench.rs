//! `dunlin bench`: what it measures of a small model, and what it says of two measurements.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::adapters;
use crate::support::scratch::Scratch;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/mobilellm_gqa");

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dunlin")).arg("bench").args(arguments).output().expect("the program")
}

/// The JSON on standard output. Warnings on standard error are of the machine, which need not be quiet.
fn measured(arguments: &[&str]) -> Value {
    let output = bench(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    assert!(errors.lines().all(|line| line.starts_with("warning: ")), "{errors}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn fails(code: i32, arguments: &[&str], parts: &[&str]) {
    let output = bench(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
    let missing: Vec<&&str> = parts.iter().filter(|part| !errors.contains(**part)).collect();
    assert!(missing.is_empty() && !errors.contains("panicked"), "{missing:?} is not in: {errors}");
}

fn number(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} of {value:#}"))
}

fn near(found: f64, wanted: f64) {
    assert!((found - wanted).abs() <= 1e-9 * wanted.abs(), "{found}, not {wanted}");
}

#[test]
fn files_are_refused_before_the_work_and_kept_when_nobody_reads() {
    fails(1, &[GOLDEN, "--device", "cpu", "--out", "/no/such/folder/a.json"], &["/no/such/folder/a.json", "written"]);
    let scratch = Scratch::new();
    let [json, page] = ["a.json", "page.html"].map(|name| scratch.path(name));
    let [to_json, to_page] = [&json, &page].map(|path| path.to_str().expect("a path"));
    let bench = ["bench", GOLDEN, "-p", "5", "-n", "0", "-r", "1", "--out", to_json];
    let profile = ["profile", GOLDEN, "--tokens", "1,2,3", "-n", "1", "--html", to_page];
    for (arguments, file) in [(&bench[..], &json), (&profile, &page)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dunlin"));
        let command = command.args(arguments).args(["--device", "cpu"]).stderr(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program");
        drop(child.stdout.take());
        assert_eq!(child.wait().expect("an end").code(), Some(0), "{arguments:?}");
        assert!(file.metadata().is_ok_and(|file| file.len() > 100), "{arguments:?}");
    }
}

#[test]
fn a_model_is_measured() {
    let scratch = Scratch::new();
    let markdown = scratch.path("bench.md");
    let arguments = ["-p", "5,300", "-n", "6", "-d", "0,20", "--parallel", "1,3", "-r", "2", "--device", "cpu"];
    let out = ["--json", "--out", markdown.to_str().expect("a path")];
    let report = measured(&[&[GOLDEN][..], &arguments, &out].concat());
    assert_eq!(report["schema"], 1);
    assert_eq!(report["dunlin"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        (&report["model"]["name"], &report["model"]["architecture"]),
        (&json!("mobilellm_gqa"), &json!("mobilellm"))
    );
    let device = &report["devices"][0];
    assert_eq!(device["device"], "cpu");
    let model = &device["model"];

    // 144 wide, 9 heads and 3 of keys and values of 16, ffn 200, 3 layers, 512 words, the head tied: counted by hand.
    let (cached, rest) = (2 * (2 * 48 * 144), 2 * (144 * 144 + 144 * 144 + 3 * 144 * 200));
    let attention = |rows: std::ops::RangeInclusive<u64>| 2 * 2 * 144 * rows.sum::<u64>();
    let head = 2 * 512 * 144;
    assert_eq!(model["prompts"][0]["flop"], 3 * (5 * (cached + rest) + attention(1..=5)) + head);
    // The first of two passes, 256 rows, ends with the keys and values of the last layer.
    let before = 2 * (300 * (cached + rest) + attention(1..=300));
    assert_eq!(model["prompts"][1]["flop"], before + 300 * cached + 44 * rest + attention(257..=300) + head);

    let peak = number(device, "/floors/peak_flop_per_s/f32");
    for prompt in model["prompts"].as_array().expect("prompts") {
        let rates: Vec<f64> =
            prompt["tokens_per_s"]["runs"].as_array().expect("runs").iter().map(|run| run.as_f64().unwrap()).collect();
        let [a, b] = rates[..] else { panic!("{rates:?}") };
        near(number(prompt, "/tokens_per_s/mean"), (a + b) / 2.0);
        near(number(prompt, "/tokens_per_s/deviation"), (a - b).abs() / 2f64.sqrt());
        // The mean time, not the mean rate.
        let seconds = number(prompt, "/tokens") * (1.0 / a + 1.0 / b) / 2.0;
        near(number(prompt, "/flop_per_s"), number(prompt, "/flop") / seconds);
        near(number(prompt, "/share_of_peak/f32"), number(prompt, "/flop_per_s") / peak);
        assert!(prompt["share_of_peak"]["matrix"].is_null());
    }

    let decodes = model["decodes"].as_array().expect("decodes");
    let workloads: Vec<(u64, u64)> =
        decodes.iter().map(|run| (run["depth"].as_u64().unwrap(), run["parallel"].as_u64().unwrap())).collect();
    assert_eq!(workloads, [(0, 1), (0, 3), (20, 1), (20, 3)]);
    for decode in decodes {
        let runs = decode["tokens_per_s"]["runs"].as_array().expect("runs");
        let seconds = runs.iter().map(|run| 1.0 / run.as_f64().unwrap()).sum::<f64>() / runs.len() as f64;
        let floor = number(decode, "/bytes_per_token") / number(device, "/floors/copy_bytes_per_s");
        near(number(decode, "/copy_floor_us"), 1e6 * floor);
        near(number(decode, "/copy_floor_share"), floor / seconds);
        assert!(decode["host_us_per_token"].is_null() && decode["dispatch_floor_us"].is_null(), "{decode}");
    }
    // Every weight once a step, whatever the number of sequences, and the cache of 20 more positions: keys and values in
    // f32 of 3 layers. The rest is the rows in between.
    let bytes = |i: usize| number(&decodes[i], "/bytes_per_token");
    near(bytes(2) - bytes(0), f64::from(3 * 2 * 48 * 4 * 19));
    assert!(3.0 * bytes(1) < 1.2 * bytes(0), "{} and {}", bytes(1), bytes(0));

    for times in ["load_s", "first_token_cold_ms", "first_token_warm_ms"] {
        assert_eq!(model[times]["runs"].as_array().map(Vec::len), Some(2), "{times}");
    }
    let memory = &model["memory"];
    // The prompt of 300 and its token; keys and values of 3 layers in f32, and an id.
    assert_eq!(memory["device_positions"], 301);
    assert_eq!(memory["device_cache_bytes"], 301 * (3 * 2 * 48 * 4 + 4));
    if cfg!(target_os = "linux") {
        assert!(number(memory, "/host_peak_bytes") >= number(memory, "/host_peak_loading_bytes"));
    }
    let text = std::fs::read_to_string(&markdown).expect("a file");
    for part in ["### cpu", "| prompt 300 |", "| decode 6 at 20, 3 together |", "of the copy floor"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn a_model_may_stand_behind_two_dashes() {
    let report = measured(&["-p", "3", "-n", "0", "-r", "1", "--device", "cpu", "--json", "--", GOLDEN]);
    assert_eq!(report["devices"][0]["model"]["load_s"]["runs"].as_array().map(Vec::len), Some(1));
}

/// A report as text has the warnings in it, so they are not told a second time.
#[test]
fn warnings_are_told_once() {
    for form in [&[][..], &["--markdown"]] {
        let output = bench(&[&[GOLDEN, "-p", "1", "-n", "2", "-r", "4", "--device", "cpu"], form].concat());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "{errors}");
    }
}

#[test]
fn the_demo_reads_a_picture() {
    let arguments = ["demo", "--image", "-p", "4", "-n", "0", "-r", "1", "--device", "cpu", "--json"];
    let report = measured(&arguments);
    let picture = &report["devices"][0]["model"]["picture"];
    assert!(number(picture, "/tokens") > 0.0 && number(picture, "/flop") > 0.0, "{picture}");
    near(number(picture, "/flop_per_s"), number(picture, "/flop") / number(picture, "/encode_ms/mean") * 1e3);
    assert_eq!(report["devices"][0]["model"]["decodes"], json!([]));
    assert!(picture["encode_ms"]["deviation"].is_null(), "one run has no deviation");
}

#[test]
fn adapters_have_floors_and_dispatches() {
    // SwiftShader's floors take seconds.
    let adapters = adapters::all().into_iter().filter(|adapter| !adapter.name.contains("SwiftShader"));
    for adapter in adapters {
        let device = adapter.index.to_string();
        let arguments = ["-p", "4", "-n", "6", "--parallel", "1,2", "-r", "2", "--json", "--device", &device];
        let report = measured(&[&[GOLDEN][..], &arguments].concat());
        let device = &report["devices"][0];
        assert!(device["device"].as_str().is_some_and(|name| name.starts_with(&adapter.backend)), "{device}");
        let decodes = device["model"]["decodes"].as_array().expect("decodes");
        assert_eq!(number(&decodes[0], "/submissions_per_token"), 1.0);
        near(number(&decodes[1], "/submissions_per_token"), 0.5);
        // 5 a layer; embedding, head, sampling.
        assert_eq!(number(&decodes[0], "/dispatches_per_token"), 18.0);
        near(number(&decodes[1], "/dispatches_per_token"), 9.0);
        for decode in decodes {
            let floor = number(device, "/floors/dispatch_us") * number(decode, "/dispatches_per_token");
            near(number(decode, "/dispatch_floor_us"), floor);
            let runs = decode["tokens_per_s"]["runs"].as_array().expect("runs");
            let seconds = runs.iter().map(|run| 1.0 / run.as_f64().unwrap()).sum::<f64>() / runs.len() as f64;
            near(number(decode, "/dispatch_floor_share"), floor / 1e6 / seconds);
        }
        assert_eq!(device["floors"]["peak_flop_per_s"]["f16"].is_number(), adapter.f16, "{device}");
    }
}

#[test]
fn operators_are_measured() {
    let report = measured(&["--ops", "rms_norm", "-r", "2", "--device", "cpu", "--json"]);
    let device = &report["devices"][0];
    let operators = device["operators"].as_array().expect("operators");
    assert!(!operators.is_empty() && report["model"].is_null());
    for case in operators {
        let seconds = number(case, "/time_us/mean") / 1e6;
        near(number(case, "/gb_per_s"), number(case, "/bytes") / seconds / 1e9);
        let least = number(case, "/bytes") / number(device, "/floors/copy_bytes_per_s");
        near(number(case, "/roofline_share"), least / seconds);
        assert_eq!((&case["bound"], &case["kernel"]), (&json!("memory"), &Value::Null));
    }
    fails(1, &["--ops", "no such operator"], &["no operator is timed", "\n  linear"]);
}

#[test]
fn operators_are_measured_on_adapters() {
    const CASE: &str = "linear f32[8,1536] q4_0[576,1536]";
    // SwiftShader's floors take seconds.
    for adapter in adapters::all().into_iter().filter(|adapter| !adapter.name.contains("SwiftShader")) {
        let report = measured(&["--ops", CASE, "-r", "2", "--json", "--device", &adapter.index.to_string()]);
        let device = &report["devices"][0];
        let [case] = device["operators"].as_array().expect("operators").as_slice() else { panic!("{device}") };
        assert!(case["case"].as_str().is_some_and(|name| name.starts_with(CASE)), "{case}");
        let kernel = case["kernel"].as_str().expect("an adapter runs a kernel");
        assert!(kernel.starts_with("linear/") && kernel.ends_with("weight_q4_0"), "{kernel}");
        assert!(["timestamps", "wall clock"].contains(&case["clock"].as_str().expect("a clock")), "{case}");
        let seconds = number(case, "/time_us/mean") / 1e6;
        // 8 rows of 1536 by 576 columns; floats of x, residual and result, and 18 bytes for 32 weights.
        assert_eq!(case["flop"], 2 * 8 * 1536 * 576);
        assert_eq!(case["bytes"], 4 * 8 * (1536 + 576 + 576) + 18 * 576 * 1536 / 32);
        let peak = if kernel.contains("cooperative") { "matrix" } else { "f32" };
        let arithmetic = number(case, "/flop") / number(device, &format!("/floors/peak_flop_per_s/{peak}"));
        let memory = number(case, "/bytes") / number(device, "/floors/copy_bytes_per_s");
        near(number(case, "/roofline_share"), arithmetic.max(memory) / seconds);
        assert_eq!(case["bound"], if arithmetic > memory { "arithmetic" } else { "memory" });
    }
}

#[test]
fn wrong_usage_is_told() {
    fails(2, &[], &["MODEL"]);
    fails(2, &[GOLDEN, "--ops"], &["cannot be used with"]);
    fails(2, &[GOLDEN, "-p", "0"], &["-p"]);
    fails(2, &["--compare", "a.json"], &["--compare"]);
    fails(2, &["--compare", "a.json", "b.json", "--slower", "much"], &["5%"]);
    fails(1, &["no_such_model.gguf", "--device", "cpu"], &["no_such_model.gguf"]);
    fails(1, &[GOLDEN, "--device", "no such device"], &["no such device"]);
    fails(1, &[GOLDEN, "--image", "--device", "cpu"], &["reads no pictures"]);
    fails(1, &[GOLDEN, "-d", "2000", "--device", "cpu"], &["2129 tokens", "context of 2048"]);
}

/// A report with the rates that a test gives it.
struct Made(Value);

impl Made {
    fn new() -> Self {
        let runs = |runs: &[f64]| json!({"mean": 0.0, "deviation": null, "runs": runs});
        let decode = json!({
            "depth": 0, "tokens": 128, "parallel": 1, "tokens_per_s": runs(&[50.0, 50.5, 49.5]), "host_us_per_token": null,
            "submissions_per_token": 0.0, "dispatches_per_token": 154.0, "bytes_per_token": 1e8, "copy_floor_us": 1e4,
            "copy_floor_share": 0.5, "dispatch_floor_us": null, "dispatch_floor_share": null,
        });
        let floors = json!({
            "copy_bytes_per_s": 1e10, "dispatch_us": null, "record_us": null, "submission_us": null, "clock": null,
            "peak_flop_per_s": {"f32": 1e11, "f16": null, "matrix": null},
        });
        let memory = json!({
            "host_peak_loading_bytes": null, "host_peak_bytes": null, "device_weight_bytes": 1, "device_cache_bytes": 1,
            "device_positions": 1, "device_arena_bytes": 1, "device_allocated_bytes": null,
        });
        let model = json!({
            "precision": "f32", "load_s": runs(&[0.2]), "first_token_cold_ms": runs(&[9.0]),
            "first_token_warm_ms": runs(&[8.0, 8.1]), "memory": memory, "prompts": [], "decodes": [decode], "picture": null,
        });
        Made(json!({
            "schema": 1, "dunlin": "0.1.0", "machine": {"processor": "a processor", "threads": 2, "system": "linux"},
            "model": {"name": "a.gguf", "architecture": "llama", "parameters": 10, "tensor_bytes": 20},
            "devices": [{"device": "cpu", "driver": "", "floors": floors, "model": model, "operators": []}],
            "warnings": [],
        }))
    }

    fn decode(self, runs: &[f64]) -> Self {
        self.with("/devices/0/model/decodes/0/tokens_per_s/runs", json!(runs))
    }

    fn with(mut self, path: &str, value: Value) -> Self {
        *self.0.pointer_mut(path).expect("a value") = value;
        self
    }

    fn without(mut self, path: &str, key: &str) -> Self {
        self.0.pointer_mut(path).and_then(Value::as_object_mut).and_then(|map| map.remove(key)).expect("a key");
        self
    }

    fn write(&self, scratch: &Scratch, name: &str) -> String {
        write(scratch, name, &self.0.to_string())
    }
}

fn write(scratch: &Scratch, name: &str, text: &str) -> String {
    let path: PathBuf = scratch.path(name);
    std::fs::write(&path, text).expect("a file");
    path.display().to_string()
}

#[test]
fn two_measurements_are_compared() {
    let scratch = Scratch::new();
    let before = Made::new().write(&scratch, "before.json");
    let after = |name: &str, made: Made| made.write(&scratch, name);
    let compare = |after: &str, more: &[&str]| bench(&[&["--compare", &before, after][..], more].concat());
    let text = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();

    let equal = compare(&after("equal.json", Made::new()), &[]);
    assert_eq!(equal.status.code(), Some(0));
    assert!(text(&equal).contains("within the noise") && !text(&equal).contains("slower"), "{}", text(&equal));
    let faster = compare(&after("faster.json", Made::new().decode(&[60.0, 60.5, 59.5])), &["--json"]);
    assert_eq!(faster.status.code(), Some(0));
    let line = |output: &Output| -> Value {
        let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let lines = value["lines"].as_array().expect("lines");
        lines.iter().find(|line| line["what"] == "decode 128 at 0").expect("the line").clone()
    };
    near(number(&line(&faster), "/speedup"), 1.2);
    // Three runs each with a deviation of 0.5: 2.776 · √(2 · 0.25 / 3) of 50.
    near(number(&line(&faster), "/noise"), 2.776 * (2.0f64 * 0.25 / 3.0).sqrt() / 50.0);
    assert_eq!((&line(&faster)["differs"], &line(&faster)["slower_than_allowed"]), (&json!(true), &json!(false)));

    let slower = after("slower.json", Made::new().decode(&[45.0, 45.5, 44.5]));
    let output = compare(&slower, &[]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output).contains("slower than allowed"), "{}", text(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("1 of 4 measurements"));
    let told = compare(&slower, &["--slower", "7%"]);
    assert!(String::from_utf8_lossy(&told.stderr).contains("allowed (7.0 %)"), "{told:?}");
    assert_eq!(compare(&slower, &["--slower", "11%"]).status.code(), Some(0));
    assert_eq!(compare(&slower, &["--slower", "0.11"]).status.code(), Some(0));
    // As slow, but so are some of its own runs.
    let loud = after("loud.json", Made::new().decode(&[30.0, 60.0, 45.0]));
    assert_eq!(compare(&loud, &[]).status.code(), Some(0));
    // Longer is slower: a time of 9 ms that becomes 11 ms, with one run on each side.
    let longer = Made::new().with("/devices/0/model/first_token_cold_ms/runs", json!([11.0]));
    assert_eq!(compare(&after("longer.json", longer), &[]).status.code(), Some(3));

    let changed = Made::new().with("/devices/0/model/decodes/0/dispatches_per_token", json!(150.0));
    let output = compare(&after("changed.json", changed), &["--markdown"]);
    assert!(text(&output).contains("dispatches a token, decode 128 at 0: 154, now 150"), "{}", text(&output));
    let deeper = Made::new().with("/devices/0/model/decodes/0/depth", json!(512));
    let output = compare(&after("deeper.json", deeper), &[]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output).contains("only before: cpu: decode 128 at 0"), "{}", text(&output));
    assert!(text(&output).contains("only after: cpu: decode 128 at 512"), "{}", text(&output));
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let scratch = Scratch::new();
    let before = Made::new().write(&scratch, "before.json");
    let refused = |after: &str, parts: &[&str]| fails(1, &["--compare", &before, after], parts);
    let made = |name: &str, made: Made| made.write(&scratch, name);
    let other = Made::new().with("/model/parameters", json!(11));
    refused(&made("other.json", other), &["different things", "10 parameters", "11 parameters"]);
    refused(&made("operators.json", Made::new().with("/model", Value::Null)), &["different things", "operators"]);
    let device = Made::new().with("/devices/0/device", json!("vulkan:GPU"));
    refused(&made("device.json", device), &["no measurement in common", "cpu before", "vulkan:GPU after"]);
    refused(&made("later.json", Made::new().with("/schema", json!(2))), &["later.json has schema 2", "schema 1"]);
    let missing = Made::new().without("/devices/0/model/decodes/0", "tokens_per_s");
    refused(&made("missing.json", missing), &["missing.json", "missing field `tokens_per_s`"]);
    refused(&made("empty.json", Made::new().decode(&[])), &["decode 128 at 0 has no runs"]);
    refused(&made("zero.json", Made::new().decode(&[50.0, 0.0])), &["decode 128 at 0"]);
    // Their sum, and the square of their difference, are no numbers.
    refused(&made("huge.json", Made::new().decode(&[1.7e308, 1.7e308])), &["decode 128 at 0"]);
    refused(&made("apart.json", Made::new().decode(&[50.0, 1e200])), &["decode 128 at 0"]);
    refused(&write(&scratch, "damaged.json", "{\"schema\": 1, "), &["damaged.json", "EOF"]);
    refused(&write(&scratch, "another.json", "[1, 2]"), &["another.json is not what"]);
    refused("no_such_file.json", &["no_such_file.json cannot be read"]);
}
