//! The model that ships with the program: the copy inside the program, its answers, and the commands that run it.

use std::path::{Path, PathBuf};

use crate::support::{parallel, runtimes};
#[cfg(feature = "demo")]
use crate::support::{
    program::{json_lines, stdout},
    scratch::Scratch,
};
#[cfg(feature = "demo")]
use dunlin::checkpoint::files::EMBEDDED_DEMO;
#[cfg(feature = "demo")]
use dunlin::checkpoint::{Checkpoint, text::TextFiles};
use dunlin::{Generation, LoadOptions, Prompt, Sampler};
use serde_json::Value;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// PyTorch's answers, written by `examples/train_demo/reference.py`.
fn reference() -> Value {
    let text = std::fs::read_to_string(root("tests/fixtures/demo/reference.json")).expect("the reference");
    serde_json::from_str(&text).expect("JSON")
}

/// The items whose pictures are in the repository: picture, question, answer, PyTorch's ids without the end token.
fn items(reference: &Value) -> Vec<(PathBuf, &str, &str, Vec<u32>)> {
    let text = |item: &'_ Value, key: &str| item[key].as_str().expect(key).to_string();
    let items = reference["items"].as_array().expect("items").iter();
    let here = items.map(|item| (root("tests/fixtures/demo").join(text(item, "image")), item));
    let here = here.filter(|(picture, _)| picture.exists());
    here.map(|(picture, item)| {
        (picture, item["prompt"].as_str().expect("prompt"), item["answer"].as_str().expect("answer"), ids(item))
    })
    .collect()
}

fn ids(item: &Value) -> Vec<u32> {
    let ids = item["ids"].as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id") as u32);
    ids.filter(|&id| id != 2).collect()
}

fn said(generation: Generation) -> (String, Vec<u32>) {
    let pieces: Vec<_> = generation.max_tokens(48).map(|piece| piece.expect("a token")).collect();
    (pieces.iter().map(|piece| piece.text.as_str()).collect(), pieces.iter().map(|piece| piece.id).collect())
}

#[test]
fn fifty_pictures_are_answered_as_pytorch_answers() {
    let reference = reference();
    let items = items(&reference);
    assert!(items.len() >= 50, "{} pictures", items.len());
    parallel::each(&runtimes::all(), |runtime| {
        let model = runtime.model(&root("examples/demo-model"), &LoadOptions::new());
        let mut right = 0;
        for (picture, question, answer, wanted) in &items {
            let prompt = Prompt::user(*question).image(picture.as_path());
            let (text, ids) = said(model.generate(prompt, &Sampler::greedy()).expect("a generation"));
            assert_eq!(ids, *wanted, "{question} of {} on {}", picture.display(), runtime.label);
            right += usize::from(text.trim() == *answer);
        }
        // The model must get 97 % of the whole split right.
        assert!(100 * right >= 97 * items.len(), "{right} of {} are right on {}", items.len(), runtime.label);
    });
}

/// The reference answers and the README of the training name the same weights.
#[test]
fn the_sha256_written_down_is_that_of_the_reference() {
    let account = std::fs::read_to_string(root("examples/train_demo/README.md")).expect("the account");
    let reference = reference();
    let sha256 = reference["sha256"].as_str().expect("a sum");
    assert!(sha256.len() == 64 && account.contains(sha256), "examples/train_demo/README.md does not name {sha256}");
}

#[test]
fn without_a_picture_it_says_what_it_is_for() {
    let reference = reference();
    for runtime in runtimes::all() {
        let model = runtime.model(&root("examples/demo-model"), &LoadOptions::new());
        for item in reference["text_only"].as_array().expect("items") {
            let prompt = Prompt::user(item["prompt"].as_str().expect("prompt"));
            let (text, found) = said(model.generate(prompt, &Sampler::greedy()).expect("a generation"));
            assert_eq!(found, ids(item), "{} on {}", item["prompt"], runtime.label);
            assert!(text.contains("picture"), "{text}");
        }
    }
}

#[cfg(feature = "demo")]
#[test]
fn the_copy_in_the_program_is_the_folder() {
    let (copy, folder) = (Path::new(EMBEDDED_DEMO), root("examples/demo-model"));
    let open = |path: &Path| Checkpoint::open(path).expect("a checkpoint");
    let (embedded, stored) = (open(copy), open(&folder));
    assert_eq!(embedded.config, stored.config);
    let tensors = |checkpoint: &Checkpoint| {
        let take = |name: &str, shape: &[usize]| checkpoint.take(name, shape).expect("a tensor").bytes.to_vec();
        let all = checkpoint.tensors().map(|info| (info.name.to_string(), take(info.name, info.shape)));
        all.collect::<Vec<_>>()
    };
    assert!(tensors(&embedded) == tensors(&stored), "the tensors differ");
    let text = |path: &Path| {
        let mut files = TextFiles::open(path).expect("files").expect("a tokenizer");
        files.source = PathBuf::new();
        format!("{files:?}")
    };
    assert_eq!(text(copy), text(&folder));
    let bytes: u64 = files(&folder).iter().map(|file| file.metadata().expect("a file").len()).sum();
    assert!(bytes <= 6_000_000, "the folder is {bytes} bytes, at most 6 MB are for the program");
}

#[cfg(feature = "demo")]
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[cfg(feature = "demo")]
#[test]
fn the_commands_of_the_first_screen_work() {
    let reference = reference();
    let shown = stdout(&["demo", "--device", "cpu"]);
    for (question, answer) in [("what color is the shape?", "red"), ("what shape is in the image?", "circle")] {
        assert!(shown.contains(&format!("{question} {answer}\n")), "{shown}");
    }
    let (picture, question, answer, ids) = items(&reference).swap_remove(0);
    let picture = picture.to_str().expect("UTF-8");
    let run = ["run", "demo", "--image", picture, "--prompt", question, "--device", "cpu"];
    assert_eq!(stdout(&run).trim(), answer);
    let lines = json_lines(&[&run[..], &["--json"]].concat());
    let found: Vec<u64> = lines.iter().filter_map(|line| line["token"].as_u64()).collect();
    assert_eq!(found, ids.iter().map(|&id| u64::from(id)).collect::<Vec<_>>());
}

#[cfg(feature = "demo")]
#[test]
fn the_name_is_the_programs_unless_a_model_on_disk_has_it() {
    let scratch = Scratch::new();
    let here = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_dunlin"));
        let output = command.args(arguments).current_dir(scratch.path("")).output().expect("the program starts");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let name = ["tokenize", "demo", "hello", "--json"];
    let known = here(&name);
    assert!(known.0);
    std::fs::write(scratch.path("demo"), "not a model").expect("a file");
    assert_eq!(here(&name), known);
    std::fs::remove_file(scratch.path("demo")).expect("a file");
    std::fs::create_dir(scratch.path("demo")).expect("a folder");
    assert_eq!(here(&name), known);
    // A model folder called `demo` has priority over the model inside the program, except for `dunlin demo`.
    for entry in std::fs::read_dir(root("tests/golden/mobilellm_gqa")).expect("a folder") {
        let path = entry.expect("an entry").path();
        std::fs::copy(&path, scratch.path("demo").join(path.file_name().expect("a name"))).expect("a copy");
    }
    let other = here(&name);
    assert!(other.0 && other != known, "{other:?}");
    let shown = here(&["demo", "--device", "cpu"]);
    assert!(shown.0 && shown.1.contains("what color is the shape? red\n"), "{shown:?}");
}
