//! A trial on a device: every case of the slot by the user's kernel and by ours.

use super::Trial;
use super::judge::{untouched, wrong};
use super::report::{CaseTrial, Needs, TrialReport, Wrong};
use super::slot::shapes;
use crate::backend::Progress;
use crate::backend::check::Prepared;
use crate::backend::check::gpu::{UNTOUCHED, limit};
use crate::backend::wgpu::device::Gpu;
use crate::backend::wgpu::own::{self, Read};
use crate::backend::wgpu::session::Runner;
use crate::backend::wgpu::timing::{Clock, Stopwatch};
use crate::clock::Instant;
use crate::error::{Error, Result};
use crate::ops::{self, Case};
use crate::tensor::DType;
use crate::work::{Candidate, DeviceProfile, Kernel, KernelRef};

/// Runs of a case that are compared. A race between threads need not show in the first.
const RUNS: usize = 3;

/// Seconds of a pass that is timed.
const PASS: f64 = 0.005;

/// The most runs of a kernel in one pass.
const MOST_RUNS: f64 = 256.0;

/// Passes of each kernel, in turn; fewer where one run takes longer than [`SLOW`] seconds.
const ROUNDS: usize = 7;
const FEW_ROUNDS: usize = 3;
const SLOW: f64 = 0.3;

/// A case, the profile for which the plan takes the kernel of the slot, and its work by the user's kernel.
struct Reached {
    case: Case,
    profile: DeviceProfile,
    own: Candidate,
}

impl Trial {
    pub(super) fn run_on(&self, index: usize, progress: Progress) -> Result<TrialReport> {
        let (operator, ours) = ops::kernel_named(&self.file.name)?;
        let read = own::read(ours, &self.file)?;
        let mut gpu = self.open(index)?;
        let reached = self.reach(operator, ours, &read, &gpu.profile)?;
        let needs = needs(&read, &reached, &gpu.profile)?;
        let mut report = TrialReport {
            device: format!("{}:{}", gpu.profile.backend, gpu.profile.name),
            kernel: ours.name(),
            file: self.file.file.clone(),
            needs,
            cases: Vec::new(),
            stopped: None,
        };
        let all = reached.len();
        for (done, reached) in reached.iter().enumerate() {
            progress(done, all);
            let mut case = CaseTrial {
                case: reached.case.label(),
                shapes: shapes(&reached.case),
                real: reached.case.bench,
                groups: reached.own.dispatches.iter().map(|dispatch| dispatch.groups).collect(),
                wrong: None,
                ours_wrong: false,
                ours_us: None,
                yours_us: None,
                clock: None,
            };
            let begin = Instant::now();
            if let Err(error) = self.compare(&gpu, &read, reached, &mut case) {
                let late = gpu.check().is_ok() && begin.elapsed() >= self.patience;
                case.wrong = Some(Wrong::says(if late {
                    format!("it does not finish within {} s", self.patience.as_secs_f64())
                } else {
                    format!("the device gives no result: {error}")
                }));
                if late {
                    report.stopped = Some("the device still runs the kernel".into());
                    // A device waits for its work before it closes, and this work may never end.
                    Box::leak(Box::new(gpu));
                    report.cases.push(case);
                    return Ok(report);
                }
                // A device with a fault refuses all work, so the next case gets a new device.
                match self.open(index) {
                    Ok(new) => gpu = new,
                    Err(error) => report.stopped = Some(format!("the device does not open again: {error}")),
                }
            }
            report.cases.push(case);
            if report.stopped.is_some() {
                return Ok(report);
            }
        }
        progress(all, all);
        Ok(report)
    }

    fn open(&self, index: usize) -> Result<Gpu> {
        let mut gpu = Gpu::open_alone(index)?;
        gpu.patience = Some(self.patience);
        gpu.pipelines.ours_as_users = true;
        Ok(gpu)
    }

    /// The cases that the kernel can run on this device.
    fn reach(
        &self,
        operator: &str,
        ours: &'static Kernel,
        read: &Read,
        profile: &DeviceProfile,
    ) -> Result<Vec<Reached>> {
        let cases = ops::cases().into_iter().filter(|(name, _)| *name == operator).flat_map(|(_, cases)| cases);
        let cases: Vec<Case> = cases.collect();
        // Few formats have cases of every shape, so the shapes of the others count too.
        let format = DType::ALL.into_iter().find(|dtype| ours.is_named(&format!("weight_{}", dtype.name())));
        let converted: Vec<Case> = cases.iter().filter_map(|case| case.in_format(format?)).collect();
        let mut reached: Vec<Reached> = Vec::new();
        for case in cases.into_iter().chain(converted) {
            if reached.iter().any(|reached| reached.case == case) {
                continue;
            }
            if let Some((profile, candidate)) = profile_for(&case, ours, profile) {
                let profile = DeviceProfile { own: vec![read.own.clone()], ..profile };
                reached.push(Reached { own: read.own.take(candidate), profile, case });
            }
        }
        let name = ours.name();
        if reached.is_empty() {
            let why = profile.lacks(&ours.requires).map_or(String::new(), |obstacle| format!(": {obstacle}"));
            return Err(Error::device(format!("no case of {name} runs on {}{why}", profile.name)));
        }
        let all: Vec<String> = reached.iter().map(|reached| reached.case.label()).collect();
        reached.retain(|reached| reached.case.label().contains(&self.cases));
        if reached.is_empty() {
            let list: String = all.iter().map(|label| format!("\n  {label}")).collect();
            return Err(Error::prompt(format!("no case of {name} contains `{}`; they are{list}", self.cases)));
        }
        Ok(reached)
    }

    /// Compares and times one case. An error is one of the user's kernel.
    fn compare(&self, gpu: &Gpu, read: &Read, reached: &Reached, found: &mut CaseTrial) -> Result<()> {
        let Reached { case, profile, .. } = reached;
        let prepared = Prepared::new(case);
        let wanted = prepared.reference(case);
        let limit = limit(case, profile);
        let of_yours = case.profile(profile);
        let of_ours = DeviceProfile { own: Vec::new(), ..of_yours.clone() };

        // Yours runs first: workgroup memory must not hold what ours left there.
        let yours = prepared.runner(gpu, &of_yours)?;
        debug_assert!(yours.bound.plan.steps.iter().all(|step| step.dispatch.kernel == read.own.kernel));
        let mut runs = Vec::new();
        for _ in 0..RUNS {
            prepared.begin(&yours, UNTOUCHED);
            yours.run(&case.rows);
            runs.push(prepared.read(&yours)?);
            found.wrong = broken_rule(&prepared, &yours)?;
            if found.wrong.is_some() {
                return Ok(());
            }
        }

        let ours = prepared.runner(gpu, &of_ours)?;
        prepared.begin(&ours, UNTOUCHED);
        ours.run(&case.rows);
        let result = prepared.read(&ours)?;
        let left = untouched(&result);
        found.ours_wrong = wrong(&prepared, &wanted, &result, &left, limit).is_some();
        for (run, result) in runs.iter().enumerate() {
            if let Some(mut wrong) = wrong(&prepared, &wanted, result, &left, limit) {
                if run > 0 {
                    wrong.what += &format!(", in run {} of the same input", run + 1);
                }
                found.wrong = Some(wrong);
                return Ok(());
            }
        }
        if self.timed && !found.ours_wrong {
            let (times, clock) = time(gpu, [&ours, &yours], case)?;
            (found.ours_us, found.yours_us) = (Some(1e6 * times[0]), Some(1e6 * times[1]));
            found.clock = Some(clock.to_string());
        }
        Ok(())
    }
}

/// The profile for which the plan of a case takes `ours`, and how it does the work, if the device can run it: in full
/// precision if the kernel needs no f16, because the tolerance is smaller there; and as on this device rather than as on
/// hardware.
fn profile_for(case: &Case, ours: &'static Kernel, profile: &DeviceProfile) -> Option<(DeviceProfile, Candidate)> {
    let precisions = if ours.requires.f16 { [true, false] } else { [false, true] };
    let mut kinds = precisions.into_iter().flat_map(|reduced| [profile.rasteriser, false].map(|soft| (reduced, soft)));
    kinds.find_map(|(reduced_precision, rasteriser)| {
        let mut profile = DeviceProfile { reduced_precision, rasteriser, ..profile.clone() };
        let mut candidates = case.candidates(&profile);
        let at = candidates.iter().position(|candidate| candidate.kernel() == KernelRef(ours))?;
        profile.refused.extend(candidates[..at].iter().map(|candidate| candidate.kernel().0.name()));
        profile.allows(ours).is_ok().then(|| (profile, candidates.swap_remove(at)))
    })
}

/// What the user's kernel needs in these cases.
///
/// # Errors
///
/// The device lacks it.
fn needs(read: &Read, reached: &[Reached], profile: &DeviceProfile) -> Result<Needs> {
    let kernel = read.own.kernel.0;
    let requires = kernel.requires;
    if let Some(obstacle) = profile.lacks(&requires) {
        return Err(Error::device(format!("{} cannot run on {}: {obstacle}", kernel.file, profile.name)));
    }
    let (mut threads, mut workgroup_bytes) = ([u32::MAX, 0], [u32::MAX, 0]);
    let mut seen = Vec::new();
    for dispatch in reached.iter().flat_map(|reached| &reached.own.dispatches) {
        if seen.contains(&&dispatch.constants) {
            continue;
        }
        seen.push(&dispatch.constants);
        let workgroup = read.workgroup(&dispatch.constants)?;
        let limits = [
            (workgroup.threads, profile.max_invocations, "threads in a workgroup"),
            (workgroup.memory, profile.workgroup_memory, "bytes of workgroup memory"),
        ];
        if let Some((needed, most, what)) = limits.into_iter().find(|(needed, most, _)| needed > most) {
            let (file, name) = (kernel.file, &profile.name);
            return Err(Error::device(format!("{file} needs {needed} {what}, and {name} has {most}")));
        }
        threads = [threads[0].min(workgroup.threads), threads[1].max(workgroup.threads)];
        workgroup_bytes = [workgroup_bytes[0].min(workgroup.memory), workgroup_bytes[1].max(workgroup.memory)];
    }
    let (f16, subgroups, cooperative) = (requires.f16, requires.subgroups, requires.cooperative);
    Ok(Needs { f16, subgroups, cooperative, threads, workgroup_bytes })
}

/// What a kernel did that none may do, whatever its results.
fn broken_rule(prepared: &Prepared, runner: &Runner) -> Result<Option<Wrong>> {
    if let Some((id, word, count)) = prepared.overrun(runner)? {
        let name = prepared.results.iter().find(|(_, result)| *result == id).map_or("a result", |(name, _)| name);
        let what = format!("it writes past the end of {name}: word {word} of {count}");
        return Ok(Some(Wrong::says(what)));
    }
    let changed = prepared.changed_input(runner)?;
    Ok(changed.map(|name| Wrong::says(format!("it writes to its input {name}"))))
}

/// Seconds of one run of each of two kernels: the best of passes that take turns. What else a machine does only adds time.
fn time(gpu: &Gpu, runners: [&Runner; 2], case: &Case) -> Result<([f64; 2], Clock)> {
    let mut stopwatch = Stopwatch::new(gpu);
    let mut longest = 0f64;
    for runner in runners {
        runner.run(&case.rows);
        // The first pass warms up, the second tells how many runs a pass may have.
        stopwatch.time(runner, 1)?;
        longest = longest.max(stopwatch.time(runner, 1)?.work.as_secs_f64());
    }
    let times = (PASS / longest).clamp(1.0, MOST_RUNS) as usize;
    let rounds = if longest < SLOW { ROUNDS } else { FEW_ROUNDS };
    let mut seconds = [f64::INFINITY; 2];
    let mut clock = Clock::Timestamps;
    for round in 0..rounds {
        // Neither is always first.
        for at in [round % 2, 1 - round % 2] {
            let time = stopwatch.time(runners[at], times)?;
            seconds[at] = seconds[at].min(time.work.as_secs_f64() / times as f64);
            if time.clock == Clock::Wall {
                clock = Clock::Wall;
            }
        }
    }
    Ok((seconds, clock))
}
