//! The sources of file contents: the disk, memory, or the embedded model `demo`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::tensor::Bytes;

/// The files of a model: a folder or a file on disk, or named bytes in memory.
///
/// A path on disk converts to `Files` automatically: `Model::load("MobileLLM-125M", &device)`.
#[derive(Clone, Debug)]
pub struct Files {
    /// The path that was opened, for error messages.
    path: PathBuf,
    /// The files in memory by name. `None` means that paths refer to the disk or to the embedded model.
    memory: Option<Arc<BTreeMap<PathBuf, Bytes>>>,
}

/// The name of the folder of files in memory, for error messages.
const IN_MEMORY: &str = "memory:model";

impl Files {
    /// Files in memory, for a browser or an app that keeps models in an archive: `("config.json", bytes)`, and so on.
    ///
    /// Names are relative to the model's folder. With a `config.json` the files are a Hugging Face folder; otherwise
    /// the first file that ends in `.gguf` is the model. Every other file that loading needs ([`LoadOptions::mmproj`],
    /// a vision tower) must also be in memory: nothing is read from disk.
    ///
    /// ```no_run
    /// # fn main() -> dunlin::Result<()> {
    /// # let (model, mmproj): (Vec<u8>, Vec<u8>) = unimplemented!();
    /// use dunlin::{Device, Files, LoadOptions, Model};
    ///
    /// let files = Files::memory([("mobilevlm.gguf", model), ("mmproj.gguf", mmproj)]);
    /// let model = Model::load_with(files, &Device::auto(), &LoadOptions::new().mmproj("mmproj.gguf"))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// [`LoadOptions::mmproj`]: crate::LoadOptions::mmproj
    pub fn memory<N, B>(files: impl IntoIterator<Item = (N, B)>) -> Self
    where
        N: Into<PathBuf>,
        B: AsRef<[u8]> + Send + Sync + 'static,
    {
        let files: Vec<_> = files.into_iter().map(|(name, bytes)| (name.into(), Bytes::new(bytes))).collect();
        let gguf = files.iter().map(|(name, _)| name).find(|name| name.extension().is_some_and(|end| end == "gguf"));
        let path = match gguf {
            Some(gguf) if !files.iter().any(|(name, _)| name == "config.json") => Path::new(IN_MEMORY).join(gguf),
            _ => PathBuf::from(IN_MEMORY),
        };
        Self { path, memory: Some(Arc::new(files.into_iter().collect())) }
    }

    /// The path that was opened, for error messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a file or folder exists at this path.
    pub(crate) fn exists(&self, path: &Path) -> bool {
        self.is_file(path) || self.is_dir(path) || self.memory.is_none() && path.exists()
    }

    /// Whether a file exists at this path.
    pub(crate) fn is_file(&self, path: &Path) -> bool {
        match &self.memory {
            Some(files) => files.contains_key(in_memory(path)),
            None => embedded(path).is_some() || path.is_file(),
        }
    }

    /// Whether a folder exists at this path.
    pub(crate) fn is_dir(&self, path: &Path) -> bool {
        match &self.memory {
            Some(files) => files.keys().any(|name| lies_in(name, in_memory(path))),
            None => is_embedded(path) || path.is_dir(),
        }
    }

    /// The content of a file. With the feature `mmap` a file on disk is mapped, otherwise it is read.
    pub(crate) fn read(&self, path: &Path) -> Result<Bytes> {
        match &self.memory {
            Some(files) => files
                .get(in_memory(path))
                .cloned()
                .ok_or_else(|| Error::checkpoint(format!("{} is not among the files in memory", path.display()))),
            None => embedded(path).map_or_else(|| on_disk(path), |bytes| Ok(Bytes::new(bytes))),
        }
    }
}

impl<P: AsRef<Path>> From<P> for Files {
    fn from(path: P) -> Self {
        Self { path: path.as_ref().to_path_buf(), memory: None }
    }
}

/// The name of a file in memory, without the folder: options and configurations give names without it.
fn in_memory(path: &Path) -> &Path {
    path.strip_prefix(IN_MEMORY).unwrap_or(path)
}

/// Whether a file's name begins with `folder`.
fn lies_in(name: &Path, folder: &Path) -> bool {
    name.ancestors().skip(1).any(|above| above == folder)
}

/// The content of a file on disk. An empty file gives no bytes.
fn on_disk(path: &Path) -> Result<Bytes> {
    let failed = |error: std::io::Error| Error::checkpoint(format!("{}: {error}", path.display())).caused_by(error);
    let file = std::fs::File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(Error::checkpoint(format!("{} is not a file", path.display())));
    }
    // An empty file cannot be mapped.
    if metadata.len() == 0 {
        return Ok(Bytes::new(Vec::new()));
    }
    content(file).map_err(failed)
}

#[cfg(feature = "mmap")]
fn content(file: std::fs::File) -> std::io::Result<Bytes> {
    // SAFETY: the usual contract of mapped files: no process truncates a model while it is in use.
    Ok(Bytes::mapped(unsafe { memmap2::Mmap::map(&file) }?))
}

#[cfg(not(feature = "mmap"))]
fn content(mut file: std::fs::File) -> std::io::Result<Bytes> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut file, &mut bytes)?;
    Ok(Bytes::new(bytes))
}

/// The bytes of an embedded file.
fn embedded(path: &Path) -> Option<&'static [u8]> {
    let inside = inside(path)?;
    FILES.iter().find(|(name, _)| Path::new(name) == inside).map(|(_, bytes)| *bytes)
}

/// Whether a path is the embedded model, or a folder inside it.
fn is_embedded(path: &Path) -> bool {
    inside(path).is_some_and(|folder| FILES.iter().any(|(name, _)| lies_in(Path::new(name), folder)))
}

/// The part of a path inside the embedded model. A model on disk with the same name takes precedence.
fn inside(path: &Path) -> Option<&Path> {
    let on_disk = || {
        let files = ["config.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"];
        files.iter().any(|file| Path::new("demo").join(file).is_file())
    };
    path.strip_prefix(EMBEDDED_DEMO).ok().or_else(|| path.strip_prefix("demo").ok().filter(|_| !on_disk()))
}

/// The embedded model `demo`, even if a folder on disk has the name `demo`.
pub const EMBEDDED_DEMO: &str = "embedded:demo";

/// The name and the content of a file.
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
            let files = Files::from(name);
            let inside = |file: &str| Path::new(name).join(file);
            assert_eq!(files.is_dir(files.path()), there);
            assert_eq!(files.is_file(&inside("config.json")), there);
            assert_eq!(files.read(&inside("config.json")).is_ok(), there);
            assert!(!files.is_file(&inside("nothing.json")) && !files.is_dir(&inside("nothing")));
        }
    }

    #[test]
    fn files_in_memory_are_a_folder_or_the_first_gguf() {
        let of = |names: &[&str]| Files::memory(names.iter().map(|&name| (name, name.as_bytes().to_vec())));
        let opened = |names: &[&str]| of(names).path().to_str().expect("our names").replace('\\', "/");
        assert_eq!(opened(&["b.gguf", "a.gguf"]), "memory:model/b.gguf");
        assert_eq!(opened(&["a.gguf", "config.json"]), "memory:model");
        assert_eq!(opened(&[]), "memory:model");

        let files = of(&["config.json", "openai/clip/config.json"]);
        for folder in ["memory:model", "memory:model/openai", "openai/clip"].map(Path::new) {
            assert!(files.is_dir(folder) && files.exists(folder) && !files.is_file(folder), "{}", folder.display());
        }
        let read = |path: &str| files.read(Path::new(path)).map(|bytes| bytes.to_vec());
        assert_eq!(read("memory:model/openai/clip/config.json").unwrap(), b"openai/clip/config.json");
        assert_eq!(read("config.json").unwrap(), b"config.json");
        // Neither the disk nor the embedded model can be reached.
        for elsewhere in ["Cargo.toml", "demo/config.json", "embedded:demo/config.json"].map(Path::new) {
            assert!(!files.exists(elsewhere) && files.read(elsewhere).is_err(), "{}", elsewhere.display());
        }
    }
}
