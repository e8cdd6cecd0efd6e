//! What `benches/gpu.sh` needs beside the program, on a machine without Rust:
//!
//! gpu_suite models CHECKOUT FOLDER [LAYERS]    random models: smollm2.gguf, mobilevlm.gguf and mmproj.gguf
//! gpu_suite golden CHECKOUT DEVICE             golden models, text and pictures: the ids of PyTorch in f32, or exit code 1
//!
//! With LAYERS, the models have at most so many layers and blocks, of the same widths.

#[path = "../../tests/full_size/random_gguf.rs"]
mod random_gguf;
#[allow(dead_code, reason = "the tests use more of it")]
mod support;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use dunlin::{Device, LoadOptions, Model, Piece, Precision, Prompt, Sampler};
use random_gguf::{BLOCKS, MOBILELLAMA, Shape};
use serde_json::Value;

/// SmolLM2-135M, which differs from MobileLLM-125M by its vocabulary alone.
const SMOLLM2: Shape =
    Shape { hidden: 576, layers: 30, heads: 9, kv_heads: 3, ffn: 1536, vocab: 49152, context: 8192, tied: true };

type Done<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["models", checkout, folder] => models(Path::new(checkout), Path::new(folder), usize::MAX),
        ["models", checkout, folder, layers] => match layers.parse() {
            Ok(layers) => models(Path::new(checkout), Path::new(folder), layers),
            Err(_) => Err(format!("`{layers}` is no number of layers").into()),
        },
        ["golden", checkout, device] => golden(Path::new(checkout), device),
        _ => {
            eprintln!("usage: gpu_suite models CHECKOUT FOLDER [LAYERS] | gpu_suite golden CHECKOUT DEVICE");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn models(checkout: &Path, folder: &Path, layers: usize) -> Done {
    let tokenizer = checkout.join("tests/golden/mobilevlm_v2_grid24");
    if !tokenizer.join("tokenizer.model").exists() {
        return Err(format!("{} has no tokenizer.model: name a checkout", tokenizer.display()).into());
    }
    std::fs::create_dir_all(folder)?;
    for (name, shape) in [("smollm2.gguf", SMOLLM2), ("mobilevlm.gguf", MOBILELLAMA)] {
        let shape = Shape { layers: shape.layers.min(layers), ..shape };
        let bytes = random_gguf::language(&folder.join(name), &shape, &tokenizer);
        println!("{name}: {} layers, {bytes} bytes of weights", shape.layers);
    }
    let blocks = BLOCKS.min(layers);
    println!(
        "mmproj.gguf: {blocks} blocks, {} bytes of weights",
        random_gguf::mmproj(&folder.join("mmproj.gguf"), blocks)
    );
    Ok(())
}

/// Runs every golden prompt that stands alone, and compares the ids.
fn golden(checkout: &Path, device: &str) -> Done {
    let device = Device::parse(device)?;
    let mut folders: Vec<PathBuf> = std::fs::read_dir(checkout.join("tests/golden"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()?;
    folders.sort();
    let (mut count, mut wrong) = (0, 0);
    for folder in folders {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Ok(text) = std::fs::read_to_string(folder.join("expected.json")) else { continue };
        let expected: Value = serde_json::from_str(&text)?;
        let Some(prompts) = expected["prompts"].as_object() else { continue };
        let model = Model::load_with(&folder, &device, &LoadOptions::new().precision(Precision::F32))?;
        // Other prompts belong to conversations or stop early: tests hold them.
        let alone: Vec<_> = prompts.iter().filter(|(prompt, _)| prompt.starts_with('p')).collect();
        for (prompt, expected) in &alone {
            let (found, wanted) = (answer(&model, &folder, expected)?, ids(&expected["greedy_ids"])?);
            count += 1;
            if found != wanted {
                wrong += 1;
                println!("wrong: {name} {prompt}: {found:?}, not {wanted:?}");
            }
        }
        println!("{name}: {} on {}:{}", alone.len(), model.backend(), model.device());
    }
    if count == 0 {
        return Err(format!("{} has no golden models", checkout.display()).into());
    }
    println!("{} of {count} golden answers are right", count - wrong);
    if wrong > 0 { Err(format!("{wrong} of {count} golden answers are wrong").into()) } else { Ok(()) }
}

/// The ids that a model chooses after a prompt, as many as are expected.
fn answer(model: &Model, folder: &Path, expected: &Value) -> Done<Vec<u32>> {
    let images = expected["images"].as_array().map_or(&[][..], Vec::as_slice);
    let mut prompt = match (expected["question"].as_str(), images) {
        (Some(question), [_, ..]) => Prompt::user(question),
        _ => Prompt::tokens(ids(&expected["input_ids"])?),
    };
    for image in images {
        prompt = prompt.image(folder.join(image.as_str().ok_or("an image has a name")?));
    }
    let count = ids(&expected["greedy_ids"])?.len();
    let pieces =
        model.generate(prompt, &Sampler::greedy())?.max_tokens(count).collect::<dunlin::Result<Vec<Piece>>>()?;
    Ok(pieces.into_iter().map(|piece| piece.id).collect())
}

fn ids(list: &Value) -> Done<Vec<u32>> {
    let list = list.as_array().ok_or("no list of ids")?;
    list.iter().map(|id| Ok(u32::try_from(id.as_u64().ok_or("no id")?)?)).collect()
}
