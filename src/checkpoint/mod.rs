//! Files on disk → named tensors. Only this module reads model files.
//!
//! Whatever the layout on disk, tensors are found under Hugging Face names (`model.layers.0.self_attn.q_proj.weight`)
//! with Hugging Face row order.

pub mod beyond;
mod clip_json;
pub mod config;
mod config_json;
mod cut;
pub mod files;
mod folder;
pub mod gguf;
mod gguf_model;
mod json;
mod mmproj;
mod pickle;
mod quantize;
mod qwen;
mod qwen_json;
mod safetensors;
mod save;
pub mod sentencepiece;
mod stored;
#[cfg(test)]
pub(crate) mod tests;
pub mod text;
pub mod tiktoken;
mod torch;
pub mod vision;
mod vision_folder;
mod vision_tensors;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use self::stored::Stored;
use crate::error::{Error, Result};
use crate::tensor::{Bytes, DType, RowOrder, Tensor};
pub use config::{Config, QkNorm, RopeConfig};
pub use cut::Kept;
pub use files::Files;
pub use gguf::{Gguf, Value};
pub use vision::{VisionConfig, VisionFiles};

/// A model as its files describe it: configuration, tensors, and the source of the tokenizer.
#[derive(Debug)]
pub struct Checkpoint {
    pub config: Config,
    /// The folder or file that was opened, for error messages.
    pub path: PathBuf,
    source: Source,
    tensors: BTreeMap<String, Stored>,
    weights: Option<DType>,
}

/// Whether `config.json` declares a model with a vision half. The GGUF file of a language model never does.
#[cfg(any(test, feature = "cli"))]
pub fn is_mobilevlm(files: &Files) -> Result<bool> {
    let file = files.path().join("config.json");
    if !files.is_file(&file) {
        return Ok(false);
    }
    let json: serde_json::Value = json::parse(&file, &files.read(&file)?)?;
    Ok(json.get("model_type").is_some_and(|model_type| model_type == config::MOBILEVLM))
}

/// The error for a path that is neither a folder nor a file: mostly a missing path, but also devices and sockets.
fn not_there(files: &Files) -> Error {
    let path = files.path();
    let what = if files.exists(path) { "is neither a folder nor a file" } else { "does not exist" };
    Error::checkpoint(format!(
        "{} {what}; give a Hugging Face folder (config.json, weights, tokenizer) or a .gguf file",
        path.display(),
    ))
}

/// The opened files. The tokenizer and everything else that is not a tensor is read from here.
#[derive(Debug)]
pub enum Source {
    /// A Hugging Face folder.
    Folder(Files),
    Gguf(Gguf),
}

/// An entry of the list of tensors.
#[derive(Clone, Debug)]
pub struct TensorInfo<'a> {
    pub name: &'a str,
    pub shape: &'a [usize],
    /// The name of the element type in the file.
    pub element: &'a str,
    /// Bytes in the file.
    pub bytes: usize,
}

impl Checkpoint {
    /// Opens a Hugging Face folder or a `.gguf` file. Weights are mapped, not read.
    pub fn open(files: impl Into<Files>) -> Result<Self> {
        Self::open_with(files, &VisionFiles::default())
    }

    /// Opens a model whose vision half, or a part of it, is stored in separate files.
    pub fn open_with(files: impl Into<Files>, vision: &VisionFiles) -> Result<Self> {
        let files = files.into();
        let path = files.path();
        if files.is_dir(path) {
            let (description, tensors) = folder::read(&files)?;
            Self::new(&files, description, tensors, Source::Folder(files.clone()), vision)
        } else if files.is_file(path) {
            Self::read_gguf(&files, files.read(path)?, vision)
        } else {
            Err(not_there(&files))
        }
    }

    /// Reads a GGUF file from memory. `path` is the name of the file in error messages.
    pub fn from_gguf(path: &Path, bytes: Bytes) -> Result<Self> {
        Self::read_gguf(&path.into(), bytes, &VisionFiles::default())
    }

    fn read_gguf(files: &Files, bytes: Bytes, vision: &VisionFiles) -> Result<Self> {
        let (gguf, tensors) = Gguf::read(files.path(), &bytes)?;
        let (description, tensors) = gguf.describe(tensors)?;
        let permuted = gguf.permuted();
        let mut checkpoint = Self::new(files, description, tensors, Source::Gguf(gguf), vision)?;
        if permuted {
            let order = RowOrder::Interleaved { head_dim: checkpoint.config.head_dim };
            for (name, stored) in &mut checkpoint.tensors {
                let rotated = name.ends_with("q_proj.weight") || name.ends_with("k_proj.weight");
                if rotated && !vision_folder::is_vision(name) {
                    stored.order = order;
                }
            }
        }
        Ok(checkpoint)
    }

    fn new(
        files: &Files,
        mut description: config::Description,
        tensors: Vec<(String, Stored)>,
        source: Source,
        vision: &VisionFiles,
    ) -> Result<Self> {
        let path = files.path();
        let mut tensors = match &*description.architecture {
            config::QWEN => once(path, tensors)?,
            _ => canonical(path, tensors)?,
        };
        let mut half = vision_half(files, &description, &mut tensors, vision)?;
        if half.is_some() {
            description.architecture = config::MOBILEVLM.to_string();
        }
        if description.gains_less_1 {
            let gains = tensors.iter_mut().filter(|(name, _)| name.ends_with("norm.weight"));
            gains.for_each(|(_, stored)| stored.less_1 = true);
        }
        if description.architecture == config::QWEN {
            (tensors, half) = qwen::read(files, &mut description, tensors)?;
        }
        let mut config = description.resolve(path, &tensors)?;
        if config.tied {
            // Some files hold a head that the model never uses.
            tensors.remove(config::HEAD);
        }
        if let Some((vision, half)) = half {
            config.vision = Some(vision);
            tensors.extend(half);
        }
        Ok(Self { config, path: path.to_path_buf(), source, tensors, weights: None })
    }

    /// Whether the model is a MobileVLM with its vision half.
    pub fn is_mobilevlm(&self) -> bool {
        self.config.architecture == config::MOBILEVLM && self.config.vision.is_some()
    }

    /// The source of the tokenizer.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Makes [`Checkpoint::take`] quantise matrices of floats to `weights`: f16, q8_0 or q4_0. Quantised matrices keep
    /// their type, and matrices whose row length is not a multiple of 32 become f16.
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

    /// The tensor called `name`, checked to have `shape`. Vectors (norms) are converted to f32 from any type.
    ///
    /// The tensor is mapped where the file's layout can be used. [`Bytes::release`] frees its pages after an upload.
    ///
    /// # Errors
    ///
    /// There is no tensor of this name, it has another shape, or its bytes cannot be read or converted.
    pub fn take(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.stored(name, shape)?.load(name, self.weights)
    }

    /// Refuses a checkpoint whose tensors differ from those that the model requires (name → shape): a missing tensor is
    /// an error, and so is an extra tensor, because a model that ignores some of its weights is a different model.
    pub fn check(&self, stated: &BTreeMap<String, Vec<usize>>) -> Result<()> {
        for (name, shape) in stated {
            self.stored(name, shape)?;
        }
        let unknown = self.tensors.keys().filter(|name| !stated.contains_key(*name)).map(String::as_str);
        config::refuse_unknown(&self.path, unknown, &self.config.architecture, self.config.layers)
    }

    /// The tensor called `name`, checked to have `shape`.
    fn stored(&self, name: &str, shape: &[usize]) -> Result<&Stored> {
        let stored = self.tensors.get(name).ok_or_else(|| config::missing(&self.path, name))?;
        stored.check_shape(name, shape)?;
        Ok(stored)
    }

    /// The element type that [`Checkpoint::take`] returns, if the tensor exists.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        self.tensors.get(name)?.dtype(self.weights)
    }

    /// Every tensor that the model uses, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = TensorInfo<'_>> {
        self.tensors.iter().map(|(name, stored)| TensorInfo {
            name,
            shape: &stored.shape,
            element: stored.element.name(),
            bytes: stored.size(),
        })
    }

    /// The number of parameters of the model. A shared matrix counts once.
    pub fn parameters(&self) -> usize {
        self.tensors.values().map(|stored| stored.shape.iter().product::<usize>()).sum()
    }
}

/// The vision half of a model that has one. Removes the tensors of the vision half from `tensors`.
fn vision_half(
    files: &Files,
    description: &config::Description,
    tensors: &mut BTreeMap<String, Stored>,
    vision: &VisionFiles,
) -> Result<Option<(VisionConfig, BTreeMap<String, Stored>)>> {
    let path = files.path();
    let (architecture, hidden) = (&*description.architecture, description.hidden);
    let whole = architecture == config::MOBILEVLM;
    let (own, language) =
        std::mem::take(tensors).into_iter().partition(|(name, _)| whole && vision_folder::is_vision(name));
    *tensors = language;
    let other_model = |flag: &str, models: &str| {
        let path = path.display();
        Error::unsupported(format!("{flag} goes with {models}; {path} is a model of the architecture {architecture}"))
    };
    match (&vision.mmproj, &vision.tower) {
        (Some(_), Some(_)) => {
            Err(Error::unsupported("--mmproj holds a vision tower of its own; leave --vision-tower out"))
        }
        (Some(_), None) if !whole && architecture != "llama" => {
            Err(other_model("--mmproj", "the language half of a MobileVLM (llama, mobilevlm)"))
        }
        (Some(file), None) => {
            if whole {
                vision_folder::check_prompt(files)?;
            }
            mmproj::read(files, file, vision_tensors::Language { path, hidden }).map(Some)
        }
        (None, tower) if whole => vision_folder::read(files, own, tower.as_deref(), hidden).map(Some),
        (None, Some(_)) => Err(other_model("--vision-tower", "a MobileVLM folder")),
        (None, None) => Ok(None),
    }
}

/// The tensors by their names in the files, without tensors that models never read.
fn once(path: &Path, tensors: Vec<(String, Stored)>) -> Result<BTreeMap<String, Stored>> {
    let mut named = BTreeMap::new();
    for (name, stored) in tensors {
        if name.ends_with("rotary_emb.inv_freq") || name.ends_with("attn.masked_bias") {
            continue;
        }
        if named.insert(name.clone(), stored).is_some() {
            return Err(Error::checkpoint(format!("{}: tensor `{name}` occurs twice", path.display())));
        }
    }
    Ok(named)
}

/// Changes names to the form `model.layers.N.mlp.…`, and drops tensors that models never read.
fn canonical(path: &Path, tensors: Vec<(String, Stored)>) -> Result<BTreeMap<String, Stored>> {
    let mut named = BTreeMap::new();
    for (name, stored) in tensors {
        // Buffers that older versions of the Python library saved.
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
