//! Where a model runs: an [`Engine`] is one model on one device, a [`Session`] one sequence on it.

pub mod choice;

use crate::error::Result;
pub use choice::{AdapterInfo, DeviceChoice, EngineOptions};

/// One model on one device: the weights are there, plans are made once and kept.
pub trait Engine: Send + Sync {
    /// What `--device`, `stats` and `info` call it.
    fn device(&self) -> &DeviceInfo;
    /// Bytes of weights in device memory (mapped bytes on the CPU).
    fn weight_bytes(&self) -> u64;
    /// Dispatches of one decode step (0 on the CPU).
    fn dispatches_per_token(&self) -> usize;
    /// A new sequence of at most `capacity` tokens, prompt and continuation together.
    fn session(&self, capacity: usize) -> Result<Box<dyn Session>>;
}

/// The device's name and the API it is driven through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// For example `llvmpipe (LLVM 15.0.6, 256 bits)`; for the CPU path `cpu`.
    pub name: String,
    /// `vulkan`, `metal`, `dx12`, `gl` or `cpu`.
    pub backend: String,
}

/// One sequence: its tokens, its KV cache, and the work in flight for it.
pub trait Session: Send {
    /// Writes ids at `position..`; [`Session::run`] reads them from there.
    fn set_tokens(&mut self, position: usize, ids: &[u32]) -> Result<()>;
    /// Enqueues one pass over tokens `position..position + rows`. Returns without waiting for the device.
    /// With [`Want::Token`] the chosen id is written at `position + rows`, where the next step reads it.
    fn run(&mut self, step: &Step) -> Result<()>;
    /// The oldest chosen token not taken yet. Waits for it. Panics if none was asked for.
    fn sampled(&mut self) -> Result<Sampled>;
    /// The named outputs of the last [`Want::Logits`] or [`Want::Trace`] step, in model order. Waits for them.
    fn outputs(&mut self) -> Result<Vec<(String, Output)>>;
    /// How many [`Want::Token`] steps may be enqueued before the first is taken.
    fn depth(&self) -> usize;
}

/// One pass over some tokens of a sequence.
#[derive(Clone, Debug)]
pub struct Step {
    pub position: usize,
    pub rows: usize,
    pub want: Want,
    pub sampling: Sampling,
}

/// What a [`Step`] leaves for the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Want {
    /// Nothing: fill the KV cache.
    Nothing,
    /// Choose the next token; read it with [`Session::sampled`].
    Token,
    /// As `Token`, and [`Sampled::logits`] is filled.
    TokenAndLogits,
    /// Output `logits` (rows, vocab).
    Logits,
    /// Outputs `embeddings`, `layers.0`, … (rows, hidden), then `logits` (rows, vocab).
    Trace,
}

/// How a token is chosen from logits. `temperature` 0 is greedy.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    pub temperature: f32,
    /// Keep the k largest logits; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this fraction as probable as the most probable one; 0 keeps all.
    pub min_p: f32,
    /// Divide positive (multiply negative) logits of the last 64 tokens by this; 1 is off.
    pub repeat_penalty: f32,
    pub seed: u64,
}

/// A token chosen by the device.
#[derive(Clone, Debug)]
pub struct Sampled {
    pub id: u32,
    /// Natural logarithm of its probability under the unfiltered distribution at temperature 1.
    pub logprob: f32,
    /// The whole row of logits, before penalties, if [`Want::TokenAndLogits`] asked for it.
    pub logits: Option<Vec<f32>>,
}

/// A float32 matrix read back from a device.
#[derive(Clone, Debug)]
pub struct Output {
    pub rows: usize,
    pub cols: usize,
    pub data: Vec<f32>,
}
