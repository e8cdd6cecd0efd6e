//! The options of a pruning run.

/// The target size of a pruned model, and the rules of the run.
#[derive(Clone, Debug, PartialEq)]
pub struct PruneOptions {
    pub(super) target: usize,
    pub(super) steps: usize,
    pub(super) ratio: f64,
    pub(super) amplitude: f64,
    pub(super) importance: Importance,
    pub(super) layer_importance: LayerImportance,
    pub(super) query_heads: QueryHeads,
    pub(super) batch: usize,
    pub(super) samples: usize,
    pub(super) window: usize,
    pub(super) seed: u64,
    pub(super) memory: usize,
}

/// The importance of a weight, from which the scores of key/value heads and channels are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Importance {
    /// |w · g|, g the gradient of the loss, summed over all batches, as in the authors' recipes. Gradients are computed
    /// on the CPU.
    #[default]
    Taylor,
    /// w²
    L2,
    /// |w|
    L1,
}

/// The importance of a layer: a distance between its input x and its output y in the residual stream, for each token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LayerImportance {
    /// −cos(x, y): a layer that changes the direction of the stream more is pruned less, as in the authors' recipes.
    #[default]
    Cosine,
    /// −‖x − y‖₂, with the authors' sign: a layer that changes the stream more is pruned *more*.
    Euclidean,
    /// −‖x − y‖₁, with the same sign.
    Manhattan,
    /// All layers are equally important, as in the authors' program without its adaptive switch.
    Uniform,
}

/// The query heads that count towards the score of a key/value head in grouped-query attention. The query heads that
/// are removed with it are always its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueryHeads {
    /// As in the authors' program: of K key/value heads, head k gets query heads k, k + K, k + 2K, …, most of which
    /// belong to other key/value heads.
    #[default]
    Authors,
    /// The query heads that read it: k·r … k·r + r − 1.
    Own,
}

impl PruneOptions {
    /// Prunes to fewer than `parameters` parameters (a shared embedding counts once), as the authors' recipes do.
    pub fn target(parameters: usize) -> Self {
        PruneOptions {
            target: parameters,
            steps: 50,
            ratio: 1.0,
            amplitude: 0.02,
            importance: Importance::default(),
            layer_importance: LayerImportance::default(),
            query_heads: QueryHeads::default(),
            batch: 16,
            samples: 512,
            window: 64,
            seed: 42,
            memory: 1 << 30,
        }
    }

    /// T: the largest number of steps, each of which removes about `ratio` / T. The default is 50.
    pub fn steps(mut self, steps: usize) -> Self {
        self.steps = steps;
        self
    }

    /// ρ: the mean sparsity of the layers after all steps. The default is 1.
    pub fn ratio(mut self, ratio: f64) -> Self {
        self.ratio = ratio;
        self
    }

    /// A: how much a layer's importance, within −1 .. 1, changes its sparsity in a step. The default is 0.02.
    pub fn amplitude(mut self, amplitude: f64) -> Self {
        self.amplitude = amplitude;
        self
    }

    /// The importance of a weight.
    pub fn importance(mut self, importance: Importance) -> Self {
        self.importance = importance;
        self
    }

    /// The importance of a layer.
    pub fn layer_importance(mut self, importance: LayerImportance) -> Self {
        self.layer_importance = importance;
        self
    }

    /// The query heads that count towards the score of a key/value head.
    pub fn query_heads(mut self, query_heads: QueryHeads) -> Self {
        self.query_heads = query_heads;
        self
    }

    /// Windows per batch, over which loss and layer importance are averaged. The default is 16.
    pub fn batch(mut self, windows: usize) -> Self {
        self.batch = windows;
        self
    }

    /// Windows drawn per step, where the calibration is text. The default is 512.
    pub fn samples(mut self, windows: usize) -> Self {
        self.samples = windows;
        self
    }

    /// Ids per window, where the calibration is text. The default is 64.
    pub fn window(mut self, ids: usize) -> Self {
        self.window = ids;
        self
    }

    /// The seed of the windows: the same seed draws the same windows. The default is 42.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The limit in bytes for the activations that gradients need: to keep within it, fewer windows go through the
    /// model at a time, and if one window is too large, activations are recomputed. The default is 1 GiB.
    pub fn memory(mut self, bytes: usize) -> Self {
        self.memory = bytes;
        self
    }
}

impl Importance {
    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Importance::Taylor => "taylor",
            Importance::L2 => "l2",
            Importance::L1 => "l1",
        }
    }
}

impl LayerImportance {
    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            LayerImportance::Cosine => "cosine",
            LayerImportance::Euclidean => "euclidean",
            LayerImportance::Manhattan => "manhattan",
            LayerImportance::Uniform => "uniform",
        }
    }
}

impl QueryHeads {
    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            QueryHeads::Authors => "authors",
            QueryHeads::Own => "own",
        }
    }
}
