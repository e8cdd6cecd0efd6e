//! Golden MobileVLM folders as llama.cpp's pairs of files, the tokenizer among them.

#![allow(dead_code, reason = "each test that includes this file uses a part of it")]

use std::path::{Path, PathBuf};

use dunlin::checkpoint::Checkpoint;
use dunlin::checkpoint::sentencepiece::{self, PieceKind};

use crate::gguf::{self, Naming, Writer};
use crate::scratch::Scratch;

/// The language model and the vision half of a folder; matrices are of the type `matrices` (F32 or F16).
pub fn files(scratch: &Scratch, folder: &Path, naming: Naming, matrices: u32) -> (PathBuf, PathBuf) {
    let (language, vision) = writers(folder, naming, matrices);
    let name = format!("{}_{naming:?}_{matrices}", folder.file_name().expect("a name").to_string_lossy());
    let language = with_sentencepiece(language, folder).finish();
    (scratch.write(&format!("{name}.gguf"), language), scratch.write(&format!("{name}_mmproj.gguf"), vision.finish()))
}

/// The two files in the making, without the tokenizer.
pub fn writers(folder: &Path, naming: Naming, matrices: u32) -> (Writer, Writer) {
    if folder.join("model.safetensors").exists() {
        // Read past the code under test.
        return gguf::mobilevlm(folder, naming, matrices);
    }
    let checkpoint = Checkpoint::open(folder).expect("a golden folder");
    let tensors = checkpoint.tensors().map(|info| {
        let tensor = checkpoint.take(info.name, info.shape).expect("a tensor of the list");
        (info.name.to_string(), info.shape.to_vec(), tensor.to_f32())
    });
    gguf::mobilevlm_of(folder, tensors.collect(), naming, matrices)
}

/// The tokenizer of a folder's `tokenizer.model`.
pub fn with_sentencepiece(writer: Writer, folder: &Path) -> Writer {
    let file = folder.join("tokenizer.model");
    let model = sentencepiece::read("tokenizer.model", &std::fs::read(file).expect("a file")).expect("a model");
    let kinds: Vec<i32> = model
        .pieces
        .iter()
        .map(|piece| match piece.kind {
            PieceKind::Normal => 1,
            PieceKind::Unknown => 2,
            PieceKind::Control => 3,
            PieceKind::UserDefined => 4,
            PieceKind::Unused => 5,
            PieceKind::Byte => 6,
        })
        .collect();
    let tokens: Vec<&str> = model.pieces.iter().map(|piece| piece.text.as_str()).collect();
    let scores: Vec<f32> = model.pieces.iter().map(|piece| piece.score).collect();
    writer
        .string("tokenizer.ggml.model", "llama")
        .string("tokenizer.ggml.pre", "default")
        .strings("tokenizer.ggml.tokens", &tokens)
        .f32s("tokenizer.ggml.scores", &scores)
        .i32s("tokenizer.ggml.token_type", &kinds)
        .u32("tokenizer.ggml.unknown_token_id", model.unk)
        .bool("tokenizer.ggml.add_bos_token", true)
        .bool("tokenizer.ggml.add_eos_token", false)
        .bool("tokenizer.ggml.add_space_prefix", model.add_dummy_prefix)
}
