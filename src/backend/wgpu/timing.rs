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
    let size = gpu.device.limits().max_buffer_size.min(64 << 20);
    let from = storage(gpu, "copy from", size, wgpu::BufferUsages::COPY_SRC)?;
    let to = storage(gpu, "copy to", size, wgpu::BufferUsages::COPY_DST)?;
    let seconds = seconds_of_one(|copies| {
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        (0..copies).for_each(|_| encoder.copy_buffer_to_buffer(&from, 0, &to, 0, size));
        let commands = encoder.finish();
        let start = Instant::now();
        let submission = gpu.submit_to_wait([commands]);
        gpu.block_on(gpu.wait(submission))?;
        Ok(start.elapsed().as_secs_f64())
    })?;
    Ok((2 * size) as f64 / seconds)
}

/// The time of one copy, where `round` copies so many times and tells its seconds. A round includes a submission and a
/// wait, so it has as many copies as take [`ROUND`] seconds: next to that they do not count.
fn seconds_of_one(mut round: impl FnMut(u64) -> Result<f64>) -> Result<f64> {
    // The first round allocates the pages.
    round(1)?;
    let mut copies = 1;
    let mut best = round(copies)?;
    while best < ROUND && copies < MOST_COPIES {
        copies *= 2;
        best = round(copies)?;
    }
    for _ in 0..2 {
        best = round(copies)?.min(best);
    }
    Ok(best / copies as f64)
}

/// Seconds of a round of copies, at least.
const ROUND: f64 = 0.02;

/// The most copies of a round, should a clock stand still.
const MOST_COPIES: u64 = 1 << 14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn submission_and_wait_do_not_count_in_the_time_of_a_copy() {
        // From a GPU that copies 128 MiB in 30 µs to a rasteriser, each with 300 µs of submission and wait.
        for (copy, most_rounds) in [(30e-6, 14), (400e-6, 10), (15e-3, 5), (0.2, 4)] {
            let mut rounds = 0;
            let found = seconds_of_one(|copies| {
                rounds += 1;
                // The first round takes longer.
                Ok(300e-6 + copies as f64 * copy + if rounds == 1 { 0.1 } else { 0.0 })
            });
            let found = found.expect("a time");
            assert!(found >= copy && found < 1.02 * copy, "{found} of {copy}");
            assert!(rounds <= most_rounds, "{rounds} rounds for {copy}");
        }
        // A clock that stands still ends, too.
        assert_eq!(seconds_of_one(|_| Ok(0.0)).expect("a time"), 0.0);
    }
}
