//! The program from a user's view: output, exit codes, and error messages.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::support::real_model;
use serde_json::{Value, json};

fn golden(case: &str) -> String {
    format!("{}/tests/golden/{case}", env!("CARGO_MANIFEST_DIR"))
}

fn dunlin(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dunlin"));
    command.args(arguments);
    command
}

/// The output of a successful command. Standard error, which is not a terminal here, must be empty.
fn stdout(arguments: &[&str]) -> String {
    let output = dunlin(arguments).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), errors.as_str()), (Some(0), ""), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn lines(arguments: &[&str]) -> Vec<Value> {
    stdout(arguments).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A command that ends with `code`, and whose last line on standard error, with the indented lines of a list after it,
/// has all `parts` in it. Returns its standard error.
fn fails(code: i32, arguments: &[&str], parts: &[&str]) -> String {
    fails_as(code, &mut dunlin(arguments), parts)
}

fn fails_as(code: i32, command: &mut Command, parts: &[&str]) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{command:?}: {errors}");
    if code == 1 {
        let lines: Vec<&str> = errors.lines().collect();
        let at = lines.iter().rposition(|line| !line.starts_with("  ")).unwrap_or_default();
        let last = lines[at..].join("\n");
        assert!(last.starts_with("error: "), "{command:?}: {errors}");
        let missing: Vec<&&str> = parts.iter().filter(|part| !last.contains(**part)).collect();
        assert!(missing.is_empty(), "{missing:?} is not in: {last}");
        assert!(!errors.contains("panicked"), "{errors}");
    }
    errors
}

/// A folder that a test may fill. Removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dunlin-cli-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// A copy of a golden folder, without its tower.
    fn copy(case: &str, name: &str) -> Self {
        let folder = Self::new(name);
        for entry in std::fs::read_dir(golden(case)).unwrap() {
            let entry = entry.unwrap();
            if entry.path().is_file() {
                std::fs::copy(entry.path(), folder.0.join(entry.file_name())).unwrap();
            }
        }
        folder
    }

    fn path(&self, file: &str) -> String {
        self.0.join(file).display().to_string()
    }

    fn write(&self, file: &str, bytes: impl AsRef<[u8]>) -> String {
        std::fs::write(self.0.join(file), bytes).unwrap();
        self.path(file)
    }

    fn config(&self, change: impl FnOnce(&mut Value)) {
        let mut config: Value = serde_json::from_slice(&std::fs::read(self.0.join("config.json")).unwrap()).unwrap();
        change(&mut config);
        self.write("config.json", config.to_string());
    }

    fn cut(&self, file: &str) {
        let bytes = std::fs::read(self.0.join(file)).unwrap();
        self.write(file, &bytes[..bytes.len() * 2 / 3]);
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn wrong_usage_is_2_and_help_is_0() {
    let model = golden("mobilellm_gqa");
    fails(2, &[], &[]);
    fails(2, &["fly"], &[]);
    fails(2, &["run", &model], &[]);
    fails(2, &["run", &model, "--prompt", "a", "--tokens", "1"], &[]);
    fails(2, &["run", &model, "--prompt", "a", "--max-tokens", "many"], &[]);
    fails(2, &["run", &model, "--prompt", "a", "--precision", "f64"], &[]);
    fails(2, &["run", &model, "--prompt", "a", "--weights", "q9"], &[]);
    fails(2, &["trace", &model, "--tokens", "1"], &[]);
    fails(2, &["score", &model], &[]);
    fails(2, &["tokenize", &model], &[]);
    assert!(stdout(&["--help"]).contains("Usage"));
    assert!(stdout(&["run", "--help"]).contains("--repeat-penalty"));
    assert!(stdout(&["--version"]).starts_with("dunlin 0."));
}

#[test]
fn run_prints_a_line_a_token_and_then_statistics() {
    let model = golden("mobilellm_gqa");
    let expected: Value = serde_json::from_slice(&std::fs::read(model.clone() + "/expected.json").unwrap()).unwrap();
    let prompt = &expected["prompts"]["p0"];
    let text = prompt["text"].as_str().unwrap();
    let arguments = ["run", &model, "--prompt", text, "--device", "cpu", "--json", "--max-tokens", "32"];
    let mut tokens = lines(&arguments);
    let stats = tokens.pop().unwrap();
    let ids: Vec<Value> = tokens.iter().map(|line| line["token"].clone()).collect();
    assert_eq!(json!(ids), prompt["greedy_ids"]);
    assert_eq!(tokens[0].as_object().unwrap().keys().collect::<Vec<_>>(), ["token", "text", "logprob", "top"]);
    let keys = [
        "prompt_tokens",
        "image_tokens",
        "generated_tokens",
        "stop",
        "load_s",
        "preprocess_s",
        "vision_s",
        "prefill_s",
        "decode_s",
        "device",
        "backend",
        "weight_bytes",
        "dispatches_per_token",
    ];
    let stats = stats["stats"].as_object().unwrap();
    assert_eq!(stats.keys().collect::<Vec<_>>(), keys);
    assert_eq!((&stats["prompt_tokens"], &stats["generated_tokens"]), (&json!(43), &json!(32)));
    assert_eq!((&stats["stop"], &stats["backend"]), (&json!("length"), &json!("cpu")));

    let plain = stdout(&["run", &model, "--prompt", text, "--device", "cpu", "--max-tokens", "32"]);
    let pieces: String = tokens.iter().map(|line| line["text"].as_str().unwrap()).collect();
    assert_eq!(plain.trim_end_matches('\n'), pieces.trim_end_matches('\n'));
}

#[test]
fn run_stops_at_the_end_token_and_takes_every_option() {
    let model = golden("mobilellm_gqa");
    let expected: Value = serde_json::from_slice(&std::fs::read(model.clone() + "/expected.json").unwrap()).unwrap();
    let prompt = &expected["prompts"]["eos"];
    let ids: Vec<String> = prompt["input_ids"].as_array().unwrap().iter().map(Value::to_string).collect();
    let mut tokens =
        lines(&["run", &model, "--tokens", &ids.join(","), "--device", "cpu", "--json", "--logprobs", "5"]);
    let stats = tokens.pop().unwrap();
    assert_eq!(stats["stats"]["stop"], "eos");
    let greedy = prompt["greedy_ids"].as_array().unwrap();
    assert_eq!(
        (tokens.len() + 1, stats["stats"]["generated_tokens"].as_u64()),
        (greedy.len(), Some(tokens.len() as u64))
    );
    for line in &tokens {
        let top = line["top"].as_array().unwrap();
        assert_eq!((top.len(), &top[0][0], &top[0][1]), (5, &line["token"], &line["logprob"]));
    }

    let drawn = |seed: &str| {
        let options = ["--temperature", "0.8", "--top-k", "40", "--top-p", "0.95", "--min-p", "0.01"];
        let more =
            ["--repeat-penalty", "1.1", "--seed", seed, "--context", "64", "--precision", "f32", "--weights", "q8_0"];
        let base = ["run", &model, "--tokens", "1,5,9", "--raw", "--device", "cpu", "--json", "--max-tokens", "20"];
        let mut tokens = lines(&[&base[..], &options[..], &more[..]].concat());
        tokens.pop();
        tokens
    };
    assert_eq!(drawn("7"), drawn("7"));
    assert_ne!(drawn("7"), drawn("8"));
}

#[test]
fn a_folder_without_a_tokenizer_runs_on_ids() {
    let model = golden("mobilellm_r1");
    fails(1, &["run", &model, "--prompt", "hi", "--device", "cpu"], &["mobilellm_r1", "--tokens"]);
    fails(1, &["tokenize", &model, "hi"], &["mobilellm_r1", "--tokens"]);
    let tokens = lines(&["run", &model, "--tokens", "1,2,3", "--device", "cpu", "--json", "--max-tokens", "2"]);
    assert_eq!((tokens.len(), &tokens[0]["text"]), (3, &json!("")));
    let plain = stdout(&["run", &model, "--tokens", "1,2,3", "--device", "cpu", "--max-tokens", "2"]);
    assert_eq!(plain.split_whitespace().count(), 2);
}

#[test]
fn score_and_trace_write_what_they_say() {
    let model = golden("mobilellm_gqa");
    let folder = Folder::new("score");
    let text = folder.write("text.txt", "The telescope was built to look at faint objects.");
    let score = lines(&["score", &model, "--text", &text, "--device", "cpu", "--json"]).pop().unwrap();
    assert_eq!(
        score.as_object().unwrap().keys().collect::<Vec<_>>(),
        ["tokens", "mean_nll", "perplexity", "token_nll"]
    );
    let (tokens, nll) = (score["tokens"].as_u64().unwrap(), score["token_nll"].as_array().unwrap());
    assert_eq!(nll.len() as u64, tokens - 1);
    let windows =
        lines(&["score", &model, "--text", &text, "--window", "8", "--device", "cpu", "--json"]).pop().unwrap();
    assert_eq!(windows["token_nll"].as_array().unwrap().len() as u64, tokens - tokens.div_ceil(8));
    // Seven rows are summed in another order than the whole text. The tolerance is a tenth of that for float32 in
    // `tests/golden/README.md`.
    let windows = windows["token_nll"].as_array().unwrap();
    for (window, whole) in windows.iter().zip(nll).take(7) {
        let (window, whole) = (window.as_f64().unwrap(), whole.as_f64().unwrap());
        assert!((window - whole).abs() < 1e-5, "{window} in a window, {whole} in the whole text");
    }
    assert!(stdout(&["score", &model, "--tokens", "1,2,3", "--device", "cpu"]).contains("perplexity"));
    fails(1, &["score", &model, "--text", "/no/such/text", "--device", "cpu"], &["/no/such/text"]);
    fails(1, &["score", &model, "--tokens", "1", "--device", "cpu"], &["at least 2"]);

    let out = folder.path("trace.safetensors");
    assert_eq!(stdout(&["trace", &model, "--tokens", "1,20,30", "--device", "cpu", "--out", &out]), "");
    let bytes = std::fs::read(&out).unwrap();
    let trace = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut names = trace.names();
    names.sort_unstable();
    assert_eq!(names, ["embeddings", "layers.0", "layers.1", "layers.2", "logits"]);
    assert_eq!(trace.tensor("layers.2").unwrap().shape(), [3, 144]);
    assert_eq!(trace.tensor("logits").unwrap().shape(), [3, 512]);
}

#[test]
fn tokenize_goes_both_ways() {
    let model = golden("mobilellm_gqa");
    let expected: Value =
        serde_json::from_slice(&std::fs::read(model.clone() + "/tokenizer_expected.json").unwrap()).unwrap();
    for case in expected["strings"].as_array().unwrap().iter().step_by(7) {
        let text = case["text"].as_str().unwrap();
        assert_eq!(lines(&["tokenize", &model, text, "--json"]), [json!({"ids": case["ids"]})], "{text:?}");
    }
    assert_eq!(lines(&["tokenize", &model, "--decode", "1,419,501,420,428,322"]), [json!({"text": "Hello"})]);
    assert_eq!(stdout(&["tokenize", &model, "Hello"]), "1,419,501,420,428,322\n");
    fails(1, &["tokenize", &model, "--decode", "1,512"], &["512"]);
    fails(1, &["tokenize", &model, "--decode", "x"], &["--decode", "`x`"]);
}

#[test]
fn tokenize_renders_chats() {
    let Some(model) = real_model::smollm2() else { return };
    let model = model.to_str().unwrap();
    let expected: Value = serde_json::from_slice(&std::fs::read(golden("smollm2_chat.json")).unwrap()).unwrap();
    let folder = Folder::new("chat");
    for case in expected["rendered"].as_array().unwrap() {
        let file = folder.write("chat.json", case.to_string());
        assert_eq!(stdout(&["tokenize", model, "--chat", &file]), case["text"].as_str().unwrap());
        let rendered = lines(&["tokenize", model, "--chat", &file, "--json"]);
        assert_eq!(rendered, [json!({"text": case["text"], "ids": case["input_ids"]})]);
    }
    let file = folder.write("list.json", r#"[{"role": "user", "content": "hi"}]"#);
    assert!(stdout(&["tokenize", model, "--chat", &file]).ends_with("<|im_start|>assistant\n"));
    fails(1, &["tokenize", model, "--chat", &folder.write("bad.json", "[")], &["bad.json"]);
    fails(1, &["tokenize", model, "--chat", &folder.write("no.json", "3")], &["no.json", "messages"]);
    fails(1, &["tokenize", &golden("mobilellm_gqa"), "--chat", &file], &["no chat template"]);
}

#[test]
fn info_and_inspect_describe() {
    let models: Value =
        serde_json::from_slice(&dunlin(&["info", "--models", "--json"]).output().unwrap().stdout).unwrap();
    let models = models["models"].as_array().unwrap();
    assert_eq!(models.len(), dunlin::models::ARCHITECTURES.len());
    let text = String::from_utf8(dunlin(&["info", "--models"]).output().unwrap().stdout).unwrap();
    for model in models {
        for key in ["architecture", "models", "tried_on"] {
            assert!(text.contains(model[key].as_str().unwrap()), "{key} of {model}");
        }
    }
    let info: Value = serde_json::from_slice(&dunlin(&["info", "--json"]).output().unwrap().stdout).unwrap();
    for adapter in info["adapters"].as_array().unwrap() {
        assert!(adapter["backend"].is_string() && adapter["limits"].is_object() && adapter["features"].is_array());
    }
    let model = golden("mobilellm_ls");
    let text = stdout(&["inspect", &model, "--device", "cpu"]);
    for part in ["mobilellm", "parameters", "model.embed_tokens.weight", "KV cache", "dispatches"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let plan = stdout(&["inspect", &model, "--device", "cpu", "--plan"]);
    assert_eq!(plan, stdout(&["inspect", &model, "--device", "cpu", "--plan"]));
    let kernel = plan.lines().nth(1).unwrap().split_whitespace().nth(2).unwrap();
    assert!(stdout(&["inspect", &model, "--kernel", kernel]).contains("@compute"));
}

/// `--kernel` finds a kernel by its name, or by parts of the name in any order, as `--refuse` does.
#[test]
fn inspect_finds_kernels_by_parts_of_their_names() {
    let model = golden("mobilellm_ls");
    let plan = stdout(&["inspect", &model, "--device", "cpu", "--plan"]);
    let mut kernels = plan.lines().filter_map(|line| line.split_whitespace().nth(2));
    let kernel = kernels.rfind(|name| name.starts_with("linear/")).expect("a kernel of the operator `linear`");
    let source = stdout(&["inspect", &model, "--kernel", kernel]);
    assert!(source.contains("@compute"), "{source}");
    let turned = kernel.split('+').rev().collect::<Vec<_>>().join("+");
    assert_eq!(stdout(&["inspect", &model, "--kernel", &turned]), source, "{turned}");

    let several =
        fails(1, &["inspect", &model, "--kernel", "linear/gemv"], &["called `linear/gemv`; name one", " more"]);
    let near =
        fails(1, &["inspect", &model, "--kernel", "linear/gemw"], &["no kernel is called `linear/gemw`", "nearest"]);
    for text in [several, near] {
        let names = text.lines().filter(|line| line.starts_with("  linear/gem")).count();
        assert_eq!(names, 6, "a few names, each on a line of its own:\n{text}");
    }
}

#[test]
fn broken_checkpoints_are_named() {
    fails(1, &["run", "/no/such/model", "--prompt", "a", "--device", "cpu"], &["/no/such/model"]);
    let run = |folder: &Folder, parts: &[&str]| {
        fails(1, &["run", folder.0.to_str().unwrap(), "--tokens", "1,2", "--device", "cpu"], parts);
    };
    let folder = Folder::copy("mobilellm_gqa", "architecture");
    folder.config(|config| {
        config["model_type"] = json!("martian");
        config["architectures"] = json!(["MartianForCausalLM"]);
    });
    run(&folder, &["martian", "mobilellm", "llama"]);
    let folder = Folder::copy("mobilellm_gqa", "shape");
    folder.config(|config| config["hidden_size"] = json!(160));
    run(&folder, &["model."]);
    let folder = Folder::copy("mobilellm_gqa", "safetensors");
    folder.cut("model.safetensors");
    run(&folder, &["model.safetensors"]);
    let folder = Folder::copy("mobilellm_fp16_bin", "bin");
    folder.cut("pytorch_model.bin");
    run(&folder, &["pytorch_model.bin"]);
    let folder = Folder::new("empty");
    run(&folder, &["config.json"]);
    let gguf = folder.write("cut.gguf", b"GGUF\x03\x00\x00\x00\x10\x00\x00\x00");
    fails(1, &["run", &gguf, "--tokens", "1", "--device", "cpu"], &["cut.gguf"]);
    if let Some(model) = real_model::smollm2() {
        let mut bytes = Vec::new();
        std::fs::File::open(model).unwrap().take(3 << 20).read_to_end(&mut bytes).unwrap();
        let gguf = folder.write("short.gguf", bytes);
        fails(1, &["run", &gguf, "--tokens", "1", "--device", "cpu"], &["short.gguf"]);
    }
}

#[test]
fn broken_prompts_are_named() {
    let model = golden("mobilellm_gqa");
    let run = |tokens: &str, parts: &[&str]| {
        fails(1, &["run", &model, "--tokens", tokens, "--device", "cpu", "--context", "20"], parts);
    };
    run("1,nan", &["--tokens", "`nan`"]);
    run("1,-5", &["`-5`"]);
    run("1,1.5", &["`1.5`"]);
    run("1,99999999999", &["`99999999999`"]);
    run("1,512", &["512"]);
    run("", &["at least one token"]);
    run(&["7"; 21].join(","), &["21", "20", "--context"]);
    fails(1, &["run", &model, "--tokens", "1", "--device", "cpu", "--temperature", "nan"], &["temperature"]);
    fails(1, &["run", &model, "--tokens", "1", "--device", "cpu", "--context", "0"], &["--context"]);
}

#[test]
fn devices_that_are_not_there_are_named() {
    let model = golden("mobilellm_gqa");
    fails(1, &["run", &model, "--tokens", "1", "--device", "99"], &["99"]);
    fails(1, &["run", &model, "--tokens", "1", "--device", "vulkan:martian"], &["vulkan:martian"]);
    // Without a Vulkan driver and an EGL vendor there is no adapter.
    let hidden = |device: &str| {
        let mut command = dunlin(&["run", &model, "--tokens", "1", "--max-tokens", "1", "--json", "--device", device]);
        for key in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES", "__EGL_VENDOR_LIBRARY_FILENAMES"] {
            command.env(key, "/nowhere.json");
        }
        command
    };
    if cfg!(target_os = "linux") {
        fails_as(1, &mut hidden("gpu"), &["no GPU adapter"]);
        fails_as(1, &mut hidden("0"), &["0"]);
        assert_eq!(hidden("auto").output().unwrap().status.code(), Some(0));
    }
}

#[test]
fn a_closed_pipe_ends_it_quietly() {
    let model = golden("mobilellm_gqa");
    let arguments = ["run", &model, "--tokens", "1,5", "--device", "cpu", "--json", "--max-tokens", "2000"];
    let mut child = dunlin(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    reader.read_line(&mut String::new()).unwrap();
    drop(reader);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
}

/// The output of a command after its first line, when Ctrl-C is sent.
#[cfg(unix)]
fn interrupted(arguments: &[&str]) -> Vec<String> {
    let mut child = dunlin(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    reader.read_line(&mut String::new()).unwrap();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let rest = reader.lines().map(Result::unwrap).collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{arguments:?}");
    rest
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_cleanly() {
    // Without an end token the run continues to the end of the context.
    let folder = Folder::copy("mobilellm_gqa", "endless");
    folder.config(|config| config["eos_token_id"] = json!(511));
    let arguments =
        ["run", folder.0.to_str().unwrap(), "--tokens", "1,5", "--device", "cpu", "--json", "--max-tokens", "2000"];
    let rest = interrupted(&arguments);
    let stats: Value = serde_json::from_str(rest.last().unwrap()).unwrap();
    assert!(stats["stats"]["stop"].is_null() && rest.len() < 2000);

    // An interrupted evaluation prints the table of the items so far.
    let items = folder.0.join("items.jsonl");
    std::fs::write(&items, "{\"prompt\":\"a\",\"answer\":\"b\"}\n".repeat(2000)).unwrap();
    let arguments =
        ["eval", folder.0.to_str().unwrap(), "--data", items.to_str().unwrap(), "--device", "cpu", "--json"];
    let rest = interrupted(&arguments);
    let summary: Value = serde_json::from_str(rest.last().unwrap()).unwrap();
    assert_eq!(summary["summary"]["items"], rest.len(), "one line was read before");
    assert!(rest.len() < 2000);
}
