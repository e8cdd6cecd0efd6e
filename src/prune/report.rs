//! The report of a run, step by step, with the names of the authors' program.

use serde::Serialize;

use super::calibration::{Calibration, Draws};
use super::options::{Importance, PruneOptions};
use crate::checkpoint::Checkpoint;

/// The report of a pruning run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PruneReport {
    /// `taylor`, `l2` or `l1`.
    pub importance: &'static str,
    /// The authors' name for |w·g| summed over a group; `None` without gradients.
    pub taylor: Option<&'static str>,
    /// The reduction over the members of a group: `sum` or `mean`.
    pub group_reduction: &'static str,
    /// `cosine`, `euclidean`, `manhattan` or `uniform`.
    pub layer_importance: &'static str,
    /// `authors` or `own`.
    pub query_heads: &'static str,
    /// T, the largest number of steps.
    pub iterative_steps: usize,
    /// A, by how much the normalised importance of a layer changes its sparsity in a step.
    pub amplitude: f64,
    /// ρ, the share that all T steps together remove from each layer, before A.
    pub pruning_ratio: f64,
    /// Windows per batch.
    pub batch_size: usize,
    /// The source of the ids.
    pub calibration: String,
    /// Windows per step.
    pub samples: usize,
    /// Ids per window.
    pub window: usize,
    /// The seed of SplitMix64, where windows are drawn.
    pub seed: Option<u64>,
    /// The device of the forward passes.
    pub device: Option<String>,
    /// The memory use of the gradients' activations.
    pub activations: Option<Activations>,
    /// Number of parameters of the model. A shared embedding counts once.
    pub parameters_before: usize,
    /// The run ends when fewer parameters than this are left.
    pub target_parameters: usize,
    /// Number of steps that were run, at most `iterative_steps`.
    pub steps_run: usize,
    /// Number of parameters of the pruned model. It is not below the target if all steps were not enough.
    pub parameters_after: usize,
    /// The smallest margin of any choice: (lowest score that stays − highest that is removed) / the former.
    pub smallest_relative_margin_of_a_choice: Option<f64>,
    /// The report of each step.
    pub steps: Vec<PruneStep>,
}

impl PruneReport {
    /// A report without steps.
    pub(super) fn begin(checkpoint: &Checkpoint, calibration: &Calibration, draws: &Draws, o: &PruneOptions) -> Self {
        let taylor = o.importance == Importance::Taylor;
        let parameters = checkpoint.parameters();
        PruneReport {
            importance: o.importance.name(),
            taylor: taylor.then_some("param_first"),
            group_reduction: if taylor { "sum" } else { "mean" },
            layer_importance: o.layer_importance.name(),
            query_heads: o.query_heads.name(),
            iterative_steps: o.steps,
            amplitude: o.amplitude,
            pruning_ratio: o.ratio,
            batch_size: o.batch,
            calibration: calibration.name().to_owned(),
            samples: draws.samples(),
            window: draws.window(),
            seed: calibration.is_text().then_some(o.seed),
            device: None,
            activations: None,
            parameters_before: parameters,
            target_parameters: o.target,
            steps_run: 0,
            parameters_after: parameters,
            smallest_relative_margin_of_a_choice: None,
            steps: Vec::new(),
        }
    }
}

/// The division of a batch that kept its activations within the memory limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Activations {
    /// Windows that go through the model together.
    pub windows: usize,
    /// Number of layer passes whose activations are recomputed in the backward pass.
    pub recomputed: usize,
    /// The largest number of bytes in any step.
    pub bytes: usize,
    /// The limit in bytes.
    pub limit: usize,
}

/// One step: for each layer its importance, its target sparsity, and the removed parts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PruneStep {
    /// Index of the step, from 1.
    pub step: usize,
    /// The mean loss of each batch in nats; only with gradients.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub batch_losses: Vec<f32>,
    /// c, the importance of each layer: the sum over batches of a mean over tokens.
    pub layer_importance_sum: Vec<f64>,
    /// z: c relative to its mean over the layers, within −1 .. 1.
    pub layer_importance_normalised: Vec<f64>,
    /// S after this step: the share of each layer's original elements that is to be removed.
    pub target_sparsity: Vec<f64>,
    /// Scores of heads and channels.
    pub importance: GroupImportance,
    /// Indices from before the step.
    pub removed_kv_heads: Vec<Vec<usize>>,
    /// Query heads that read the removed key/value heads.
    pub removed_query_heads: Vec<Vec<usize>>,
    /// Channels of the feed-forward blocks.
    pub removed_channels: Vec<Vec<usize>>,
    /// Remaining query heads of each layer.
    pub num_attention_heads: Vec<usize>,
    /// Remaining key/value heads of each layer.
    pub num_key_value_heads: Vec<usize>,
    /// Remaining channels of each layer.
    pub intermediate_size: Vec<usize>,
    /// Remaining parameters of the model.
    pub parameters: usize,
}

/// Scores of each layer.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GroupImportance {
    /// Scores of each key/value head with its query heads.
    pub attn: Vec<Vec<f32>>,
    /// Scores of each channel.
    pub mlp: Vec<Vec<f32>>,
}

/// The progress of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PruneProgress {
    /// The current step, from 1.
    pub step: usize,
    /// The largest number of steps.
    pub steps: usize,
    /// Current number of parameters of the model.
    pub parameters: usize,
    /// An estimate of the completed share of the whole run, 0 to 1.
    pub share: f64,
}
