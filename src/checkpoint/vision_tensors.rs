//! The tensors of a vision half: their names and shapes, and the configuration that follows from them.
//!
//! S: image size, p: patch, N = (S / p)²: patches, w: features of a patch, f: feed-forward width, h: hidden size of the
//! language model, s: squeeze. A convolution is kept as the matrix or vector that the operators read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::config;
use super::stored::Stored;
use super::vision::{Activation, Projector, VisionConfig};
use crate::error::{Error, Result};

/// The prefix of the tower's tensor names.
pub const TOWER: &str = "model.vision_tower.vision_tower.vision_model.";
/// The prefix of the projector's tensor names.
pub const PROJECTOR: &str = "model.mm_projector.";

/// The mean colour of OpenAI's CLIP models, the same in all of them.
pub const MEAN: [f32; 3] = [0.48145466, 0.4578275, 0.40821073];
#[allow(clippy::excessive_precision, reason = "the digits that OpenAI published")]
pub const STD: [f32; 3] = [0.26862954, 0.26130258, 0.27577711];
pub const NORM_EPS: f64 = 1e-5;
/// Features of a head, where no file gives the number of heads: the value of all CLIP models that OpenAI published.
const HEAD: usize = 64;

/// A tower or a projector as stored in one file or folder: canonical names, shapes as in the file.
#[derive(Debug)]
pub struct Part {
    /// The file or folder, for error messages.
    pub path: PathBuf,
    pub tensors: BTreeMap<String, Stored>,
}

/// The description of a tower in files. The other values follow from shapes.
#[derive(Debug)]
pub struct Facts {
    /// The file of the description, for error messages.
    pub file: PathBuf,
    pub image_size: Option<usize>,
    pub patch: Option<usize>,
    pub heads: Option<usize>,
    /// Number of blocks in the tower.
    pub layers: Option<usize>,
    pub norm_eps: f32,
    pub activation: Activation,
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

/// [`Projector`], before its parameters are read from shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProjectorKind {
    Ldp,
    Ldpv2,
}

/// The language model that a vision half belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Language<'a> {
    pub path: &'a Path,
    pub hidden: usize,
}

/// The configuration of a vision half that executes `blocks` blocks, and its tensors as [`super::Checkpoint::take`]
/// returns them. Later blocks, and the norm after the last, are left out.
pub fn resolve(
    tower: Part,
    projector: Part,
    facts: &Facts,
    kind: ProjectorKind,
    blocks: usize,
    language: Language,
) -> Result<(VisionConfig, BTreeMap<String, Stored>)> {
    let conv = format!("{TOWER}embeddings.patch_embedding.weight");
    let table = format!("{TOWER}embeddings.position_embedding.weight");
    let bad = |what: String| Err(Error::checkpoint(format!("{}: {what}", facts.file.display())));

    let [width, channels, patch, across] = tower.shape(&conv)?;
    if channels != 3 || across != patch {
        return Err(tower.wrong(&conv, &format!("[{width}, 3, {patch}, {patch}]")));
    }
    if let Some(stated) = facts.patch.filter(|&stated| stated != patch) {
        let path = tower.path.display();
        return bad(format!("patch_size is {stated}, but `{conv}` of {path} has patches of {patch}x{patch} pixels"));
    }
    let [positions, _] = tower.shape(&table)?;
    let grid = (positions - 1).isqrt();
    if grid == 0 || grid * grid + 1 != positions {
        return Err(tower.wrong(&table, &format!("a square number of patches and one more, each of {width}")));
    }
    let image_size = grid * patch;
    if let Some(stated) = facts.image_size.filter(|&stated| stated != image_size) {
        return bad(format!(
            "image_size is {stated}, but `{table}` of {} has {positions} rows, which are for {grid}x{grid} patches of \
             {patch} pixels: {image_size}",
            tower.path.display(),
        ));
    }
    let heads = match facts.heads {
        Some(heads) => heads,
        None if width % HEAD == 0 => width / HEAD,
        None => {
            return bad(format!(
                "the number of the tower's heads is not known, and its {width} features are no whole heads of {HEAD} as \
                 in OpenAI's CLIP; give the tower's folder with --vision-tower",
            ));
        }
    };
    if heads == 0 || width % heads != 0 {
        return bad(format!("{heads} heads do not divide the {width} features of the tower evenly"));
    }
    let [ffn, _] = tower.shape(&format!("{TOWER}encoder.layers.0.mlp.fc1.weight"))?;

    let (first, last) = match kind {
        ProjectorKind::Ldp => ("model.mlp.1.weight", "model.mlp.3.weight"),
        ProjectorKind::Ldpv2 => ("mlp.mlp.0.weight", "mlp.mlp.2.weight"),
    };
    let [_, takes] = projector.shape(&format!("{PROJECTOR}{first}"))?;
    let [makes, _] = projector.shape(&format!("{PROJECTOR}{last}"))?;
    if takes != width {
        return Err(Error::checkpoint(format!(
            "the projector of {} takes patches of {takes} features, but the tower of {} makes {width}; they are not of \
             the same model",
            projector.path.display(),
            tower.path.display(),
        )));
    }
    if makes != language.hidden {
        return Err(Error::checkpoint(format!(
            "the projector of {} makes tokens of {makes} elements, but the hidden size of {} is {}; they are not of \
             the same model",
            projector.path.display(),
            language.path.display(),
            language.hidden,
        )));
    }
    let config = VisionConfig {
        image_size,
        patch,
        width,
        heads,
        ffn,
        blocks,
        norm_eps: facts.norm_eps,
        activation: facts.activation,
        projector: match kind {
            ProjectorKind::Ldp => {
                let [squeeze] = projector.shape(&format!("{PROJECTOR}model.mb_block.1.block.1.fc1.bias"))?;
                Projector::Ldp { squeeze }
            }
            ProjectorKind::Ldpv2 => Projector::Ldpv2,
        },
        mean: facts.mean,
        std: facts.std,
        image_start: None,
    };
    let mut tensors = BTreeMap::new();
    tower.arrange(&tower_entries(&config), |name| unused(name, blocks), &mut tensors)?;
    projector.arrange(&projector_entries(&config, language.hidden), |_| false, &mut tensors)?;
    Ok((config, tensors))
}

/// A tensor that the model uses.
struct Entry {
    name: String,
    shape: Vec<usize>,
    /// The shape in files, without dimensions of 1.
    stored: Vec<usize>,
}

impl Entry {
    fn new(name: String, shape: &[usize]) -> Self {
        Self { name, shape: shape.to_vec(), stored: shape.to_vec() }
    }

    fn reshaped(name: String, shape: &[usize], stored: &[usize]) -> Self {
        Self { name, shape: shape.to_vec(), stored: stored.to_vec() }
    }

    /// A weight and a bias for each of its rows.
    fn linear(name: &str, shape: &[usize]) -> [Self; 2] {
        [Self::new(format!("{name}.weight"), shape), Self::new(format!("{name}.bias"), &shape[..1])]
    }
}

/// Every tensor of the tower up to the last block that is executed.
fn tower_entries(config: &VisionConfig) -> Vec<Entry> {
    let (w, f, p, n) = (config.width, config.ffn, config.patch, config.patches());
    let name = |name: &str| format!("{TOWER}{name}");
    let mut entries = vec![
        Entry::new(name("embeddings.class_embedding"), &[w]),
        Entry::reshaped(name("embeddings.patch_embedding.weight"), &[w, 3 * p * p], &[w, 3, p, p]),
        // The position table is added to activations, so it must stay f32; vectors stay f32.
        Entry::reshaped(name("embeddings.position_embedding.weight"), &[(n + 1) * w], &[n + 1, w]),
    ];
    entries.extend(Entry::linear(&name("pre_layrnorm"), &[w]));
    for block in 0..config.blocks {
        let linear =
            |part: &str, shape: &[usize]| Entry::linear(&name(&format!("encoder.layers.{block}.{part}")), shape);
        for norm in ["layer_norm1", "layer_norm2"] {
            entries.extend(linear(norm, &[w]));
        }
        for matrix in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            entries.extend(linear(&format!("self_attn.{matrix}"), &[w, w]));
        }
        entries.extend(linear("mlp.fc1", &[f, w]));
        entries.extend(linear("mlp.fc2", &[w, f]));
    }
    entries
}

/// Every tensor of the projector. A depthwise convolution (h, 1, 3, 3) is flat: tap t of channel c is element 9c + t.
fn projector_entries(config: &VisionConfig, h: usize) -> Vec<Entry> {
    let name = |name: &str| format!("{PROJECTOR}{name}");
    let depthwise = |part: &str| Entry::reshaped(name(part), &[9 * h], &[h, 3, 3]);
    let mut entries = Vec::new();
    match config.projector {
        Projector::Ldp { squeeze } => {
            entries.extend(Entry::linear(&name("model.mlp.1"), &[h, config.width]));
            entries.extend(Entry::linear(&name("model.mlp.3"), &[h, h]));
            for block in ["model.mb_block.1.block", "model.mb_block.2.block"] {
                entries.push(depthwise(&format!("{block}.0.0.weight")));
                entries.extend(Entry::linear(&name(&format!("{block}.0.1")), &[h]));
                entries.extend(Entry::linear(&name(&format!("{block}.1.fc1")), &[squeeze, h]));
                entries.extend(Entry::linear(&name(&format!("{block}.1.fc2")), &[h, squeeze]));
                entries.push(Entry::new(name(&format!("{block}.2.0.weight")), &[h, h]));
                entries.extend(Entry::linear(&name(&format!("{block}.2.1")), &[h]));
            }
        }
        Projector::Ldpv2 => {
            entries.extend(Entry::linear(&name("mlp.mlp.0"), &[h, config.width]));
            entries.extend(Entry::linear(&name("mlp.mlp.2"), &[h, h]));
            entries.push(depthwise("peg.peg.0.weight"));
            entries.push(Entry::new(name("peg.peg.0.bias"), &[h]));
        }
        Projector::Resampler { .. } => panic!("a resampler is Qwen-VL's"),
    }
    entries
}

/// Whether a tensor of a tower comes after the last executed block.
fn unused(name: &str, blocks: usize) -> bool {
    let bare = name.strip_prefix(TOWER).unwrap_or(name);
    bare.starts_with("post_layernorm.") || block_of(name).is_some_and(|block| block >= blocks)
}

/// The index of the block that a tensor belongs to.
fn block_of(name: &str) -> Option<usize> {
    let rest = name.strip_prefix(TOWER)?.strip_prefix("encoder.layers.")?;
    rest.split_once('.')?.0.parse().ok()
}

impl Part {
    /// The number of blocks: the largest stored index plus one, even if blocks before it are missing.
    pub fn blocks(&self) -> usize {
        let last = self.tensors.keys().filter_map(|name| block_of(name)).max();
        last.map_or(0, |last| last.saturating_add(1)).min(config::MOST_LAYERS)
    }

    fn get(&self, name: &str) -> Result<&Stored> {
        self.tensors.get(name).ok_or_else(|| config::missing(&self.path, name))
    }

    /// The dimensions of a tensor, which must have N of them, none 0.
    pub fn shape<const N: usize>(&self, name: &str) -> Result<[usize; N]> {
        let shape = <[usize; N]>::try_from(&self.get(name)?.shape[..]);
        match shape {
            Ok(shape) if !shape.contains(&0) => Ok(shape),
            _ => Err(self.wrong(name, &format!("{N} dimensions above 0"))),
        }
    }

    /// The error for a tensor that exists but is not as `expected`.
    fn wrong(&self, name: &str, expected: &str) -> Error {
        match self.get(name) {
            Err(missing) => missing,
            Ok(stored) => Error::checkpoint(format!(
                "{}: tensor `{name}` has shape {:?}, expected {expected}; it may be of another model",
                stored.file.display(),
                stored.shape,
            )),
        }
    }

    /// Moves the listed tensors, in the shapes of the model, and refuses all others except those that are `unused`.
    fn arrange(
        mut self,
        entries: &[Entry],
        unused: impl Fn(&str) -> bool,
        to: &mut BTreeMap<String, Stored>,
    ) -> Result<()> {
        // Some files store the 1s of (o, i, 1, 1) and (h, 1, 3, 3), others do not.
        let squeezed = |shape: &[usize]| shape.iter().copied().filter(|&size| size != 1).collect::<Vec<_>>();
        for Entry { name, shape, stored } in entries {
            if squeezed(&self.get(name)?.shape) != squeezed(stored) {
                return Err(self.wrong(name, &format!("{stored:?}")));
            }
            let tensor = self.tensors.remove(name).expect("it was there for its shape");
            to.insert(name.clone(), tensor.reshaped(shape.clone()));
        }
        match self.tensors.keys().find(|name| !unused(name)) {
            None => Ok(()),
            Some(name) => Err(Error::unsupported(format!(
                "{}: tensor `{name}` is not part of the vision half of a MobileVLM as dunlin runs it",
                self.path.display(),
            ))),
        }
    }
}
