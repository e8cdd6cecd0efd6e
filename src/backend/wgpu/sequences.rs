//! Sequences on a GPU: the session that an engine makes.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::backend::measured::{Clock, HostWork, Measured};
use crate::backend::plans::{PerPass, Plans, Releasable};
use crate::backend::wgpu::device::Gpu;
use crate::backend::wgpu::profiler::Profiler;
use crate::backend::wgpu::session::{Bound, Buffers, Readback, Readbacks, Source};
use crate::backend::wgpu::upload::{Uploads, storage};
use crate::backend::wgpu::vision::{Encoder, Vision};
use crate::backend::{Change, Output, Sampled, Session, Step, no_vision};
use crate::error::{Error, Result};
use crate::models::{self, Pass, Want};
use crate::plan::Plan;
use crate::work::{DeviceProfile, Family, Row};

/// What an engine and its sessions have in common.
pub struct Shared {
    pub gpu: Arc<Gpu>,
    /// The device's profile, without features that this model may not use.
    pub profile: DeviceProfile,
    pub uploads: Uploads,
    /// Columns of the rows that pictures become.
    pub hidden: usize,
    /// The rows that a picture becomes.
    pub image_tokens: usize,
    pub plans: Plans,
    pub vision: Releasable<Vision>,
}

/// Sequences on a GPU.
pub struct GpuSession {
    shared: Arc<Shared>,
    buffers: Buffers,
    /// Bytes of the arena.
    arena: u64,
    /// Positions that the state has room for.
    capacity: usize,
    /// The table of rows on the device. In steady decoding the device already holds the rows of the next step, and
    /// nothing is written.
    on_device: Vec<Row>,
    bound: PerPass<Bound>,
    readbacks: Readbacks,
    /// Steps in flight: how many tokens each chooses, and their readback.
    in_flight: VecDeque<(usize, Readback)>,
    outputs: Option<(Pass, Readback)>,
    encoder: Option<Encoder>,
    /// The first row of the current picture.
    first_row: usize,
    /// Passes since the last picture.
    since_picture: usize,
    /// Only while the session measures.
    profiler: Option<Box<Profiler>>,
}

/// Passes without a picture after which the memory for encoding pictures is dropped.
const KEEP_ENCODER: usize = 16;

impl GpuSession {
    /// A session with room for `capacity` positions.
    pub fn new(shared: Arc<Shared>, capacity: usize) -> Result<Self> {
        let plan = shared.plans.get(Pass::decode(1))?;
        let buffers = Buffers::new(&shared.gpu, &shared.profile, &plan, Some(capacity), plan.arena)?;
        Ok(GpuSession {
            shared,
            arena: plan.arena,
            capacity,
            buffers,
            on_device: Vec::new(),
            bound: PerPass::default(),
            readbacks: Readbacks::default(),
            in_flight: VecDeque::new(),
            outputs: None,
            encoder: None,
            first_row: 0,
            since_picture: 0,
            profiler: None,
        })
    }

    /// Makes sure that the plan of a pass is bound to this session's buffers.
    fn bind(&mut self, pass: Pass) -> Result<()> {
        if self.bound.get(&pass).is_some() {
            return Ok(());
        }
        let (gpu, plan) = (&self.shared.gpu, self.shared.plans.get(pass)?);
        if plan.arena > self.arena {
            // Bind groups refer to the old arena.
            self.bound = PerPass::default();
            self.buffers.arena = Buffers::arena(gpu, plan.arena)?;
            self.arena = plan.arena;
        }
        let bound = Bound::new(gpu, plan, &self.shared.uploads, &self.buffers)?;
        self.bound.insert(pass, bound);
        Ok(())
    }

    /// Prepares what a step needs before its dispatches are recorded: the bound plan, and the table of its rows.
    fn begin(&mut self, step: &Step) -> Result<Pass> {
        let pass = step.pass();
        self.since_picture += 1;
        if self.since_picture > KEEP_ENCODER {
            self.encoder = None;
        }
        self.bind(pass)?;
        if self.on_device != step.rows {
            self.shared.gpu.queue.write_buffer(&self.buffers.table, 0, bytemuck::cast_slice(step.rows));
            self.on_device.clear();
            self.on_device.extend_from_slice(step.rows);
        }
        Ok(pass)
    }

    /// Submits a step's dispatches from `first` on, and requests the outputs that the step wants.
    fn finish(&mut self, step: &Step, pass: Pass, first: usize) -> Result<()> {
        let gpu = &self.shared.gpu;
        let bound = self.bound.get(&pass).expect("its step has begun");
        let mut rest = first..bound.plan.steps.len();
        if let Some(profiler) = &mut self.profiler {
            let part = std::mem::replace(&mut rest, 0..0);
            profiler.run(gpu, &self.shared.profile, bound, part, step.rows, step.phase())?;
        }
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        bound.record(&mut encoder, rest);

        let wanted: Vec<Source> = (bound.plan.graph.outputs.iter())
            .filter(|(name, _)| match step.want {
                Want::Nothing => false,
                Want::Token => name == "sampled" || step.logits,
                Want::Logits | Want::Hidden | Want::Trace => true,
            })
            .map(|(_, id)| self.buffers.output(&bound.plan, *id))
            .collect();
        if wanted.is_empty() {
            gpu.submit(encoder.finish());
            return gpu.check();
        }
        let copy = self.readbacks.record(gpu, &mut encoder, &wanted);
        let submission = gpu.submit(encoder.finish());
        let readback = Readbacks::request(copy, submission);
        if step.want == Want::Token {
            // The operator `sample` moves each row for which it chooses a token to the next position.
            let count = if step.family == Family::Few { step.rows.len() } else { 1 };
            let first = self.on_device.len() - count;
            self.on_device[first..].iter_mut().for_each(|row| row.position += 1);
            self.in_flight.push_back((count, readback));
        } else {
            self.outputs = Some((pass, readback));
        }
        gpu.check()
    }

    /// Bytes of a row of a picture.
    fn row_bytes(&self) -> u64 {
        4 * self.shared.hidden as u64
    }

    /// Makes room for the rows of pictures; existing rows stay.
    fn reserve_images(&mut self, bytes: u64) -> Result<()> {
        let (gpu, limit) = (&self.shared.gpu, self.shared.profile.max_binding);
        let before = self.buffers.state.get(models::IMAGES);
        let held = before.map_or(0, wgpu::Buffer::size);
        if bytes <= held {
            return Ok(());
        }
        if bytes > limit {
            return Err(Error::out_of_memory(format!(
                "the rows of pictures need {bytes} bytes in one binding, {} allows {limit}; take fewer pictures at a time",
                gpu.profile.name
            )));
        }
        let usage = wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        let images = storage(gpu, models::IMAGES, bytes, usage)?;
        if let Some(before) = before {
            let mut commands = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            commands.copy_buffer_to_buffer(before, 0, &images, 0, held);
            gpu.submit(commands.finish());
        }
        self.buffers.state.insert(models::IMAGES.into(), images);
        // Bind groups refer to the old buffer.
        self.bound.retain(|pass| !pass.images);
        gpu.check()
    }
}

impl Session for GpuSession {
    fn set_tokens(&mut self, place: usize, ids: &[u32]) -> Result<()> {
        let bytes = bytemuck::cast_slice(ids);
        self.shared.gpu.queue.write_buffer(&self.buffers.state[models::TOKENS], place as u64 * 4, bytes);
        self.shared.gpu.check()
    }

    fn copy(&mut self, from: usize, to: usize, count: usize) -> Result<()> {
        let gpu = &self.shared.gpu;
        let Buffers { state, position_bytes, .. } = &self.buffers;
        let states = || state.iter().filter(|(name, _)| *name != models::IMAGES);
        let states = || states().map(|(name, buffer)| (position_bytes[name], buffer));
        let largest = states().map(|(each, _)| each * count as u64).max().unwrap_or(0);
        // WebGPU cannot copy a buffer into itself.
        let between = storage(gpu, "copy", largest, wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC)?;
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for (each, buffer) in states() {
            let bytes = each * count as u64;
            encoder.copy_buffer_to_buffer(buffer, from as u64 * each, &between, 0, bytes);
            encoder.copy_buffer_to_buffer(&between, 0, buffer, to as u64 * each, bytes);
        }
        gpu.submit(encoder.finish());
        gpu.check()
    }

    fn run(&mut self, step: &Step) -> Result<()> {
        let pass = self.begin(step)?;
        self.finish(step, pass, 0)
    }

    fn run_changed(&mut self, step: &Step, change: Change) -> Result<()> {
        let pass = self.begin(step)?;
        let gpu = &self.shared.gpu;
        let bound = self.bound.get(&pass).expect("just bound");
        let (id, after) = bound.plan.after_output("logits");
        let after = bound.plan.steps.iter().position(|step| step.node >= after).unwrap_or(bound.plan.steps.len());
        let (_, vocab) = bound.plan.graph.ty(id).matrix();

        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        bound.record(&mut encoder, 0..after);
        let source = self.buffers.output(&bound.plan, id);
        let (offset, copy) = (source.offset, self.readbacks.record(gpu, &mut encoder, &[source]));
        let readback = Readbacks::request(copy, gpu.submit(encoder.finish()));
        let bytes = gpu.block_on(self.readbacks.finish(gpu, readback))?;
        let mut logits: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
        logits.chunks_exact_mut(vocab).enumerate().try_for_each(|(row, logits)| change(row, logits))?;
        gpu.queue.write_buffer(&self.buffers.arena, offset, bytemuck::cast_slice(&logits));
        self.finish(step, pass, after)
    }

    fn sampled(&mut self, chosen: &mut Vec<Sampled>) -> Result<()> {
        let begin = self.profiler.as_ref().map(|profiler| profiler.recorder.now());
        let (count, readback) = self.in_flight.pop_front().expect("a token was asked for");
        let bytes = self.shared.gpu.block_on(self.readbacks.finish(&self.shared.gpu, readback))?;
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
        let (sampled, logits) = words.split_at(2 * count);
        let vocab = logits.len() / count;
        chosen.clear();
        chosen.extend(sampled.chunks_exact(2).enumerate().map(|(i, sampled)| {
            let row = &logits[i * vocab..(i + 1) * vocab];
            let logits = (vocab > 0).then(|| row.iter().map(|&word| f32::from_bits(word)).collect());
            Sampled { id: sampled[0], logprob: f32::from_bits(sampled[1]), logits }
        }));
        if let (Some(profiler), Some(begin)) = (&mut self.profiler, begin) {
            profiler.recorder.host(HostWork::Choose, begin);
        }
        Ok(())
    }

    fn outputs(&mut self) -> Result<Vec<(String, Output)>> {
        let Some((pass, readback)) = self.outputs.take() else { return Ok(Vec::new()) };
        let bytes = self.shared.gpu.block_on(self.readbacks.finish(&self.shared.gpu, readback))?;
        Ok(named(&*self.shared.plans.get(pass)?, &bytes))
    }

    fn encode(&mut self, pixels: &[f32], first: usize) -> Result<()> {
        let vision = self.shared.vision.get().ok_or_else(no_vision)?;
        let (gpu, profile) = (&self.shared.gpu, &self.shared.profile);
        let mut encoder = match self.encoder.take().filter(|encoder| encoder.is_of(&vision)) {
            Some(encoder) => encoder,
            None => Encoder::new(gpu, profile, vision)?,
        };
        self.reserve_images(first as u64 * self.row_bytes() + encoder.tokens().bytes)?;
        encoder.begin(&self.shared.gpu, pixels);
        self.encoder = Some(encoder);
        self.first_row = first;
        self.since_picture = 0;
        Ok(())
    }

    fn encode_slice(&mut self) -> Result<(usize, usize)> {
        let (gpu, at) = (&self.shared.gpu, self.first_row as u64 * self.row_bytes());
        let encoder = self.encoder.as_mut().expect("a picture was given");
        let (done, all) = match &mut self.profiler {
            Some(profiler) => encoder.slice_measured(gpu, &self.shared.profile, profiler)?,
            None => gpu.block_on(encoder.slice(gpu))?,
        };
        self.since_picture = 0;
        if done == all {
            let tokens = encoder.tokens();
            let images = &self.buffers.state[models::IMAGES];
            let mut commands = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            commands.copy_buffer_to_buffer(tokens.buffer, tokens.offset, images, at, tokens.bytes);
            gpu.submit(commands.finish());
            gpu.check()?;
        }
        Ok((done, all))
    }

    fn encoded(&mut self) -> Result<Vec<(String, Output)>> {
        let gpu = &self.shared.gpu;
        let Some(encoder) = &self.encoder else { return Ok(Vec::new()) };
        let mut commands = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let copy = self.readbacks.record(gpu, &mut commands, &encoder.outputs());
        let submission = gpu.submit(commands.finish());
        let bytes = gpu.block_on(self.readbacks.finish(gpu, Readbacks::request(copy, submission)))?;
        Ok(named(encoder.plan(), &bytes))
    }

    fn reserve(&mut self, capacity: usize) -> Result<()> {
        if capacity <= self.capacity {
            return Ok(());
        }
        let gpu = &self.shared.gpu;
        let plan = self.shared.plans.get(Pass::decode(1))?;
        let mut larger = Buffers::new(gpu, &self.shared.profile, &plan, Some(capacity), self.arena)?;
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for (name, old) in &self.buffers.state {
            if let Some(new) = larger.state.get(name) {
                encoder.copy_buffer_to_buffer(old, 0, new, 0, old.size().min(new.size()));
            }
        }
        gpu.submit(encoder.finish());
        // Until here the session is as it was: after an error it may run on.
        gpu.check()?;
        for (name, old) in std::mem::take(&mut self.buffers.state) {
            larger.state.entry(name).or_insert(old);
        }
        self.buffers = larger;
        self.bound = PerPass::default();
        self.on_device.clear();
        self.capacity = capacity;
        Ok(())
    }

    fn depth(&self) -> usize {
        4
    }

    fn measure(&mut self, clock: Option<Clock>) -> Result<()> {
        self.profiler = Some(Box::new(Profiler::new(&self.shared.gpu, clock)?));
        Ok(())
    }

    fn measured(&mut self) -> Vec<Measured> {
        self.profiler.take().map_or(Vec::new(), |mut profiler| profiler.recorder.take())
    }
}

/// The outputs of a plan, from their concatenated bytes.
fn named(plan: &Plan, bytes: &[u8]) -> Vec<(String, Output)> {
    let values: Vec<f32> = bytemuck::pod_collect_to_vec(bytes);
    let mut rest = &values[..];
    let named = plan.graph.outputs.iter().map(|(name, id)| {
        let (rows, cols) = plan.graph.ty(*id).matrix();
        let (data, after) = rest.split_at(rows * cols);
        rest = after;
        (name.clone(), Output { rows, cols, data: data.to_vec() })
    });
    named.collect()
}
