//! Which kernels the plans of known models choose on a device: from configurations, without weights.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use dunlin::Result;
use dunlin::checkpoint::vision::{Activation, Projector, VisionConfig};
use dunlin::checkpoint::{Checkpoint, Config};
use dunlin::graph::{Graph, GraphBuilder};
use dunlin::models::{self, AngleTable, Pass, Recipe, Want};
use dunlin::plan::{Fusion, Plan};
use dunlin::tensor::DType;
use dunlin::work::{DeviceProfile, Dispatch, Kernel};

use crate::configs;

/// A pipeline that plans need: a kernel with the values of its overrides.
#[derive(Clone, Debug)]
pub struct Pipeline {
    pub operator: &'static str,
    pub kernel: &'static Kernel,
    pub constants: Vec<(&'static str, f64)>,
    /// The models whose plans have it.
    pub models: BTreeSet<String>,
    /// The passes that have it: decode, few, prompt, vision.
    pub passes: BTreeSet<&'static str>,
}

/// Which models' plans are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Every golden model in its own format; MobileLLM-125M, SmolLM2-135M and MobileVLM V2-1.7B in every format whose
    /// blocks divide their rows.
    All,
    /// SmolLM2-135M and MobileVLM V2-1.7B in the formats that are tried first.
    Few,
}

/// `linear/gemv+epilogue_plain+weight_q4_0 SPLIT=8 ROWS=1`: unique.
pub fn label(dispatch: &Dispatch) -> String {
    let constants: String = dispatch.constants.iter().map(|(name, value)| format!(" {name}={value}")).collect();
    dispatch.kernel.0.name() + &constants
}

/// The pipelines that a device with this profile needs, by their labels.
pub fn pipelines(models: &[Model], profile: &DeviceProfile) -> Result<BTreeMap<String, Pipeline>> {
    let mut found: BTreeMap<String, Pipeline> = BTreeMap::new();
    for model in models {
        for (pass, graph) in &model.graphs {
            for step in Plan::new(graph.clone(), profile, Fusion::On)?.steps {
                let dispatch = &step.dispatch;
                let pipeline = found.entry(label(dispatch)).or_insert_with(|| Pipeline {
                    operator: step.op,
                    kernel: dispatch.kernel.0,
                    constants: dispatch.constants.clone(),
                    models: BTreeSet::new(),
                    passes: BTreeSet::new(),
                });
                pipeline.models.insert(model.name.clone());
                pipeline.passes.insert(pass);
            }
        }
    }
    Ok(found)
}

/// A model in one format: its graphs, each with the name of its pass.
pub struct Model {
    name: String,
    graphs: Vec<(&'static str, Graph)>,
}

pub fn models(choice: Choice) -> Result<Vec<Model>> {
    let real = |name: &str| {
        let found = configs::named().into_iter().find(|(known, _)| *known == name);
        found.unwrap_or_else(|| panic!("tests/support/configs.rs has no {name}")).1
    };
    let smollm2 = ("SmolLM2-135M", real("SmolLM2-135M"));
    let mobilellm = ("MobileLLM-125M", real("MobileLLM-125M"));
    let vlm = ("MobileVLM V2-1.7B", mobilevlm(real("MobileLLaMA-1.4B")));
    if choice == Choice::Few {
        return Ok(vec![of_shape(&smollm2, DType::Q4_1)?, of_shape(&vlm, DType::Q4_0)?]);
    }
    let mut models = golden()?;
    for shape in [mobilellm, smollm2, vlm] {
        for format in DType::ALL {
            models.push(of_shape(&shape, format)?);
        }
    }
    Ok(models)
}

/// The golden models, in their own formats.
fn golden() -> Result<Vec<Model>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let folders = std::fs::read_dir(&root).expect("tests/golden").map(|entry| entry.expect("an entry").path());
    let mut folders: Vec<_> = folders.filter(|folder| folder.join("config.json").exists()).collect();
    folders.sort();
    assert!(folders.len() > 20, "{} golden models in {}", folders.len(), root.display());
    let model = |folder: &std::path::PathBuf| {
        let checkpoint = Checkpoint::open(folder.as_path())?;
        let recipe = Recipe::new(&checkpoint, checkpoint.config.context)?;
        let graph = |pass| recipe.graph(pass);
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        Ok(Model { name, graphs: graphs(&checkpoint.config, graph, recipe.vision())? })
    };
    folders.iter().map(model).collect()
}

/// A model of this shape whose matrices have the format, where its blocks divide their rows, and f16 elsewhere.
fn of_shape((name, config): &(&str, Config), format: DType) -> Result<Model> {
    let angles = AngleTable::blank(config, config.context);
    let divided = |cols: usize| cols.is_multiple_of(format.block().0);
    let columns: BTreeMap<String, usize> =
        configs::matrices(config).into_iter().map(|(name, _, cols)| (name, cols)).collect();
    let formats = |tensor: &str| {
        let cols = columns.get(tensor).copied().or_else(|| vision_columns(config.vision.as_ref()?, tensor));
        if cols.is_none_or(divided) { format } else { DType::F16 }
    };
    let graph = |pass| models::build(config, GraphBuilder::new(&formats), &angles, pass);
    let vision = models::build_vision(config, GraphBuilder::new(&formats));
    Ok(Model { name: format!("{name} {format}"), graphs: graphs(config, graph, vision)? })
}

/// The columns of the one matrix of a tower that are no multiple of 32.
fn vision_columns(vision: &VisionConfig, tensor: &str) -> Option<usize> {
    tensor.ends_with("patch_embedding.weight").then_some(3 * vision.patch * vision.patch)
}

/// The passes that a model goes through.
fn graphs(
    config: &Config,
    graph: impl Fn(Pass) -> Result<Graph>,
    vision: Option<Graph>,
) -> Result<Vec<(&'static str, Graph)>> {
    let images = config.vision.is_some();
    let prompt = |rows, want| Pass { images, ..Pass::prompt(rows, want) };
    let passes = [
        ("decode", Pass::decode(1)),
        ("few", Pass::decode(2)),
        ("few", Pass::decode(8)),
        ("prompt", prompt(128, Want::Nothing)),
        ("prompt", prompt(128, Want::Token)),
    ];
    let mut graphs = Vec::new();
    for (name, pass) in passes {
        graphs.push((name, graph(pass)?));
    }
    graphs.extend(vision.map(|graph| ("vision", graph)));
    Ok(graphs)
}

/// MobileVLM V2-1.7B: MobileLLaMA-1.4B with CLIP ViT-L/14-336 and LDPv2.
fn mobilevlm(llama: Config) -> Config {
    let vision = VisionConfig {
        image_size: 336,
        patch: 14,
        width: 1024,
        heads: 16,
        ffn: 4096,
        blocks: 23,
        norm_eps: 1e-5,
        activation: Activation::QuickGelu,
        projector: Projector::Ldpv2,
        mean: [0.5; 3],
        std: [0.5; 3],
        image_start: None,
    };
    Config { architecture: "mobilevlm".into(), vision: Some(vision), ..llama }
}
