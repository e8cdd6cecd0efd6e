//! Models whose files are in memory: they give the results of those on disk, and errors name the broken file.

use std::path::{Path, PathBuf};

use dunlin::{Device, Files, LoadOptions, Model, Prompt, Sampler, Tokenizer};

use crate::support::gguf::{Naming, ggml};
use crate::support::golden::Golden;
use crate::support::pairs;
use crate::support::scratch::Scratch;

/// A prompt's greedy continuation. Pictures are files on disk in either case.
fn reply(model: &Model, prompt: Prompt) -> Vec<u32> {
    let generation = model.generate(prompt, &Sampler::greedy()).expect("a generation").max_tokens(8);
    generation.map(|piece| piece.expect("a piece").id).collect()
}

/// Every file under a folder, with its name relative to the folder.
fn in_memory(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = PathBuf::from(path.file_name().expect("a name"));
        if path.is_dir() {
            found.extend(in_memory(&path).into_iter().map(|(inner, bytes)| (name.join(inner), bytes)));
        } else {
            found.push((name, std::fs::read(&path).expect("a file")));
        }
    }
    found
}

fn load(files: impl Into<Files>) -> Model {
    Model::load(files, &Device::cpu()).expect("a model")
}

#[test]
fn a_folder_in_memory_says_what_it_says_on_disk() {
    for name in ["mobilellm_gqa", "mobilellm_fp16_bin", "llama_untied_sharded"] {
        let golden = Golden::open(name);
        let model = load(Files::memory(in_memory(&golden.folder)));
        let prompt = || Prompt::tokens(golden.ids("p0.input_ids"));
        let said = reply(&model, prompt());
        assert_eq!(said, reply(&load(&golden.folder), prompt()), "{name}");
        assert!(golden.ids("p0.greedy_ids").starts_with(&said) && said.len() == 8, "{name}: {said:?}");

        let ids = |tokenizer: &Tokenizer| tokenizer.encode("The quick brown fox").expect("ids");
        let tokenizer = Tokenizer::load(Files::memory(in_memory(&golden.folder))).expect("a tokenizer");
        assert_eq!(ids(&tokenizer), ids(load(&golden.folder).tokenizer().expect("a tokenizer")), "{name}");
    }
}

#[test]
fn a_vision_tower_in_memory_is_found_beside_its_model() {
    let golden = Golden::open("mobilevlm_v1_grid4");
    let prompt = || Prompt::user("What is it?").image(golden.folder.join("image_0.png"));
    let on_disk = reply(&load(&golden.folder), prompt());
    assert_eq!(reply(&load(Files::memory(in_memory(&golden.folder))), prompt()), on_disk);

    // A configuration that names a folder on disk works for models on disk, but not for models in memory.
    let (scratch, tower) = (Scratch::new(), "openai/clip-vit-tiny-patch14-56");
    let folder = scratch.copy(&golden.folder);
    let config = std::fs::read_to_string(folder.join("config.json")).expect("a configuration");
    let outside = serde_json::json!(golden.folder.join(tower)).to_string();
    std::fs::write(folder.join("config.json"), config.replace(&format!("\"{tower}\""), &outside)).expect("written");
    assert_eq!(reply(&load(&folder), prompt()), on_disk);
    let error = Model::load(Files::memory(in_memory(&folder)), &Device::cpu()).expect_err("no tower").to_string();
    assert!(error.contains("memory:model") && error.contains("--vision-tower"), "{error}");
}

#[test]
fn a_pair_of_gguf_files_in_memory_is_a_pair_on_disk() {
    let (golden, scratch) = (Golden::open("mobilevlm_v1_grid4"), Scratch::new());
    let (language, vision) = pairs::files(&scratch, &golden.folder, Naming::Legacy, ggml::F32);
    let prompt = || Prompt::user("What is it?").image(golden.folder.join("image_0.png"));
    let with = |files: Files, mmproj: &Path| {
        let model = Model::load_with(files, &Device::cpu(), &LoadOptions::new().mmproj(mmproj)).expect("a pair");
        reply(&model, prompt())
    };
    let bytes = |path: &Path| std::fs::read(path).expect("a file");
    let files = Files::memory([("language.gguf", bytes(&language)), ("vision.gguf", bytes(&vision))]);
    assert_eq!(with(files, Path::new("vision.gguf")), with(language.into(), &vision));
}

#[test]
fn a_broken_file_in_memory_is_named() {
    let golden = Golden::open("mobilellm_gqa");
    let broken = |name: &str, edit: &dyn Fn(&mut Vec<u8>)| {
        let mut files = in_memory(&golden.folder);
        edit(&mut files.iter_mut().find(|(file, _)| file == Path::new(name)).expect("such a file").1);
        Model::load(Files::memory(files), &Device::cpu()).expect_err("a broken file").to_string()
    };
    for name in ["model.safetensors", "config.json", "tokenizer.model"] {
        let error = broken(name, &|bytes| bytes.truncate(bytes.len() / 2));
        assert!(error.contains("memory:model") && error.contains(name), "{name}: {error}");
    }
    let error = broken("model.safetensors", &|bytes| bytes.clear());
    assert!(error.contains("model.safetensors") && error.contains("truncated"), "{error}");

    let no_files: [(&str, Vec<u8>); 0] = [];
    let error = Model::load(Files::memory(no_files), &Device::cpu()).expect_err("nothing").to_string();
    assert!(error.contains("memory:model does not exist"), "{error}");
    let unread = Files::memory([("README.md", vec![0])]);
    let error = Model::load(unread, &Device::cpu()).expect_err("no model").to_string();
    assert!(error.contains("memory:model has no config.json"), "{error}");
}
