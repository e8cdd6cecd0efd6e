//! `dunlin inspect`: the structure of a model, and the kernels that would run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::{Digits, Failure, Refused, Vision, kernel};
use crate::backend;
#[cfg(feature = "gpu")]
use crate::backend::DeviceChoice;
use crate::checkpoint::vision::Projector;
use crate::checkpoint::{Checkpoint, Config, QkNorm};
use crate::error::{Error, Result};
use crate::generate::Device;
use crate::models::{Pass, Recipe};
use crate::ops;
use crate::plan::{Fusion, Plan};
use crate::work::DeviceProfile;
use crate::work::source::assemble;

#[derive(Args)]
pub struct Inspect {
    /// A Hugging Face folder or a .gguf file
    model: PathBuf,
    #[command(flatten)]
    vision: Vision,
    /// Print the dispatches of a decode step, and of reading a picture; then which kernels do it, why, and what else there was
    #[arg(long)]
    plan: bool,
    /// Print an assembled shader, by its name in the plan or by parts of it, joined by `+`; or plan with your own file in its
    /// place, and then it may be repeated
    #[arg(long = "kernel", value_name = "NAME[=FILE]")]
    named: Vec<String>,
    /// Count memory for this many tokens [default: what the model was made for]
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// The device to plan for
    #[arg(long, value_name = "D", default_value = "auto")]
    device: String,
    /// The arithmetic to plan for
    #[arg(long, value_name = "P", default_value = "auto")]
    precision: Digits,
    #[command(flatten)]
    refused: Refused,
}

impl Inspect {
    pub fn run(self) -> Result<(), Failure> {
        let checkpoint = Checkpoint::open_with(&self.model, &self.vision.files())?;
        let text = match self.printed()? {
            Some(name) => assemble(ops::kernel_named(name)?.1),
            None => {
                let plans = self.plans(&checkpoint)?;
                if self.plan {
                    plans.iter().map(|plan| format!("{plan}\n{}", plan.choices())).collect::<Vec<_>>().join("\n")
                } else {
                    summary(&checkpoint, self.context, &plans)
                }
            }
        };
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }

    /// The kernel to print, if one is named without a file.
    fn printed(&self) -> Result<Option<&str>> {
        let name = self.named.iter().find(|name| !name.contains('='));
        if let Some(name) = name
            && self.named.len() > 1
        {
            return Err(Error::prompt(format!(
                "--kernel {name} prints that kernel and plans nothing: leave the other --kernel away, or write {name}=FILE"
            )));
        }
        Ok(name.map(String::as_str))
    }

    /// The plans of a decode step, and of reading a picture if the model can, for the requested device; the CPU gets a
    /// profile with WebGPU's default limits.
    fn plans(&self, checkpoint: &Checkpoint) -> Result<Vec<Plan>> {
        let mut profile = match Device::parse(&self.device)?.choose()? {
            #[cfg(feature = "gpu")]
            DeviceChoice::Adapter(index) => crate::backend::wgpu::device::Gpu::open(index)?.profile.clone(),
            _ => DeviceProfile::baseline(),
        };
        profile.reduced_precision = matches!(self.precision, Digits::Auto);
        profile.refused = self.refused.kernels.iter().cloned().collect();
        ops::check_refused(&profile.refused)?;
        profile.own = backend::read_own(&kernel::read_all(&self.named)?)?;
        let recipe = Recipe::new(checkpoint, self.context.unwrap_or(checkpoint.config.context))?;
        let graph = recipe.graph(Pass::decode(1))?;
        let graphs = [graph].into_iter().chain(recipe.vision());
        graphs.map(|graph| Plan::new(graph, &profile, Fusion::On)).collect()
    }
}

fn summary(checkpoint: &Checkpoint, context: Option<usize>, plans: &[Plan]) -> String {
    let config = &checkpoint.config;
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<18} {value}");
    };
    line("model", checkpoint.path.display().to_string());
    line("architecture", config.architecture.clone());
    let twice =
        if config.layer_sharing { format!(", each run twice ({} passes)", 2 * config.layers) } else { String::new() };
    line("layers", format!("{}{twice}", config.layers));
    line("hidden", config.hidden.to_string());
    line("heads", each(&config.heads));
    line("kv heads", each(&config.kv_heads));
    line("head size", config.head_dim.to_string());
    line("ffn", each(&config.ffn));
    line("vocabulary", config.vocab.to_string());
    line("head", if config.tied { "the embedding".into() } else { "its own matrix".to_owned() });
    let pairs = if config.rope.interleaved { "pairs (2i, 2i+1)" } else { "pairs (i, i + half)" };
    let norm = match config.qk_norm {
        QkNorm::None => "",
        QkNorm::Weightless => ", then q and k are normalised",
        QkNorm::Weighted => ", behind norms of q and k",
    };
    let without = config.rope_layers.iter().filter(|&&rope| !rope).count();
    let without = if without > 0 { format!("; {without} layers have none") } else { String::new() };
    line("rope", format!("{pairs}{norm}{without}"));
    if let Some(window) = config.windows.iter().flatten().next() {
        let count = config.windows.iter().flatten().count();
        line("window", format!("{window} positions in {count} layers of {}", config.layers));
    }
    let beyond = &config.rope.beyond;
    let changes = [(beyond.ntk.is_some(), "other angles (dynamic NTK)"), (beyond.logn, "larger queries (logn)")];
    let changes: Vec<&str> = changes.iter().filter(|(there, _)| *there).map(|(_, what)| *what).collect();
    if !changes.is_empty() {
        line("beyond", format!("{} tokens: {}", beyond.trained, changes.join(", ")));
    }
    line("norm eps", format!("{:e}", config.norm_eps));
    line("context", config.context.to_string());
    line("bos, eos", format!("{}, {}", config.bos.map_or("none".into(), |id| id.to_string()), each_id(&config.eos)));
    line("parameters", thousands(checkpoint.parameters()));

    let mut formats: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for tensor in checkpoint.tensors() {
        let entry = formats.entry(tensor.element).or_default();
        *entry = (entry.0 + 1, entry.1 + tensor.bytes);
    }
    let weights: usize = formats.values().map(|(_, bytes)| bytes).sum();
    let formats = formats.iter().map(|(name, (count, bytes))| format!("{count} × {name} {}", mebibytes(*bytes)));
    line("weights", format!("{} ({})", mebibytes(weights), formats.collect::<Vec<_>>().join(", ")));
    let context = context.unwrap_or(config.context);
    let values = kv_values(config);
    line(
        "memory",
        format!(
            "at {context} tokens: {} of weights, and a KV cache of {} in f16 or {} in f32",
            mebibytes(weights),
            mebibytes(2 * values * context),
            mebibytes(4 * values * context),
        ),
    );

    let dispatches =
        |plan: &Plan, each| format!("{} {each}, with an arena of {}", plan.steps.len(), mebibytes(plan.arena as usize));
    line("dispatches", dispatches(&plans[0], "a token"));
    if let (Some(vision), [_, plan]) = (&config.vision, plans) {
        line(
            "vision",
            format!(
                "{} px in patches of {}: {} patches of {} features, {} heads, ffn {}, {} blocks; {} tokens an image ({})",
                vision.image_size,
                vision.patch,
                vision.patches(),
                vision.width,
                vision.heads,
                vision.ffn,
                vision.blocks,
                vision.tokens(),
                match vision.projector {
                    Projector::Ldp { .. } => "ldp",
                    Projector::Ldpv2 => "ldpv2",
                    Projector::Resampler { .. } => "resampler",
                }
            ),
        );
        line("dispatches", dispatches(plan, "an image"));
    }

    let _ = writeln!(text, "\ntensors");
    let widest = checkpoint.tensors().map(|tensor| tensor.name.len()).max().unwrap_or_default();
    for tensor in checkpoint.tensors() {
        let shape: Vec<String> = tensor.shape.iter().map(usize::to_string).collect();
        let _ = writeln!(
            text,
            "  {:<widest$} {:<6} {:<16} {}",
            tensor.name,
            tensor.element,
            shape.join(" × "),
            mebibytes(tensor.bytes)
        );
    }
    text
}

/// The numbers that the KV cache holds for each token.
fn kv_values(config: &Config) -> usize {
    let passes = if config.layer_sharing { 2 } else { 1 };
    passes * 2 * config.head_dim * config.kv_heads.iter().sum::<usize>()
}

/// One number if all layers have the same.
fn each(values: &[usize]) -> String {
    match values {
        [first, rest @ ..] if rest.iter().all(|value| value == first) => first.to_string(),
        _ => values.iter().map(usize::to_string).collect::<Vec<_>>().join(" "),
    }
}

fn each_id(ids: &[u32]) -> String {
    if ids.is_empty() { "none".into() } else { ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ") }
}

fn mebibytes(bytes: usize) -> String {
    format!("{:.2} MiB", bytes as f64 / (1 << 20) as f64)
}

/// 124,635,456
fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(thousands(124_635_456), "124,635,456");
        assert_eq!((thousands(0), thousands(999), thousands(1000)), ("0".into(), "999".into(), "1,000".into()));
        assert_eq!((each(&[3, 3, 3]), each(&[3, 4])), ("3".into(), "3 4".into()));
        assert_eq!(mebibytes(3 << 19), "1.50 MiB");
    }

    #[test]
    fn kernels_are_found_by_name() {
        for kernel in ops::kernels().into_iter().flat_map(|(_, kernels)| kernels) {
            let found = ops::kernel_named(&kernel.name()).unwrap().1;
            assert!(std::ptr::eq(found, kernel), "{}", kernel.name());
        }
    }

    #[test]
    fn a_golden_model_is_described() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/mobilellm_ls");
        let checkpoint = Checkpoint::open(path).unwrap();
        let command = Inspect {
            model: path.into(),
            vision: Vision { mmproj: None, vision_tower: None },
            plan: false,
            named: Vec::new(),
            context: Some(100),
            device: "cpu".into(),
            precision: Digits::F32,
            refused: Refused { kernels: vec![] },
        };
        let plans = command.plans(&checkpoint).unwrap();
        let text = summary(&checkpoint, Some(100), &plans);
        for part in
            ["mobilellm", "3, each run twice (6 passes)", "model.layers.2.mlp.down_proj.weight", "at 100 tokens"]
        {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}
