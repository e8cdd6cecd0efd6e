//! Files on disk → named tensors. The only place that reads model files.
//!
//! Whatever the layout on disk, tensors are found under Hugging Face names (`model.layers.0.self_attn.q_proj.weight`)
//! with Hugging Face row order.

pub mod config;
mod config_json;
mod folder;
pub mod gguf;
mod gguf_model;
mod pickle;
pub mod quant;
pub mod quantize;
mod safetensors;
pub mod sentencepiece;
mod stored;
#[cfg(test)]
pub(crate) mod tests;
pub mod text;
mod torch;
pub mod vision;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use self::stored::Stored;
use crate::error::{Error, Result};
use crate::tensor::{Bytes, DType, RowOrder, Tensor};
pub use config::{Config, RopeConfig};
pub use gguf::{Gguf, Value};
pub use vision::VisionConfig;

/// A model as its files describe it: configuration, tensors, and where the tokenizer is.
#[derive(Debug)]
pub struct Checkpoint {
    pub config: Config,
    /// The folder or file that was opened; messages name it.
    pub path: PathBuf,
    source: Source,
    tensors: BTreeMap<String, Stored>,
    weights: Option<DType>,
}

/// For a path that is neither a folder nor a file: mostly nothing, but devices, pipes and sockets exist.
fn not_there(path: &Path) -> Error {
    let what = if path.exists() { "is neither a folder nor a file" } else { "does not exist" };
    Error::checkpoint(format!(
        "{} {what}; give a Hugging Face folder (config.json, weights, tokenizer) or a .gguf file",
        path.display(),
    ))
}

/// What was opened: everything that is not a tensor, such as the tokenizer, is read from here.
#[derive(Debug)]
pub enum Source {
    /// A Hugging Face folder.
    Folder(PathBuf),
    Gguf(Gguf),
}

/// A line of the list of tensors.
#[derive(Clone, Debug)]
pub struct TensorInfo<'a> {
    pub name: &'a str,
    pub shape: &'a [usize],
    /// The element type as the file names it.
    pub element: &'a str,
    /// Bytes in the file.
    pub bytes: usize,
}

impl Checkpoint {
    /// Opens a Hugging Face folder or a `.gguf` file. Weights are mapped, not read.
    pub fn open(path: &Path) -> Result<Self> {
        let (description, tensors, source) = if path.is_dir() {
            let (description, tensors) = folder::read(path)?;
            (description, tensors, Source::Folder(path.to_path_buf()))
        } else if path.is_file() {
            return Self::from_gguf(path, stored::map(path)?);
        } else {
            return Err(not_there(path));
        };
        Self::new(path, description, tensors, source)
    }

    /// Reads a GGUF file from memory. `path` is its name in messages.
    pub fn from_gguf(path: &Path, bytes: Bytes) -> Result<Self> {
        let (gguf, tensors) = Gguf::read(path, &bytes)?;
        let (description, tensors) = gguf.describe(tensors)?;
        let permuted = gguf.permuted();
        let mut checkpoint = Self::new(path, description, tensors, Source::Gguf(gguf))?;
        if permuted {
            let order = RowOrder::Interleaved { head_dim: checkpoint.config.head_dim };
            for (name, stored) in &mut checkpoint.tensors {
                if name.ends_with("q_proj.weight") || name.ends_with("k_proj.weight") {
                    stored.order = order;
                }
            }
        }
        Ok(checkpoint)
    }

    fn new(
        path: &Path,
        description: config::Description,
        tensors: Vec<(String, Stored)>,
        source: Source,
    ) -> Result<Self> {
        let mut tensors = canonical(path, tensors)?;
        let config = description.resolve(path, &tensors)?;
        if config.tied {
            // Some files hold a head that the model never uses.
            tensors.remove(config::HEAD);
        }
        config::check_names(&config, path, &tensors)?;
        Ok(Self { config, path: path.to_path_buf(), source, tensors, weights: None })
    }

    /// Where the tokenizer is.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// From now on [`Checkpoint::take`] quantises matrices of floats to `weights`: f16, q8_0 or q4_0. Quantised matrices
    /// stay as they are, and rows whose length blocks of 32 do not divide become f16.
    pub fn convert(&mut self, weights: DType) -> Result<()> {
        match weights {
            DType::F16 | DType::Q8_0 | DType::Q4_0 => self.weights = Some(weights),
            other => {
                return Err(Error::unsupported(format!(
                    "weights cannot be converted to {other}, only to f16, q8_0 or q4_0"
                )));
            }
        }
        Ok(())
    }

    /// The tensor called `name`, checked to have `shape`. Vectors (norms) come as f32 whatever the file holds.
    ///
    /// Mapped where the file's layout is the one that runs. [`Bytes::release`] gives its pages back after an upload.
    pub fn take(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let stored = self.tensors.get(name).ok_or_else(|| config::missing(&self.path, name))?;
        if stored.shape != shape {
            return Err(Error::checkpoint(format!(
                "{}: tensor `{name}` has shape {:?}, expected {shape:?}; the configuration may be of another model",
                stored.file.display(),
                stored.shape,
            )));
        }
        stored.load(name, self.weights)
    }

    /// The element type that [`Checkpoint::take`] gives, where there is such a tensor.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        self.tensors.get(name)?.dtype(self.weights)
    }

    /// Every tensor that the model uses, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = TensorInfo<'_>> {
        self.tensors.iter().map(|(name, stored)| TensorInfo {
            name,
            shape: &stored.shape,
            element: stored.element.name(),
            bytes: stored.bytes.len(),
        })
    }

    /// How many numbers the model has. A shared matrix counts once.
    pub fn parameters(&self) -> usize {
        self.tensors.values().map(|stored| stored.shape.iter().product::<usize>()).sum()
    }
}

/// Brings names to `model.layers.N.mlp.…`, and drops what models never read.
fn canonical(path: &Path, tensors: Vec<(String, Stored)>) -> Result<BTreeMap<String, Stored>> {
    let mut named = BTreeMap::new();
    for (name, stored) in tensors {
        // Buffers that older versions of the Python library wrote out.
        if name.ends_with("rotary_emb.inv_freq") || name.ends_with("position_ids") {
            continue;
        }
        let bare = name.strip_prefix("module.").unwrap_or(&name);
        let bare = bare.strip_prefix("model.").unwrap_or(bare).replace(".feed_forward.", ".mlp.");
        let canonical = if bare.starts_with("lm_head.") { bare } else { format!("model.{bare}") };
        if named.insert(canonical.clone(), stored).is_some() {
            return Err(Error::checkpoint(format!("{}: tensor `{canonical}` occurs twice", path.display())));
        }
    }
    Ok(named)
}
