//! Where the bytes of files come from: the disk; for the model `demo`, the program itself.

use std::path::Path;

use crate::error::{Error, Result};
use crate::tensor::Bytes;

/// Whether there is such a file.
pub fn is_file(path: &Path) -> bool {
    path.is_file() || embedded(path).is_some()
}

/// Whether there is such a folder.
pub fn is_dir(path: &Path) -> bool {
    path.is_dir() || is_embedded(path)
}

/// Maps a file. An empty file gives no bytes.
pub fn map(path: &Path) -> Result<Bytes> {
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

/// The bytes of an embedded file. What is on disk comes first.
fn embedded(path: &Path) -> Option<&'static [u8]> {
    let (_, bytes) = FILES.iter().find(|(name, _)| Path::new(DEMO).join(name) == path)?;
    (!Path::new(DEMO).exists()).then_some(*bytes)
}

/// Whether a path is the embedded model, or a folder of it.
fn is_embedded(path: &Path) -> bool {
    path.starts_with(DEMO)
        && FILES.iter().any(|(name, _)| Path::new(DEMO).join(name).ancestors().skip(1).any(|folder| folder == path))
        && !Path::new(DEMO).exists()
}

/// The name of the model that ships with the program.
const DEMO: &str = "demo";

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
        assert_eq!((is_dir(Path::new(DEMO)), FILES.is_empty()), (there, !there));
        assert_eq!(is_file(&Path::new(DEMO).join("config.json")), there);
        assert!(!is_file(Path::new("demo/nothing.json")) && !is_dir(Path::new("demo/nothing")));
        assert_eq!(map(&Path::new(DEMO).join("config.json")).is_ok(), there);
    }
}
