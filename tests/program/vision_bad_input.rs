//! Broken pictures and vision halves, and ones that do not match the model, give exit code 1 and one sentence that
//! names the cause. The program never panics, however a file is cut or garbled.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use crate::support::gguf::{Naming, Writer, ggml};
use crate::support::golden::{self, root};
use crate::support::pairs;
use crate::support::program::{fails, fails_as, run, stdout};
use crate::support::scratch::Scratch;
use safetensors::SafeTensors;
use serde_json::{Value, json};

const V1: &str = "mobilevlm_v1_grid4";
const V2: &str = "mobilevlm_v2_grid24";

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn picture() -> PathBuf {
    root().join(V1).join("image_0.png")
}

/// The arguments of a question about a picture, followed by `more`.
fn ask<'a>(model: &'a Path, image: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let question = ["run", text(model), "--image", text(image), "--prompt", "What?", "--device", "cpu"];
    [&question[..], &["--max-tokens", "1"], more].concat()
}

/// The error message for a model that cannot answer.
fn broken(model: &Path, more: &[&str], parts: &[&str]) -> String {
    fails(&ask(model, &picture(), more), parts)
}

/// A copy of a golden case with its tower, and the folder of the tower.
fn copied(scratch: &Scratch, case: &str) -> (PathBuf, PathBuf) {
    let folder = scratch.copy(&root().join(case));
    let config = golden::json(&format!("{case}/config.json"));
    let name = config["mm_vision_tower"].as_str().expect("a tower");
    let tower = folder.join(name);
    std::fs::create_dir_all(&tower).expect("a folder");
    for entry in std::fs::read_dir(root().join(case).join(name)).expect("a folder") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), tower.join(entry.file_name())).expect("a copy");
    }
    (folder, tower)
}

fn edit(file: &Path, change: impl FnOnce(&mut Value)) {
    let mut json = serde_json::from_slice(&std::fs::read(file).expect("a file")).expect("JSON");
    change(&mut json);
    std::fs::write(file, json.to_string()).expect("a file");
}

/// The weights of a folder without the tensors whose names begin with `prefix`.
fn without_tensors(folder: &Path, prefix: &str) {
    let file = folder.join("model.safetensors");
    let content = std::fs::read(&file).expect("weights");
    let tensors = SafeTensors::deserialize(&content).expect("weights");
    let kept = tensors.iter().filter(|(name, _)| !name.starts_with(prefix));
    std::fs::write(&file, safetensors::serialize(kept, None).expect("a file")).expect("weights");
}

#[test]
fn pictures_that_are_none_are_named() {
    let scratch = Scratch::new();
    let model = root().join(V1);
    let png = std::fs::read(picture()).expect("a picture");
    let mut jpeg = Cursor::new(Vec::new());
    image::DynamicImage::new_rgb8(90, 70).write_to(&mut jpeg, image::ImageFormat::Jpeg).expect("a JPEG file");
    let jpeg = jpeg.into_inner();
    // Width 0, in the header.
    let mut flat = png.clone();
    flat[16..20].fill(0);
    let folder = scratch.write("folder.png/readme", "").parent().expect("a folder").to_path_buf();
    let cases: [(PathBuf, &[&str]); 8] = [
        (scratch.write("text.png", "a shopping list"), &["text.png", "a shoppi", "JPEG, PNG and WebP"]),
        (scratch.write("cut.png", &png[..png.len() / 2]), &["cut.png", "PNG", "cut short"]),
        (scratch.write("cut.jpg", &jpeg[..jpeg.len() / 2]), &["cut.jpg", "JPEG", "cut short"]),
        (scratch.write("empty.png", ""), &["empty.png", "is empty", "JPEG, PNG and WebP"]),
        (scratch.write("flat.png", flat), &["flat.png"]),
        (scratch.write("moving.gif", b"GIF89a\x01\x00\x01\x00\x00\x00\x00;"), &["moving.gif", "GIF", "convert it"]),
        (folder, &["folder.png", "is a folder"]),
        (PathBuf::from("/no/such/picture.png"), &["/no/such/picture.png", "cannot be read"]),
    ];
    for (file, parts) in cases {
        fails(&ask(&model, &file, &[]), parts);
        // The error names the second picture, not the first.
        fails(&ask(&model, &picture(), &["--image", text(&file)]), parts);
        let common = ["--image", text(&file), "--device", "cpu", "--tokens", "1,-200,2"];
        fails(&[&["score", text(&model)][..], &common].concat(), parts);
        fails(&[&["trace", text(&model), "--out", "never-written.safetensors"][..], &common].concat(), parts);
    }
    for (name, whole) in [("x.png", png), ("x.jpg", jpeg)] {
        stdout(&ask(&model, &scratch.write(name, &whole), &[]));
        // A PNG file without the bytes after its pixels is complete.
        let last = if name == "x.png" { whole.len() - 40 } else { whole.len() - 1 };
        for length in [1, 2, 4, 8, 9, 20, 33, 34, 60, whole.len() / 3, last] {
            fails(&ask(&model, &scratch.write(name, &whole[..length]), &[]), &[name]);
        }
    }
    assert!(!Path::new("never-written.safetensors").exists());
}

#[test]
fn models_without_a_vision_half_say_so() {
    let (scratch, image) = (Scratch::new(), picture());
    let (language, _) = pairs::files(&scratch, &root().join(V1), Naming::Newer, ggml::F32);
    for model in [root().join("mobilellm_gqa"), language] {
        let name = text(&model).to_string();
        broken(&model, &[], &[&name, "reads text only", "--mmproj"]);
        let common = ["--image", text(&image), "--device", "cpu", "--tokens", "1,-200,2"];
        fails(&[&["score", &name][..], &common].concat(), &[&name, "reads text only"]);
        fails(&[&["trace", &name, "--out", "/no/such/folder/t"][..], &common].concat(), &[&name, "reads text only"]);
    }
}

#[test]
fn pictures_and_places_are_counted() {
    let model = root().join(V1);
    let model = text(&model);
    let (image, other) = (picture(), root().join(V1).join("image_1.png"));
    let one = ["--image", text(&image)];
    let two = [one, ["--image", text(&other)]].concat();
    let count = |prompt: &[&str], images: &[&str], parts: &[&str]| {
        fails(&[&["run", model, "--device", "cpu"][..], prompt, images].concat(), parts);
        fails(
            &[&["trace", model, "--device", "cpu", "--out", "/no/such/folder/t"][..], prompt, images].concat(),
            parts,
        );
    };
    count(&["--prompt", "<image>"], &[], &["1 places", "0 pictures"]);
    count(&["--prompt", "<image> or <image>?"], &one, &["2 places", "1 pictures"]);
    count(&["--prompt", "<image>?"], &two, &["1 places", "2 pictures"]);
    count(&["--tokens", "1,2"], &one, &["0 places", "1 pictures"]);
    count(&["--tokens", "1,-200,-200"], &one, &["2 places", "1 pictures"]);
    count(&["--tokens", "1,-201"], &one, &["--tokens", "`-201`"]);
    // An id beyond the vocabulary stands for a row of a picture inside the program, and is an error in a prompt.
    count(&["--tokens", "1,-200,512"], &one, &["token 512", "512 ids"]);
    fails(&["tokenize", model, "--decode", "1,-200"], &["--decode", "-200", "picture"]);
}

#[test]
fn a_prompt_that_is_too_long_counts_its_pictures() {
    let (model, image) = (root().join(V2), picture());
    broken(&model, &["--context", "200"], &["144 of them of images", "context of 200", "--context"]);
    broken(&model, &["--context", "200", "--image", text(&image)], &["288 of them of images"]);
    let prompt = ["--tokens", "1,-200,5", "--image", text(&image), "--device", "cpu"];
    let score = [&["score", text(&model), "--context", "100"][..], &prompt].concat();
    fails(&score, &["146 tokens", "144 of them of images", "--context"]);
    let score = [&["score", text(&model), "--window", "100"][..], &prompt].concat();
    fails(&score, &["146 tokens", "window of 100", "--window"]);
    let trace = [&["trace", text(&model), "--context", "100", "--out", "/no/such/folder/t"][..], &prompt].concat();
    fails(&trace, &["146 tokens", "144 of them of images", "context of 100"]);
}

#[test]
fn vision_files_that_do_not_belong_to_the_model_are_named() {
    let scratch = Scratch::new();
    let (language, mmproj) = pairs::files(&scratch, &root().join(V1), Naming::Newer, ggml::F32);
    let (other, _) = pairs::files(&scratch, &root().join("mobilevlm_v1_grid8"), Naming::Newer, ggml::F32);
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    let half = name(&mmproj);
    broken(&other, &["--mmproj", text(&mmproj)], &[&half, "tokens of 96 elements", &name(&other), "is 120"]);
    broken(&mmproj, &[], &[&half, "vision half", "--mmproj"]);
    broken(&mmproj, &["--mmproj", text(&mmproj)], &[&half, "language model first"]);
    broken(&language, &["--mmproj", text(&language)], &[&name(&language), "`llama`", "`clip`"]);
    broken(&language, &["--mmproj", "/no/such/file"], &["--mmproj /no/such/file"]);
    broken(&language, &["--mmproj", text(&picture())], &["image_0.png", "GGUF"]);
    broken(&language, &["--mmproj", text(&root().join(V1))], &[V1, "is not a file"]);
    broken(&root().join("mobilellm_gqa"), &["--mmproj", text(&mmproj)], &["--mmproj", "mobilellm_gqa"]);

    let (folder, tower) = copied(&scratch, V1);
    let both = ["--mmproj", text(&mmproj), "--vision-tower", text(&tower)];
    broken(&folder, &both, &["--mmproj", "--vision-tower"]);
    broken(&language, &both, &["--mmproj", "--vision-tower"]);
    let given = |model: &Path, tower: &Path, parts: &[&str]| {
        broken(model, &["--vision-tower", text(tower)], parts);
        fails(&["inspect", text(model), "--device", "cpu", "--vision-tower", text(tower)], parts);
    };
    given(&folder, Path::new("/no/such/tower"), &["--vision-tower /no/such/tower", "not a folder"]);
    given(&folder, &picture(), &["image_0.png", "not a folder", "CLIP folder"]);
    let empty = scratch.write("empty/readme", "").parent().expect("a folder").to_path_buf();
    given(&folder, &empty, &["empty", "no config.json", "CLIP folder"]);
    given(&folder, &root().join("mobilellm_gqa"), &["mobilellm_gqa", "`mobilellm`", "clip_vision_model"]);
    given(&root().join("mobilellm_gqa"), &tower, &["--vision-tower", "mobilellm_gqa", "MobileVLM"]);
    given(&language, &tower, &["--vision-tower", &name(&language), "MobileVLM"]);
    // A tower of another model: 40 features instead of 48.
    let small = root().join("mobilevlm_v1_grid8/openai/clip-vit-tiny-patch14-112");
    given(&folder, &small, &["48 features", "makes 40", "not of the same model"]);
}

#[test]
fn a_missing_tower_says_where_it_was_looked_for() {
    let scratch = Scratch::new();
    for case in [V1, V2] {
        let (folder, tower) = copied(&scratch, case);
        without_tensors(&folder, "model.vision_tower.");
        // With the folder the model is complete.
        stdout(&ask(&folder, &picture(), &[]));
        std::fs::remove_dir_all(&tower).expect("a folder");
        let parts = [case, "no vision tower", "its own weights", text(&tower), "--vision-tower"];
        broken(&folder, &[], &parts);
        // The model refuses text too, because half of it is missing.
        fails(&["run", text(&folder), "--prompt", "Hello", "--device", "cpu"], &parts);
        without_tensors(&folder, "model.mm_projector.");
        let elsewhere = root().join(tower.strip_prefix(scratch.path("")).expect("in the folder"));
        broken(&folder, &["--vision-tower", text(&elsewhere)], &["model.mm_projector.", "missing"]);
    }
}

/// Files that are cut anywhere, and a file of garbage.
#[test]
fn cut_vision_files_are_named() {
    let scratch = Scratch::new();
    let (language, mmproj) = pairs::files(&scratch, &root().join(V2), Naming::Legacy, ggml::F16);
    let whole = std::fs::read(&mmproj).expect("the file");
    let flag = ["--mmproj", text(&mmproj)];
    stdout(&ask(&language, &picture(), &flag));
    let name = mmproj.file_name().expect("a name").to_string_lossy();
    let steps = (0..whole.len()).step_by(whole.len() / 40);
    for length in [1, 3, 4, 8, 23, 24, 40, 500, 2000, whole.len() - 1].into_iter().chain(steps) {
        std::fs::write(&mmproj, &whole[..length]).expect("a file");
        broken(&language, &flag, &[&name]);
    }
    for (case, file) in [(V1, "model.safetensors"), ("mobilevlm_v1_grid8", "pytorch_model.bin")] {
        let (folder, tower) = copied(&scratch, case);
        for file in [file, "config.json", "preprocessor_config.json"].map(|file| tower.join(file)) {
            let whole = std::fs::read(&file).expect("a file");
            let name = file.file_name().expect("a name").to_string_lossy();
            // A JSON file without its last line break is complete.
            let last = whole.len() - 3;
            for length in [0, 1, 7, 8, 9, 100, whole.len() / 3, whole.len() / 2, last].map(|length| length.min(last)) {
                std::fs::write(&file, &whole[..length]).expect("a file");
                broken(&folder, &[], &[&name]);
            }
            let garbage: Vec<u8> = (0..whole.len()).map(|i| ((i * 2_654_435_761) >> 13) as u8).collect();
            std::fs::write(&file, garbage).expect("a file");
            broken(&folder, &[], &[&name]);
            std::fs::write(&file, whole).expect("a file");
        }
    }
}

/// The vision half's file with other bytes at offset `after` from the end of a key: 4 for a number or a flag, 12 for a
/// string or an array.
fn patched(vision: &Writer, key: &str, after: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = vision.finish();
    let at = file.windows(key.len()).position(|bytes| bytes == key.as_bytes()).expect(key) + key.len() + after;
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

#[test]
fn damaged_metadata_is_named() {
    let scratch = Scratch::new();
    let (language, _) = pairs::files(&scratch, &root().join(V1), Naming::Newer, ggml::F32);
    let (_, vision) = pairs::writers(&root().join(V1), Naming::Newer, ggml::F32);
    let number = |value: u32| value.to_le_bytes();
    let file = "vision.gguf";
    let cases: [(&str, usize, Vec<u8>, &[&str]); 14] = [
        ("clip.projector_type", 12, b"xyz".to_vec(), &[file, "`xyz`", "ldp", "ldpv2"]),
        ("clip.vision.image_size", 4, number(0).to_vec(), &[file, "image_size", "is 0"]),
        ("clip.vision.image_size", 4, number(u32::MAX).to_vec(), &[file, "image_size is 4294967295", "56"]),
        ("clip.vision.image_size", 4, number(57).to_vec(), &[file, "image_size is 57", "56"]),
        ("clip.vision.patch_size", 4, number(0).to_vec(), &[file, "patch_size", "is 0"]),
        ("clip.vision.patch_size", 4, number(1).to_vec(), &[file, "patch_size is 1", "14x14"]),
        ("clip.vision.embedding_length", 4, number(0).to_vec(), &[file, "embedding_length", "is 0"]),
        ("clip.vision.attention.head_count", 4, number(0).to_vec(), &[file, "head_count", "is 0"]),
        ("clip.vision.attention.head_count", 4, number(5).to_vec(), &[file, "5 heads", "48 features"]),
        ("clip.vision.attention.head_count", 4, number(u32::MAX).to_vec(), &[file, "4294967295 heads"]),
        ("clip.vision.block_count", 4, number(u32::MAX).to_vec(), &[file, "block_count", "no model has"]),
        ("clip.vision.attention.layer_norm_epsilon", 4, f32::NAN.to_le_bytes().to_vec(), &[file, "epsilon"]),
        ("clip.vision.image_std", 16, f32::INFINITY.to_le_bytes().to_vec(), &[file, "image_std"]),
        ("clip.vision.feature_layer", 16, (-2i32).to_le_bytes().to_vec(), &[file, "feature_layer", "-2"]),
    ];
    for (key, after, bytes, parts) in cases {
        let mmproj = scratch.write(file, patched(&vision, key, after, &bytes));
        broken(&language, &["--mmproj", text(&mmproj)], parts);
    }
    // More blocks than are stored. With the key for the selected hidden state 3 of them are used; without it, all run.
    let (_, legacy) = pairs::writers(&root().join(V1), Naming::Legacy, ggml::F32);
    let more = |vision: &Writer| scratch.write(file, patched(vision, "clip.vision.block_count", 4, &number(4)));
    stdout(&ask(&language, &picture(), &["--mmproj", text(&more(&vision))]));
    broken(&language, &["--mmproj", text(&more(&legacy))], &[file, "encoder.layers.3.", "missing"]);
}

/// Numbers in the three JSON files that no tower can have. The program does not allocate memory by them.
#[test]
fn impossible_numbers_are_named() {
    let scratch = Scratch::new();
    let (folder, tower) = copied(&scratch, V1);
    let config = folder.join("config.json");
    let whole = std::fs::read(&config).expect("a file");
    for layer in [-6, 5, i64::MIN, i64::MAX] {
        edit(&config, |json| json["mm_vision_select_layer"] = json!(layer));
        broken(&folder, &[], &["config.json", "mm_vision_select_layer", &layer.to_string(), "-5 to 4"]);
    }
    std::fs::write(&config, whole).expect("a file");

    let (config, colours) = (tower.join("config.json"), tower.join("preprocessor_config.json"));
    let (whole, whole_colours) = (std::fs::read(&config).expect("a file"), std::fs::read(&colours).expect("a file"));
    let huge = |json: &mut Value, size: u64| {
        json["vision_config"]["image_size"] = json!(size);
        json["vision_config"]["patch_size"] = json!(1);
    };
    for size in [1_000_000_000, 1 << 32, 1_000_000_000_000, u64::MAX] {
        edit(&config, |json| huge(json, size));
        broken(&folder, &[], &["preprocessor_config.json", "56x56", &size.to_string()]);
        // Both files agree with each other, but not with the weights.
        edit(&colours, |json| (json["size"], json["crop_size"]) = (json!(size), json!(size)));
        broken(&folder, &[], &["config.json", "patch_size is 1", "14x14"]);
        edit(&config, |json| json["vision_config"]["patch_size"] = json!(14));
        broken(&folder, &[], &["config.json", &format!("image_size is {size}"), "56"]);
        std::fs::write(&colours, &whole_colours).expect("a file");
    }
    std::fs::write(&config, whole).expect("a file");

    // Each number of each file is changed in turn: the result is an error that names the file, or an answer.
    let mut refused = 0;
    for file in [folder.join("config.json"), config, colours] {
        let whole: Value = serde_json::from_slice(&std::fs::read(&file).expect("a file")).expect("JSON");
        let mut keys = Vec::new();
        numbers(&whole, String::new(), &mut keys);
        assert!(keys.len() > 5, "{}: {keys:?}", file.display());
        for key in keys.iter().filter(|key| !key.starts_with("/text_config")) {
            for value in [json!(0), json!(-1), json!(1_000_000_000_000u64), json!("x"), Value::Null] {
                let mut changed = whole.clone();
                *changed.pointer_mut(key).expect("a key of the list") = value.clone();
                std::fs::write(&file, changed.to_string()).expect("a file");
                let output = run(&ask(&folder, &picture(), &[]));
                if !output.status.success() {
                    let what = format!("{} with {key} = {value}", file.display());
                    let sentence = fails_as(&output, &what, &[]);
                    let named = ["config.json", "tensor `", text(&folder), "context"];
                    assert!(named.iter().any(|part| sentence.contains(part)), "{what}: {sentence}");
                    refused += 1;
                }
            }
        }
        std::fs::write(&file, whole.to_string()).expect("a file");
    }
    assert!(refused > 50, "{refused} refusals");
    stdout(&ask(&folder, &picture(), &[]));
}

/// JSON pointers to all numbers.
fn numbers(json: &Value, at: String, found: &mut Vec<String>) {
    match json {
        Value::Number(_) => found.push(at),
        Value::Array(list) => list.iter().enumerate().for_each(|(i, value)| numbers(value, format!("{at}/{i}"), found)),
        Value::Object(map) => map.iter().for_each(|(key, value)| numbers(value, format!("{at}/{key}"), found)),
        _ => {}
    }
}

#[test]
fn chats_that_do_not_fit_the_conversation_style_are_named() {
    let scratch = Scratch::new();
    let model = root().join(V1);
    let turn = |role: &str| json!({"role": role, "content": "a"});
    for (chat, parts) in [
        (json!([turn("assistant")]), vec!["turn 1", "assistant"]),
        (json!([turn("user"), turn("user")]), vec!["turn 2", "assistant's"]),
        (json!([{"role": "user"}]), vec!["message 1", "`content`"]),
        (json!([turn("user"), 3]), vec!["message 2", "`role`"]),
        (json!({"messages": [turn("user"), turn("assistant")], "add_generation_prompt": true}), vec!["ends with"]),
    ] {
        let file = scratch.write("chat.json", chat.to_string());
        fails(&["tokenize", text(&model), "--chat", text(&file)], &parts);
    }
    let (folder, _) = copied(&scratch, V1);
    std::fs::write(folder.join("config.json"), "{").expect("a file");
    let file = scratch.write("chat.json", json!([turn("user")]).to_string());
    fails(&["tokenize", text(&folder), "--chat", text(&file)], &["config.json"]);
}
