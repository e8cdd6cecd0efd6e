//! A model on the CPU: runs the plans that a GPU replays, with the kernels of [`crate::cpu`] and a team of threads.

mod memory;
mod runner;
mod session;
mod weights;

pub use memory::{Bound, Memory};
pub use runner::{Ready, Runner};
pub use weights::Weights;

use std::sync::Arc;

use crate::backend::plans::{Plans, Releasable};
use crate::backend::{DeviceInfo, Engine, EngineOptions, Progress, Session};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::models::{Pass, Recipe};
use crate::ops::Matrix;
use crate::plan::{Fusion, Plan};
use crate::threads::Team;
use crate::work::{DeviceProfile, MOST_ROWS};
use session::CpuSession;

/// The profile of a CPU for plans: unsplit weights, caches of float32.
pub fn profile() -> DeviceProfile {
    DeviceProfile { name: "cpu".into(), backend: "cpu", max_binding: u64::MAX, ..DeviceProfile::baseline() }
}

/// A model on the CPU.
pub struct CpuEngine {
    shared: Arc<Shared>,
    info: DeviceInfo,
    weight_bytes: u64,
}

/// What an engine and its sessions have in common.
struct Shared {
    team: Team,
    weights: Weights,
    plans: Plans,
    vision: Releasable<Vision>,
    /// Whether activations are rounded: see [`crate::cpu::Call::rounds`].
    rounds: bool,
    /// Columns of a picture's rows.
    hidden: usize,
}

/// The vision half of a model.
struct Vision {
    plan: Arc<Plan>,
    weights: Weights,
    weight_bytes: u64,
}

impl CpuEngine {
    pub fn load(checkpoint: &Checkpoint, options: &EngineOptions, progress: Progress) -> Result<Self> {
        let recipe = Recipe::new(checkpoint, options.context.unwrap_or(checkpoint.config.context))?;
        let hidden = checkpoint.config.hidden;
        let fuse = |graph| Plan::new(graph, &profile(), Fusion::On);
        let vision = recipe.vision().map(fuse).transpose()?.map(Arc::new);
        let plans = Plans::new(move |pass| fuse(recipe.graph(pass)?));

        let plan = plans.get(Pass::decode(1))?;
        let count = plan.groups.stored.len();
        let all = count + vision.as_ref().map_or(0, |plan| plan.groups.stored.len());
        let (weights, weight_bytes) = load_weights(&plan, checkpoint, &|done, _| progress(done, all))?;
        let vision = match vision {
            Some(plan) => {
                let (weights, weight_bytes) = load_weights(&plan, checkpoint, &|done, _| progress(count + done, all))?;
                Some(Vision { plan, weights, weight_bytes })
            }
            None => None,
        };
        let info = DeviceInfo { name: "cpu".into(), backend: "cpu".into() };
        let team = options.threads.map_or_else(Team::of_cores, Team::new);
        let shared =
            Shared { team, weights, plans, vision: Releasable::new(vision), rounds: !options.full_precision, hidden };
        Ok(CpuEngine { shared: Arc::new(shared), info, weight_bytes })
    }
}

/// The weights of a plan, and their bytes.
pub fn load_weights(plan: &Plan, checkpoint: &Checkpoint, progress: Progress) -> Result<(Weights, u64)> {
    let mut weights = Weights::default();
    let mut bytes = 0;
    for (i, stored) in plan.groups.stored.iter().enumerate() {
        let mut vector = Vec::new();
        for (name, shape) in stored.tensors() {
            let tensor = checkpoint.take(name, &shape)?;
            bytes += tensor.bytes.len() as u64;
            match stored.dtype {
                Some(_) => drop(weights.matrices.insert(vec![name.into()], Matrix::new(vec![tensor]))),
                None => vector.extend(tensor.to_f32()),
            }
        }
        if stored.dtype.is_none() {
            weights.vectors.insert(stored.names.clone(), vector);
        }
        progress(i + 1, plan.groups.stored.len());
    }
    Ok((weights, bytes))
}

impl Engine for CpuEngine {
    fn device(&self) -> &DeviceInfo {
        &self.info
    }

    fn weight_bytes(&self) -> u64 {
        self.weight_bytes + self.vision_bytes()
    }

    fn vision_bytes(&self) -> u64 {
        self.shared.vision.get().map_or(0, |vision| vision.weight_bytes)
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
        profile()
    }

    fn allocated_bytes(&self) -> Option<u64> {
        None
    }

    fn dispatches_per_token(&self) -> usize {
        0
    }

    fn chunk(&self) -> usize {
        256
    }

    fn most_rows(&self) -> usize {
        MOST_ROWS
    }

    fn pictures(&self) -> usize {
        usize::MAX
    }

    fn session(&self, capacity: usize) -> Result<Box<dyn Session>> {
        Ok(Box::new(CpuSession::new(self.shared.clone(), capacity)?))
    }
}
