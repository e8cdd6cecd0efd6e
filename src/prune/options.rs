//! What a pruning run is asked for.

/// How much smaller a model is to become, and by which rules.
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

/// What a weight is worth, from which key/value heads and channels get their scores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Importance {
    /// |w · g|, g the gradient of the loss, summed over all batches; the authors' recipes. Gradients are computed on the CPU.
    #[default]
    Taylor,
    /// w²
    L2,
    /// |w|
    L1,
}

/// How far a layer moves the residual stream, from input x to output y of each token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LayerImportance {
    /// −cos(x, y): a layer that turns the stream more than others is pruned less. The authors' recipes.
    #[default]
    Cosine,
    /// −‖x − y‖₂, with the authors' sign: a layer that moves the stream more is pruned *more*.
    Euclidean,
    /// −‖x − y‖₁, with the same sign.
    Manhattan,
    /// Every layer is alike: the authors' program without its adaptive switch.
    Uniform,
}

/// Which query heads count for a key/value head of grouped-query attention. Those that are removed with it are always its
/// own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueryHeads {
    /// As the authors' program adds them up: of K key/value heads, head k gets k, k + K, k + 2K, …, most of which belong to
    /// other heads.
    #[default]
    Authors,
    /// The query heads that read it: k·r … k·r + r − 1.
    Own,
}

impl PruneOptions {
    /// Down to fewer than `parameters` numbers (a shared embedding counts once), by the settings of the authors' recipes.
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

    /// T: the run takes at most so many steps, each of which removes about `ratio` / T. 50 unless told.
    pub fn steps(mut self, steps: usize) -> Self {
        self.steps = steps;
        self
    }

    /// ρ: the mean sparsity of the layers after all steps. 1 unless told.
    pub fn ratio(mut self, ratio: f64) -> Self {
        self.ratio = ratio;
        self
    }

    /// A: how much a layer's importance, within −1 .. 1, changes its sparsity in a step. 0.02 unless told.
    pub fn amplitude(mut self, amplitude: f64) -> Self {
        self.amplitude = amplitude;
        self
    }

    /// What a weight is worth.
    pub fn importance(mut self, importance: Importance) -> Self {
        self.importance = importance;
        self
    }

    /// What a layer is worth.
    pub fn layer_importance(mut self, importance: LayerImportance) -> Self {
        self.layer_importance = importance;
        self
    }

    /// Which query heads count for a key/value head.
    pub fn query_heads(mut self, query_heads: QueryHeads) -> Self {
        self.query_heads = query_heads;
        self
    }

    /// Windows of a batch, over which loss and layer importance are means. 16 unless told.
    pub fn batch(mut self, windows: usize) -> Self {
        self.batch = windows;
        self
    }

    /// Windows that are drawn for each step, where the calibration is text. 512 unless told.
    pub fn samples(mut self, windows: usize) -> Self {
        self.samples = windows;
        self
    }

    /// Ids of a window, where the calibration is text. 64 unless told.
    pub fn window(mut self, ids: usize) -> Self {
        self.window = ids;
        self
    }

    /// The same seed draws the same windows. 42 unless told.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Bytes for the activations that gradients need: within them, fewer windows go through the model at a time, and if one
    /// is too many, activations are computed again. 1 GiB unless told.
    pub fn memory(mut self, bytes: usize) -> Self {
        self.memory = bytes;
        self
    }
}

impl Importance {
    /// As the command line and reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Importance::Taylor => "taylor",
            Importance::L2 => "l2",
            Importance::L1 => "l1",
        }
    }
}

impl LayerImportance {
    /// As the command line and reports call it.
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
    /// As the command line and reports call it.
    pub fn name(self) -> &'static str {
        match self {
            QueryHeads::Authors => "authors",
            QueryHeads::Own => "own",
        }
    }
}
