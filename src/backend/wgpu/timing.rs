//! Measures the time of work on a device: by timestamps around the pass if the device has them, else by a clock around
//! the wait.

use std::time::Duration;

use crate::backend::wgpu::device::Gpu;
use crate::backend::wgpu::session::{Readbacks, Runner, Source};
use crate::backend::wgpu::upload::storage;
use crate::clock::Instant;
use crate::error::Result;

/// Times passes on one device.
pub struct Stopwatch<'a> {
    gpu: &'a Gpu,
    stamps: Option<Stamps>,
}

/// Two timestamps, begin and end, and the buffer that they are resolved into.
struct Stamps {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    readbacks: Readbacks,
}

/// Bytes of two timestamps.
const STAMPS: u64 = 16;

/// How long a pass took.
#[derive(Clone, Copy, Debug)]
pub struct Time {
    /// Time of the work on the device.
    pub work: Duration,
    /// Time on the host to record the pass.
    pub record: Duration,
    /// Time on the host from the submission until the device was done.
    pub wait: Duration,
    /// The clock that `work` was measured with.
    pub clock: Clock,
}

/// The clock of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The device's clock, read at the beginning and at the end of the pass.
    Timestamps,
    /// The host's clock, which includes submission and wait.
    Wall,
}

impl std::fmt::Display for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Clock::Timestamps => "timestamps",
            Clock::Wall => "wall clock",
        })
    }
}

impl<'a> Stopwatch<'a> {
    pub fn new(gpu: &'a Gpu) -> Self {
        let stamps = gpu.device.features().contains(wgpu::Features::TIMESTAMP_QUERY).then(|| Stamps {
            queries: gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("stopwatch"),
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            }),
            resolved: gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("timestamps"),
                size: STAMPS,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            }),
            readbacks: Readbacks::default(),
        });
        Stopwatch { gpu, stamps }
    }

    /// Runs the plan of `runner` `times` times in one pass and one submission, and waits for it. The position is that
    /// of its last [`Runner::run`].
    pub fn time(&mut self, runner: &Runner, times: usize) -> Result<Time> {
        let begin = Instant::now();
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let writes = self.stamps.as_ref().map(|stamps| wgpu::ComputePassTimestampWrites {
                query_set: &stamps.queries,
                beginning_of_pass_write_index: Some(0),
                end_of_pass_write_index: Some(1),
            });
            let mut pass =
                encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes: writes });
            (0..times).for_each(|_| runner.bound.replay(&mut pass));
        }
        let commands = encoder.finish();
        let record = begin.elapsed();

        let submit = Instant::now();
        let submission = self.gpu.submit_to_wait([commands]);
        self.gpu.block_on(self.gpu.wait(submission))?;
        let wait = submit.elapsed();
        // Some drivers offer timestamps and write none.
        let stamped = self.stamped()?.filter(|&work| work > Duration::ZERO && work <= wait);
        let (work, clock) = stamped.map_or((wait, Clock::Wall), |work| (work, Clock::Timestamps));
        Ok(Time { work, record, wait, clock })
    }

    /// The time between the timestamps of the last pass.
    fn stamped(&mut self) -> Result<Option<Duration>> {
        let Some(stamps) = &mut self.stamps else { return Ok(None) };
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.resolve_query_set(&stamps.queries, 0..2, &stamps.resolved, 0);
        let source = Source { buffer: &stamps.resolved, offset: 0, bytes: STAMPS };
        let copy = stamps.readbacks.record(self.gpu, &mut encoder, &[source]);
        let submission = self.gpu.queue.submit([encoder.finish()]);
        let bytes = self.gpu.block_on(stamps.readbacks.finish(self.gpu, Readbacks::request(copy, submission)))?;
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes);
        let nanoseconds = ticks[1].saturating_sub(ticks[0]) as f64 * f64::from(self.gpu.queue.get_timestamp_period());
        Ok(Some(Duration::from_nanos(nanoseconds as u64)))
    }
}

/// Bytes a second that the device reads and writes while it copies one buffer into another.
pub fn copy_rate(gpu: &Gpu) -> Result<f64> {
    const COPIES: u64 = 8;
    let size = gpu.device.limits().max_buffer_size.min(64 << 20);
    let from = storage(gpu, "copy from", size, wgpu::BufferUsages::COPY_SRC)?;
    let to = storage(gpu, "copy to", size, wgpu::BufferUsages::COPY_DST)?;
    let mut best = f64::INFINITY;
    // The first round allocates the pages.
    for _ in 0..4 {
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        (0..COPIES).for_each(|_| encoder.copy_buffer_to_buffer(&from, 0, &to, 0, size));
        let commands = encoder.finish();
        let start = Instant::now();
        let submission = gpu.submit_to_wait([commands]);
        gpu.block_on(gpu.wait(submission))?;
        best = start.elapsed().as_secs_f64().min(best);
    }
    Ok((2 * COPIES * size) as f64 / best)
}
