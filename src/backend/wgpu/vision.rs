//! The vision half on a GPU: its own plan and weights, so that they can go when the pictures are encoded.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::backend::Progress;
use crate::backend::wgpu::device::Gpu;
use crate::backend::wgpu::session::{Bound, Buffers, Source};
use crate::backend::wgpu::upload::Uploads;
use crate::error::Result;
use crate::graph::ValueKind;
use crate::kernel::{DeviceProfile, Run, ValueId};
use crate::models::{PIXELS, PROJECTED};
use crate::plan::Plan;

/// The plan and the weights of a vision half.
pub struct Vision {
    pub plan: Arc<Plan>,
    pub uploads: Uploads,
}

/// Dispatches of a submission: about one block of the tower, a tenth of a second on a phone. Drivers reset a device that
/// is busy for seconds.
const SLICE: usize = 8;

/// A picture that was encoded: the memory that holds the results.
pub struct Encoded {
    plan: Arc<Plan>,
    buffers: Buffers,
}

impl Vision {
    /// Encodes pixels (3, S, S), and waits.
    pub fn encode(&self, gpu: &Gpu, profile: &DeviceProfile, pixels: &[f32], progress: Progress) -> Result<Encoded> {
        let plan = self.plan.clone();
        let buffers = Buffers::new(gpu, profile, &plan, None, plan.arena)?;
        let bound = Bound::new(gpu, plan.clone(), &self.uploads, &buffers)?;
        let (offset, _) = plan.places[&input(&plan)];
        gpu.queue.write_buffer(&buffers.arena, offset, bytemuck::cast_slice(pixels));
        gpu.queue.write_buffer(&buffers.run, 0, bytemuck::bytes_of(&Run::at(0)));

        let steps = plan.steps.len();
        let mut running = VecDeque::new();
        for start in (0..steps).step_by(SLICE) {
            let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                bound.replay_part(&mut pass, start..steps.min(start + SLICE));
            }
            running.push_back(gpu.submit(encoder.finish()));
            // One slice runs while the next is recorded.
            if running.len() > 2 {
                gpu.wait(running.pop_front())?;
                progress(start - SLICE, steps);
            }
        }
        gpu.wait(running.pop_back())?;
        progress(steps, steps);
        Ok(Encoded { plan, buffers })
    }
}

impl Encoded {
    /// The bytes of the tokens that the language model reads: (M, hidden).
    pub fn tokens(&self) -> Source<'_> {
        let (_, id) =
            self.plan.graph.outputs.iter().find(|(name, _)| name == PROJECTED).expect("a vision half has tokens");
        self.source(*id)
    }

    /// The bytes of every output, one after the other as in the graph.
    pub fn outputs(&self) -> Vec<Source<'_>> {
        self.plan.graph.outputs.iter().map(|(_, id)| self.source(*id)).collect()
    }

    fn source(&self, id: ValueId) -> Source<'_> {
        let (offset, _) = self.plan.places[&id];
        Source { buffer: &self.buffers.arena, offset, bytes: 4 * self.plan.graph.ty(id).count() as u64 }
    }
}

fn input(plan: &Plan) -> ValueId {
    let pixels = |kind: &ValueKind| matches!(kind, ValueKind::Input(name) if name == PIXELS);
    let index = plan.graph.values.iter().position(|value| pixels(&value.kind)).expect("a vision half reads pixels");
    ValueId(index as u32)
}
