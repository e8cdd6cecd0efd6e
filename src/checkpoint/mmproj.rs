//! llama.cpp's `mmproj`, the second file of a vision-language model: GGUF keys `clip.…` and tensors → a vision half.

use std::collections::BTreeMap;
use std::path::Path;

use super::clip_json::check_colours;
use super::config::{MOST_LAYERS, is_epsilon};
use super::files::Files;
use super::gguf::{Gguf, Value};
use super::stored::Stored;
use super::vision::{Activation, VisionConfig};
use super::vision_tensors::{Facts, Language, MEAN, PROJECTOR, Part, ProjectorKind, STD, TOWER, resolve};
use crate::error::{Error, Result};

/// `v.blk.N.` + first is `encoder.layers.N.` + second. The feed-forward part is named separately.
const BLOCK: [(&str, &str); 6] = [
    ("ln1", "layer_norm1"),
    ("ln2", "layer_norm2"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_out", "self_attn.out_proj"),
];

/// Reads the vision half of `language` from the file at `path`.
pub fn read(files: &Files, path: &Path, language: Language) -> Result<(VisionConfig, BTreeMap<String, Stored>)> {
    if !files.is_file(path) {
        return Err(Error::checkpoint(format!("--mmproj {} is not a file; give a .gguf file", path.display())));
    }
    let (gguf, tensors) = Gguf::read(path, &files.read(path)?)?;
    let architecture = gguf.metadata("general.architecture").and_then(Value::as_str).unwrap_or_default();
    if architecture != "clip" {
        return Err(Error::unsupported(format!(
            "--mmproj {} has the GGUF architecture `{architecture}`, expected `clip`; the language model goes first, \
             without --mmproj",
            path.display(),
        )));
    }
    let kind = gguf.projector()?;
    let facts = gguf.tower()?;
    let blocks = gguf.executed_blocks()?;

    let width = gguf.required("clip.vision.embedding_length")?;
    let natural = natural_names(&tensors, width);
    let (mut tower, mut projector) = (BTreeMap::new(), BTreeMap::new());
    for (name, stored) in tensors {
        let translated = match kind {
            _ if name.starts_with("v.") => tower_name(&name, natural),
            ProjectorKind::Ldp => name.strip_prefix("mm.model.").map(|rest| format!("{PROJECTOR}model.{rest}")),
            // `mlp.0` becomes `mlp.mlp.0`, `peg.0` becomes `peg.peg.0`.
            ProjectorKind::Ldpv2 => name.strip_prefix("mm.model.").and_then(|rest| {
                let (module, _) = rest.split_once('.')?;
                Some(format!("{PROJECTOR}{module}.{rest}"))
            }),
        };
        let Some(translated) = translated else {
            return Err(Error::unsupported(format!(
                "{}: tensor `{name}` is not part of the vision half of a MobileVLM as dunlin runs it",
                path.display(),
            )));
        };
        let part = if name.starts_with("v.") { &mut tower } else { &mut projector };
        if part.insert(translated, stored).is_some() {
            return Err(Error::checkpoint(format!("{}: tensor `{name}` occurs twice", path.display())));
        }
    }
    let part = |tensors| Part { path: path.to_path_buf(), tensors };
    resolve(part(tower), part(projector), &facts, kind, blocks, language)
}

impl Gguf {
    fn projector(&self) -> Result<ProjectorKind> {
        let unsupported = |what: String| Err(Error::unsupported(format!("{}: {what}", self.path.display())));
        if self.metadata("clip.has_vision_encoder").and_then(Value::as_bool) == Some(false) {
            return unsupported("metadata `clip.has_vision_encoder` is false; the file is no vision half".into());
        }
        // The second key occurs in files that may also hold an audio projector.
        let name = self.metadata("clip.projector_type").or(self.metadata("clip.vision.projector_type"));
        match name.and_then(Value::as_str) {
            Some("ldp") => Ok(ProjectorKind::Ldp),
            Some("ldpv2") => Ok(ProjectorKind::Ldpv2),
            Some(other) => unsupported(format!(
                "projector type `{other}` is not supported; dunlin runs ldp (MobileVLM) and ldpv2 (MobileVLM V2)",
            )),
            None => unsupported("metadata `clip.projector_type` is missing, expected ldp or ldpv2".into()),
        }
    }

    fn tower(&self) -> Result<Facts> {
        let flag = |key: &str| self.metadata(key).and_then(Value::as_bool).unwrap_or(false);
        if flag("clip.use_silu") {
            let what = "metadata `clip.use_silu` is true; dunlin runs towers with gelu and quick gelu";
            return Err(Error::unsupported(format!("{}: {what}", self.path.display())));
        }
        let eps = "clip.vision.attention.layer_norm_epsilon";
        let norm_eps = self
            .float(eps, is_epsilon, "a number of at least 0, such as 1e-5")?
            .ok_or_else(|| self.bad(format!("metadata `{eps}` is missing")))?;
        let mean = self.colours("clip.vision.image_mean")?.unwrap_or(MEAN);
        let std = self.colours("clip.vision.image_std")?.unwrap_or(STD);
        check_colours(&self.path, &mean, &std)?;
        Ok(Facts {
            file: self.path.clone(),
            image_size: Some(self.required("clip.vision.image_size")?),
            patch: Some(self.required("clip.vision.patch_size")?),
            heads: Some(self.required("clip.vision.attention.head_count")?),
            layers: None,
            norm_eps: norm_eps as f32,
            // The default of llama.cpp when the flag is missing is quick GELU.
            activation: if flag("clip.use_gelu") { Activation::Gelu } else { Activation::QuickGelu },
            mean,
            std,
        })
    }

    /// The converter drops blocks after the one whose output is used, so all stored blocks are executed: 23 of 24.
    /// `feature_layer` lists hidden states: state 0 is the input of the first block, and state i the output of block i.
    fn executed_blocks(&self) -> Result<usize> {
        let key = "clip.vision.block_count";
        let stored = self.required(key)?;
        if stored > MOST_LAYERS {
            return Err(self.bad(format!("metadata `{key}` is {stored}, which no model has")));
        }
        let key = "clip.vision.feature_layer";
        let states: Vec<f64> = match self.metadata(key) {
            None => return Ok(stored),
            Some(Value::Array(array)) => array.numbers().map(Iterator::collect).unwrap_or_default(),
            Some(value) => value.as_f64().into_iter().collect(),
        };
        match states[..] {
            [state] if state >= 0.0 && state <= stored as f64 && state.fract() == 0.0 => Ok(state as usize),
            _ => Err(Error::unsupported(format!(
                "{}: metadata `{key}` is {states:?}, expected one hidden state from 0 to {stored}",
                self.path.display(),
            ))),
        }
    }

    fn colours(&self, key: &str) -> Result<Option<[f32; 3]>> {
        let Some(value) = self.metadata(key) else { return Ok(None) };
        let numbers: Option<Vec<f32>> =
            value.as_array().and_then(|array| Some(array.numbers()?.map(|number| number as f32).collect()));
        let three = numbers.and_then(|numbers| <[f32; 3]>::try_from(numbers).ok());
        Ok(Some(three.ok_or_else(|| self.bad(format!("metadata `{key}` is not a list of 3 numbers")))?))
    }
}

/// Whether `ffn_up` is fc1, which takes the `width` features of a patch. The converter of MobileVLM's files calls fc1
/// `ffn_down`; this name is also assumed where both widths are equal and shapes cannot decide.
fn natural_names(tensors: &[(String, Stored)], width: usize) -> bool {
    let takes = |name: &str| {
        let found = tensors.iter().find(|(tensor, _)| tensor == name);
        found.and_then(|(_, stored)| stored.shape.last().copied())
    };
    takes("v.blk.0.ffn_up.weight") == Some(width) && takes("v.blk.0.ffn_down.weight") != Some(width)
}

fn tower_name(name: &str, natural: bool) -> Option<String> {
    match name {
        "v.class_embd" => return Some(format!("{TOWER}embeddings.class_embedding")),
        "v.patch_embd.weight" => return Some(format!("{TOWER}embeddings.patch_embedding.weight")),
        "v.position_embd.weight" => return Some(format!("{TOWER}embeddings.position_embedding.weight")),
        _ => {}
    }
    let (module, parameter) = name.rsplit_once('.')?;
    match module {
        "v.pre_ln" => return Some(format!("{TOWER}pre_layrnorm.{parameter}")),
        "v.post_ln" => return Some(format!("{TOWER}post_layernorm.{parameter}")),
        _ => {}
    }
    let (block, part) = module.strip_prefix("v.blk.")?.split_once('.')?;
    let part = match (part, natural) {
        ("ffn_down", false) | ("ffn_up", true) => "mlp.fc1",
        ("ffn_up", false) | ("ffn_down", true) => "mlp.fc2",
        (part, _) => BLOCK.iter().find(|(gguf, _)| *gguf == part)?.1,
    };
    Some(format!("{TOWER}encoder.layers.{block}.{part}.{parameter}"))
}
