//! `dunlin kernel`, and models that run a user's kernel.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::support::adapters;
use crate::support::golden::Golden;
use crate::support::program::{fails, json_lines, run, stdout};
use crate::support::scratch::Scratch;
use serde_json::Value;

#[test]
fn kernels_are_listed_and_shown() {
    let all = json_lines(&["kernel", "list", "--json"]).remove(0);
    let all = all.as_array().expect("a list");
    let named = |name: &str| all.iter().find(|slot| slot["name"] == name).unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(named("add")["params_bytes"], 4);
    let gemv = named("linear/gemv+epilogue_plain+quads_shared+weight_q4_0");
    assert_eq!((gemv["operator"].as_str(), gemv["entry"].as_str()), (Some("linear"), Some("gemv")));
    let text = stdout(&["kernel", "list", "--operator", "linear"]);
    for part in
        ["linear/gemm  (linear, ", "quads_shared | quads_subgroup", "it depends on PAIRS, LANES", "weight_q4_0  ("]
    {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let shown = stdout(&["kernel", "show", "rms_norm"]);
    assert!(shown.starts_with("// rms_norm: ") && shown.contains("fn rms_norm("), "{shown}");
    fails(&["kernel", "show", "rms_nrm"], &["`rms_nrm`", "rms_norm"]);
    fails(&["kernel", "list", "--operator", "nope"], &["no operator `nope`", "rms_norm"]);
}

#[test]
fn a_file_is_tried_and_the_exit_code_says_whether_it_is_right() {
    let scratch = Scratch::new();
    let text = stdout(&["kernel", "show", "rms_norm"]);
    let right = scratch.write("right.wgsl", &text);
    let wrong = scratch.write("wrong.wgsl", text.replace("inverseSqrt", "sqrt"));
    let broken = scratch.write("broken.wgsl", text.replace("inverseSqrt", "inverseSqr"));
    let [right, wrong, broken] = [&right, &wrong, &broken].map(|path| path.to_str().expect("UTF-8"));
    for adapter in adapters::all() {
        let index = adapter.index.to_string();
        let common = ["kernel", "try", "rms_norm", "--device", &index, "--case", "(f32[3, 31]", "--file"];
        let table = stdout(&[&common[..], &[right]].concat());
        assert!(table.contains("right in all") && table.contains("ratio over all"), "{table}");
        let output = run(&[&common[..], &[wrong]].concat());
        let table = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(3), "{table}");
        assert!(table.contains("WRONG           –          –       –") && table.contains("expected"), "{table}");
        let report = run(&[&common[..], &[wrong, "--json"]].concat());
        let report: Value = serde_json::from_slice(&report.stdout).expect("JSON");
        let case = &report["cases"][0];
        assert!(case["yours_us"].is_null() && case["wrong"]["expected"].is_number(), "{report}");
        let line = 1 + text.lines().position(|line| line.contains("inverseSqrt")).expect("a line");
        fails(&[&common[..], &[broken]].concat(), &[&format!("broken.wgsl:{line}:"), "inverseSqr"]);
        let set = [&common[..], &[right, "--set", "WG=128"]].concat();
        fails(&set, &["no override `WG`"]);
    }
    fails(&["kernel", "try", "rms_norm", "--file", "nowhere.wgsl"], &["nowhere.wgsl cannot be read"]);
    fails(&["kernel", "try", "rms_norm", "--device", "cpu", "--file", right], &["kernels run on GPUs"]);
    let usage = run(&["kernel", "try", "rms_norm", "--file", right, "--set", "WG"]);
    assert_eq!(usage.status.code(), Some(2));
}

/// On llvmpipe the submission itself would not return.
#[test]
fn a_kernel_that_does_not_end_is_given_up() {
    let scratch = Scratch::new();
    let text = stdout(&["kernel", "show", "add"]);
    // The second has a bound that no unsigned number is below.
    let loops =
        ["loop { if params.count == 0u { break; } y[i] = a[i]; }", "for (var k = i; k >= 0u; k--) { y[i] = a[i]; }"];
    for endless in loops {
        let file = scratch.write("endless.wgsl", text.replace("y[i] = a[i] + b[i];", endless));
        for adapter in adapters::all().into_iter().filter(|adapter| adapter.name.starts_with("SwiftShader")) {
            let index = adapter.index.to_string();
            let common = ["kernel", "try", "add", "--device", &index, "--patience", "1", "--file"];
            let output = run(&[&common[..], &[file.to_str().expect("UTF-8")]].concat());
            let table = String::from_utf8_lossy(&output.stdout);
            assert_eq!(output.status.code(), Some(3), "{table}");
            assert!(table.contains("it does not finish within 1 s") && table.contains("stopped: "), "{table}");
        }
    }
}

/// A program that does not end by itself: it is stopped with the test, also with one that fails.
struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        // It fails only if the program has ended.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_file_is_tried_again_when_it_is_saved() {
    let Some(adapter) = adapters::all().into_iter().next() else { return };
    let scratch = Scratch::new();
    let text = stdout(&["kernel", "show", "add"]);
    let file = scratch.write("mine.wgsl", &text);
    let mut watch = Command::new(env!("CARGO_BIN_EXE_dunlin"));
    watch
        .args(["kernel", "try", "add", "--watch", "--device", &adapter.index.to_string(), "--case", "at 0", "--file"])
        .arg(&file)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = Stopped(watch.spawn().expect("the program starts"));
    let mut lines = BufReader::new(child.0.stdout.take().expect("a pipe")).lines().map(|line| line.expect("a line"));
    assert!(lines.any(|line| line.starts_with("right in all")));
    std::fs::write(&file, text.replace("a[i] + b[i]", "a[i] - b[i] ")).expect("the file");
    assert!(lines.any(|line| line.starts_with("wrong in")));
}

/// A copy of a kernel changes nothing, and a wrong one changes the text: it is what runs.
#[test]
fn a_model_runs_with_a_users_kernel() {
    let golden = Golden::open("mobilellm_gqa");
    let folder = golden.folder.to_str().expect("UTF-8");
    let scratch = Scratch::new();
    for adapter in adapters::all() {
        let index = adapter.index.to_string();
        let common = [folder, "--device", &index, "--precision", "f32"];
        let plan = stdout(&[&["inspect"], &common[..], &["--plan"]].concat());
        let kernel = plan.split_whitespace().find(|word| word.starts_with("norm_swiglu+")).expect("a gated unit");
        let text = stdout(&["kernel", "show", kernel]);
        let wrong = text.replace("fn store2(", "fn store2_(").replace(
            "fn block_products(",
            "fn store2(r: u32, lane: u32, group: vec3<u32>, sums: vec2<f32>) { store2_(r, lane, group, sums + 1.0); }\n\
             fn block_products(",
        );
        let [copy, wrong] = [("copy.wgsl", &text), ("wrong.wgsl", &wrong)]
            .map(|(name, text)| format!("{kernel}={}", scratch.write(name, text).to_str().expect("UTF-8")));
        let ids = |more: &[&str]| {
            let output =
                run(&[&["run"], &common[..], &["--tokens", "1,5,9", "--json", "--max-tokens", "12"], more].concat());
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(0), "{errors}");
            let lines: Vec<Value> = String::from_utf8_lossy(&output.stdout)
                .lines()
                .map(|line| serde_json::from_str(line).expect("JSON"))
                .collect();
            let (stats, tokens) = lines.split_last().expect("statistics");
            let tokens: Vec<Value> = tokens.iter().map(|line| line["token"].clone()).collect();
            (tokens, stats["stats"]["own_kernels"].clone(), errors)
        };
        let (ours, none, _) = ids(&[]);
        assert!(none.is_null());
        let (same, own, errors) = ids(&["--kernel", &copy]);
        assert_eq!(same, ours, "{}", adapter.label());
        assert_eq!((own[0]["kernel"].as_str(), own[0]["file"].as_str()), (Some(kernel), Some("copy.wgsl")));
        assert!(own[0]["uses"].as_u64().expect("a count") > 0);
        assert!(errors.contains("warning: copy.wgsl runs in the place of"), "{errors}");
        assert_ne!(ids(&["--kernel", &wrong]).0, ours, "{}", adapter.label());

        let plan = stdout(&[&["inspect"], &common[..], &["--plan", "--kernel", &copy]].concat());
        assert!(plan.contains(&format!("{kernel}=copy.wgsl: the user's own kernel")), "{plan}");
        let (add, check) =
            (stdout(&["kernel", "show", "add"]), ["check", "--device", &index, "--operator", "add", "--kernel"]);
        let own = |name: &str, text: &str| format!("add={}", scratch.write(name, text).to_str().expect("UTF-8"));
        let table = stdout(&[&check[..], &[&own("add.wgsl", &add)]].concat());
        assert!(table.contains("add.wgsl ran in the place of add in ") && table.contains("cases are right"), "{table}");
        let wrong = own("less.wgsl", &add.replace("a[i] + b[i]", "a[i] - b[i]"));
        let output = run(&[&check[..], &[&wrong]].concat());
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("with less.wgsl: "), "{output:?}");
        // No case of the operator chooses the kernel: then nothing was checked.
        let output = run(&[&check[..], &[&copy]].concat());
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("copy.wgsl ran in no case"), "{output:?}");
        let two = [&["run"], &common[..], &["--tokens", "1", "--kernel", &copy, "--kernel", &wrong, "--set", "WG=8"]];
        fails(&two.concat(), &["--set WG is for one --kernel, and there are 2"]);
        let two = [&["inspect"], &common[..], &["--plan", "--kernel", &copy, "--kernel", "rms_norm"]];
        fails(&two.concat(), &["--kernel rms_norm prints that kernel", "rms_norm=FILE"]);
        // A kernel that the model does not need is not used, and a name that is none is an error.
        let pool = scratch.write("pool.wgsl", stdout(&["kernel", "show", "avg_pool2d"]));
        let (same, own, errors) = ids(&["--kernel", &format!("avg_pool2d={}", pool.to_str().expect("UTF-8"))]);
        assert!(same == ours && own[0]["uses"] == 0 && errors.contains("is not used"), "{errors}");
        let unknown = [&["run"], &common[..], &["--tokens", "1", "--kernel", "rms_nrm=x.wgsl"]].concat();
        fails(&unknown, &["x.wgsl cannot be read"]);
        let unknown = copy.replacen("norm_swiglu", "norm_swigl", 1);
        fails(
            &[&["run"], &common[..], &["--tokens", "1", "--kernel", &unknown]].concat(),
            &["no kernel", "norm_swiglu"],
        );
    }
    let copy = scratch.write("norm.wgsl", stdout(&["kernel", "show", "rms_norm"]));
    let copy = format!("rms_norm={}", copy.to_str().expect("UTF-8"));
    fails(&["run", folder, "--device", "cpu", "--tokens", "1", "--kernel", &copy], &["kernels run on GPUs"]);
}
