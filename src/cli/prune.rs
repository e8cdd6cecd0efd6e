//! `dunlin prune`: a smaller model.

use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::progress::Bar;
use super::{Failure, interrupted};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::generate::Device;
use crate::prune::{self, Calibration, Importance, LayerImportance, PruneOptions, PruneReport, QueryHeads};

/// Adapt-Pruner without training: many small steps, each of which judges layers, heads and channels anew. The defaults are the
/// settings of the authors' recipes.
#[derive(Args)]
pub struct Prune {
    /// A Hugging Face folder with weights in f32, f16 or bf16
    model: PathBuf,
    /// The folder that is written
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Stop below this many parameters; a shared embedding counts once
    #[arg(long, value_name = "N")]
    target_parameters: usize,
    /// Calibration: .safetensors or .json with `input_ids` (windows, ids), used at every step; .jsonl with
    /// {"text":…} a line, or a text with blank lines between documents, from which each step draws windows
    #[arg(long, value_name = "FILE")]
    calibration: PathBuf,
    /// T: each of at most so many steps removes about 1/T of heads and channels
    #[arg(long, value_name = "T", default_value_t = 50)]
    steps: usize,
    /// ρ: the share of heads and channels that all steps together would remove
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    ratio: f64,
    /// A: how much the importance of a layer changes its share in each step
    #[arg(long, value_name = "A", default_value_t = 0.02)]
    amplitude: f64,
    /// Importance of a weight: |w·g| with the gradient g of the loss, computed on the CPU; w²; or |w|
    #[arg(long, value_name = "I", default_value = "taylor")]
    importance: Weight,
    /// Importance of a layer: 1 less the cosine similarity of its input and output; the authors' euclidean and manhattan, by
    /// which layers that change the residual stream more are pruned more; or the same for all layers (uniform)
    #[arg(long, value_name = "L", default_value = "cosine")]
    layer_importance: Layer,
    /// Which query heads count for a key/value head: `authors` adds up every K-th, as their program does, `own` those that
    /// read it, which is right; without grouped queries both are the same
    #[arg(long, value_name = "Q", default_value = "authors")]
    query_heads: Heads,
    /// Windows of a batch
    #[arg(long, value_name = "N", default_value_t = 16)]
    batch: usize,
    /// Windows that each step draws from a text
    #[arg(long, value_name = "N", default_value_t = 512)]
    samples: usize,
    /// Ids of a window that is drawn
    #[arg(long, value_name = "N", default_value_t = 64)]
    window: usize,
    /// The same seed draws the same windows
    #[arg(long, value_name = "S", default_value_t = 42)]
    seed: u64,
    /// The most that activations may take while gradients are computed; fewer windows go through at a time, or they are
    /// computed again
    #[arg(long, value_name = "MB", default_value_t = 1024)]
    memory: usize,
    /// Where a JSON object goes: what every layer, head and channel was worth at each step, and which were removed
    #[arg(long, value_name = "FILE.json")]
    report: Option<PathBuf>,
    /// The device that measures the importance of layers: auto, cpu, gpu, a backend, an index of `dunlin info`, or [BACKEND:]NAME-PART
    #[arg(long, value_name = "D", default_value = "auto")]
    device: String,
    /// Replace DIR if it holds a model
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Weight {
    Taylor,
    L2,
    L1,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Layer {
    Cosine,
    Euclidean,
    Manhattan,
    Uniform,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Heads {
    Authors,
    Own,
}

impl Prune {
    pub fn run(self) -> Result<(), Failure> {
        let device = Device::parse(&self.device)?;
        // Errors that can be found before the work are reported before it.
        Checkpoint::open(&self.model)?.may_save(&self.out, self.force)?;
        if let Some(report) = &self.report {
            may_write(report)?;
            if report == &self.out {
                let out = self.out.display();
                return Err(Error::prompt(format!("--report and --out are both {out}; a report is a file")).into());
            }
        }
        let calibration = Calibration::open(&self.calibration)?;
        let bar = Bar::estimate("pruning");
        let run = prune::prune(&self.model, &device, &calibration, &self.options(), |progress| {
            bar.note(format!("step {}, {:.1} M parameters", progress.step, progress.parameters as f64 / 1e6));
            bar.set((1e4 * progress.share) as usize, 10_000);
            if interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        bar.clear();
        let Some(pruned) = run? else { return Err(Failure::Interrupted) };
        pruned.save(&self.out, self.force)?;
        if let Some(file) = &self.report {
            write(file, &pruned.report)?;
        }
        let mut out = std::io::stdout().lock();
        out.write_all(self.text(&pruned.report).as_bytes())?;
        Ok(out.flush()?)
    }

    fn options(&self) -> PruneOptions {
        PruneOptions::target(self.target_parameters)
            .steps(self.steps)
            .ratio(self.ratio)
            .amplitude(self.amplitude)
            .importance(match self.importance {
                Weight::Taylor => Importance::Taylor,
                Weight::L2 => Importance::L2,
                Weight::L1 => Importance::L1,
            })
            .layer_importance(match self.layer_importance {
                Layer::Cosine => LayerImportance::Cosine,
                Layer::Euclidean => LayerImportance::Euclidean,
                Layer::Manhattan => LayerImportance::Manhattan,
                Layer::Uniform => LayerImportance::Uniform,
            })
            .query_heads(match self.query_heads {
                Heads::Authors => QueryHeads::Authors,
                Heads::Own => QueryHeads::Own,
            })
            .batch(self.batch)
            .samples(self.samples)
            .window(self.window)
            .seed(self.seed)
            .memory(self.memory.saturating_mul(1 << 20))
    }

    fn text(&self, report: &PruneReport) -> String {
        let (before, after) = (report.parameters_before, report.parameters_after);
        let mut text = format!(
            "parameters  {before} -> {after} ({:.1} %), {} steps of at most {}\n",
            100.0 * after as f64 / before as f64,
            report.steps_run,
            report.iterative_steps,
        );
        if after >= report.target_parameters {
            let advice = match self.ratio < 1.0 {
                true => ": a larger --ratio removes more",
                false => ": what is left cannot be removed by these steps; fewer --steps remove more at a time",
            };
            text += &format!("            not below {}{advice}\n", report.target_parameters);
        }
        if let Some(last) = report.steps.last() {
            let list = |numbers: &[usize]| numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(" ");
            text += &format!("kv heads    {}\n", list(&last.num_key_value_heads));
            text += &format!("ffn         {}\n", list(&last.intermediate_size));
        }
        if let Some(activations) = report.activations {
            text += &format!(
                "activations {} windows at a time, {} MB of at most {}; {} passes of layers computed again\n",
                activations.windows,
                activations.bytes.div_ceil(1 << 20),
                activations.limit >> 20,
                activations.recomputed,
            );
        }
        if let Some(device) = &report.device {
            text += &format!("layers      judged on {device}\n");
        }
        text + &format!("written     {}\n", self.out.display())
    }
}

/// Refuses a report path that cannot be written, before the work begins.
fn may_write(file: &Path) -> Result<()> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let why = match () {
        () if file.is_dir() => format!("{} is a folder", file.display()),
        () if !parent.is_dir() => format!("the folder {} does not exist", parent.display()),
        () => return Ok(()),
    };
    Err(Error::prompt(format!("the report cannot be written to {}: {why}", file.display())))
}

/// Writes the complete report or no file.
fn write(file: &Path, report: &PruneReport) -> Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".partial-{}", std::process::id()));
    let unfinished = PathBuf::from(name);
    let written = serde_json::to_vec(report).map_err(std::io::Error::from).and_then(|mut json| {
        json.push(b'\n');
        fs::write(&unfinished, json)?;
        fs::rename(&unfinished, file)
    });
    written.map_err(|error| {
        let _ = fs::remove_file(&unfinished);
        Error::prompt(format!("the report cannot be written to {}", file.display())).caused_by(error)
    })
}
