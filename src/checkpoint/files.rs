//! Where the bytes of files come from: the disk; for the model `demo`, the program itself.

use std::path::Path;

use crate::error::{Error, Result};
use crate::tensor::Bytes;

/// Whether there is such a file.
pub(crate) fn is_file(path: &Path) -> bool {
    embedded(path).is_some() || path.is_file()
}

/// Whether there is such a folder.
pub(crate) fn is_dir(path: &Path) -> bool {
    is_embedded(path) || path.is_dir()
}

/// Maps a file. An empty file gives no bytes.
pub(crate) fn map(path: &Path) -> Result<Bytes> {
    if let Some(bytes) = embedded(path) {
        return Ok(Bytes::new(bytes));
    }
    let failed = |error: std::io::Error| Error::checkpoint(format!("{}: {error}", path.display())).caused_by(error);
    let file = std::fs::File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(Error::checkpoint(format!("{} is not a file", path.display())));
    }
    if metadata.len() == 0 {
        return Ok(Bytes::new(Vec::new()));
    }
    // SAFETY: the usual contract of mapped files: nobody truncates a model while it is in use.
    let mapped = unsafe { memmap2::Mmap::map(&file) }.map_err(failed)?;
    Ok(Bytes::mapped(mapped))
}

/// The bytes of an embedded file.
fn embedded(path: &Path) -> Option<&'static [u8]> {
    let inside = inside(path)?;
    FILES.iter().find(|(name, _)| Path::new(name) == inside).map(|(_, bytes)| *bytes)
}

/// Whether a path is the embedded model, or a folder of it.
fn is_embedded(path: &Path) -> bool {
    inside(path).is_some_and(|folder| {
        FILES.iter().any(|(name, _)| Path::new(name).ancestors().skip(1).any(|above| above == folder))
    })
}

/// What a path names within the embedded model. A model on disk comes before it, and nothing else that is called so.
fn inside(path: &Path) -> Option<&Path> {
    let on_disk = || {
        let files = ["config.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"];
        files.iter().any(|file| Path::new("demo").join(file).is_file())
    };
    path.strip_prefix(EMBEDDED_DEMO).ok().or_else(|| path.strip_prefix("demo").ok().filter(|_| !on_disk()))
}

/// The model `demo` of the program, whatever is on disk.
pub const EMBEDDED_DEMO: &str = "embedded:demo";

/// A file with its name.
#[cfg(feature = "demo")]
macro_rules! embed {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../../examples/demo-model/", $name)))
    };
}

#[cfg(not(feature = "demo"))]
const FILES: &[(&str, &[u8])] = &[];

/// `examples/demo-model`.
#[cfg(feature = "demo")]
const FILES: &[(&str, &[u8])] = &[
    embed!("config.json"),
    embed!("generation_config.json"),
    embed!("model.safetensors"),
    embed!("special_tokens_map.json"),
    embed!("tokenizer.model"),
    embed!("tokenizer_config.json"),
    embed!("openai/clip-vit-demo-patch8-96/config.json"),
    embed!("openai/clip-vit-demo-patch8-96/preprocessor_config.json"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_is_there_with_its_feature_only() {
        let there = cfg!(feature = "demo");
        assert_eq!(FILES.is_empty(), !there);
        for name in ["demo", EMBEDDED_DEMO] {
            let inside = |file: &str| Path::new(name).join(file);
            assert_eq!(is_dir(Path::new(name)), there);
            assert_eq!(is_file(&inside("config.json")), there);
            assert_eq!(map(&inside("config.json")).is_ok(), there);
            assert!(!is_file(&inside("nothing.json")) && !is_dir(&inside("nothing")));
        }
    }
}
