//! Golden MobileVLM folders as llama.cpp's pairs of files, with the tokenizer.

use std::path::{Path, PathBuf};

use dunlin::checkpoint::Checkpoint;

use super::gguf::{self, Naming, Writer};
use super::scratch::Scratch;
use super::vocabulary::with_sentencepiece;

/// The language model and the vision half of a folder; matrices are of the type `matrices` (F32 or F16).
pub fn files(scratch: &Scratch, folder: &Path, naming: Naming, matrices: u32) -> (PathBuf, PathBuf) {
    let (language, vision) = writers(folder, naming, matrices);
    let name = format!("{}_{naming:?}_{matrices}", folder.file_name().expect("a name").to_string_lossy());
    let language = with_sentencepiece(language, folder, 0).finish();
    (scratch.write(&format!("{name}.gguf"), language), scratch.write(&format!("{name}_mmproj.gguf"), vision.finish()))
}

/// The writers of the two files, without the tokenizer.
pub fn writers(folder: &Path, naming: Naming, matrices: u32) -> (Writer, Writer) {
    if folder.join("model.safetensors").exists() {
        // These tensors are read without the code under test.
        return gguf::mobilevlm(folder, naming, matrices);
    }
    let checkpoint = Checkpoint::open(folder).expect("a golden folder");
    let tensors = checkpoint.tensors().map(|info| {
        let tensor = checkpoint.take(info.name, info.shape).expect("a tensor of the list");
        (info.name.to_string(), info.shape.to_vec(), tensor.to_f32())
    });
    gguf::mobilevlm_of(folder, tensors.collect(), naming, matrices)
}
