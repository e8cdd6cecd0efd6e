//! What a run did, step by step, under the names of the authors' program.

use serde::Serialize;

/// What a run of pruning did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PruneReport {
    /// `taylor`, `l2` or `l1`.
    pub importance: &'static str,
    /// The authors' name for |w·g| summed over a group; none without gradients.
    pub taylor: Option<&'static str>,
    /// How the members of a group are put together: `sum` or `mean`.
    pub group_reduction: &'static str,
    /// `cosine`, `euclidean`, `manhattan` or `uniform`.
    pub layer_importance: &'static str,
    /// `authors` or `own`.
    pub query_heads: &'static str,
    /// T
    pub iterative_steps: usize,
    /// A
    pub amplitude: f64,
    /// ρ
    pub pruning_ratio: f64,
    /// Windows of a batch.
    pub batch_size: usize,
    /// Where the ids come from.
    pub calibration: String,
    /// Windows of a step.
    pub samples: usize,
    /// Ids of a window.
    pub window: usize,
    /// Where windows are drawn: by SplitMix64 from this seed.
    pub seed: Option<u64>,
    /// The device of the forward passes.
    pub device: Option<String>,
    /// What gradients kept in memory.
    pub activations: Option<Activations>,
    /// Numbers of the model. A shared embedding counts once.
    pub parameters_before: usize,
    /// Fewer than these were asked for.
    pub target_parameters: usize,
    /// Of at most `iterative_steps`.
    pub steps_run: usize,
    /// Numbers of what is left. Not below the target where all steps were not enough.
    pub parameters_after: usize,
    /// How close the closest choice was: (lowest score that stays − highest that goes) / the former.
    pub smallest_relative_margin_of_a_choice: Option<f64>,
    /// What each step did.
    pub steps: Vec<PruneStep>,
}

/// How the activations of a batch stayed within the memory that they were given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Activations {
    /// Windows that go through the model together.
    pub windows: usize,
    /// Passes of layers whose activations are computed again on the way back.
    pub recomputed: usize,
    /// The most bytes of any step.
    pub bytes: usize,
    /// What they may be.
    pub limit: usize,
}

/// One step: of each layer what it is worth, how much of it is to be gone, and what was removed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PruneStep {
    /// From 1.
    pub step: usize,
    /// The mean loss of each batch, in nats; with gradients only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub batch_losses: Vec<f32>,
    /// c
    pub layer_importance_sum: Vec<f64>,
    /// z
    pub layer_importance_normalised: Vec<f64>,
    /// S, behind this step.
    pub target_sparsity: Vec<f64>,
    /// What heads and channels are worth.
    pub importance: GroupImportance,
    /// Indices as they were before the step.
    pub removed_kv_heads: Vec<Vec<usize>>,
    /// Those that read the removed key/value heads.
    pub removed_query_heads: Vec<Vec<usize>>,
    /// Of the feed-forward blocks.
    pub removed_channels: Vec<Vec<usize>>,
    /// What is left of each layer.
    pub num_attention_heads: Vec<usize>,
    /// The same, of key/value heads.
    pub num_key_value_heads: Vec<usize>,
    /// The same, of channels.
    pub intermediate_size: Vec<usize>,
    /// What is left of the model.
    pub parameters: usize,
}

/// Scores of each layer.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GroupImportance {
    /// Of each key/value head with its query heads.
    pub attn: Vec<Vec<f32>>,
    /// Of each channel.
    pub mlp: Vec<Vec<f32>>,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PruneProgress {
    /// The step at hand, from 1.
    pub step: usize,
    /// The most steps that there may be.
    pub steps: usize,
    /// Numbers of the model as it is.
    pub parameters: usize,
    /// An estimate of how much of the whole run is done, 0 to 1.
    pub share: f64,
}
