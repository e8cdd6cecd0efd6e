//! Where a model runs: an [`Engine`] is one model on one device, a [`Session`] one sequence on it.

pub mod check;
pub mod cpu;
#[cfg(feature = "gpu")]
pub mod wgpu;

use std::sync::Arc;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::kernel::Run;
use crate::models::{Leaves, Pass};

/// Loads a model onto a device.
pub fn load(
    checkpoint: &Checkpoint,
    device: &DeviceChoice,
    options: &EngineOptions,
    progress: Progress,
) -> Result<Arc<dyn Engine>> {
    match device {
        DeviceChoice::Cpu => Ok(Arc::new(cpu::CpuEngine::load(checkpoint, options, progress)?)),
        #[cfg(feature = "gpu")]
        DeviceChoice::Adapter(index) => {
            Ok(Arc::new(wgpu::engine::GpuEngine::load(checkpoint, *index, options, progress)?))
        }
        #[cfg(not(feature = "gpu"))]
        DeviceChoice::Adapter(_) => Err(no_gpu()),
    }
}

/// The adapters of this machine, in a stable order: [`DeviceChoice::Adapter`] counts them.
pub fn devices() -> Vec<AdapterInfo> {
    #[cfg(feature = "gpu")]
    return wgpu::device::adapters();
    #[cfg(not(feature = "gpu"))]
    Vec::new()
}

#[cfg(not(feature = "gpu"))]
fn no_gpu() -> Error {
    Error::device("this build has no GPU backends; build it with the feature `gpu`, or take the device `cpu`")
}

/// The error of [`Session::encode`] where there is nothing to encode with.
fn no_vision() -> Error {
    Error::unsupported("the model has no vision half, or it was released: load it again, without --release-vision")
}

/// What a model is loaded onto.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    Cpu,
    /// The adapter at this index of [`devices`].
    Adapter(usize),
}

/// How a model is loaded.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// Keep activations, tiles and KV cache in f32 even where there is f16: `--precision f32`.
    pub full_precision: bool,
    /// Longest context that sessions may have; the model's own by default.
    pub context: Option<usize>,
    /// Pretend that a storage binding may be no larger than this many bytes. For tests.
    pub max_binding: Option<u64>,
    /// Pretend that a rasteriser is hardware: run the kernels that suit a GPU. For tests.
    pub hardware: bool,
}

/// Called while loading: (done, of all).
pub type Progress<'a> = &'a (dyn Fn(usize, usize) + 'a);

/// An adapter as `dunlin info` lists it.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterInfo {
    pub name: String,
    /// `vulkan`, `metal`, `dx12` or `gl`.
    pub backend: String,
    pub driver: String,
    /// `discrete`, `integrated`, `virtual`, `cpu` or `other`.
    pub kind: String,
    /// A rasteriser on the CPU: never chosen by itself.
    pub software: bool,
    /// Whether dunlin can run on it; if not, which limit is too small.
    pub unusable: Option<String>,
    /// Name and value of the limits that matter.
    pub limits: Vec<(String, u64)>,
    /// Features that kernels may use.
    pub features: Vec<String>,
}

/// One model on one device: the weights are there, plans are made once and kept.
pub trait Engine: Send + Sync {
    /// What `--device`, `stats` and `info` call it.
    fn device(&self) -> &DeviceInfo;
    /// Bytes of weights in device memory (mapped bytes on the CPU).
    fn weight_bytes(&self) -> u64;
    /// Dispatches of one decode step (0 on the CPU).
    fn dispatches_per_token(&self) -> usize;
    /// Tokens of the largest pass that is worth making, and that the device's limits allow.
    fn chunk(&self) -> usize;
    /// A new sequence of at most `capacity` tokens, prompt and continuation together.
    fn session(&self, capacity: usize) -> Result<Box<dyn Session>>;
    /// Bytes of the vision half's weights in device memory, which [`Engine::weight_bytes`] counts too.
    fn vision_bytes(&self) -> u64;
    /// Drops the weights of the vision half: [`Session::encode`] is an error from now on.
    fn release_vision(&self);
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
    /// Encodes a picture, pixels (3, S, S). Its M rows follow those of earlier pictures of this sequence: ids from
    /// `vocab` on name them. Hands the work over in slices and waits for them, telling `progress` how many are done: a
    /// long submission may be taken for a hang. With `trace` it gives `vision.features` (N, width) and
    /// `vision.projected` (M, hidden), else nothing.
    fn encode(&mut self, pixels: &[f32], trace: bool, progress: Progress) -> Result<Vec<(String, Output)>>;
    /// Makes room for `capacity` tokens; what was computed stays.
    fn reserve(&mut self, capacity: usize) -> Result<()>;
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
    /// Whether some of the tokens are rows of images.
    pub images: bool,
}

impl Step {
    /// The pass of the model that does it.
    fn pass(&self) -> Pass {
        let leaves = match self.want {
            Want::Nothing => Leaves::Nothing,
            Want::Token | Want::TokenAndLogits => Leaves::Token,
            Want::Logits => Leaves::Logits,
            Want::Trace => Leaves::Trace,
        };
        Pass { rows: self.rows, leaves, images: self.images }
    }

    /// The uniform of the run. A seed of 64 bits is folded into the 32 that shaders hash.
    fn run(&self) -> Run {
        let s = &self.sampling;
        Run {
            position: self.position as u32,
            seed: (s.seed ^ (s.seed >> 32)) as u32,
            temperature: s.temperature,
            top_k: s.top_k,
            top_p: s.top_p,
            min_p: s.min_p,
            repeat_penalty: s.repeat_penalty,
            reserved: 0,
        }
    }
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
