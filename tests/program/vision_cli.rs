//! The program with pictures: `run`, `score`, `trace`, `inspect` and `tokenize` compared with golden values, on the CPU
//! and, for one model of each projector, on every adapter.

use std::path::{Path, PathBuf};

use crate::support::gguf::{Naming, ggml};
use crate::support::golden::{self, Golden};
use crate::support::pictures::log_softmax;
use crate::support::program::{json_lines, stdout, stdout_for};
use crate::support::scratch::Scratch;
use crate::support::tolerance::{F32, close};
use crate::support::{adapters, pairs};
use dunlin::Tokenizer;
use serde_json::{Value, json};

/// The size of the vocabulary of every golden case.
const VOCAB: usize = 512;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Every case on the CPU, and one of each projector on every adapter: the case and the argument for `--device`.
fn everywhere() -> Vec<(Golden, String)> {
    let mut all: Vec<(Golden, String)> = golden::vision_cases().into_iter().map(|case| (case, "cpu".into())).collect();
    for adapter in adapters::all() {
        let cases = ["mobilevlm_v1_grid8", "mobilevlm_v2_grid24"].map(Golden::open);
        all.extend(cases.map(|case| (case, adapter.index.to_string())));
    }
    all
}

/// A golden prompt as arguments.
struct Asked {
    question: String,
    /// The question inside the template.
    text: String,
    ids: Vec<Value>,
    images: Vec<PathBuf>,
    /// The tokens of the prompt, including those of pictures.
    tokens: Value,
    greedy: Vec<Value>,
}

impl Asked {
    fn new(golden: &Golden, name: &str) -> Self {
        let prompt = golden.expected()["prompts"][name].take();
        let string = |key: &str| prompt[key].as_str().expect(key).to_string();
        let list = |key: &str| prompt[key].as_array().expect(key).clone();
        let image = |image: &Value| golden.folder.join(image.as_str().expect("a name"));
        Self {
            question: string("question"),
            text: string("prompt"),
            ids: list("input_ids"),
            images: list("images").iter().map(image).collect(),
            tokens: prompt["sequence_length_after_splice"].clone(),
            greedy: list("greedy_ids"),
        }
    }

    /// `--image FILE` for each picture.
    fn images(&self) -> Vec<&str> {
        self.images.iter().flat_map(|image| ["--image", text(image)]).collect()
    }

    /// The argument for `--tokens`.
    fn ids(&self) -> String {
        self.ids.iter().map(Value::to_string).collect::<Vec<_>>().join(",")
    }
}

/// The ids and the statistics that `run --json` prints.
fn run(model: &Path, device: &str, more: &[&str]) -> (Vec<Value>, Value) {
    let arguments = ["run", text(model), "--device", device, "--precision", "f32", "--json", "--max-tokens", "32"];
    let mut lines = json_lines(&[&arguments[..], more].concat());
    let stats = lines.pop().expect("statistics")["stats"].take();
    (lines.into_iter().map(|mut line| line["token"].take()).collect(), stats)
}

fn tokens_of_an_image(golden: &Golden) -> u64 {
    golden.expected()["images"]["img0"]["projector_tokens"].as_u64().expect("a number")
}

#[test]
fn run_answers_questions_about_pictures() {
    for (golden, device) in everywhere() {
        for name in ["p0", "two", "text"] {
            let at = format!("{} {name} on {device}", golden.name);
            let asked = Asked::new(&golden, name);
            let question = ["--prompt", &asked.question];
            let (found, stats) = run(&golden.folder, &device, &[&question[..], &asked.images()].concat());
            assert_eq!(found, asked.greedy, "{at}");
            assert_eq!(stats["prompt_tokens"], asked.tokens, "{at}");
            assert_eq!(stats["image_tokens"], asked.images.len() as u64 * tokens_of_an_image(&golden), "{at}");
            for key in ["preprocess_s", "vision_s"] {
                let seconds = stats[key].as_f64().expect(key);
                assert!(if asked.images.is_empty() { seconds < 1e-3 } else { seconds > 0.0 }, "{at}: {key} {seconds}");
            }
            assert!(stats.get("weight_bytes_before_release").is_none(), "{at}");
        }
    }
}

/// A question, the same question inside its template, and the same question as ids.
#[test]
fn every_form_of_a_prompt_gives_the_same() {
    for golden in golden::vision_cases() {
        for name in ["p0", "two"] {
            let asked = Asked::new(&golden, name);
            for form in [
                vec!["--prompt", &asked.text, "--raw"],
                vec!["--tokens", &asked.ids()],
                vec!["--prompt", &format!("{}{}", "<image>\n".repeat(asked.images.len()), asked.question)],
            ] {
                let (found, stats) = run(&golden.folder, "cpu", &[&form[..], &asked.images()].concat());
                assert_eq!(found, asked.greedy, "{} {form:?}", golden.name);
                assert_eq!(stats["prompt_tokens"], asked.tokens, "{} {form:?}", golden.name);
            }
        }
    }
}

#[test]
fn the_vision_half_goes_when_it_is_told_to() {
    for (golden, device) in everywhere() {
        let at = format!("{} on {device}", golden.name);
        let asked = Asked::new(&golden, "p0");
        let more = [&["--prompt", &asked.question, "--release-vision"][..], &asked.images()].concat();
        let (found, stats) = run(&golden.folder, &device, &more);
        assert_eq!(found, asked.greedy, "{at}");
        assert_eq!(stats["weight_bytes_after_release"], stats["weight_bytes"], "{at}");
        let bytes = |key: &str| stats[key].as_u64().expect(key);
        assert!(bytes("weight_bytes_after_release") < bytes("weight_bytes_before_release"), "{at}: {stats}");
        if device == "cpu" {
            let (_, kept) = run(&golden.folder, &device, &["--prompt", "Hello"]);
            assert_eq!(stats["weight_bytes_before_release"], kept["weight_bytes"], "{at}");
        }
    }
}

/// The first question comes with the picture, further ones line by line; the picture is read once.
#[test]
fn a_chat_goes_on_about_its_picture() {
    // The comparison starts the program again for each turn, so adapters run one case only.
    for (golden, device) in everywhere().into_iter().filter(|(golden, _)| golden.name != "mobilevlm_v2_grid24") {
        let at = format!("{} on {device}", golden.name);
        let asked = Asked::new(&golden, "p0");
        let arguments = ["run", text(&golden.folder), "--device", &device, "--precision", "f32", "--json"];
        let more = ["--max-tokens", "8", "--chat", "--prompt", &asked.question];
        let out = stdout_for(&[&arguments[..], &more, &asked.images()].concat(), "And the colour?\n\n  Why? \n");
        let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let turns: Vec<&[Value]> = lines.split_inclusive(|line| line["stats"].is_object()).collect();
        assert_eq!(turns.len(), 3, "{at}: {out}");
        assert!(turns[0].iter().zip(&asked.greedy[..8]).all(|(line, id)| line["token"] == *id), "{at}: {out}");

        // Each later turn equals the whole conversation asked at once. It is given as ids, because a reply may hold any
        // byte.
        let tokenizer = Tokenizer::load(&golden.folder).expect("a tokenizer");
        let mut conversation = asked.text.clone();
        for (turns, question) in turns.windows(2).zip(["And the colour?", "Why?"]) {
            let reply: String = turns[0].iter().filter_map(|line| line["text"].as_str()).collect();
            conversation += &format!(" {}</s>USER: {question} ASSISTANT:", reply.trim());
            let (before, after) = conversation.split_once("<image>").expect("a place");
            let before = tokenizer.encode(before).expect("ids").into_iter().map(i64::from);
            let after = tokenizer.encode_without_special(after).expect("ids").into_iter().map(i64::from);
            let ids: Vec<String> = before.chain([-200]).chain(after).map(|id| id.to_string()).collect();
            let ids = ids.join(",");
            let more = [&["--tokens", &ids][..], &asked.images()].concat();
            let (wanted, whole) = run(&golden.folder, &device, &more);
            let (stats, pieces) = turns[1].split_last().expect("statistics");
            let found: Vec<&Value> = pieces.iter().map(|line| &line["token"]).collect();
            assert_eq!(found, wanted[..found.len()].iter().collect::<Vec<_>>(), "{at}: {question}");
            assert_eq!(stats["stats"]["prompt_tokens"], whole["prompt_tokens"], "{at}: {question}");
            assert_eq!(stats["stats"]["image_tokens"], tokens_of_an_image(&golden), "{at}: {question}");
            assert_eq!(stats["stats"]["vision_s"], 0.0, "{at}: {question}: the picture was read again");
        }
    }
}

/// A tensor of a file that `trace` wrote.
fn read(file: &[u8], name: &str) -> (Vec<usize>, Vec<f32>) {
    let tensors = safetensors::SafeTensors::deserialize(file).expect("a safetensors file");
    let view = tensors.tensor(name).unwrap_or_else(|_| panic!("no {name}: {:?}", tensors.names()));
    assert_eq!(view.dtype(), safetensors::Dtype::F32, "{name}");
    let values = view.data().as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect();
    (view.shape().to_vec(), values)
}

#[test]
fn trace_writes_what_passes_through_the_vision_half() {
    let scratch = Scratch::new();
    let out = scratch.path("trace.safetensors");
    for (golden, device) in everywhere() {
        let asked = Asked::new(&golden, "p0");
        let prompts = [&asked.question, &asked.text];
        for prompt in &prompts[..if device == "cpu" { 2 } else { 1 }] {
            let at = format!("{} on {device}: {prompt}", golden.name);
            let arguments = ["trace", text(&golden.folder), "--device", &device, "--precision", "f32"];
            let more = ["--prompt", prompt, "--out", text(&out)];
            assert_eq!(stdout(&[&arguments[..], &more, &asked.images()].concat()), "", "{at}");
            let file = std::fs::read(&out).expect("the file");
            let image = golden.expected()["images"]["img0"].take();
            let size = |key: &str| image[key].as_u64().expect(key) as usize;
            let hidden = golden.f32("img0.projector_out").len() / size("projector_tokens");
            let width = golden.f32("img0.vision_features").len() / size("vision_tokens");
            let tokens = asked.tokens.as_u64().expect("a number") as usize;
            for (name, wanted, shape, most) in [
                // In these values one step of a colour is 0.015.
                ("vision.pixels", "img0.pixel_values", vec![3, size("input"), size("input")], 1e-5),
                ("vision.features", "img0.vision_features", vec![size("vision_tokens"), width], F32.hidden_absolute),
                ("vision.projected", "img0.projector_out", vec![size("projector_tokens"), hidden], F32.hidden_absolute),
                ("embeddings", "p0.inputs_embeds", vec![tokens, hidden], F32.hidden_absolute),
            ] {
                let (found_shape, found) = read(&file, name);
                assert_eq!(found_shape, shape, "{at}: {name}");
                close(&format!("{at}: {name}"), &found, &golden.f32(wanted), most, f32::INFINITY);
            }
            let (shape, logits) = read(&file, "logits");
            assert_eq!(shape, [tokens, VOCAB], "{at}");
            let positions = golden.ids("p0.logit_positions");
            let rows = positions.iter().flat_map(|&position| &logits[position as usize * VOCAB..][..VOCAB]);
            let rows: Vec<f32> = rows.copied().collect();
            close(&format!("{at}: logits"), &rows, &golden.f32("p0.logits"), F32.logits, f32::INFINITY);
        }
    }
}

/// The tensors of a second picture have their own names.
#[test]
fn trace_tells_pictures_apart() {
    let scratch = Scratch::new();
    let out = scratch.path("trace.safetensors");
    let golden = Golden::open("mobilevlm_v2_grid16");
    let asked = Asked::new(&golden, "two");
    let arguments = ["trace", text(&golden.folder), "--device", "cpu", "--tokens", &asked.ids(), "--out", text(&out)];
    stdout(&[&arguments[..], &asked.images()].concat());
    let file = std::fs::read(&out).expect("the file");
    for (name, wanted) in [
        ("vision.pixels", "img1.pixel_values"),
        ("vision.features", "img1.vision_features"),
        ("vision.projected", "img1.projector_out"),
        ("vision.1.pixels", "img0.pixel_values"),
        ("vision.1.features", "img0.vision_features"),
        ("vision.1.projected", "img0.projector_out"),
    ] {
        close(name, &read(&file, name).1, &golden.f32(wanted), F32.hidden_absolute, f32::INFINITY);
    }
}

/// Rows of pictures are inputs and are not predicted; the last token has the golden logits of the position before it.
#[test]
fn score_predicts_the_text_around_a_picture() {
    let scratch = Scratch::new();
    for (golden, device) in everywhere() {
        let at = format!("{} on {device}", golden.name);
        let asked = Asked::new(&golden, "p0");
        let file = scratch.write("text.txt", &asked.text);
        let score = |input: [&str; 2]| {
            let arguments = ["score", text(&golden.folder), "--device", &device, "--precision", "f32", "--json"];
            json_lines(&[&arguments[..], &input, &asked.images()].concat()).pop().expect("a line")
        };
        let found = score(["--text", text(&file)]);
        assert_eq!(found["tokens"], asked.tokens, "{at}");
        let nll: Vec<f64> =
            found["token_nll"].as_array().expect("a list").iter().map(|nll| nll.as_f64().expect("a number")).collect();
        let tokens = asked.tokens.as_u64().expect("a number");
        assert_eq!(nll.len() as u64, tokens - 1 - tokens_of_an_image(&golden), "{at}");
        let before = golden.ids("p0.logit_positions").iter().position(|&position| u64::from(position) == tokens - 2);
        let row = &log_softmax(&golden.f32("p0.logits"), VOCAB)[before.expect("a position") * VOCAB..][..VOCAB];
        let wanted = -row[asked.ids.last().and_then(Value::as_u64).expect("an id") as usize];
        let last = *nll.last().expect("a token") as f32;
        assert!((last - wanted).abs() < 2.0 * F32.logits, "{at}: {last} for {wanted}");
        assert_eq!(score(["--tokens", &asked.ids()]), found, "{at}");
    }
}

#[test]
fn inspect_describes_the_vision_half() {
    for (case, projector, tokens) in [("mobilevlm_v1_grid8", "ldp", 16), ("mobilevlm_v2_grid24", "ldpv2", 144)] {
        let golden = Golden::open(case);
        let summary = stdout(&["inspect", text(&golden.folder), "--device", "cpu"]);
        let line = |name: &str| {
            let found = summary.lines().find(|line| line.starts_with(name));
            found.unwrap_or_else(|| panic!("no line for {name} in {summary}")).to_string()
        };
        let vision = line("vision ");
        assert!(vision.ends_with(&format!("{tokens} tokens an image ({projector})")), "{vision}");
        let image = golden.expected()["images"]["img0"].take();
        for (key, words) in [("input", "px in patches of"), ("vision_tokens", "patches of")] {
            assert!(vision.contains(&format!("{} {words}", image[key])), "{vision}");
        }
        assert!(summary.contains("an image, with an arena"), "{summary}");
        assert!(line("  model.mm_projector.").contains("f32") || case.ends_with("grid8"), "{summary}");
        // The plans of a decode step and of a picture.
        let plan = stdout(&["inspect", text(&golden.folder), "--device", "cpu", "--plan"]);
        assert!(plan.contains("attention") && plan.contains("conv2d") && plan.contains("skip_rows"), "{plan}");
    }
}

#[test]
fn a_pair_of_files_runs() {
    let scratch = Scratch::new();
    for case in ["mobilevlm_v1_grid8", "mobilevlm_v2_grid24"] {
        let golden = Golden::open(case);
        let asked = Asked::new(&golden, "p0");
        let (language, mmproj) = pairs::files(&scratch, &golden.folder, Naming::Newer, ggml::F32);
        let flag = ["--mmproj", text(&mmproj)];
        let devices = adapters::all().into_iter().map(|adapter| adapter.index.to_string());
        for device in ["cpu".to_string()].into_iter().chain(devices) {
            let more = [&flag[..], &["--prompt", &asked.question], &asked.images()].concat();
            let (found, stats) = run(&language, &device, &more);
            assert_eq!((&found, &stats["prompt_tokens"]), (&asked.greedy, &asked.tokens), "{case} on {device}");
        }
        let summary = stdout(&[&["inspect", text(&language), "--device", "cpu"][..], &flag].concat());
        assert!(summary.lines().any(|line| line.starts_with("vision ")), "{summary}");
        // Without the vision half the model continues text.
        let (found, stats) = run(&language, "cpu", &["--prompt", "Hello"]);
        assert!(!found.is_empty() && stats["image_tokens"] == 0, "{case}: {found:?} {stats}");
    }
}

/// V2 folders hold a tower that differs from the one that their configuration names; `--vision-tower` selects the named
/// one. V1 always uses the named one.
#[test]
fn another_tower_gives_other_features() {
    let scratch = Scratch::new();
    let out = scratch.path("trace.safetensors");
    for golden in golden::vision_cases() {
        let config: Value = golden::json(&format!("{}/config.json", golden.name));
        let tower = golden.folder.join(config["mm_vision_tower"].as_str().expect("a tower"));
        let features = |more: &[&str]| {
            let image = golden.folder.join("image_0.png");
            let arguments = ["trace", text(&golden.folder), "--device", "cpu", "--prompt", "What?", "--image"];
            stdout(&[&arguments[..], &[text(&image), "--out", text(&out)], more].concat());
            read(&std::fs::read(&out).expect("the file"), "vision.features").1
        };
        let (own, given) = (features(&[]), features(&["--vision-tower", text(&tower)]));
        assert_eq!(own == given, golden.name.contains("_v1_"), "{}", golden.name);
    }
}

/// The text and the ids of a chat, without reading weights.
#[test]
fn tokenize_renders_the_chats_of_mobilevlm() {
    let scratch = Scratch::new();
    for golden in golden::vision_cases() {
        let folder = scratch.copy(&golden.folder);
        for weights in ["model.safetensors", "pytorch_model.bin"] {
            let _ = std::fs::remove_file(folder.join(weights));
        }
        for name in ["p0", "p1", "p2", "two", "text"] {
            let at = format!("{} {name}", golden.name);
            let asked = Asked::new(&golden, name);
            let content = format!("{}{}", "<image>\n".repeat(asked.images.len()), asked.question);
            let chat = json!([{"role": "user", "content": content}]);
            let file = scratch.write("chat.json", chat.to_string());
            assert_eq!(stdout(&["tokenize", text(&folder), "--chat", text(&file)]), asked.text, "{at}");
            let rendered = json_lines(&["tokenize", text(&folder), "--chat", text(&file), "--json"]);
            assert_eq!(rendered, [json!({"text": asked.text, "ids": asked.ids})], "{at}");
        }
        let said = json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]});
        let file = scratch.write("said.json", said.to_string());
        let rendered = stdout(&["tokenize", text(&folder), "--chat", text(&file)]);
        assert!(rendered.ends_with("questions. USER: a ASSISTANT: b</s>"), "{rendered}");
    }
}
