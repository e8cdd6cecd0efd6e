//! `dunlin prune`: its output and files, the arguments that it refuses, and that it leaves no incomplete files.

use std::path::{Path, PathBuf};
use std::process::Command;

use dunlin::checkpoint::Checkpoint;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use crate::support::gguf;
use crate::support::golden::{json as golden_json, root};
use crate::support::program::{fails, run, stdout};
use crate::support::scratch::Scratch;

/// A folder for results, and the arguments of a short run.
struct Run {
    scratch: Scratch,
    arguments: Vec<String>,
}

impl Run {
    /// Prunes the golden case `prune_l2` as its authors did.
    fn new() -> Self {
        let case = root().join("prune_l2");
        let scratch = Scratch::new();
        let arguments = [
            "prune",
            &path(&case),
            "--out",
            &path(&scratch.path("out")),
            "--target-parameters",
            "52790",
            "--calibration",
            &path(&case.join("expected.safetensors")),
            "--importance",
            "l2",
            "--steps",
            "12",
            "--amplitude",
            "0.06",
            "--batch",
            "4",
            "--device",
            "cpu",
        ];
        Run { arguments: arguments.map(str::to_owned).into(), scratch }
    }

    /// Sets another value of an option, or of the model.
    fn with(mut self, option: &str, value: impl AsRef<Path>) -> Self {
        let value = path(value.as_ref());
        match self.arguments.iter().position(|argument| argument == option) {
            _ if option == "MODEL" => self.arguments[1] = value,
            Some(at) => self.arguments[at + 1] = value,
            None => self.arguments.extend([option.to_owned(), value]),
        }
        self
    }

    fn arguments(&self) -> Vec<&str> {
        self.arguments.iter().map(String::as_str).collect()
    }

    /// Checks that the run fails with these words and leaves no files.
    fn fails(&self, parts: &[&str]) {
        let before = self.files();
        fails(&self.arguments(), parts);
        assert_eq!(self.files(), before, "{:?}", self.arguments);
    }

    /// The names in the scratch folder.
    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.scratch.path("")).expect("a folder");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

fn path(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

fn read(file: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(file).expect("a file")).expect("JSON")
}

#[test]
fn a_folder_and_a_report_are_written() {
    let scratch = Scratch::new();
    let report = scratch.path("report.json");
    let run = Run::new().with("--report", &report);
    let text = stdout(&run.arguments());
    assert!(text.contains("parameters  87984 -> 45072 (51.2 %), 7 steps of at most 12"), "{text}");
    assert!(text.contains("layers      judged on cpu") && text.contains("written"), "{text}");
    let (report, expected) = (read(report), golden_json("prune_l2/expected.json"));
    for key in ["steps_run", "parameters_after", "target_parameters", "importance", "layer_importance"] {
        assert_eq!(report[key], expected[key], "{key}");
    }
    assert_eq!(report["steps"][6]["removed_channels"], expected["steps"][6]["removed_channels"]);
    assert_eq!(run.files(), ["out"]);
    let out = path(&run.scratch.path("out"));
    let inspected = stdout(&["inspect", &out]);
    assert!(inspected.contains("45,072"), "{inspected}");
    let _ = stdout(&["run", &out, "--tokens", "1,2,3", "--max-tokens", "2", "--device", "cpu"]);

    // An existing folder is replaced only with `--force`, and only if it holds a model.
    run.fails(&["out", "exists already", "--force"]);
    let mut forced = run.arguments();
    forced.push("--force");
    let marker = run.scratch.write("out/marker", "");
    let _ = stdout(&forced);
    assert!(!marker.exists());
    assert_eq!(run.files(), ["out"]);
    std::fs::remove_file(run.scratch.path("out/config.json")).expect("a file");
    fails(&forced, &["out", "no folder of a model"]);
}

#[test]
fn a_tokenizer_comes_along() {
    let case = root().join("mobilellm_gqa");
    let scratch = Scratch::new();
    let texts: Vec<String> = (0..6)
        .map(|i| json!({"text": format!("The sea is cold, and {i} birds dive for fish. ").repeat(4)}).to_string())
        .collect();
    let text = scratch.write("text.jsonl", texts.join("\n"));
    let run = Run::new().with("MODEL", &case).with("--calibration", &text).with("--importance", "taylor");
    let target = Checkpoint::open(&case).expect("a model").parameters() * 95 / 100;
    let run = run.with("--target-parameters", target.to_string()).with("--samples", "4").with("--window", "16");
    let text = stdout(&run.arguments());
    assert!(text.contains("activations 4 windows at a time"), "{text}");
    let out = run.scratch.path("out");
    for file in ["tokenizer.model", "tokenizer_config.json"] {
        let same = |folder: &Path| std::fs::read(folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(same(&out), same(&case), "{file}");
    }
    let _ = stdout(&["run", &path(&out), "--prompt", "The sea", "--max-tokens", "2", "--device", "cpu"]);
}

#[test]
fn what_cannot_be_pruned_is_refused_before_the_work() {
    let scratch = Scratch::new();
    Run::new().with("MODEL", "/no/such/model").fails(&["/no/such/model", "does not exist"]);
    Run::new().with("--out", "/no/such/folder/out").fails(&["/no/such/folder"]);
    Run::new().with("--report", "/no/such/folder/report.json").fails(&["report", "/no/such/folder does not exist"]);
    let run = Run::new();
    let out = run.scratch.path("out");
    run.with("--report", out).fails(&["--report and --out are both"]);
    let taylor = || Run::new().with("--importance", "taylor").with("--layer-importance", "uniform");
    taylor().with("--memory", "0").fails(&["activations of one window", "--memory"]);
    let model = path(&root().join("prune_l2"));
    Run::new().with("--target-parameters", "87984").fails(&[&model, "87984 parameters already"]);
    Run::new().with("--target-parameters", "9000000").fails(&["87984 parameters already", "9000000"]);
    Run::new().with("--target-parameters", "9000").fails(&["cannot be pruned to 9000", "embeddings"]);
    Run::new().with("--steps", "0").fails(&["at least one step"]);
    Run::new().with("--ratio", "1.5").fails(&["ratio of 1.5"]);
    Run::new().with("--amplitude", "nan").fails(&["amplitude of NaN"]);
    Run::new().with("--device", "nothing-is-called-so").fails(&["nothing-is-called-so"]);
    let demo = if cfg!(feature = "demo") { path(Path::new("demo")) } else { path(&root().join("mobilevlm_v1_grid4")) };
    Run::new().with("MODEL", demo).fails(&["vision half"]);
    let gguf = scratch.write(
        "model.gguf",
        gguf::from_folder(&root().join("mobilellm_gqa"), |_, element, bytes| (element, bytes.to_vec())).finish(),
    );
    Run::new().with("MODEL", gguf).fails(&["model.gguf", "GGUF", "Hugging Face folder"]);
    // Architectures whose configurations have one width for all layers.
    for case in ["qwen3", "smollm3", "gemma3"] {
        Run::new().with("MODEL", root().join(case)).fails(&[case, "not pruned", "mobilellm"]);
    }
    // The folder of the input model is never replaced.
    let copy = scratch.copy(&root().join("prune_l2"));
    let run = Run::new().with("MODEL", &copy).with("--out", &copy);
    fails(&[&run.arguments()[..], &["--force"]].concat(), &["holds the model that is read"]);
    assert!(copy.join("model.safetensors").exists());
    let wrong = [&Run::new().arguments()[..], &["--importance", "random"]].concat().join(" ");
    assert_eq!(run_status(&wrong), Some(2));
}

fn run_status(arguments: &str) -> Option<i32> {
    run(&arguments.split(' ').collect::<Vec<_>>()).status.code()
}

#[test]
fn a_calibration_may_be_broken() {
    let scratch = Scratch::new();
    let good = std::fs::read(root().join("prune_l2/expected.safetensors")).expect("a file");
    let broken = |name: &str, content: &[u8], parts: &[&str]| {
        let file = scratch.write(name, content);
        Run::new().with("--calibration", file).fails(&[&[name][..], parts].concat());
    };
    Run::new().with("--calibration", "/no/such/file.json").fails(&["/no/such/file.json"]);
    for length in [0, 5, 100, good.len() / 2, good.len() - 1] {
        broken("cut.safetensors", &good[..length], &[]);
    }
    broken("ids.json", br#"{"input_ids":[[1,2,3],[1,2]]}"#, &["row 1"]);
    broken("ids.json", br#"{"input_ids":[[1,2,96]]}"#, &["96", "vocabulary"]);
    broken("ids.json", br#"{"input_ids":[[1,2,-1]]}"#, &[]);
    broken("ids.json", br#"{"input_ids":[]}"#, &["0 windows"]);
    broken("ids.json", br#"{"ids":[[1,2]]}"#, &["input_ids"]);
    broken("ids.json", br#"{"input_ids":[[1,2"#, &["EOF"]);
    let long = json!({"input_ids": [vec![1; 4096]]}).to_string();
    broken("ids.json", long.as_bytes(), &["4096", "context"]);
    // The case has no tokenizer.
    broken("text.txt", b"a text", &["prune_l2 has no tokenizer", ".json"]);
    broken("text.txt", &[0xff, 0xfe], &["not UTF-8"]);
    let with_tokenizer = |name: &str, content: &str, parts: &[&str]| {
        let file = scratch.write(name, content);
        let run = Run::new().with("MODEL", root().join("mobilellm_gqa")).with("--target-parameters", "300000");
        run.with("--calibration", file).fails(parts);
    };
    with_tokenizer("short.txt", "one\n\ntwo\n", &["short.txt", "none of 2 documents", "--window"]);
    let text = scratch.write("text.txt", "The sea is cold. ".repeat(50));
    let run = Run::new().with("MODEL", root().join("mobilellm_gqa")).with("--target-parameters", "300000");
    run.with("--calibration", text).with("--samples", "18446744073709551615").fails(&["at most", "ids"]);
    with_tokenizer("line.jsonl", "{\"text\":\"a\"}\n{\"txt\":\"b\"}\n", &["line.jsonl", "line 2"]);
}

/// A run that is interrupted ends with 130 and leaves no files; a run whose last step fails leaves none either.
#[cfg(unix)]
#[test]
fn an_interrupted_run_leaves_nothing() {
    let scratch = Scratch::new();
    let ids = json!({"input_ids": vec![vec![5; 32]; 4096]}).to_string();
    let run = Run::new().with("--calibration", scratch.write("ids.json", ids)).with("--steps", "1000");
    let run = run.with("--importance", "taylor").with("--report", scratch.path("report.json"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_dunlin"));
    let mut child = command.args(run.arguments()).stdout(std::process::Stdio::piped()).spawn().expect("the program");
    // Ctrl-C comes once the program handles it; the whole run would take minutes.
    while !handles_interrupt(child.id()) {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(killed.success());
    assert_eq!(child.wait().expect("an end").code(), Some(130));
    assert!(run.files().is_empty(), "{:?}", run.files());
    assert!(!scratch.path("report.json").exists());
}

/// Whether a process has a handler for SIGINT.
#[cfg(unix)]
fn handles_interrupt(process: u32) -> bool {
    const SIGINT: u64 = 1 << 1;
    let Ok(status) = std::fs::read_to_string(format!("/proc/{process}/status")) else {
        std::thread::sleep(std::time::Duration::from_secs(1)); // No such file system here.
        return true;
    };
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("signals");
    u64::from_str_radix(caught.trim(), 16).expect("a mask") & SIGINT != 0
}

/// The golden case `prune_l2` with another content of a tensor: its shape, and the value of all elements.
fn changed(scratch: &Scratch, name: &str, shape: &[usize], value: f32) -> PathBuf {
    let folder = scratch.copy(&root().join("prune_l2"));
    let bytes = std::fs::read(folder.join("model.safetensors")).expect("weights");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let content = vec![value; shape.iter().product()].iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    assert!(tensors.names().contains(&name), "{name}");
    let tensors = tensors.tensors().into_iter().map(|(other, tensor)| match other == name {
        true => (other, TensorView::new(Dtype::F32, shape.to_vec(), &content).expect("a tensor")),
        false => (other, tensor),
    });
    safetensors::serialize_to_file(tensors, None, &folder.join("model.safetensors")).expect("weights");
    folder
}

#[test]
fn a_model_may_be_broken() {
    let scratch = Scratch::new();
    let part = |part: &str| format!("model.layers.1.{part}.weight");
    let shapes: [(&str, &[usize]); 6] = [
        ("self_attn.o_proj", &[48, 4]),
        ("self_attn.o_proj", &[48]),
        ("self_attn.v_proj", &[4, 48]),
        ("self_attn.v_proj", &[0, 48]),
        ("mlp.down_proj", &[48, 0]),
        ("mlp.down_proj", &[48, 71]),
    ];
    for (name, shape) in shapes {
        let model = changed(&scratch, &part(name), shape, 0.5);
        Run::new().with("MODEL", model).fails(&["model.safetensors", &part(name), "shape", "expected"]);
    }
    // Without numbers there is nothing to choose by: in weights that are scored, and in those that only pass states on.
    for (name, shape) in [("mlp.up_proj", &[72, 48][..]), ("input_layernorm", &[48][..])] {
        for importance in ["l2", "taylor"] {
            let model = changed(&scratch, &part(name), shape, f32::NAN);
            Run::new().with("MODEL", model).with("--importance", importance).fails(&["prune_l2", "not numbers"]);
        }
    }
}
