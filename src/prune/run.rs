//! One run of pruning.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::calibration::{Calibration, Draws};
use super::gradient::{Decoder, Matrices};
use super::options::{Importance, LayerImportance, PruneOptions};
use super::progress::Ahead;
use super::prunable;
use super::report::{Activations, GroupImportance, PruneProgress, PruneReport, PruneStep};
use super::scores::Scores;
use super::select::{lowest, normalised, others, removals, sparsity, uniform};
use super::streams::{self, Streams};
use crate::backend::{DeviceChoice, Engine, EngineOptions};
use crate::checkpoint::text::TextFiles;
use crate::checkpoint::{Checkpoint, Files, Kept};
use crate::error::{Error, Result};
use crate::generate::{Device, Tokenizer, device};
use crate::threads::Team;

/// A pruned model in memory, and the report of the run.
#[derive(Debug)]
pub struct Pruned {
    checkpoint: Checkpoint,
    /// The report, step by step.
    pub report: PruneReport,
}

impl Pruned {
    /// Writes the model as a Hugging Face folder: `config.json` with lists of heads, key/value heads and feed-forward
    /// widths, the unchanged bytes of the remaining weights, and the tokenizer's files. The folder appears complete or
    /// not at all; an existing folder is an error, or with `replace` is replaced if it holds a model.
    pub fn save(&self, folder: impl AsRef<Path>, replace: bool) -> Result<()> {
        self.checkpoint.save(folder.as_ref(), replace)
    }
}

/// Removes key/value heads, with the query heads that read them, and feed-forward channels of a Hugging Face folder
/// until fewer parameters than the target are left, by Adapt-Pruner without training. The last step may remove more
/// than needed, and nothing is added back.
///
/// The method is that of Pan et al., 2025 (arXiv 2502.03460): layer-wise importance by the similarity of a layer's
/// input and output, a sparsity of its own for each layer, group importance of coupled structures, and incremental
/// pruning by small steps. Formulas, reductions and the order of operations are those of the authors' program
/// (research4pan/AdaptPruner, `utils/hf_prune.py` and its `MetaPruner`), and in f32 and with [`QueryHeads::Authors`]
/// the choices are the same; the training between runs is left to other programs.
///
/// [`QueryHeads::Authors`]: crate::QueryHeads::Authors
///
/// `device` runs the forward passes that measure layer importance. Gradients, for [`Importance::Taylor`], are computed
/// on the CPU; if `device` is the CPU, one pass serves both. `progress` receives the progress of the run, and ends it
/// by returning [`ControlFlow::Break`]: then the result is `None`.
///
/// ```no_run
/// use std::ops::ControlFlow;
///
/// use dunlin::{Calibration, Device, PruneOptions};
///
/// # fn main() -> dunlin::Result<()> {
/// let options = PruneOptions::target(120_000_000).samples(64);
/// let calibration = Calibration::open("news.jsonl")?;
/// let run = dunlin::prune("SmolLM2-135M", &Device::auto(), &calibration, &options, |_| ControlFlow::Continue(()))?;
/// if let Some(pruned) = run {
///     println!("{} of {} parameters", pruned.report.parameters_after, pruned.report.parameters_before);
///     pruned.save("SmolLM2-120M", false)?;
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// The model cannot be read, or is a GGUF file, or has a vision half; the target is not below the model's size, or is
/// below the size with one head and one channel per layer; no window of the calibration fits; the device cannot run the
/// model.
pub fn prune(
    files: impl Into<Files>,
    device: &Device,
    calibration: &Calibration,
    options: &PruneOptions,
    mut progress: impl FnMut(PruneProgress) -> ControlFlow<()>,
) -> Result<Option<Pruned>> {
    let files = files.into();
    let checkpoint = Checkpoint::open(files.clone())?;
    prunable::check(&checkpoint, options)?;
    let (vocab, sizes) = (checkpoint.config.vocab, [options.samples, options.window]);
    let tokenizer = || match TextFiles::of(&checkpoint)? {
        Some(_) => Tokenizer::load(files.clone()),
        None => Err(Error::prompt(format!(
            "{} has no tokenizer (tokenizer.json or tokenizer.model) to read the text of {} with: give ids, as .safetensors \
             or .json",
            checkpoint.path.display(),
            calibration.name(),
        ))),
    };
    let draws = calibration.draws(&tokenizer, vocab, sizes, options.seed)?;
    let context = checkpoint.config.rope.most_positions.unwrap_or(checkpoint.config.context);
    if draws.window() > context {
        return Err(Error::prompt(format!(
            "{}: windows of {} ids are longer than the model's context of {context}",
            calibration.name(),
            draws.window(),
        )));
    }
    let taylor = options.importance == Importance::Taylor;
    let cpu = options.layer_importance == LayerImportance::Uniform || device.choose()? == DeviceChoice::Cpu;
    let report = PruneReport::begin(&checkpoint, calibration, &draws, options);
    let run = Run {
        options,
        device,
        // With gradients the CPU runs the forward passes anyway.
        on_device: options.layer_importance != LayerImportance::Uniform && !(taylor && cpu),
        team: Team::of_cores(),
        first: widths(&checkpoint),
        sparsity: vec![0.0; checkpoint.config.layers],
        checkpoint,
        draws,
        report,
    };
    match run.all(&mut progress) {
        Ok(pruned) => Ok(Some(pruned)),
        Err(Ended::Stopped) => Ok(None),
        Err(Ended::Failed(error)) => Err(error),
    }
}

/// The reason why a run ended early.
enum Ended {
    /// The caller stopped it.
    Stopped,
    Failed(Error),
}

/// Ends the run where the caller of [`prune`] asked for it.
fn go_on(progress: ControlFlow<()>) -> Result<(), Ended> {
    match progress {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Ended::Stopped),
    }
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// A run in progress.
struct Run<'a> {
    options: &'a PruneOptions,
    device: &'a Device,
    /// Whether the device measures layer importance.
    on_device: bool,
    team: Team,
    /// The current model.
    checkpoint: Checkpoint,
    draws: Draws,
    /// Elements of attention and channels of each layer at the beginning of the run.
    first: Vec<[usize; 2]>,
    /// S
    sparsity: Vec<f64>,
    report: PruneReport,
}

/// The measurements of a step.
struct Measured {
    /// c
    layers: Vec<f64>,
    losses: Vec<f32>,
    scores: Vec<Scores>,
}

impl Run<'_> {
    fn all(mut self, progress: &mut dyn FnMut(PruneProgress) -> ControlFlow<()>) -> Result<Pruned, Ended> {
        for step in 1..=self.options.steps {
            let measured = self.measure(step, progress)?;
            self.remove(step, measured)?;
            if self.report.parameters_after < self.options.target {
                break;
            }
        }
        Ok(Pruned { checkpoint: self.checkpoint, report: self.report })
    }

    /// Measures the importance of layers and groups.
    fn measure(
        &mut self,
        step: usize,
        progress: &mut dyn FnMut(PruneProgress) -> ControlFlow<()>,
    ) -> Result<Measured, Ended> {
        let windows = self.draws.next();
        let taylor = self.options.importance == Importance::Taylor;
        // Units of work: one per forward pass on the device, three per forward and backward pass on the CPU.
        let work = windows.len() * (usize::from(self.on_device) + 3 * usize::from(taylor));
        let mut ahead = self.ahead(step, work.max(1), progress);
        go_on(ahead.add(0))?;
        let mut importance = Streams::new(self.options.layer_importance, self.checkpoint.config.layers);
        if self.on_device {
            self.pass_through_device(&windows, &mut importance, &mut ahead)?;
        }
        let (scores, losses) = match taylor {
            true => self.score_by_gradients(&windows, &mut importance, &mut ahead)?,
            false => (self.score_by_size()?, Vec::new()),
        };
        Ok(Measured { layers: importance.finish(), losses, scores })
    }

    /// Measures layer importance by forward passes on the device.
    fn pass_through_device(
        &mut self,
        windows: &[Vec<u32>],
        importance: &mut Streams,
        ahead: &mut Ahead,
    ) -> Result<(), Ended> {
        let config = &self.checkpoint.config;
        let (engine, repeats) = (self.engine(windows[0].len())?, if config.layer_sharing { 2 } else { 1 });
        let mut session = engine.session(windows[0].len())?;
        for batch in windows.chunks(self.options.batch) {
            for window in batch {
                let mut each = |pass, x: &[f32], y: &[f32]| importance.add(pass / repeats, x, y, config.hidden);
                streams::pass(&mut *session, engine.chunk(), window, &mut each)?;
                go_on(ahead.add(1))?;
            }
            importance.end_batch(batch.len() * batch[0].len());
        }
        self.report.device.get_or_insert_with(|| engine.device().name.clone());
        Ok(())
    }

    /// Computes scores by |w·g|, and the losses of the batches. If the device is the CPU, the same passes measure layer
    /// importance.
    fn score_by_gradients(
        &mut self,
        windows: &[Vec<u32>],
        importance: &mut Streams,
        ahead: &mut Ahead,
    ) -> Result<(Vec<Scores>, Vec<f32>), Ended> {
        let (o, config) = (self.options, &self.checkpoint.config);
        let window = windows[0].len();
        let decoder = Decoder::load(&self.checkpoint, window)?;
        let memory = decoder.memory(o.batch.min(windows.len()), window, o.memory);
        if memory.bytes > o.memory {
            let megabytes = |bytes: usize| bytes.div_ceil(1 << 20);
            return Err(Error::out_of_memory(format!(
                "activations of one window of {window} ids take {} MB, even if all that can be is computed again, and {} MB are \
                 allowed; give shorter windows, or more with --memory",
                megabytes(memory.bytes),
                o.memory >> 20,
            ))
            .into());
        }
        if ahead.step == 1 {
            self.compare(&decoder, &windows[0])?;
        }
        let mut gradients = decoder.gradients();
        // The first step needs the most memory.
        self.report.activations.get_or_insert(Activations {
            windows: memory.windows,
            recomputed: memory.recomputed,
            bytes: memory.bytes,
            limit: o.memory,
        });
        let judge = !self.on_device && o.layer_importance != LayerImportance::Uniform;
        if judge {
            self.report.device.get_or_insert_with(|| "cpu".into());
        }
        let mut losses = Vec::new();
        for batch in windows.chunks(o.batch) {
            let mut seen = |layer, x: &[f32], y: &[f32]| {
                if judge {
                    importance.add(layer, x, y, config.hidden);
                }
            };
            let mut seen_windows = |windows| ahead.add(3 * windows);
            match decoder.batch(batch, memory, &self.team, &mut gradients, &mut seen, &mut seen_windows) {
                ControlFlow::Break(()) => return Err(Ended::Stopped),
                ControlFlow::Continue(loss) => losses.push(loss as f32),
            }
            if judge {
                importance.end_batch(batch.len() * window);
            }
        }
        let each = decoder.layers.iter().zip(&gradients).enumerate();
        let scores = each.map(|(layer, (weights, gradients))| {
            Scores::of(config, layer, &weights.matrices, Some(gradients), o.importance, o.query_heads)
        });
        Ok((scores.collect(), losses))
    }

    /// Refuses a model for which the gradients would be wrong: the CPU passes of the gradients must agree with the
    /// engine, which supports more architectures.
    fn compare(&self, decoder: &Decoder, window: &[u32]) -> Result<()> {
        /// Both compute in f32 and differ by about 1e-5.
        const MOST: f64 = 1e-2;
        let mut expected: Vec<Vec<f32>> = Vec::new();
        let engine = self.engine(window.len())?;
        streams::pass(&mut *engine.session(window.len())?, engine.chunk(), window, &mut |pass, _, y| {
            expected.resize(expected.len().max(pass + 1), Vec::new());
            expected[pass].extend_from_slice(y);
        })?;
        let found = decoder.hidden(&[window.to_vec()], &self.team);
        for (pass, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let squares = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
            let error =
                squares(&mut found.iter().zip(expected).map(|(a, b)| a - b)) / squares(&mut expected.iter().copied());
            if error.is_nan() {
                return Err(Error::checkpoint(format!(
                    "{}: hidden states behind pass {pass} are not numbers on {}: the weights are damaged, or the model overflows",
                    self.checkpoint.path.display(),
                    self.report.calibration,
                )));
            }
            if error > MOST {
                return Err(Error::unsupported(format!(
                    "{}: gradients of the architecture {} are not known: behind pass {pass} the hidden states that they \
                     would go back through differ by {error:.1e} from the model's; take --importance l2",
                    self.checkpoint.path.display(),
                    self.checkpoint.config.architecture,
                )));
            }
        }
        Ok(())
    }

    /// Computes scores from the weights alone.
    fn score_by_size(&self) -> Result<Vec<Scores>> {
        let (o, config) = (self.options, &self.checkpoint.config);
        let score = |layer| {
            let weights = Matrices::load(&self.checkpoint, layer)?;
            Ok(Scores::of(config, layer, &weights, None, o.importance, o.query_heads))
        };
        (0..config.layers).map(score).collect()
    }

    /// The current model on the device, in f32, so that the choices are those of the authors' program.
    fn engine(&self, window: usize) -> Result<Arc<dyn Engine>> {
        let options = EngineOptions { full_precision: true, context: Some(window), ..EngineOptions::default() };
        device::load(&self.checkpoint, self.device, &options, &|_, _| ())
    }

    /// Refuses to choose by infinities and not-a-numbers.
    fn check_numbers(&self, measured: &Measured) -> Result<()> {
        let refused = |what: &str, layer: usize| {
            Err(Error::checkpoint(format!(
                "{}: {what} of layer {layer} are not numbers on {}: the weights are damaged, or the model overflows; try what \
                 `dunlin score` says of it",
                self.checkpoint.path.display(),
                self.report.calibration,
            )))
        };
        for (layer, (c, scores)) in measured.layers.iter().zip(&measured.scores).enumerate() {
            let finite = |scores: &[f64]| scores.iter().all(|score| score.is_finite());
            match () {
                () if !c.is_finite() => return refused("hidden states", layer),
                () if !finite(&scores.attention) => return refused("scores of the heads", layer),
                () if !finite(&scores.channels) => return refused("scores of the channels", layer),
                () => {}
            }
        }
        Ok(())
    }

    /// Removes the groups with the lowest scores in each layer, and reports them.
    fn remove(&mut self, step: usize, measured: Measured) -> Result<()> {
        let (o, config) = (self.options, &self.checkpoint.config);
        self.check_numbers(&measured)?;
        let z = normalised(&measured.layers);
        let mut kept = Vec::with_capacity(z.len());
        let (mut kv_heads, mut query_heads, mut channels) = (Vec::new(), Vec::new(), Vec::new());
        for (layer, scores) in measured.scores.iter().enumerate() {
            let share = &mut self.sparsity[layer];
            *share = match o.layer_importance {
                LayerImportance::Uniform => uniform(step, o.steps, o.ratio),
                _ => sparsity(*share, o.ratio, o.steps, o.amplitude, z[layer]),
            };
            let [attention, ffn] = self.first[layer];
            let heads = removals(config.kv_heads[layer], config.head_dim, attention, *share);
            let (heads, head_margin) = lowest(&scores.attention, heads);
            let units = removals(config.ffn[layer], 1, ffn, *share);
            let (units, unit_margin) = lowest(&scores.channels, units);
            for margin in [head_margin, unit_margin].into_iter().filter(|margin| margin.is_finite()) {
                let smallest = self.report.smallest_relative_margin_of_a_choice.get_or_insert(margin);
                *smallest = smallest.min(margin);
            }
            kept.push(Kept {
                kv_heads: others(config.kv_heads[layer], &heads),
                channels: others(config.ffn[layer], &units),
            });
            let group = config.heads[layer] / config.kv_heads[layer];
            query_heads.push(heads.iter().flat_map(|head| head * group..(head + 1) * group).collect());
            kv_heads.push(heads);
            channels.push(units);
        }
        self.checkpoint = self.checkpoint.cut(&kept)?;
        let (config, parameters) = (&self.checkpoint.config, self.checkpoint.parameters());
        let narrow = |scores: &[f64]| scores.iter().map(|&score| score as f32).collect();
        self.report.steps.push(PruneStep {
            step,
            batch_losses: measured.losses,
            layer_importance_sum: measured.layers,
            layer_importance_normalised: z,
            target_sparsity: self.sparsity.clone(),
            importance: GroupImportance {
                attn: measured.scores.iter().map(|scores| narrow(&scores.attention)).collect(),
                mlp: measured.scores.iter().map(|scores| narrow(&scores.channels)).collect(),
            },
            removed_kv_heads: kv_heads,
            removed_query_heads: query_heads,
            removed_channels: channels,
            num_attention_heads: config.heads.clone(),
            num_key_value_heads: config.kv_heads.clone(),
            intermediate_size: config.ffn.clone(),
            parameters,
        });
        (self.report.steps_run, self.report.parameters_after) = (step, parameters);
        Ok(())
    }

    fn ahead<'a>(
        &self,
        step: usize,
        all: usize,
        progress: &'a mut dyn FnMut(PruneProgress) -> ControlFlow<()>,
    ) -> Ahead<'a> {
        let (o, config) = (self.options, &self.checkpoint.config);
        let (before, parameters) = (self.report.parameters_before, self.report.parameters_after);
        // The parameters that a step removes: the average so far, or at first the ratio's share of everything
        // removable.
        let removable = || {
            let layer = |layer: usize| {
                2 * (config.heads[layer] + config.kv_heads[layer]) * config.head_dim + 3 * config.ffn[layer]
            };
            config.hidden * (0..config.layers).map(layer).sum::<usize>()
        };
        let each = match step {
            1 => removable() as f64 * o.ratio / o.steps as f64,
            _ => (before - parameters) as f64 / (step - 1) as f64,
        };
        let left = (parameters.saturating_sub(o.target) as f64 / each.max(1.0)).ceil();
        let left = left.clamp(1.0, (o.steps - step + 1) as f64);
        Ahead { step, steps: o.steps, parameters, left, done: 0, all, progress }
    }
}

/// K·D and F of each layer.
fn widths(checkpoint: &Checkpoint) -> Vec<[usize; 2]> {
    let config = &checkpoint.config;
    let attention = config.kv_heads.iter().map(|heads| heads * config.head_dim);
    attention.zip(&config.ffn).map(|(attention, &ffn)| [attention, ffn]).collect()
}
