//! A plan bound to buffers, and its execution: one compute pass and one submission a step, without waiting for the
//! host.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::backend::wgpu::device::Gpu;
use crate::backend::wgpu::pipelines::{PARAMS_BYTES, PARAMS_STRIDE, TABLE_BYTES};
use crate::backend::wgpu::upload::{Uploads, storage};
use crate::backend::wgpu::wait::{Told, told};
use crate::error::{Error, Result};
use crate::graph::ValueKind;
use crate::models::TABLE;
use crate::ops::TensorType;
use crate::plan::Plan;
use crate::work::{DeviceProfile, MOST_ROWS, Plane, Row, Slot, ValueId};

/// The memory of a session: arena, state, and the table of rows, which alone changes from pass to pass.
pub struct Buffers {
    pub arena: wgpu::Buffer,
    pub state: HashMap<String, wgpu::Buffer>,
    /// Bytes of a position of each state. A buffer may be larger than its positions: its size is rounded up.
    pub position_bytes: HashMap<String, u64>,
    pub table: wgpu::Buffer,
    /// The uniform buffer for dispatches that write the table, because a buffer may not have both uses at once.
    no_table: wgpu::Buffer,
}

impl Buffers {
    /// State for `capacity` positions, and an arena of `arena` bytes.
    pub fn new(gpu: &Gpu, profile: &DeviceProfile, plan: &Plan, capacity: Option<usize>, arena: u64) -> Result<Self> {
        Self::with_guards(gpu, profile, plan, capacity, arena, 0)
    }

    /// As [`Buffers::new`], with room for `guard` bytes after each state, which are bound with it.
    fn with_guards(
        gpu: &Gpu,
        profile: &DeviceProfile,
        plan: &Plan,
        capacity: Option<usize>,
        arena: u64,
        guard: u64,
    ) -> Result<Self> {
        let (mut state, mut position_bytes) = (HashMap::new(), HashMap::new());
        for value in &plan.graph.values {
            if let ValueKind::State(name) = &value.kind
                && name != TABLE
            {
                let ty = state_type(&value.ty, capacity);
                let bytes = ty.bytes(profile);
                let size = (bytes + guard).next_multiple_of(16);
                if size > profile.max_binding {
                    return Err(Error::out_of_memory(format!(
                        "{name} of {} positions needs {size} bytes in one binding, {} allows {}; take a shorter --context",
                        ty.shape[0], gpu.profile.name, profile.max_binding
                    )));
                }
                let usage = wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
                state.insert(name.clone(), storage(gpu, name, size, usage)?);
                position_bytes.insert(name.clone(), bytes / ty.shape[0] as u64);
            }
        }
        let table = |label, usage| {
            gpu.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size: TABLE_BYTES,
                usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST | usage,
                mapped_at_creation: false,
            })
        };
        let arena = Self::arena(gpu, arena)?;
        let written = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        let (table, no_table) = (table("table", written), table("no table", wgpu::BufferUsages::empty()));
        Ok(Buffers { arena, state, position_bytes, table, no_table })
    }

    /// The bytes of a plan's output.
    pub fn output(&self, plan: &Plan, id: ValueId) -> Source<'_> {
        let (offset, _) = plan.places[&id];
        Source { buffer: &self.arena, offset, bytes: 4 * plan.graph.ty(id).count() as u64 }
    }

    pub fn arena(gpu: &Gpu, size: u64) -> Result<wgpu::Buffer> {
        let usage = wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        storage(gpu, "arena", size.max(256), usage)
    }
}

/// A plan's state has room for the whole context; a session has `capacity` positions.
fn state_type(ty: &TensorType, capacity: Option<usize>) -> TensorType {
    let mut ty = ty.clone();
    ty.shape[0] = capacity.unwrap_or(ty.shape[0]);
    ty
}

/// A plan with its pipelines and bind groups: everything a run needs.
pub struct Bound {
    pub plan: Arc<Plan>,
    steps: Vec<BoundStep>,
    /// Params, with the table and without it.
    common: [wgpu::BindGroup; 2],
}

struct BoundStep {
    pipeline: wgpu::ComputePipeline,
    tensors: wgpu::BindGroup,
    writes_table: bool,
    groups: [u32; 3],
}

impl Bound {
    pub fn new(gpu: &Gpu, plan: Arc<Plan>, uploads: &Uploads, buffers: &Buffers) -> Result<Self> {
        let size = plan.steps.len().max(1) as u64 * PARAMS_STRIDE;
        let params = gpu.create_buffer(&wgpu::BufferDescriptor {
            label: Some("params"),
            size,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut bytes = vec![0; size as usize];
        for (i, step) in plan.steps.iter().enumerate() {
            let at = i * PARAMS_STRIDE as usize;
            bytes[at..at + step.dispatch.params.len()].copy_from_slice(&step.dispatch.params);
        }
        gpu.queue.write_buffer(&params, 0, &bytes);
        let common = [&buffers.table, &buffers.no_table].map(|table| {
            gpu.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("params and batch"),
                layout: &gpu.pipelines.common,
                entries: &[
                    wgpu::BindGroupEntry { binding: 0, resource: part(&params, 0, PARAMS_BYTES) },
                    wgpu::BindGroupEntry { binding: 1, resource: table.as_entire_binding() },
                ],
            })
        });

        let mut steps = Vec::with_capacity(plan.steps.len());
        for step in &plan.steps {
            let dispatch = &step.dispatch;
            let entries: Vec<wgpu::BindGroupEntry> = dispatch
                .slots
                .iter()
                .enumerate()
                .map(|(i, slot)| wgpu::BindGroupEntry {
                    binding: i as u32,
                    resource: resource(&plan, slot, uploads, buffers),
                })
                .collect();
            steps.push(BoundStep {
                pipeline: gpu.pipelines.pipeline(&gpu.device, dispatch),
                tensors: gpu.create_bind_group(&wgpu::BindGroupDescriptor {
                    label: Some(step.op),
                    layout: &gpu.pipelines.layout(&gpu.device, dispatch.kernel.0.bindings),
                    entries: &entries,
                }),
                writes_table: dispatch.slots.iter().any(|slot| is_table(&plan, slot)),
                groups: dispatch.groups,
            });
        }
        gpu.check()?;
        Ok(Bound { plan, steps, common })
    }

    /// Records some dispatches into one compute pass.
    pub fn record(&self, encoder: &mut wgpu::CommandEncoder, part: Range<usize>) {
        self.replay_part(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()), part);
    }

    /// Records every dispatch into a pass.
    pub fn replay(&self, pass: &mut wgpu::ComputePass) {
        self.replay_part(pass, 0..self.steps.len());
    }

    /// Records some dispatches into a pass.
    pub fn replay_part(&self, pass: &mut wgpu::ComputePass, part: Range<usize>) {
        for (i, step) in self.steps.iter().enumerate().take(part.end).skip(part.start) {
            pass.set_pipeline(&step.pipeline);
            pass.set_bind_group(0, &step.tensors, &[]);
            pass.set_bind_group(1, &self.common[usize::from(step.writes_table)], &[i as u32 * PARAMS_STRIDE as u32]);
            let [x, y, z] = step.groups;
            pass.dispatch_workgroups(x, y, z);
        }
    }
}

/// The bytes that a slot names.
fn resource<'a>(plan: &Plan, slot: &Slot, uploads: &'a Uploads, buffers: &'a Buffers) -> wgpu::BindingResource<'a> {
    match *slot {
        Slot::Plane { value, chunk, plane } => {
            uploads.weights[&plan.stored(value).names].plane(chunk, plane).as_entire_binding()
        }
        Slot::Value(id) => match &plan.graph.value(id).kind {
            ValueKind::Temp | ValueKind::Input(_) => {
                let (offset, bytes) = plan.places[&id];
                part(&buffers.arena, offset, bytes)
            }
            ValueKind::State(name) if name == TABLE => buffers.table.as_entire_binding(),
            ValueKind::State(name) => buffers.state[name].as_entire_binding(),
            ValueKind::Table(name, _) => uploads.tables[name].as_entire_binding(),
            ValueKind::Weight(_) => uploads.weights[&plan.stored(id).names].plane(0, Plane::Codes).as_entire_binding(),
        },
    }
}

fn is_table(plan: &Plan, slot: &Slot) -> bool {
    matches!(slot, Slot::Value(id) if matches!(&plan.graph.value(*id).kind, ValueKind::State(name) if name == TABLE))
}

fn part(buffer: &wgpu::Buffer, offset: u64, size: u64) -> wgpu::BindingResource<'_> {
    wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size: std::num::NonZeroU64::new(size) })
}

/// A copy to the host that was requested.
pub struct Readback {
    buffer: wgpu::Buffer,
    submission: wgpu::SubmissionIndex,
    mapped: Told<Result<(), wgpu::BufferAsyncError>>,
}

/// Readback buffers, kept for reuse.
#[derive(Default)]
pub struct Readbacks {
    free: Vec<wgpu::Buffer>,
}

/// Where a readback copies from: offset and bytes.
pub struct Source<'a> {
    pub buffer: &'a wgpu::Buffer,
    pub offset: u64,
    pub bytes: u64,
}

impl Readbacks {
    /// Records the copies of `sources`, in order, into a buffer that the host can map.
    pub fn record(&mut self, gpu: &Gpu, encoder: &mut wgpu::CommandEncoder, sources: &[Source]) -> wgpu::Buffer {
        let size = sources.iter().map(|source| source.bytes).sum();
        let buffer = match self.free.iter().position(|buffer| buffer.size() == size) {
            Some(i) => self.free.swap_remove(i),
            None => gpu.create_buffer(&wgpu::BufferDescriptor {
                label: Some("readback"),
                size,
                usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
                mapped_at_creation: false,
            }),
        };
        let mut at = 0;
        for source in sources {
            encoder.copy_buffer_to_buffer(source.buffer, source.offset, &buffer, at, source.bytes);
            at += source.bytes;
        }
        buffer
    }

    /// Requests the bytes of a submitted copy.
    pub fn request(buffer: wgpu::Buffer, submission: wgpu::SubmissionIndex) -> Readback {
        let (teller, mapped) = told();
        buffer.map_async(wgpu::MapMode::Read, .., move |result| teller.tell(result));
        Readback { buffer, submission, mapped }
    }

    /// Waits for the bytes.
    pub async fn finish(&mut self, gpu: &Gpu, readback: Readback) -> Result<Vec<u8>> {
        gpu.expect(readback.submission);
        let mapped = readback.mapped.await;
        gpu.check()?;
        let failed = || Error::device(format!("{} did not return its results", gpu.profile.name));
        mapped.map_err(|error| failed().caused_by(error))?;
        let view = readback.buffer.get_mapped_range(..).map_err(|error| failed().caused_by(error.to_string()))?;
        let bytes = view.to_vec();
        drop(view);
        readback.buffer.unmap();
        if self.free.len() < 8 {
            self.free.push(readback.buffer);
        }
        Ok(bytes)
    }
}

/// Runs a single plan: inputs and state from the host, outputs and state back. For tests and measurements.
pub struct Runner<'a> {
    pub gpu: &'a Gpu,
    /// The profile that the plan was made for.
    pub profile: &'a DeviceProfile,
    pub bound: Bound,
    pub buffers: Buffers,
}

impl<'a> Runner<'a> {
    pub fn new(gpu: &'a Gpu, profile: &'a DeviceProfile, plan: Plan, uploads: &Uploads) -> Result<Self> {
        Self::with_guards(gpu, profile, plan, uploads, 0)
    }

    /// As [`Runner::new`], with room for `guard` bytes after each state, which are bound with it.
    pub fn with_guards(
        gpu: &'a Gpu,
        profile: &'a DeviceProfile,
        plan: Plan,
        uploads: &Uploads,
        guard: u64,
    ) -> Result<Self> {
        let buffers = Buffers::with_guards(gpu, profile, &plan, None, plan.arena, guard)?;
        let bound = Bound::new(gpu, Arc::new(plan), uploads, &buffers)?;
        Ok(Runner { gpu, profile, bound, buffers })
    }

    /// Writes an input or state.
    pub fn write(&self, id: ValueId, bytes: &[u8]) {
        let (buffer, offset) = self.place(id);
        self.gpu.queue.write_buffer(buffer, offset, bytes);
    }

    pub fn run(&self, rows: &[Row]) {
        self.run_part(rows, 0..self.bound.plan.steps.len());
    }

    /// Runs some dispatches.
    pub fn run_part(&self, rows: &[Row], part: Range<usize>) {
        self.gpu.queue.write_buffer(&self.buffers.table, 0, bytemuck::cast_slice(&rows[..rows.len().min(MOST_ROWS)]));
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        self.bound.record(&mut encoder, part);
        self.gpu.submit(encoder.finish());
    }

    /// Reads a value back.
    pub fn read(&self, id: ValueId) -> Result<Vec<u8>> {
        self.read_bytes(id, self.bound.plan.graph.ty(id).bytes(self.profile).next_multiple_of(4))
    }

    /// Reads `bytes` bytes from the beginning of a value.
    pub fn read_bytes(&self, id: ValueId, bytes: u64) -> Result<Vec<u8>> {
        let (buffer, offset) = self.place(id);
        let mut readbacks = Readbacks::default();
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let copy = readbacks.record(self.gpu, &mut encoder, &[Source { buffer, offset, bytes }]);
        let submission = self.gpu.submit(encoder.finish());
        self.gpu.block_on(readbacks.finish(self.gpu, Readbacks::request(copy, submission)))
    }

    fn place(&self, id: ValueId) -> (&wgpu::Buffer, u64) {
        let plan = &self.bound.plan;
        match &plan.graph.value(id).kind {
            ValueKind::State(name) if name == TABLE => (&self.buffers.table, 0),
            ValueKind::State(name) => (&self.buffers.state[name], 0),
            _ => (&self.buffers.arena, plan.places[&id].0),
        }
    }
}
