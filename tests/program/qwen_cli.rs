//! The program with a Qwen-VL: every form of a prompt, both spellings, control tokens, and the output of `tokenize` and
//! `inspect`.

use std::path::{Path, PathBuf};

use crate::support::adapters;
use crate::support::golden::Golden;
use crate::support::program::{fails, json_lines, stdout};
use crate::support::scratch::Scratch;
use dunlin::Tokenizer;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// The ids, the text and the last line that `run --json` prints.
fn run(model: &Path, device: &str, more: &[&str]) -> (Vec<Value>, String, Value) {
    let arguments = ["run", text(model), "--device", device, "--precision", "f32", "--json", "--max-tokens", "32"];
    let mut lines = json_lines(&[&arguments[..], more].concat());
    let last = lines.pop().expect("statistics");
    let words = lines.iter().map(|line| line["text"].as_str().expect("text")).collect();
    (lines.iter().map(|line| line["token"].clone()).collect(), words, last)
}

/// A golden prompt, and the arguments `--image FILE` for each of its pictures.
fn asked(golden: &Golden, name: &str) -> (Value, Vec<String>) {
    let prompt = golden.expected()["prompts"][name].take();
    let images = prompt["images"].as_array().expect("images").iter();
    let file = |image: &Value| -> PathBuf { golden.folder.join(image.as_str().expect("a name")) };
    let images = images.flat_map(|image| ["--image".to_string(), text(&file(image)).to_string()]).collect();
    (prompt, images)
}

#[test]
fn run_answers_questions_in_every_form() {
    let mut everywhere = vec![("qwenvl_a", "cpu".to_string()), ("qwenvl_b", "cpu".to_string())];
    everywhere.extend(adapters::all().into_iter().map(|adapter| ("qwenvl_b", adapter.index.to_string())));
    for (case, device) in everywhere {
        let golden = Golden::open(case);
        for name in ["p0", "two"] {
            let (prompt, images) = asked(&golden, name);
            let string = |key: &str| prompt[key].as_str().expect(key);
            let ids: Vec<String> = prompt["input_ids"].as_array().expect("ids").iter().map(Value::to_string).collect();
            let count = images.len() / 2;
            for form in [
                vec!["--prompt", string("question")],
                vec!["--prompt", &format!("{}{}", "<image>\n".repeat(count), string("question"))],
                vec!["--prompt", string("prompt"), "--raw"],
                vec!["--tokens", &ids.join(",")],
            ] {
                let images: Vec<&str> = images.iter().map(String::as_str).collect();
                let (found, _, last) = run(&golden.folder, &device, &[&form[..], &images].concat());
                let at = format!("{case} {name} on {device}: {:?}", form[0]);
                assert_eq!(Value::from(found), prompt["greedy_ids"], "{at}");
                assert_eq!(last["stats"]["prompt_tokens"], prompt["sequence_length"], "{at}");
                assert_eq!(last["stats"]["image_tokens"], 256 * count, "{at}");
                if device != "cpu" {
                    break;
                }
            }
        }
    }
}

#[test]
fn spelling_and_control_tokens_are_options() {
    let golden = Golden::open("qwenvl_b");
    let image = golden.folder.join("image_0.png");
    let question = ["--prompt", "What?", "--image", text(&image)];
    let (ids, words, last) = run(&golden.folder, "cpu", &question);
    let (same, tagged, _) = run(&golden.folder, "cpu", &[&question[..], &["--special"]].concat());
    assert_eq!(same, ids);
    let ids: Vec<u32> = ids.iter().map(|id| id.as_u64().expect("an id") as u32).collect();
    let tokenizer = Tokenizer::load(&golden.folder).expect("a tokenizer");
    assert_eq!((tokenizer.decode(&ids), tokenizer.decode_with_special(&ids)), (words, tagged));
    // This answer has none.
    assert!(last.get("boxes").is_none());

    let (_, _, tight) = run(&golden.folder, "cpu", &[&question[..], &["--tight-pictures"]].concat());
    let tokens = |last: &Value| last["stats"]["prompt_tokens"].as_u64().expect("a number");
    assert_eq!(tokens(&tight) + 1, tokens(&last), "the space before <img> is a token");
}

/// A copy of qwenvl_a that answers every prompt with `<ref>a</ref><box>(100,200),(300,400)</box>`. Its layers add nothing
/// to the embedding of a token, and the head's row of each token of the answer is the embedding of the token before. The
/// numbers are one token.
fn pointing(scratch: &Scratch) -> PathBuf {
    let folder = scratch.copy(&Golden::open("qwenvl_a").folder);
    let vocabulary = std::fs::read_to_string(folder.join("qwen.tiktoken")).expect("a vocabulary");
    let (before, _) = vocabulary.trim_end().rsplit_once('\n').expect("lines");
    let vocabulary = format!("{before}\nKDEwMCwyMDApLCgzMDAsNDAwKQ== 394\n");
    std::fs::write(folder.join("qwen.tiktoken"), vocabulary).expect("a vocabulary");
    let tokenizer = Tokenizer::load(&folder).expect("a tokenizer");
    let encode = |text: &str| tokenizer.encode(text).expect("ids");
    // A prompt ends with the line break behind `assistant`. Text is cut at digits, so that it never has the token 394.
    let ids = [encode("\n<ref>a</ref><box>"), vec![394], encode("</box><|im_end|>")].concat();
    assert_eq!(ids.len(), 8, "{ids:?}");

    let file = folder.join("model.safetensors");
    let bytes = std::fs::read(&file).expect("weights");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let embedding = tensors.tensor("transformer.wte.weight").expect("an embedding");
    let cols = 4 * embedding.shape()[1];
    let edited = tensors.iter().map(|(name, tensor)| {
        let mut data = tensor.data().to_vec();
        match name {
            "lm_head.weight" => {
                data.fill(0);
                for pair in ids.windows(2) {
                    let [from, to] = [pair[0], pair[1]].map(|id| id as usize * cols);
                    data[to..to + cols].copy_from_slice(&embedding.data()[from..from + cols]);
                }
            }
            "transformer.ln_f.weight" => data = 1f32.to_le_bytes().repeat(data.len() / 4),
            _ if name.starts_with("transformer.h.") && name.ends_with("c_proj.weight") => data.fill(0),
            _ => {}
        }
        (name, tensor.dtype(), tensor.shape().to_vec(), data)
    });
    let edited: Vec<_> = edited.collect();
    let views = edited
        .iter()
        .map(|(name, dtype, shape, data)| (*name, TensorView::new(*dtype, shape.clone(), data).expect("a tensor")));
    std::fs::write(&file, safetensors::serialize(views, None).expect("safetensors")).expect("weights");
    folder
}

#[test]
fn answers_point_at_places() {
    let scratch = Scratch::new();
    let folder = pointing(&scratch);
    let image = folder.join("image_0.png");
    let ask = ["--prompt", "Where?", "--image", text(&image)];
    let (answer, plain) = ("<ref>a</ref><box>(100,200),(300,400)</box>", "a(100,200),(300,400)");
    let place = |pixels: Value, size: Value| {
        let thousandths = [[100, 200], [300, 400]];
        json!([{"label": "a", "shape": "box", "pixels": pixels, "thousandths": thousandths, "size": size}])
    };
    let (in_picture, alone) = (place(json!([[12, 14], [36, 29]]), json!([121, 74])), place(json!([]), json!(null)));
    for (more, shown) in [(&[][..], plain), (&["--special"], answer)] {
        let (_, words, last) = run(&folder, "cpu", &[&ask[..], more].concat());
        assert_eq!((words.as_str(), &last["boxes"], &last["stats"]["stop"]), (shown, &in_picture, &json!("eos")));
        let printed = stdout(&[&["run", text(&folder), "--device", "cpu"], &ask[..], more].concat());
        assert_eq!(printed.trim(), shown);
    }

    let lines = [json!({"prompt": "Where?", "image": "image_0.png"}), json!({"prompt": "And here?"})];
    let file = folder.join("prompts.jsonl");
    std::fs::write(&file, lines.map(|line| line.to_string()).join("\n")).expect("prompts");
    let prompts = ["run", text(&folder), "--device", "cpu", "--prompts", text(&file)];
    let printed = json_lines(&[&prompts[..], &["--json", "--special"]].concat());
    for (index, boxes) in [in_picture, alone].into_iter().enumerate() {
        let own = || printed.iter().filter(|line| line["index"] == index);
        let words: String = own().filter_map(|line| line["text"].as_str()).collect();
        let ends: Vec<&Value> = own().filter(|line| line.get("stats").is_some()).collect();
        assert_eq!((words.as_str(), ends.len()), (answer, 1));
        assert_eq!(ends[0]["boxes"], boxes, "prompt {index}");
    }
    assert_eq!(stdout(&prompts), format!("1: {plain}\n2: {plain}\n"));
}

#[test]
fn chats_are_tokenized_part_by_part() {
    let golden = Golden::open("qwenvl_a");
    let (prompt, _) = asked(&golden, "turns");
    let [question, answer] = [0, 1].map(|side| prompt["history"][0][side].clone());
    let messages = json!([
        {"role": "user", "content": format!("<image>\n{}", question.as_str().expect("a text"))},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": prompt["question"]},
    ]);
    let scratch = Scratch::new();
    let file = scratch.write("chat.json", messages.to_string());
    let printed = json_lines(&["tokenize", text(&golden.folder), "--chat", text(&file), "--json"]).remove(0);
    let shown = prompt["prompt"].as_str().expect("a text").replace("<img>image_2.png</img>", "<img></img>");
    assert_eq!(printed["text"], shown);
    // −200 in place of the 256 ids of the picture.
    let ids: Vec<i64> =
        prompt["input_ids"].as_array().expect("ids").iter().map(|id| id.as_i64().expect("an id")).collect();
    let image = ids.iter().position(|&id| id == 609).expect("<img>");
    let wanted = [&ids[..=image], &[-200], &ids[image + 257..]].concat();
    assert_eq!(printed["ids"], json!(wanted));

    fails(&["run", text(&golden.folder), "--device", "cpu", "--prompt", "a <img> b"], &["<img>", "</img>"]);
    let mmproj = text(&file);
    fails(
        &["run", text(&golden.folder), "--device", "cpu", "--prompt", "a", "--mmproj", mmproj],
        &["--mmproj", "qwen", "MobileVLM"],
    );
}

#[test]
fn inspect_tells_what_a_qwen_is_made_of() {
    let golden = Golden::open("qwenvl_a");
    let told = stdout(&["inspect", text(&golden.folder), "--device", "cpu"]);
    for part in [
        "qwen",
        "dynamic NTK",
        "logn",
        "320",
        "1024 patches of 48 features, 4 heads, ffn 236, 2 blocks; 256 tokens an image (resampler)",
        "visual.blocks.1.self_attn.v_proj.weight",
    ] {
        assert!(told.contains(part), "{part} in\n{told}");
    }
}
