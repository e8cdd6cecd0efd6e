//! Measures each dispatch of a pass. A session has a profiler only while it is asked to measure, and then waits for
//! each of its passes.

use std::ops::Range;

use crate::backend::measured::{Clock, HostWork, Measured, Phase, Recorder, Span, Timed};
use crate::backend::wgpu::device::Gpu;
use crate::backend::wgpu::session::{Bound, Readbacks, Source};
use crate::error::{Error, Result};
use crate::plan::Cost;
use crate::work::{DeviceProfile, Row};

pub struct Profiler {
    pub recorder: Recorder,
    clock: Clock,
    /// Whether the clock was asked for, so that no other may take its place.
    asked: bool,
    /// Whether the driver has written timestamps that can be true.
    trusted: bool,
    readbacks: Readbacks,
}

/// Dispatches of a submission: fewer than half of the 4,096 timestamps that WebGPU allows in a set.
const MOST: usize = 1024;

/// The times of some dispatches that were submitted together.
struct Submitted {
    host: [(HostWork, Span); 3],
    work: Vec<Span>,
}

impl Profiler {
    /// A profiler with the given clock, or with the best that the device offers.
    pub fn new(gpu: &Gpu, asked: Option<Clock>) -> Result<Self> {
        let features = gpu.device.features();
        let best = match () {
            () if features.contains(wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES) => Clock::InPass,
            () if features.contains(wgpu::Features::TIMESTAMP_QUERY) => Clock::Passes,
            () => Clock::Submissions,
        };
        let offered = match asked {
            None | Some(Clock::Submissions) => true,
            Some(Clock::InPass) => best == Clock::InPass,
            Some(Clock::Passes) => best != Clock::Submissions,
            Some(Clock::Steps) => false,
        };
        if !offered {
            let name = &gpu.profile.name;
            return Err(Error::device(format!(
                "{name} cannot be measured by {}, but by {best}: ask for no clock",
                asked.unwrap_or(best)
            )));
        }
        let clock = asked.unwrap_or(best);
        let (recorder, readbacks) = (Recorder::new(), Readbacks::default());
        Ok(Profiler { recorder, clock, asked: asked.is_some(), trusted: false, readbacks })
    }

    /// Runs some dispatches and waits for them. The first pass of a driver that writes no timestamps is not recorded;
    /// from the second on each dispatch is a submission.
    pub fn run(
        &mut self,
        gpu: &Gpu,
        profile: &DeviceProfile,
        bound: &Bound,
        part: Range<usize>,
        rows: &[Row],
        phase: Phase,
    ) -> Result<()> {
        let plan = &bound.plan;
        let (mut host, mut spans) = (Vec::new(), Vec::with_capacity(part.len()));
        let each = if self.clock == Clock::Submissions { 1 } else { MOST };
        for start in part.clone().step_by(each) {
            let some = start..part.end.min(start + each);
            let Submitted { host: spent, work } = match self.clock {
                Clock::Submissions => self.alone(gpu, bound, some)?,
                _ => self.stamped(gpu, bound, some)?,
            };
            host.extend(spent);
            spans.extend(work);
        }
        if spans.len() < part.len() {
            return self.distrust(gpu);
        }
        self.trusted = true;
        let costs: Vec<Cost> = plan.dispatch_costs(rows, profile);
        let work = part.zip(spans).map(|(i, span)| {
            let node = plan.steps[i].node;
            Timed { node, dispatch: Some(i), cost: costs[i], span }
        });
        let (plan, clock) = (plan.clone(), self.clock);
        self.recorder.push(Measured { plan, rows: rows.to_vec(), phase, clock, work: work.collect(), host });
        Ok(())
    }

    /// Takes the host's clock, because the driver's timestamps cannot be true.
    fn distrust(&mut self, gpu: &Gpu) -> Result<()> {
        if self.asked || self.trusted {
            let name = &gpu.profile.name;
            return Err(Error::device(format!(
                "{name} wrote timestamps that run backwards or stand still, or none: take --clock submissions"
            )));
        }
        self.clock = Clock::Submissions;
        Ok(())
    }

    /// Submits one dispatch by itself.
    fn alone(&mut self, gpu: &Gpu, bound: &Bound, one: Range<usize>) -> Result<Submitted> {
        let begin = self.recorder.now();
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        bound.record(&mut encoder, one);
        let commands = encoder.finish();
        let encoded = self.recorder.now();
        let submission = gpu.submit_to_wait([commands]);
        let submitted = self.recorder.now();
        gpu.block_on(gpu.wait(submission))?;
        let done = self.recorder.now();
        Ok(Submitted { host: host([begin, encoded, submitted, done]), work: vec![Span { begin: encoded, end: done }] })
    }

    /// Submits some dispatches with timestamps. There are no times if the timestamps cannot be true.
    fn stamped(&mut self, gpu: &Gpu, bound: &Bound, part: Range<usize>) -> Result<Submitted> {
        let in_pass = self.clock == Clock::InPass;
        let count = if in_pass { part.len() + 1 } else { 2 * part.len() } as u32;
        let queries = gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("profiler"),
            ty: wgpu::QueryType::Timestamp,
            count,
        });
        let bytes = 8 * u64::from(count);
        let resolved = gpu.create_buffer(&wgpu::BufferDescriptor {
            label: Some("timestamps"),
            size: bytes,
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });

        let begin = self.recorder.now();
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        if in_pass {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.write_timestamp(&queries, 0);
            for (stamp, i) in (1..).zip(part) {
                bound.replay_part(&mut pass, i..i + 1);
                pass.write_timestamp(&queries, stamp);
            }
        } else {
            for (stamp, i) in (0..).step_by(2).zip(part) {
                let writes = wgpu::ComputePassTimestampWrites {
                    query_set: &queries,
                    beginning_of_pass_write_index: Some(stamp),
                    end_of_pass_write_index: Some(stamp + 1),
                };
                let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes: Some(writes) };
                bound.replay_part(&mut encoder.begin_compute_pass(&descriptor), i..i + 1);
            }
        }
        encoder.resolve_query_set(&queries, 0..count, &resolved, 0);
        let copy = self.readbacks.record(gpu, &mut encoder, &[Source { buffer: &resolved, offset: 0, bytes }]);
        let commands = encoder.finish();
        let encoded = self.recorder.now();
        let submission = gpu.submit(commands);
        let readback = Readbacks::request(copy, submission);
        let submitted = self.recorder.now();
        let bytes = gpu.block_on(self.readbacks.finish(gpu, readback))?;
        let done = self.recorder.now();

        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes);
        let period = f64::from(gpu.queue.get_timestamp_period());
        let work = spans(&ticks, period, in_pass, Span { begin: encoded, end: done }).unwrap_or_default();
        Ok(Submitted { host: host([begin, encoded, submitted, done]), work })
    }
}

/// What the host did between four times.
fn host([begin, encoded, submitted, done]: [u64; 4]) -> [(HostWork, Span); 3] {
    [
        (HostWork::Encode, Span { begin, end: encoded }),
        (HostWork::Submit, Span { begin: encoded, end: submitted }),
        (HostWork::Wait, Span { begin: submitted, end: done }),
    ]
}

/// The spans of dispatches from timestamps: one more than there are dispatches in one pass, else two for each.
///
/// The device's clock has another zero than the host's, so the work is placed in the middle of the time between
/// submission and wait. `None` where the timestamps cannot be true: they are missing, run backwards, stand still, or
/// do not fit that time.
fn spans(ticks: &[u64], period: f64, in_pass: bool, bracket: Span) -> Option<Vec<Span>> {
    let (first, last) = (*ticks.first()?, *ticks.last()?);
    if first == 0 || last == first || !ticks.is_sorted() {
        return None;
    }
    let since = |tick: u64| ((tick - first) as f64 * period).round() as u64;
    let free = bracket.length().checked_sub(since(last))?;
    let at = |tick: u64| bracket.begin + free / 2 + since(tick);
    let span = |begin, end| Span { begin: at(begin), end: at(end) };
    Some(match in_pass {
        true => ticks.windows(2).map(|pair| span(pair[0], pair[1])).collect(),
        false => ticks.chunks_exact(2).map(|pair| span(pair[0], pair[1])).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_become_spans() {
        let bracket = Span { begin: 1000, end: 2000 };
        // Ticks of 2 ns: 100 ns of work in a bracket of 1,000 ns.
        let found = spans(&[500, 510, 550], 2.0, true, bracket);
        assert_eq!(found, Some(vec![Span { begin: 1450, end: 1470 }, Span { begin: 1470, end: 1550 }]));
        let found = spans(&[500, 510, 530, 550], 2.0, false, bracket);
        assert_eq!(found, Some(vec![Span { begin: 1450, end: 1470 }, Span { begin: 1510, end: 1550 }]));
    }

    #[test]
    fn timestamps_that_cannot_be_true_are_none() {
        let bracket = Span { begin: 1000, end: 2000 };
        for (why, ticks) in [
            ("missing", &[0, 0, 0][..]),
            ("the last is missing", &[5, 6, 0]),
            ("backwards", &[5, 4, 6]),
            ("still", &[7, 7, 7]),
            ("longer than the wait", &[10, 20, 2000]),
        ] {
            assert_eq!(spans(ticks, 1.0, true, bracket), None, "{why}");
        }
    }
}
