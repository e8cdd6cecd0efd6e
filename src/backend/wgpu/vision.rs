//! The vision half on a GPU: it has its own plan and weights, so that they can be dropped when the pictures are
//! encoded.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::backend::measured::Phase;
use crate::backend::wgpu::device::Gpu;
use crate::backend::wgpu::profiler::Profiler;
use crate::backend::wgpu::session::{Bound, Buffers, Source};
use crate::backend::wgpu::upload::Uploads;
use crate::backend::wgpu::wait::Submission;
use crate::error::Result;
use crate::graph::ValueKind;
use crate::models::{PIXELS, PROJECTED};
use crate::plan::Plan;
use crate::work::{DeviceProfile, Row, ValueId};

/// The plan and the weights of a vision half.
pub struct Vision {
    pub plan: Arc<Plan>,
    pub uploads: Uploads,
}

/// Dispatches of a submission: about one block of the tower, a tenth of a second on a phone. Drivers reset a device
/// that is busy for seconds.
const SLICE: usize = 8;

/// The memory in which pictures are encoded, one at a time, and the progress of the current picture.
pub struct Encoder {
    vision: Arc<Vision>,
    buffers: Buffers,
    bound: Bound,
    /// The number of submitted dispatches.
    next: usize,
    running: VecDeque<Submission>,
}

impl Encoder {
    pub fn new(gpu: &Gpu, profile: &DeviceProfile, vision: Arc<Vision>) -> Result<Self> {
        let buffers = Buffers::new(gpu, profile, &vision.plan, None, vision.plan.arena)?;
        let bound = Bound::new(gpu, vision.plan.clone(), &vision.uploads, &buffers)?;
        Ok(Encoder { vision, buffers, bound, next: 0, running: VecDeque::new() })
    }

    /// Takes the pixels (3, S, S) of a picture.
    pub fn begin(&mut self, gpu: &Gpu, pixels: &[f32]) {
        let plan = &self.vision.plan;
        let (offset, _) = plan.places[&input(plan)];
        gpu.queue.write_buffer(&self.buffers.arena, offset, bytemuck::cast_slice(pixels));
        gpu.queue.write_buffer(&self.buffers.table, 0, bytemuck::bytes_of(&Row::at(0)));
        self.next = 0;
    }

    /// Submits a slice, and waits for the one before the last. Returns (done, of all).
    pub async fn slice(&mut self, gpu: &Gpu) -> Result<(usize, usize)> {
        let steps = self.vision.plan.steps.len();
        let part = self.next..steps.min(self.next + SLICE);
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        self.bound.record(&mut encoder, part.clone());
        self.running.push_back(gpu.submit_to_wait([encoder.finish()]));
        self.next = part.end;
        // One slice runs while the next is recorded.
        let last = if self.next == steps { self.running.drain(..).next_back() } else { None };
        let before = if self.running.len() > 2 { self.running.pop_front() } else { None };
        if let Some(submission) = last.or(before) {
            gpu.wait(submission).await?;
        }
        Ok((self.next, steps))
    }

    /// [`Encoder::slice`], which measures each dispatch and waits for all of them.
    pub fn slice_measured(
        &mut self,
        gpu: &Gpu,
        profile: &DeviceProfile,
        profiler: &mut Profiler,
    ) -> Result<(usize, usize)> {
        let steps = self.vision.plan.steps.len();
        let part = self.next..steps.min(self.next + SLICE);
        self.next = part.end;
        profiler.run(gpu, profile, &self.bound, part, &[Row::at(0)], Phase::Picture)?;
        Ok((self.next, steps))
    }

    /// Whether this encoder uses the given vision half.
    pub fn is_of(&self, vision: &Arc<Vision>) -> bool {
        Arc::ptr_eq(&self.vision, vision)
    }

    pub fn plan(&self) -> &Plan {
        &self.vision.plan
    }

    /// The bytes of the tokens that the language model reads: (M, hidden).
    pub fn tokens(&self) -> Source<'_> {
        let outputs = &self.vision.plan.graph.outputs;
        let (_, id) = outputs.iter().find(|(name, _)| name == PROJECTED).expect("a vision half has tokens");
        self.buffers.output(&self.vision.plan, *id)
    }

    /// The bytes of every output, in the graph's order.
    pub fn outputs(&self) -> Vec<Source<'_>> {
        let plan = &self.vision.plan;
        plan.graph.outputs.iter().map(|(_, id)| self.buffers.output(plan, *id)).collect()
    }
}

fn input(plan: &Plan) -> ValueId {
    let pixels = |kind: &ValueKind| matches!(kind, ValueKind::Input(name) if name == PIXELS);
    let index = plan.graph.values.iter().position(|value| pixels(&value.kind)).expect("a vision half reads pixels");
    ValueId(index as u32)
}
