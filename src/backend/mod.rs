//! Where a model runs: an [`Engine`] is one model on one device, a [`Session`] the memory of sequences on it.

pub mod check;
pub mod cpu;
pub mod measured;
mod plans;
#[cfg(feature = "gpu")]
pub mod wgpu;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::models::Pass;
pub use crate::models::Want;
use crate::ops;
use crate::plan::Plan;
use crate::work::{DeviceProfile, Family, KernelFile, OwnKernel, OwnKernelUse, Row};
use measured::{Clock, Measured, Phase};

/// Loads a model onto a device.
pub fn load(
    checkpoint: &Checkpoint,
    device: &DeviceChoice,
    options: &EngineOptions,
    progress: Progress,
) -> Result<Arc<dyn Engine>> {
    ops::check_refused(&options.refused)?;
    match device {
        DeviceChoice::Cpu if !options.own.is_empty() => Err(own_on_cpu()),
        DeviceChoice::Cpu => Ok(Arc::new(cpu::CpuEngine::load(checkpoint, options, progress)?)),
        #[cfg(feature = "gpu")]
        DeviceChoice::Adapter(index) => {
            Ok(Arc::new(wgpu::engine::GpuEngine::load(checkpoint, *index, options, progress)?))
        }
        #[cfg(not(feature = "gpu"))]
        DeviceChoice::Adapter(_) => Err(no_gpu()),
    }
}

/// The adapters of this machine, in a stable order: [`DeviceChoice::Adapter`] is an index into this list.
pub fn devices() -> Vec<AdapterInfo> {
    #[cfg(feature = "gpu")]
    return wgpu::device::adapters();
    #[cfg(not(feature = "gpu"))]
    Vec::new()
}

#[cfg(not(feature = "gpu"))]
pub fn no_gpu() -> Error {
    Error::device("this build has no GPU backends; build it with the feature `gpu`, or take the device `cpu`")
}

/// Reads kernels of the user's own, each for the kernel that it names.
pub fn read_own(files: &[KernelFile]) -> Result<Vec<OwnKernel>> {
    #[cfg(feature = "gpu")]
    return wgpu::own::read_all(files);
    #[cfg(not(feature = "gpu"))]
    if files.is_empty() { Ok(Vec::new()) } else { Err(no_own()) }
}

#[cfg(any(not(feature = "gpu"), target_family = "wasm"))]
pub fn no_own() -> Error {
    Error::device("kernels of your own want a build with the feature `gpu`, and do not run in a browser")
}

/// The error of a kernel of the user's own on the CPU.
pub fn own_on_cpu() -> Error {
    Error::device("kernels run on GPUs, the CPU path has none; name an adapter of `dunlin info` with --device")
}

/// The error of [`Session::encode`] without a vision half.
fn no_vision() -> Error {
    Error::unsupported("the model has no vision half, or it was released: load it again, without --release-vision")
}

/// What this thread did with devices so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThreadWork {
    /// Submissions of passes.
    pub submitted: usize,
    /// Time that it was blocked until a device was done.
    pub waited: Duration,
}

/// What this thread did with devices so far; nothing on the CPU path.
pub fn work_of_thread() -> ThreadWork {
    #[cfg(feature = "gpu")]
    return ThreadWork { submitted: wgpu::counters::submitted(), waited: wgpu::counters::waited() };
    #[cfg(not(feature = "gpu"))]
    ThreadWork::default()
}

/// The device that a model is loaded onto.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    Cpu,
    /// The adapter at this index of [`devices`].
    Adapter(usize),
}

/// How a model is loaded.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// Keep activations, tiles and KV cache in f32 even if the device has f16: `--precision f32`.
    pub full_precision: bool,
    /// Longest context that sessions may have; the model's own by default.
    pub context: Option<usize>,
    /// Treat this many bytes as the limit of a storage binding. For tests.
    pub max_binding: Option<u64>,
    /// Treat a rasteriser as hardware: run the kernels for GPUs. For tests.
    pub hardware: bool,
    /// Kernels of a GPU that may not run, by parts of their names: see [`DeviceProfile::allows`].
    ///
    /// [`DeviceProfile::allows`]: crate::work::DeviceProfile::allows
    pub refused: BTreeSet<String>,
    /// Kernels of the user's own, which take the place of ours on a GPU.
    pub own: Vec<KernelFile>,
    /// Members of the CPU's team; as many as there are cores by default. For tests.
    pub threads: Option<usize>,
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
    /// A rasteriser on the CPU, which is used only on request.
    pub software: bool,
    /// Whether dunlin can run on it; if not, which limit is too small.
    pub unusable: Option<String>,
    /// Name and value of the relevant limits.
    pub limits: Vec<(String, u64)>,
    /// Features that kernels may use.
    pub features: Vec<String>,
}

/// One model on one device. Its weights are loaded; plans are made once and kept.
pub trait Engine: Send + Sync {
    /// The device's name for `--device`, `stats` and `info`.
    fn device(&self) -> &DeviceInfo;
    /// Bytes of weights in device memory (mapped bytes on the CPU).
    fn weight_bytes(&self) -> u64;
    /// Dispatches of one decode step (0 on the CPU).
    fn dispatches_per_token(&self) -> usize;
    /// How many dispatches of a decoding step, a prompt and a picture the user's own kernels have.
    fn own_kernels(&self) -> &[OwnKernelUse] {
        &[]
    }
    /// The number of tokens of the largest pass that is useful and within the device's limits.
    fn chunk(&self) -> usize;
    /// The largest number of rows whose logits are within the device's limits: of sequences that decode together.
    fn most_rows(&self) -> usize;
    /// The number of pictures whose rows a session can hold at a time.
    fn pictures(&self) -> usize;
    /// Memory for sequences of `capacity` tokens together.
    fn session(&self, capacity: usize) -> Result<Box<dyn Session>>;
    /// Bytes of the vision half's weights in device memory, which [`Engine::weight_bytes`] counts too.
    fn vision_bytes(&self) -> u64;
    /// Drops the weights of the vision half: [`Session::encode`] returns an error from then on.
    fn release_vision(&self);
    /// The plan of a pass, as it runs.
    fn plan(&self, pass: Pass) -> Result<Arc<Plan>>;
    /// The plan that reads a picture, unless there is no vision half or it was released.
    fn vision_plan(&self) -> Option<Arc<Plan>>;
    /// The profile that plans are made for.
    fn profile(&self) -> DeviceProfile;
    /// Bytes that the device's allocator has handed out to this process, where it tells.
    fn allocated_bytes(&self) -> Option<u64>;
}

/// The device's name and the API that it is used through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// For example `llvmpipe (LLVM 15.0.6, 256 bits)`; for the CPU path `cpu`.
    pub name: String,
    /// `vulkan`, `metal`, `dx12`, `gl` or `cpu`.
    pub backend: String,
}

/// Memory for sequences on a device, and their work in flight. A sequence has a range of positions, its slot.
pub trait Session: Send {
    /// Writes ids at positions `place..` of the memory; the rows at these positions read them.
    fn set_tokens(&mut self, place: usize, ids: &[u32]) -> Result<()>;
    /// Copies the content of `count` positions from one place to another: ids, keys and values.
    fn copy(&mut self, from: usize, to: usize, count: usize) -> Result<()>;
    /// Enqueues one pass. Returns without waiting for the device.
    fn run(&mut self, step: &Step) -> Result<()>;
    /// As [`Session::run`] for a [`Want::Token`] step, but waits for the logits, and `change` may change each row of
    /// logits before a token is chosen from it. `change` gets the row's number among the rows with logits, and its
    /// logits.
    fn run_changed(&mut self, step: &Step, change: Change) -> Result<()>;
    /// Replaces the content of `chosen` by the tokens of the oldest [`Want::Token`] step that was not taken yet, one
    /// for each row that chooses a token. Waits for them. Panics if there is no such step.
    fn sampled(&mut self, chosen: &mut Vec<Sampled>) -> Result<()>;
    /// The named outputs of the last [`Want::Logits`], [`Want::Hidden`] or [`Want::Trace`] step, in model order. Waits
    /// for them.
    fn outputs(&mut self) -> Result<Vec<(String, Output)>>;
    /// Begins to encode a picture, pixels (3, S, S). Its M rows become rows `first..` of the session's pictures, with
    /// the ids from `vocab + first` on. [`Session::encode_slice`] does the work.
    fn encode(&mut self, pixels: &[f32], first: usize) -> Result<()>;
    /// Runs a slice of the work of [`Session::encode`]: short enough that drivers do not take it for a hang, and that
    /// decoding steps of other sequences can run in between. Returns (done, of all); the rows are complete when both
    /// are equal.
    fn encode_slice(&mut self) -> Result<(usize, usize)>;
    /// `vision.features` (N, width) and `vision.projected` (M, hidden) of the picture that was encoded last. Waits for
    /// them.
    fn encoded(&mut self) -> Result<Vec<(String, Output)>>;
    /// Makes room for `capacity` positions; computed positions stay, and after an error the session is as it was.
    fn reserve(&mut self, capacity: usize) -> Result<()>;
    /// How many [`Want::Token`] steps may be enqueued before the first is taken.
    fn depth(&self) -> usize;
    /// From now on measures each dispatch of [`Session::run`] and [`Session::encode_slice`], which then wait for the
    /// device, with this clock or with the best that the device offers.
    fn measure(&mut self, clock: Option<Clock>) -> Result<()>;
    /// What was measured since [`Session::measure`]. The session measures no more.
    fn measured(&mut self) -> Vec<Measured>;
}

/// A function that changes a row of logits, given the row's number. Its error ends the step.
pub type Change<'a> = &'a mut dyn FnMut(usize, &mut [f32]) -> Result<()>;

/// One pass over some rows.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// The rows of the pass: of one slot and at consecutive positions if the family is [`Family::Many`].
    pub rows: &'a [Row],
    pub family: Family,
    pub want: Want,
    /// With [`Want::Token`]: whether [`Sampled::logits`] is filled.
    pub logits: bool,
    /// Whether some of the tokens are rows of pictures.
    pub images: bool,
}

impl Step<'_> {
    /// The pass of the model that computes this step.
    fn pass(&self) -> Pass {
        Pass { rows: self.rows.len(), family: self.family, want: self.want, images: self.images }
    }

    /// What the step is for.
    fn phase(&self) -> Phase {
        if self.family == Family::Few { Phase::Decode } else { Phase::Prompt }
    }
}

/// A token chosen by the device.
#[derive(Clone, Debug)]
pub struct Sampled {
    pub id: u32,
    /// Natural logarithm of its probability under the unfiltered distribution at temperature 1.
    pub logprob: f32,
    /// The whole row of logits, before penalties, if [`Step::logits`] asked for it.
    pub logits: Option<Vec<f32>>,
}

/// A float32 matrix read back from a device.
#[derive(Clone, Debug)]
pub struct Output {
    pub rows: usize,
    pub cols: usize,
    pub data: Vec<f32>,
}
