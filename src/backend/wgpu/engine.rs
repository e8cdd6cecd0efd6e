//! A model on a GPU: weights uploaded once, plans made once and kept. Its sessions are in `sequences.rs`.

use std::sync::Arc;

use crate::backend::plans::{Plans, Releasable};
use crate::backend::wgpu::device::Gpu;
use crate::backend::wgpu::own;
use crate::backend::wgpu::sequences::{GpuSession, Shared};
use crate::backend::wgpu::upload::Uploads;
use crate::backend::wgpu::vision::Vision;
use crate::backend::{DeviceInfo, Engine, EngineOptions, Progress, Session};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::vision::Projector;
use crate::error::{Error, Result};
use crate::graph::ValueKind;
use crate::models::{self, Pass, Recipe, Want};
use crate::ops::MOST_HEAD;
use crate::plan::{Fusion, Plan};
use crate::work::{DeviceProfile, MOST_ROWS, OwnKernel, OwnKernelUse};

/// A model on a GPU.
pub struct GpuEngine {
    shared: Arc<Shared>,
    info: DeviceInfo,
    dispatches_per_token: usize,
    own: Vec<OwnKernelUse>,
    vocab: usize,
}

/// Threads that compile at once: phones have few fast cores, and memory is needed for weights.
const MOST_THREADS: usize = 4;

impl GpuEngine {
    pub fn load(checkpoint: &Checkpoint, adapter: usize, options: &EngineOptions, progress: Progress) -> Result<Self> {
        check_heads(checkpoint)?;
        let gpu = Gpu::open(adapter)?;
        check_angles(&gpu.profile, checkpoint, options)?;
        let mut profile = gpu.profile.clone();
        profile.reduced_precision = !options.full_precision;
        profile.rasteriser &= !options.hardware;
        profile.refused.clone_from(&options.refused);
        profile.own = own::read_all(&options.own)?;
        if let Some(limit) = options.max_binding {
            profile.max_binding = profile.max_binding.min(limit);
        }
        let recipe = Recipe::new(checkpoint, options.context.unwrap_or(checkpoint.config.context))?;
        let planned = profile.clone();
        let fuse = move |graph| Plan::new(graph, &planned, Fusion::On);
        let vision = recipe.vision().map(&fuse).transpose()?;
        let plans = Plans::new(move |pass| fuse(recipe.graph(pass)?));

        let plan = plans.get(Pass::decode(1))?;
        // The number of rows does not matter: all use the same kernels.
        let prompt = plans.get(Pass::prompt(64, Want::Token))?;
        let compiled: Vec<&Plan> = [&*plan, &*prompt].into_iter().chain(&vision).collect();
        let own = own_kernels(&profile, &compiled);
        let compile = |threads| gpu.pipelines.prepare(&gpu.device, &compiled, threads);
        let upload_all = || {
            let mut uploads = Vec::new();
            let halves = || [&*plan].into_iter().chain(&vision);
            let all = halves().map(|plan| plan.groups.stored.len()).sum();
            let mut before = 0;
            for plan in halves() {
                let report = |done, _| progress(before + done, all);
                uploads.push(gpu.block_on(upload(&gpu, &profile, plan, checkpoint, &report))?);
                before += plan.groups.stored.len();
            }
            Ok(uploads)
        };
        let mut uploads = if profile.backend == "gl" || cfg!(target_arch = "wasm32") {
            // OpenGL has one context, and wgpu reports a deadlock if a thread waits for it for a second. A browser has
            // one thread.
            compile(1);
            upload_all()?
        } else {
            std::thread::scope(|scope| {
                scope.spawn(|| compile(std::thread::available_parallelism().map_or(1, |n| n.get().min(MOST_THREADS))));
                upload_all()
            })?
        };
        gpu.check()?;
        let vision = vision.map(|plan| {
            let uploads = uploads.pop().expect("the vision half is uploaded last");
            Vision { plan: Arc::new(plan), uploads }
        });
        let uploads = uploads.pop().expect("the language half is uploaded first");

        let info = DeviceInfo { name: profile.name.clone(), backend: profile.backend.into() };
        let dispatches_per_token = plan.steps.len();
        let shared = Arc::new(Shared {
            gpu,
            profile,
            uploads,
            hidden: checkpoint.config.hidden,
            image_tokens: checkpoint.config.vision.as_ref().map_or(0, |vision| vision.tokens()),
            plans,
            vision: Releasable::new(vision),
        });
        Ok(GpuEngine { shared, info, dispatches_per_token, own, vocab: checkpoint.config.vocab })
    }
}

/// How many dispatches of some plans each of the user's kernels has.
fn own_kernels(profile: &DeviceProfile, plans: &[&Plan]) -> Vec<OwnKernelUse> {
    let each = |own: &OwnKernel| {
        let steps = plans.iter().flat_map(|plan| &plan.steps);
        own.used(steps.filter(|step| step.dispatch.kernel == own.kernel).count())
    };
    profile.own.iter().map(each).collect()
}

/// Checks that kernels can hold a whole head: of a larger one they would omit the end.
fn check_heads(checkpoint: &Checkpoint) -> Result<()> {
    let config = &checkpoint.config;
    let tower = config.vision.as_ref().map(|vision| vision.width / vision.heads);
    let resampler = config.vision.as_ref().and_then(|vision| match vision.projector {
        Projector::Resampler { heads } => Some(config.hidden / heads),
        _ => None,
    });
    match [config.head_dim].into_iter().chain(tower).chain(resampler).find(|&size| size > MOST_HEAD) {
        None => Ok(()),
        Some(size) => Err(Error::unsupported(format!(
            "{} has heads of {size} elements, and at most {MOST_HEAD} run on a GPU; take --device cpu",
            checkpoint.path.display()
        ))),
    }
}

/// The table of rope's angles is one binding. A context that is too long for it is refused before any upload.
fn check_angles(profile: &DeviceProfile, checkpoint: &Checkpoint, options: &EngineOptions) -> Result<()> {
    let context = options.context.unwrap_or(checkpoint.config.context);
    let bytes = models::angle_bytes(&checkpoint.config, context);
    if bytes <= profile.max_binding {
        return Ok(());
    }
    Err(Error::out_of_memory(format!(
        "a context of {context} tokens needs a table of angles of {bytes} bytes in one binding, {} allows {}; take a \
         shorter --context",
        profile.name, profile.max_binding
    )))
}

/// Uploads every weight and table that a plan reads.
pub async fn upload(
    gpu: &Gpu,
    profile: &DeviceProfile,
    plan: &Plan,
    checkpoint: &Checkpoint,
    progress: Progress<'_>,
) -> Result<Uploads> {
    let mut uploads = Uploads::default();
    let count = plan.groups.stored.len();
    for (i, stored) in plan.groups.stored.iter().enumerate() {
        uploads.weight(gpu, stored, profile.max_binding, |name, shape| checkpoint.take(name, shape)).await?;
        progress(i + 1, count);
    }
    for value in &plan.graph.values {
        if let ValueKind::Table(name, data) = &value.kind {
            uploads.table(gpu, name, data).await?;
        }
    }
    uploads.finish(gpu).await?;
    Ok(uploads)
}

impl Engine for GpuEngine {
    fn device(&self) -> &DeviceInfo {
        &self.info
    }

    fn weight_bytes(&self) -> u64 {
        self.shared.uploads.bytes + self.vision_bytes()
    }

    fn vision_bytes(&self) -> u64 {
        self.shared.vision.get().map_or(0, |vision| vision.uploads.bytes)
    }

    fn release_vision(&self) {
        self.shared.vision.release();
    }

    fn plan(&self, pass: Pass) -> Result<Arc<Plan>> {
        self.shared.plans.get(pass)
    }

    fn vision_plan(&self) -> Option<Arc<Plan>> {
        self.shared.vision.get().map(|vision| vision.plan.clone())
    }

    fn profile(&self) -> DeviceProfile {
        self.shared.profile.clone()
    }

    fn allocated_bytes(&self) -> Option<u64> {
        self.shared.gpu.device.generate_allocator_report().map(|report| report.total_allocated_bytes)
    }

    fn dispatches_per_token(&self) -> usize {
        self.dispatches_per_token
    }

    fn own_kernels(&self) -> &[OwnKernelUse] {
        &self.own
    }

    fn chunk(&self) -> usize {
        self.most_rows().min(256)
    }

    fn most_rows(&self) -> usize {
        let logits = self.shared.profile.max_binding / (4 * self.vocab.max(1) as u64);
        (logits as usize).clamp(1, MOST_ROWS)
    }

    fn pictures(&self) -> usize {
        let each = 4 * (self.shared.image_tokens * self.shared.hidden) as u64;
        self.shared.profile.max_binding.checked_div(each).map_or(usize::MAX, |count| count as usize)
    }

    fn session(&self, capacity: usize) -> Result<Box<dyn Session>> {
        Ok(Box::new(GpuSession::new(self.shared.clone(), capacity)?))
    }
}
