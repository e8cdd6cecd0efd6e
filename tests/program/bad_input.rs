//! Broken files and arguments give exit code 1 and one sentence that names the file or the tensor. The program never
//! panics, however a file is cut or garbled.

use std::path::Path;

use crate::support::gguf;
use crate::support::golden::root;
use crate::support::program::{fails, run, stdout};
use crate::support::scratch::Scratch;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

/// The error message for a model that cannot be run.
fn broken(model: &Path, parts: &[&str]) -> String {
    fails(&["run", model.to_str().expect("UTF-8"), "--tokens", "1,2", "--device", "cpu"], parts)
}

/// A copy of a golden folder with another `config.json`.
fn with_config(case: &str, change: impl FnOnce(&mut Value)) -> (Scratch, std::path::PathBuf) {
    let scratch = Scratch::new();
    let folder = scratch.copy(&root().join(case));
    let file = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).expect("config")).expect("config");
    change(&mut config);
    std::fs::write(&file, config.to_string()).expect("config");
    (scratch, folder)
}

/// A copy of a golden folder, after `change` has changed the weights: name, shape and bytes of each tensor.
fn with_tensors(change: impl Fn(&mut Vec<(String, Vec<usize>, Vec<u8>)>)) -> (Scratch, std::path::PathBuf) {
    let scratch = Scratch::new();
    let folder = scratch.copy(&root().join("mobilellm_gqa"));
    let file = folder.join("model.safetensors");
    let content = std::fs::read(&file).expect("weights");
    let tensors = SafeTensors::deserialize(&content).expect("weights");
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> =
        tensors.tensors().into_iter().map(|(name, view)| (name, view.shape().to_vec(), view.data().to_vec())).collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (name.as_str(), TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).expect("a tensor"))
    });
    std::fs::write(&file, safetensors::serialize(views, None).expect("a file")).expect("weights");
    (scratch, folder)
}

#[test]
fn a_missing_model_is_named() {
    for command in [
        vec!["run", "/no/such/model", "--tokens", "1"],
        vec!["score", "/no/such/model", "--tokens", "1,2"],
        vec!["trace", "/no/such/model", "--tokens", "1", "--out", "never-written.safetensors"],
        vec!["tokenize", "/no/such/model", "hi"],
        vec!["inspect", "/no/such/model"],
    ] {
        fails(&command, &["/no/such/model"]);
    }
    let scratch = Scratch::new();
    broken(scratch.write("empty/readme", "").parent().expect("a folder"), &["empty", "config.json"]);
    for missing in ["config.json", "model.safetensors"] {
        let folder = scratch.copy(&root().join("mobilellm_gqa"));
        std::fs::remove_file(folder.join(missing)).expect(missing);
        broken(&folder, &["mobilellm_gqa", missing]);
    }
    let folder = scratch.copy(&root().join("llama_untied_sharded"));
    std::fs::remove_file(folder.join("model-00003-of-00004.safetensors")).expect("a shard");
    broken(&folder, &["model-00003-of-00004.safetensors", "missing"]);
}

#[test]
fn an_unknown_architecture_lists_the_known() {
    let known = ["mobilellm", "llama", "llama4_text"];
    let (_scratch, folder) = with_config("mobilellm_gqa", |config| config["model_type"] = json!("mamba"));
    broken(&folder, &[&["mamba", "config.json"][..], &known].concat());
    let (_scratch, folder) = with_config("mobilellm_gqa", |config| drop(config["model_type"].take()));
    broken(&folder, &known);
    let scratch = Scratch::new();
    let file = gguf::Writer::new("mamba").u32("mamba.block_count", 2).finish();
    broken(&scratch.write("mamba.gguf", file), &["mamba.gguf", "`mamba`", "llama", "llama4"]);
}

#[test]
fn a_wrong_shape_names_its_tensor() {
    let q = "model.layers.1.self_attn.q_proj.weight";
    let (_scratch, folder) = with_tensors(|tensors| {
        for (name, shape, bytes) in tensors {
            if name == q {
                shape[0] -= 1;
                bytes.truncate(4 * shape[0] * shape[1]);
            }
        }
    });
    broken(&folder, &[q, "143 rows"]);
    let (_scratch, folder) = with_tensors(|tensors| tensors.retain(|(name, _, _)| name != q));
    broken(&folder, &[q, "missing"]);
    let (_scratch, folder) =
        with_tensors(|tensors| tensors.push(("model.layers.1.moe.gate.weight".into(), vec![1], vec![0; 4])));
    broken(&folder, &["model.layers.1.moe.gate.weight"]);
    let (_scratch, folder) = with_config("mobilellm_gqa", |config| config["hidden_size"] = json!(145));
    broken(&folder, &["model."]);
    let (_scratch, folder) = with_config("mobilellm_gqa", |config| config["num_hidden_layers"] = json!(4));
    broken(&folder, &["model.layers.3"]);
}

/// Files that are cut anywhere, and a file of garbage: the error is one sentence that names the file, and no panic.
#[test]
fn cut_files_are_named() {
    let scratch = Scratch::new();
    for (case, file) in [
        ("mobilellm_gqa", "model.safetensors"),
        ("mobilellm_fp16_bin", "pytorch_model.bin"),
        ("llama_untied_sharded", "model-00002-of-00004.safetensors"),
        ("mobilellm_gqa", "config.json"),
        ("mobilellm_gqa", "tokenizer.model"),
        ("llama_untied_sharded", "model.safetensors.index.json"),
    ] {
        let folder = scratch.copy(&root().join(case));
        let whole = std::fs::read(folder.join(file)).expect(file);
        // A JSON file without its last line break is complete.
        for length in [0, 1, 7, 8, 9, 100, whole.len() / 2, whole.len() - 3] {
            std::fs::write(folder.join(file), &whole[..length.min(whole.len() - 3)]).expect(file);
            println!("{case}/{file} cut to {length} bytes");
            broken(&folder, &[file]);
        }
        let garbage: Vec<u8> = (0..whole.len()).map(|i| ((i * 2_654_435_761) >> 13) as u8).collect();
        std::fs::write(folder.join(file), garbage).expect(file);
        broken(&folder, &[file]);
        std::fs::write(folder.join(file), whole).expect(file);
    }
}

#[test]
fn a_cut_gguf_is_named() {
    let scratch = Scratch::new();
    let whole = gguf::from_folder(&root().join("mobilellm_gqa"), |_, kind, bytes| (kind, bytes.to_vec())).finish();
    let good = scratch.write("good.gguf", &whole);
    let output = run(&["run", good.to_str().unwrap(), "--tokens", "1,2", "--device", "cpu", "--max-tokens", "1"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for length in [0, 3, 4, 8, 23, 24, 40, 500, 2000, whole.len() / 2, whole.len() - 1] {
        broken(&scratch.write("cut.gguf", &whole[..length]), &["cut.gguf"]);
    }
    let edit = |at: usize, bytes: &[u8]| {
        let mut file = whole.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        scratch.write("edited.gguf", file)
    };
    broken(&edit(0, b"GGML"), &["edited.gguf"]);
    broken(&edit(4, &1u32.to_le_bytes()), &["edited.gguf", "version", "1"]);
    broken(&edit(8, &u64::MAX.to_le_bytes()), &["edited.gguf"]);
    broken(&edit(16, &u64::MAX.to_le_bytes()), &["edited.gguf"]);
    broken(&edit(24, &u64::MAX.to_le_bytes()), &["edited.gguf"]);
}

/// Weights that are NaN load, and the first token gives an error.
#[test]
fn weights_that_are_no_numbers_give_a_sentence_and_no_text() {
    let (_scratch, folder) = with_tensors(|tensors| {
        for (name, _, bytes) in tensors {
            if name == "model.layers.1.mlp.down_proj.weight" {
                bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
            }
        }
    });
    broken(&folder, &["damaged", "no token"]);
    let folder = folder.to_str().expect("UTF-8");
    fails(&["score", folder, "--tokens", "1,2,3", "--device", "cpu", "--json"], &["not numbers"]);
}

#[test]
fn ids_that_are_none_are_named() {
    let model = root().join("mobilellm_gqa");
    let model = model.to_str().expect("UTF-8");
    for (ids, parts) in [
        ("nan", vec!["--tokens", "`nan`"]),
        ("1,NaN,2", vec!["`NaN`"]),
        ("1,two", vec!["`two`"]),
        ("-1", vec!["`-1`"]),
        ("1.0", vec!["`1.0`"]),
        ("4294967296", vec!["`4294967296`"]),
        ("512", vec!["512", "512 ids"]),
        ("1,4294967295", vec!["4294967295"]),
        ("", vec!["at least one token"]),
    ] {
        fails(&["run", model, "--tokens", ids, "--device", "cpu"], &parts);
        let trace = ["trace", model, "--tokens", ids, "--device", "cpu", "--out", "never-written.safetensors"];
        fails(&trace, &parts);
        if !ids.is_empty() && !["512"].contains(&ids) {
            fails(&["score", model, "--tokens", ids, "--device", "cpu"], &parts);
        }
    }
    fails(&["score", model, "--tokens", "1,512", "--device", "cpu"], &["512"]);
    let long = ["7"; 2049].join(",");
    fails(&["run", model, "--tokens", &long, "--device", "cpu"], &["2049 tokens", "2048"]);
    fails(
        &["trace", model, "--tokens", &long, "--device", "cpu", "--out", "never-written.safetensors"],
        &["2049 tokens", "2048"],
    );
    assert!(!Path::new("never-written.safetensors").exists());
}

#[test]
fn files_that_cannot_be_read_or_written_are_named() {
    let model = root().join("mobilellm_gqa");
    let model = model.to_str().expect("UTF-8");
    fails(&["trace", model, "--tokens", "1", "--device", "cpu", "--out", "/no/such/folder/t"], &["/no/such/folder/t"]);
    fails(&["score", model, "--text", "/no/such/text", "--device", "cpu"], &["/no/such/text"]);
    fails(&["tokenize", model, "--chat", "/no/such/chat"], &["/no/such/chat"]);
    let scratch = Scratch::new();
    let latin = scratch.write("latin.txt", b"caf\xe9");
    fails(&["score", model, "--text", latin.to_str().unwrap(), "--device", "cpu"], &["latin.txt", "UTF-8"]);
}

#[test]
fn a_context_beyond_dynamic_rope_is_refused() {
    let dynamic = |config: &mut Value| config["rope_scaling"] = json!({"type": "dynamic", "factor": 2.0});
    let (_scratch, folder) = with_config("mobilellm_gqa", dynamic);
    let model = folder.to_str().expect("UTF-8");
    let run = |context| ["run", model, "--tokens", "1,2", "--device", "cpu", "--context", context];
    fails(&run("2049"), &["mobilellm_gqa", "2049", "max_position_embeddings, 2048", "dynamic", "--context"]);
    stdout(&run("2048"));
}

#[test]
fn options_out_of_range_are_named() {
    let model = root().join("mobilellm_gqa");
    let model = model.to_str().expect("UTF-8");
    for (flag, value, part) in [
        ("--temperature", "-1", "temperature"),
        ("--temperature", "inf", "temperature"),
        ("--top-p", "0", "top-p"),
        ("--top-p", "1.5", "top-p"),
        ("--min-p", "-0.1", "min-p"),
        ("--min-p", "2", "min-p"),
        ("--repeat-penalty", "0", "repeat penalty"),
        ("--context", "0", "--context"),
    ] {
        let value = format!("{flag}={value}");
        fails(&["run", model, "--tokens", "1", "--device", "cpu", &value], &[part]);
    }
    fails(&["run", model, "--tokens", "1", "--device", " "], &["device"]);
}

#[test]
fn a_context_past_all_memory_is_named() {
    let model = root().join("mobilellm_gqa");
    let model = model.to_str().expect("UTF-8");
    for context in ["100000000", "999999999999"] {
        fails(&["run", model, "--tokens", "1", "--device", "cpu", "--context", context], &[context, "--context"]);
        fails(&["inspect", model, "--context", context], &[context, "--context"]);
    }
    let config = |positions: u64| {
        with_config("mobilellm_gqa", |config| config["max_position_embeddings"] = serde_json::json!(positions))
    };
    let (_scratch, folder) = config(10_000_000_000);
    fails(&["run", folder.to_str().unwrap(), "--tokens", "1", "--device", "cpu"], &["10000000000"]);
}

#[test]
fn numbers_below_zero_reach_their_own_message() {
    let model = root().join("mobilellm_gqa");
    let model = model.to_str().expect("UTF-8");
    for (flag, part) in [("--temperature", "temperature"), ("--min-p", "min-p"), ("--repeat-penalty", "repeat penalty")]
    {
        fails(&["run", model, "--tokens", "1", "--device", "cpu", flag, "-1"], &[part]);
    }
}
