//! The vision half of a MobileVLM folder: its keys in `config.json`, and the choice between two towers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::files::Files;
use super::stored::Stored;
use super::vision::{Activation, VisionConfig};
use super::vision_tensors::{Facts, Language, MEAN, NORM_EPS, PROJECTOR, Part, ProjectorKind, STD, TOWER, resolve};
use super::{clip_json, folder, json};
use crate::error::{Error, Result};

/// The keys of `config.json` that describe the vision half.
#[derive(Deserialize)]
struct Json {
    mm_projector_type: Option<String>,
    mm_vision_tower: Option<String>,
    /// The older name of `mm_vision_tower`.
    vision_tower: Option<String>,
    mm_vision_select_layer: Option<i64>,
    mm_vision_select_feature: Option<String>,
    image_aspect_ratio: Option<String>,
    mm_use_im_start_end: Option<bool>,
    mm_use_im_patch_token: Option<bool>,
}

/// Completes a MobileVLM folder whose own tensors, by canonical names, are `own`. `given` is the user's choice of
/// tower.
pub fn read(
    files: &Files,
    own: BTreeMap<String, Stored>,
    given: Option<&Path>,
    hidden: usize,
) -> Result<(VisionConfig, BTreeMap<String, Stored>)> {
    let folder = files.path();
    let (file, json) = keys(files)?;
    json.check_prompt(&file)?;
    let kind = json.projector(&file)?;
    let (projector, tower): (BTreeMap<_, _>, BTreeMap<_, _>) =
        own.into_iter().partition(|(name, _)| name.starts_with(PROJECTOR));
    let projector = Part { path: folder.to_path_buf(), tensors: projector };
    let own = tower.into_iter().map(|(name, stored)| {
        let bare = name.strip_prefix("model.vision_tower.").unwrap_or(&name);
        (bare.strip_prefix("vision_tower.").unwrap_or(bare).to_string(), stored)
    });
    let own = tower_of_clip(folder, own)?;

    let (tower, facts) = json.choose(files, own, kind, given)?;
    let layers = facts.layers.unwrap_or_else(|| tower.blocks());
    let blocks = json.blocks(&file, layers)?;
    resolve(tower, projector, &facts, kind, blocks, Language { path: folder, hidden })
}

/// Refuses a MobileVLM folder that needs another prompt format, whatever vision half it is given.
pub fn check_prompt(files: &Files) -> Result<()> {
    let (file, json) = keys(files)?;
    json.check_prompt(&file)
}

fn keys(files: &Files) -> Result<(PathBuf, Json)> {
    let file = files.path().join("config.json");
    let json = json::parse(&file, &files.read(&file)?)?;
    Ok((file, json))
}

/// Whether a tensor of a MobileVLM folder belongs to its vision half.
pub fn is_vision(name: &str) -> bool {
    name.starts_with("model.vision_tower.") || name.starts_with(PROJECTOR)
}

impl Json {
    /// The projector that the configuration names; refuses configurations that select other features than the patches.
    fn projector(&self, file: &Path) -> Result<ProjectorKind> {
        let unsupported = |what: String| Err(Error::unsupported(format!("{}: {what}", file.display())));
        if let Some(feature) = self.mm_vision_select_feature.as_deref().filter(|&feature| feature != "patch") {
            return unsupported(format!(
                "mm_vision_select_feature is `{feature}`; dunlin runs `patch`, which leaves the class token out",
            ));
        }
        // The longer name is tested first, because the shorter one is a prefix of it.
        match self.mm_projector_type.as_deref() {
            Some(name) if name.starts_with("ldpnetv2") => Ok(ProjectorKind::Ldpv2),
            Some(name) if name.starts_with("ldpnet") => Ok(ProjectorKind::Ldp),
            Some(name) => unsupported(format!(
                "mm_projector_type `{name}` is not supported; dunlin runs ldpnet (MobileVLM) and ldpnetv2 (MobileVLM V2)",
            )),
            None => unsupported("mm_projector_type is missing, expected ldpnet or ldpnetv2".into()),
        }
    }

    /// Refuses models whose images or prompts are prepared in another way.
    fn check_prompt(&self, file: &Path) -> Result<()> {
        let unsupported = |what: String| Err(Error::unsupported(format!("{}: {what}", file.display())));
        if let Some(ratio) = self.image_aspect_ratio.as_deref().filter(|&ratio| ratio != "pad") {
            return unsupported(format!(
                "image_aspect_ratio is `{ratio}`; dunlin runs `pad`, which makes images square before they are resized",
            ));
        }
        for (key, set) in
            [("mm_use_im_start_end", self.mm_use_im_start_end), ("mm_use_im_patch_token", self.mm_use_im_patch_token)]
        {
            if set == Some(true) {
                return unsupported(format!("{key} is true; dunlin runs models that put no tokens around an image"));
            }
        }
        Ok(())
    }

    /// The tower's tensors and its description. A given tower takes precedence. Otherwise, as in MobileVLM's own code,
    /// V1 reads the tower's folder and V2 the checkpoint; where one lacks the tower, the other is read.
    fn choose(&self, files: &Files, own: Part, kind: ProjectorKind, given: Option<&Path>) -> Result<(Part, Facts)> {
        let folder = files.path();
        if let Some(given) = given {
            if !files.is_dir(given) {
                return Err(Error::checkpoint(format!(
                    "--vision-tower {} is not a folder; give a CLIP folder with config.json and weights",
                    given.display(),
                )));
            }
            return clip_folder(files, given);
        }
        let mut looked = Vec::new();
        if let Some(name) = self.mm_vision_tower.as_ref().or(self.vision_tower.as_ref()) {
            looked = vec![folder.join(name), PathBuf::from(name)];
            looked.dedup();
        }
        match looked.iter().find(|path| files.is_dir(path)) {
            Some(found) if own.tensors.is_empty() || kind == ProjectorKind::Ldp => clip_folder(files, found),
            Some(found) => Ok((own, clip_json::read(files, found)?)),
            None if !own.tensors.is_empty() => {
                let facts = openai(folder);
                Ok((own, facts))
            }
            None => {
                let looked: String = looked.iter().map(|path| format!(", as the folder {}", path.display())).collect();
                Err(Error::checkpoint(format!(
                    "{} has no vision tower: looked among its own weights{looked}; fetch the tower that \
                     mm_vision_tower of config.json names, and give its folder with --vision-tower",
                    folder.display(),
                )))
            }
        }
    }

    /// The number of executed blocks among `layers`: hidden state 0 is the input of the first block, state i the output
    /// of block i.
    fn blocks(&self, file: &Path, layers: usize) -> Result<usize> {
        let bad = |what: &str| {
            let last = layers + 1;
            Error::checkpoint(format!(
                "{}: mm_vision_select_layer {what}, expected -{last} to {layers} for a tower of {layers} blocks",
                file.display(),
            ))
        };
        let select = self.mm_vision_select_layer.ok_or_else(|| bad("is missing"))?;
        let state = if select < 0 { select + layers as i64 + 1 } else { select };
        let blocks = usize::try_from(state).ok().filter(|&blocks| blocks <= layers);
        blocks.ok_or_else(|| bad(&format!("is {select}")))
    }
}

/// The values that all of OpenAI's CLIP models share; the others follow from shapes.
fn openai(folder: &Path) -> Facts {
    Facts {
        file: folder.to_path_buf(),
        image_size: None,
        patch: None,
        heads: None,
        layers: None,
        norm_eps: NORM_EPS as f32,
        activation: Activation::QuickGelu,
        mean: MEAN,
        std: STD,
    }
}

/// The tower of a CLIP folder, and its description in the folder.
fn clip_folder(files: &Files, path: &Path) -> Result<(Part, Facts)> {
    let facts = clip_json::read(files, path)?;
    Ok((tower_of_clip(path, folder::weights(files, path)?)?, facts))
}

/// The tensors of the tower among those of a CLIP model, under CLIP's own names.
fn tower_of_clip(path: &Path, tensors: impl IntoIterator<Item = (String, Stored)>) -> Result<Part> {
    let mut tower = BTreeMap::new();
    for (name, stored) in tensors {
        // The text half of CLIP, the projections that compare the two halves, and a buffer of older versions.
        let other = ["text_model.", "text_projection.", "visual_projection.", "logit_scale"];
        if other.iter().any(|other| name.starts_with(other)) || name.ends_with("position_ids") {
            continue;
        }
        let Some(bare) = name.strip_prefix("vision_model.") else {
            return Err(Error::unsupported(format!(
                "{}: tensor `{name}` is not part of a CLIP vision tower as dunlin runs it",
                path.display(),
            )));
        };
        tower.insert(format!("{TOWER}{bare}"), stored);
    }
    Ok(Part { path: path.to_path_buf(), tensors: tower })
}
