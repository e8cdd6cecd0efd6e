//! A Hugging Face folder: `config.json`, and weights in one file or in shards listed by an index.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use super::config::Description;
use super::files::Files;
use super::stored::Stored;
use super::{config_json, safetensors, torch};
use crate::error::{Error, Result};
use crate::tensor::Bytes;

/// Reads the list of tensors of one file.
type Reader = fn(&Path, &Bytes) -> Result<Vec<(String, Stored)>>;

/// The weight files that are looked for, in this order: (file, index of its shards, reader).
const WEIGHTS: [(&str, &str, Reader); 2] = [
    ("model.safetensors", "model.safetensors.index.json", safetensors::read),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", torch::read),
];

#[derive(Deserialize)]
struct Index {
    /// tensor name → file that holds the tensor
    weight_map: BTreeMap<String, String>,
}

pub fn read(files: &Files) -> Result<(Description, Vec<(String, Stored)>)> {
    let folder = files.path();
    let config_file = folder.join("config.json");
    if !files.is_file(&config_file) {
        return Err(Error::checkpoint(format!(
            "{} has no config.json; give a Hugging Face folder or a .gguf file",
            folder.display(),
        )));
    }
    let generation_file = folder.join("generation_config.json");
    let generation = if files.is_file(&generation_file) { Some(files.read(&generation_file)?) } else { None };
    let generation = generation.as_deref().map(|content| (generation_file.as_path(), content));
    let description = config_json::read(&config_file, &files.read(&config_file)?, generation)?;
    Ok((description, weights(files, folder)?))
}

/// The tensors of all weight files.
pub fn weights(files: &Files, folder: &Path) -> Result<Vec<(String, Stored)>> {
    for (single, index, reader) in WEIGHTS {
        let single = folder.join(single);
        if files.is_file(&single) {
            return reader(&single, &files.read(&single)?);
        }
        let index = folder.join(index);
        if files.is_file(&index) {
            return sharded(files, folder, &index, reader);
        }
    }
    let names = WEIGHTS.map(|(single, index, _)| format!("{single} or {index}")).join(", or ");
    Err(Error::checkpoint(format!("{} has no weights: expected {names}", folder.display())))
}

fn sharded(files: &Files, folder: &Path, index_file: &Path, reader: Reader) -> Result<Vec<(String, Stored)>> {
    let bad = |what: String| Error::checkpoint(format!("{}: {what}", index_file.display()));
    let index: Index =
        serde_json::from_slice(&files.read(index_file)?).map_err(|error| bad(error.to_string()).caused_by(error))?;
    let mut tensors = Vec::new();
    for shard in index.weight_map.values().collect::<BTreeSet<_>>() {
        // An index may name only files in its own folder, so that it cannot point to other files of the machine.
        if shard.contains(['/', '\\', ':']) || shard == ".." {
            return Err(bad(format!("`{shard}` is not the name of a file beside it")));
        }
        let file = folder.join(shard);
        if !files.is_file(&file) {
            return Err(bad(format!("the shard {shard} is missing; the download may be incomplete")));
        }
        tensors.extend(reader(&file, &files.read(&file)?)?);
    }
    let found: BTreeSet<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
    for (name, shard) in &index.weight_map {
        if !found.contains(name.as_str()) {
            return Err(bad(format!("tensor `{name}` is not in {shard}; the download may be damaged")));
        }
    }
    Ok(tensors)
}
