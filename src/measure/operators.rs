//! What operators take on one device: every case that is marked for benches.

use std::time::Duration;

use crate::backend::DeviceChoice;
use crate::backend::check::Prepared;
#[cfg(feature = "gpu")]
use crate::backend::wgpu::device::Gpu;
#[cfg(feature = "gpu")]
use crate::backend::wgpu::timing::{Clock, Stopwatch};
use crate::clock::Instant;
use crate::error::Result;
use crate::measure::report::{Floors, OperatorTime};
use crate::measure::runs::Runs;
use crate::ops::{self, Case, TensorType};
use crate::threads::Team;
use crate::work::DeviceProfile;

/// Seconds of a run: so many executions as fit, so that the clock and the start of a pass do not count.
const RUN: f64 = 0.02;

/// The most executions of a run: passes of more dispatches would take long to record.
const MOST: usize = 256;

/// The cases that are timed: operators and shapes that have `part` in their name, in the order of the operators.
pub fn cases(part: &str) -> Vec<(String, Case)> {
    let all = ops::cases().into_iter().flat_map(|(op, cases)| cases.into_iter().map(move |case| (op, case)));
    let named = all.filter(|(_, case)| case.bench).map(|(op, case)| (format!("{op} {}", shapes(&case)), case));
    named.filter(|(name, _)| name.contains(part)).collect()
}

/// The shapes that distinguish a case from the others of its operator.
fn shapes(case: &Case) -> String {
    let reads: Vec<&TensorType> = case.reads.iter().map(|given| &given.ty).collect();
    let mut shapes: Vec<String> = reads.iter().map(|ty| ty.to_string().replace(' ', "")).collect();
    // Pools and convolutions of one picture differ in the shape of their results.
    if let [result, ..] = &case.op.infer(&reads)[..]
        && result.shape[0] != reads[0].shape[0]
    {
        shapes.push(format!("to {result}").replace(", ", ","));
    }
    let sampled = if case.rows[0].temperature > 0.0 { " sampled" } else { "" };
    match case.rows[0].position {
        0 => shapes.join(" "),
        position => format!("{} at {position}{sampled}", shapes.join(" ")),
    }
}

/// Times cases, each in `runs` runs. `progress` is called with the name of each case before it begins.
pub fn measure(
    device: &DeviceChoice,
    cases: &[(String, Case)],
    runs: usize,
    floors: &Floors,
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<OperatorTime>> {
    let mut times = Vec::new();
    let mut time = |name: &str, case: &Case, timed: Timed, profile: &DeviceProfile| {
        times.push(of_case(name, case, timed, profile, floors));
    };
    match device {
        DeviceChoice::Cpu => {
            let (team, profile) = (Team::of_cores(), crate::backend::cpu::profile());
            for (name, case) in cases {
                progress(name);
                time(name, case, on_cpu(case, &team, runs), &profile);
            }
        }
        #[cfg(feature = "gpu")]
        DeviceChoice::Adapter(index) => {
            let gpu = Gpu::open(*index)?;
            for (name, case) in cases {
                progress(name);
                time(name, case, on_gpu(case, &gpu, runs)?, &gpu.profile);
            }
        }
        #[cfg(not(feature = "gpu"))]
        DeviceChoice::Adapter(_) => {}
    }
    Ok(times)
}

/// The times of a case.
struct Timed {
    /// Seconds of one execution, in each run.
    seconds: Vec<f64>,
    clock: String,
    /// The kernel, and whether it multiplies cooperative matrices.
    kernel: Option<(String, bool)>,
}

fn of_case(name: &str, case: &Case, timed: Timed, profile: &DeviceProfile, floors: &Floors) -> OperatorTime {
    let (bytes, flop) = (case.bytes(profile), case.flops());
    let time_us = Runs::new(timed.seconds.iter().map(|seconds| 1e6 * seconds).collect());
    let seconds = time_us.mean / 1e6;
    let matrices = timed.kernel.as_ref().is_some_and(|(_, matrices)| *matrices);
    let (least, bound) = roofline(bytes, flop, matrices, floors);
    OperatorTime {
        case: name.to_owned(),
        kernel: timed.kernel.map(|(name, _)| name),
        time_us,
        clock: timed.clock,
        bytes,
        flop,
        gb_per_s: bytes as f64 / seconds / 1e9,
        gflop_per_s: flop.map(|flop| flop as f64 / seconds / 1e9),
        roofline_share: least / seconds,
        bound: bound.to_owned(),
    }
}

/// The least seconds that bytes and operations take on a device, and what takes them. Sums are f32 whatever the format
/// of weights and tiles, so the peak is that of f32, or of cooperative matrices.
pub fn roofline(bytes: u64, flop: Option<u64>, matrices: bool, floors: &Floors) -> (f64, &'static str) {
    let peaks = &floors.peak_flop_per_s;
    let peak = if matrices { peaks.matrix } else { peaks.f32 };
    let memory = bytes as f64 / floors.copy_bytes_per_s;
    match (flop, peak) {
        (Some(flop), Some(peak)) if flop as f64 / peak > memory => (flop as f64 / peak, "arithmetic"),
        _ => (memory, "memory"),
    }
}

fn on_cpu(case: &Case, team: &Team, runs: usize) -> Timed {
    let prepared = Prepared::new(case);
    let mut host = prepared.on_host();
    let mut ready = host.runner().bind(true, team);
    let mut run = |times: usize| {
        let start = Instant::now();
        (0..times).for_each(|_| ready.run(&case.rows, team));
        start.elapsed() / times as u32
    };
    // The first execution warms up; the second tells how many make a run.
    run(1);
    let times = executions(run(1));
    let seconds = (0..runs).map(|_| run(times).as_secs_f64()).collect();
    Timed { seconds, clock: "wall clock".into(), kernel: None }
}

#[cfg(feature = "gpu")]
fn on_gpu(case: &Case, gpu: &Gpu, runs: usize) -> Result<Timed> {
    let profile = case.profile(&gpu.profile);
    let runner = Prepared::new(case).runner(gpu, &profile)?;
    runner.run(&case.rows);
    let mut stopwatch = Stopwatch::new(gpu);
    let mut clock = Clock::Timestamps;
    let mut run = |times: usize| -> Result<Duration> {
        let time = stopwatch.time(&runner, times)?;
        if time.clock == Clock::Wall {
            clock = Clock::Wall;
        }
        Ok(time.work / times as u32)
    };
    run(1)?;
    let times = executions(run(1)?);
    let seconds = (0..runs).map(|_| Ok(run(times)?.as_secs_f64())).collect::<Result<_>>()?;
    let kernel = runner.bound.plan.steps.first().map(|step| step.dispatch.kernel.0);
    let kernel = kernel.map(|kernel| (kernel.name(), kernel.requires.cooperative.is_some()));
    Ok(Timed { seconds, clock: clock.to_string(), kernel })
}

/// How many executions make a run.
fn executions(one: Duration) -> usize {
    ((RUN / one.as_secs_f64().max(1e-9)) as usize).clamp(1, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roofline_is_the_larger_of_its_sides() {
        let floors = Floors::example();
        // 1 ms of bytes; 2 ms of operations in f32, 0.2 ms in matrices.
        let (bytes, flop) = (10_000_000, Some(200_000_000));
        let near = |found: (f64, &str), seconds: f64, bound: &str| {
            assert!((found.0 - seconds).abs() < 1e-12 && found.1 == bound, "{found:?}");
        };
        near(roofline(bytes, flop, false, &floors), 2e-3, "arithmetic");
        near(roofline(bytes, flop, true, &floors), 1e-3, "memory");
        near(roofline(bytes, None, false, &floors), 1e-3, "memory");
        let timed = Timed { seconds: vec![4e-3, 4e-3], clock: "wall clock".into(), kernel: None };
        let (name, case) = cases("linear").into_iter().next().expect("a case");
        let time = of_case(&name, &case, timed, &DeviceProfile::baseline(), &floors);
        let least = roofline(time.bytes, time.flop, false, &floors).0;
        assert!((time.roofline_share - least / 4e-3).abs() < 1e-12 && (time.time_us.mean - 4000.0).abs() < 1e-6);
        assert!((time.gb_per_s - time.bytes as f64 / 4e-3 / 1e9).abs() < 1e-9);
        assert!((time.gflop_per_s.unwrap() - time.flop.unwrap() as f64 / 4e-3 / 1e9).abs() < 1e-9);
    }

    #[test]
    fn cases_have_names_of_their_own() {
        let mut names: Vec<String> = cases("").into_iter().map(|(name, _)| name).collect();
        assert!(names.len() > 20, "{names:?}");
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(cases("no such operator").is_empty());
    }
}
