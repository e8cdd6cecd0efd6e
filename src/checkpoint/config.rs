//! What a checkpoint says the model is: `config.json` or GGUF metadata → [`Config`].

/// A decoder, as its files describe it. Where files and tensor shapes disagree about widths, shapes win.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The name by which `models` finds the builder: `mobilellm`, `llama`, `llama4_text`.
    pub architecture: String,
    pub vocab: usize,
    pub hidden: usize,
    /// Stored layers; with `layer_sharing` each is executed twice in place.
    pub layers: usize,
    /// Query heads of each layer. Everything per layer has `layers` entries.
    pub heads: Vec<usize>,
    /// Key/value heads of each layer.
    pub kv_heads: Vec<usize>,
    /// Feed-forward width of each layer.
    pub ffn: Vec<usize>,
    pub head_dim: usize,
    pub norm_eps: f32,
    pub rope: RopeConfig,
    /// Whether layer i rotates q and k (`no_rope_layers[i] == 1` in `llama4_text`, where the name is inverted).
    pub rope_layers: Vec<bool>,
    /// Weightless per-head RMS normalisation of q and k after rope, in layers that rotate.
    pub qk_norm: bool,
    /// MobileLLM-LS: execution order 0, 0, 1, 1, …
    pub layer_sharing: bool,
    /// The output head is the embedding matrix.
    pub tied: bool,
    /// The longest context the model was made for (`max_position_embeddings`).
    pub context: usize,
    pub bos: Option<u32>,
    /// Ids that end a generation.
    pub eos: Vec<u32>,
}

/// Rotary position embedding. Angles are `position · inv_freq[i]` for i in 0..head_dim/2.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// Pairs are (2i, 2i+1) instead of (i, i + head_dim/2).
    pub interleaved: bool,
    /// θ_i, with any scaling (linear, llama3, `rope_freqs`) applied.
    pub inv_freq: Vec<f32>,
}
