//! Named tensors → a Hugging Face folder: `config.json`, `model.safetensors`, and the files of the tokenizer.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value};

use super::stored::Element;
use super::{Checkpoint, Source, json};
use crate::error::{Error, Result};
use crate::tensor::{Bytes, DType};

/// The files that are copied beside the weights, where the folder has them.
const BESIDE: [&str; 11] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "LICENSE",
];

impl Checkpoint {
    /// Writes the model as a Hugging Face folder. The configuration lists heads, key/value heads and feed-forward width
    /// of each layer, as Adapt-Pruner's models do; the tensors keep the types that they have in memory.
    ///
    /// The folder appears complete or not at all. `replace`: an existing folder is replaced, if it holds a model.
    pub fn save(&self, folder: &Path, replace: bool) -> Result<()> {
        self.may_save(folder, replace)?;
        let Source::Folder(files) = &self.source else {
            return Err(Error::unsupported(format!("{} is no Hugging Face folder", self.path.display())));
        };
        let failed = |path: &Path, error: std::io::Error| {
            Error::checkpoint(format!("{} cannot be written", path.display())).caused_by(error)
        };
        // The temporary folder is in the same parent folder, so that the last step is a rename on one file system.
        let unfinished = Unfinished(beside(folder, "partial"));
        let new = &unfinished.0;
        fs::create_dir(new).map_err(|error| failed(new, error))?;

        let config = files.path().join("config.json");
        let written = self.config_json(json::parse(&config, &files.read(&config)?)?);
        let json = serde_json::to_string_pretty(&written).expect("JSON of JSON") + "\n";
        fs::write(new.join("config.json"), json).map_err(|error| failed(new, error))?;
        for name in BESIDE {
            let file = files.path().join(name);
            if files.is_file(&file) {
                fs::write(new.join(name), &*files.read(&file)?).map_err(|error| failed(new, error))?;
            }
        }
        self.save_weights(&new.join("model.safetensors"))?;

        if folder.exists() {
            let old = Unfinished(beside(folder, "replaced"));
            fs::rename(folder, &old.0).map_err(|error| failed(folder, error))?;
            if let Err(error) = fs::rename(new, folder) {
                // Restores the old folder, which is never removed before the new one is in its place.
                let restored = fs::rename(&old.0, folder).is_ok();
                let kept = old.keep();
                return Err(match restored {
                    true => failed(folder, error),
                    false => Error::checkpoint(format!(
                        "{} cannot be written; the folder that was there is now {}",
                        folder.display(),
                        kept.display()
                    ))
                    .caused_by(error),
                });
            }
            return Ok(());
        }
        fs::rename(new, folder).map_err(|error| failed(folder, error))
    }

    /// Checks before the work starts whether [`Checkpoint::save`] would fail, as far as this can be known.
    pub fn may_save(&self, folder: &Path, replace: bool) -> Result<()> {
        let refused = |what: &str| Err(Error::checkpoint(format!("{} {what}", folder.display())));
        if folder.file_name().is_none() {
            return refused("is no name for a new folder");
        }
        if !folder.exists() {
            let parent = match folder.parent() {
                Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
                Some(parent) => parent,
                None => Path::new("."),
            };
            return if parent.is_dir() {
                Ok(())
            } else {
                refused(&format!("cannot be made: {} is not a folder", parent.display()))
            };
        }
        if !replace {
            return refused("exists already; give another --out, or --force to replace it");
        }
        let mut entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => return refused("is not a folder").map_err(|refused| refused.caused_by(error)),
        };
        if entries.next().is_some() && !folder.join("config.json").is_file() {
            return refused("is no folder of a model, so it is not replaced; give another --out");
        }
        let (Ok(folder_there), Ok(model)) = (folder.canonicalize(), self.path.canonicalize()) else { return Ok(()) };
        if model.starts_with(folder_there) {
            return refused("holds the model that is read; give another --out");
        }
        Ok(())
    }

    /// `config.json` with the widths of each layer.
    fn config_json(&self, mut json: Map<String, Value>) -> Map<String, Value> {
        let c = &self.config;
        json.insert("num_attention_heads".into(), c.heads.clone().into());
        json.insert("num_key_value_heads".into(), c.kv_heads.clone().into());
        json.insert("intermediate_size".into(), c.ffn.clone().into());
        // Llama 4's text models use this key for the width of dense layers.
        if json.contains_key("intermediate_size_mlp") {
            json.insert("intermediate_size_mlp".into(), c.ffn.clone().into());
        }
        json.insert("head_dim".into(), c.head_dim.into());
        json
    }

    fn save_weights(&self, file: &Path) -> Result<()> {
        let failed = |error: safetensors::SafeTensorError| {
            Error::checkpoint(format!("{} cannot be written", file.display())).caused_by(error)
        };
        let mut tensors: Vec<(String, Dtype, &[usize], Bytes)> = Vec::with_capacity(self.tensors.len());
        for (name, stored) in &self.tensors {
            let element = match stored.element {
                Element::Run(DType::F32) => Some(Dtype::F32),
                Element::Run(DType::F16) => Some(Dtype::F16),
                Element::Run(DType::BF16) => Some(Dtype::BF16),
                Element::F64 => Some(Dtype::F64),
                _ => None,
            };
            let (Some(element), Some(size)) = (element, stored.element_bytes()) else {
                return Err(Error::unsupported(format!(
                    "{}: tensor `{name}` holds {} elements, which are not written; pruning takes f32, f16 and bf16",
                    stored.file.display(),
                    stored.element.name(),
                )));
            };
            // The only architecture whose files have another name for a part of the layers.
            let name = match &*self.config.architecture {
                "llama4_text" => name.replace(".mlp.", ".feed_forward."),
                _ => name.clone(),
            };
            tensors.push((name, element, &stored.shape, stored.contiguous(size)));
        }
        let views = tensors.iter().map(|(name, element, shape, bytes)| {
            Ok((name, TensorView::new(*element, shape.to_vec(), bytes).map_err(failed)?))
        });
        // The Python library transformers requires this key.
        let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
        safetensors::serialize_to_file(views.collect::<Result<Vec<_>>>()?, Some(metadata), file).map_err(failed)
    }
}

/// A folder that is removed on drop unless it was renamed.
struct Unfinished(PathBuf);

impl Unfinished {
    /// Gives up removing the folder.
    fn keep(mut self) -> PathBuf {
        std::mem::take(&mut self.0)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// A free name in the same parent folder. A process that was killed may have left others.
fn beside(folder: &Path, what: &str) -> PathBuf {
    let name = |number: usize| {
        let mut name = folder.file_name().expect("looked at before").to_os_string();
        name.push(format!(".{what}-{}-{number}", std::process::id()));
        folder.with_file_name(name)
    };
    (0..).map(name).find(|path| path.symlink_metadata().is_err()).expect("a free number")
}
