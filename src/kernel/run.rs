//! A trial on a device: every case of the slot by the user's kernel and by ours.

use std::time::Duration;

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
use crate::work::{Candidate, DeviceProfile, Dispatch, Kernel, KernelRef};

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

/// The kernel that some work is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Yours,
    Ours,
}

/// Work that the device did not finish.
struct Failed {
    whose: Whose,
    error: Error,
    /// When the work began.
    since: Instant,
}

impl Whose {
    fn does<T>(self, work: impl FnOnce() -> Result<T>) -> Result<T, Failed> {
        let since = Instant::now();
        work().map_err(|error| Failed { whose: self, error, since })
    }
}

impl Failed {
    /// Tells it in the report of a case, with the time that was waited if that is why it failed.
    fn tell(&self, case: &mut CaseTrial, waited: Option<Duration>) {
        match self.whose {
            Whose::Ours => case.ours_wrong = true,
            Whose::Yours => {
                case.wrong = Some(Wrong::says(match waited {
                    Some(waited) => format!("it does not finish within {} s", waited.as_secs_f64()),
                    None => format!("the device gives no result: {}", self.error),
                }));
            }
        }
    }
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
            let mut case = begun(&reached.case, &reached.own.dispatches);
            if let Err(failed) = self.compare(&gpu, &read, reached, &mut case) {
                let late = gpu.check().is_ok() && failed.since.elapsed() >= self.patience;
                failed.tell(&mut case, late.then_some(self.patience));
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

    /// Compares and times one case.
    fn compare(&self, gpu: &Gpu, read: &Read, reached: &Reached, found: &mut CaseTrial) -> Result<(), Failed> {
        let Reached { case, profile, .. } = reached;
        let prepared = Prepared::new(case);
        let wanted = prepared.reference(case);
        let limit = limit(case, profile);
        let of_yours = case.profile(profile);
        let of_ours = DeviceProfile { own: Vec::new(), ..of_yours.clone() };

        // Yours runs first, so that a fault of ours takes no result from it.
        let yours = Whose::Yours.does(|| prepared.runner(gpu, &of_yours))?;
        let steps = &yours.bound.plan.steps;
        assert!(!steps.is_empty() && steps.iter().all(|step| step.dispatch.kernel == read.own.kernel));
        let mut runs = Vec::new();
        for _ in 0..RUNS {
            let (result, broken) = Whose::Yours.does(|| {
                prepared.begin(&yours, UNTOUCHED);
                yours.run(&case.rows);
                Ok((prepared.read(&yours)?, broken_rule(&prepared, &yours)?))
            })?;
            if broken.is_some() {
                found.wrong = broken;
                return Ok(());
            }
            runs.push(result);
        }

        let ours = Whose::Ours.does(|| {
            let ours = prepared.runner(gpu, &of_ours)?;
            prepared.begin(&ours, UNTOUCHED);
            ours.run(&case.rows);
            let result = prepared.read(&ours)?;
            Ok((ours, result))
        });
        let left = match &ours {
            Ok((_, result)) => untouched(result),
            // Without a result of ours nothing is known to be left, so yours has to have all.
            Err(_) => wanted.iter().map(|result| vec![false; result.len()]).collect(),
        };
        if let Ok((_, result)) = &ours {
            found.ours_wrong = wrong(&prepared, &wanted, result, &left, limit).is_some();
        }
        for (run, result) in runs.iter().enumerate() {
            if let Some(mut wrong) = wrong(&prepared, &wanted, result, &left, limit) {
                if run > 0 {
                    wrong.what += &format!(", in run {} of the same input", run + 1);
                }
                found.wrong = Some(wrong);
                break;
            }
        }
        let (ours, _) = ours?;
        if self.timed && found.wrong.is_none() && !found.ours_wrong {
            let (times, clock) = time(gpu, [(Whose::Ours, &ours), (Whose::Yours, &yours)], case)?;
            (found.ours_us, found.yours_us) = (Some(1e6 * times[0]), Some(1e6 * times[1]));
            found.clock = Some(clock.to_string());
        }
        Ok(())
    }
}

/// The report of a case, of which nothing is known yet.
fn begun(case: &Case, dispatches: &[Dispatch]) -> CaseTrial {
    CaseTrial {
        case: case.label(),
        shapes: shapes(case),
        real: case.bench,
        groups: dispatches.iter().map(|dispatch| dispatch.groups).collect(),
        wrong: None,
        ours_wrong: false,
        ours_us: None,
        yours_us: None,
        clock: None,
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
fn time(gpu: &Gpu, runners: [(Whose, &Runner); 2], case: &Case) -> Result<([f64; 2], Clock), Failed> {
    let mut stopwatch = Stopwatch::new(gpu);
    let mut longest = 0f64;
    for (whose, runner) in runners {
        runner.run(&case.rows);
        // The first pass warms up, the second tells how many runs a pass may have.
        whose.does(|| stopwatch.time(runner, 1))?;
        longest = longest.max(whose.does(|| stopwatch.time(runner, 1))?.work.as_secs_f64());
    }
    let times = (PASS / longest).clamp(1.0, MOST_RUNS) as usize;
    let rounds = if longest < SLOW { ROUNDS } else { FEW_ROUNDS };
    let mut seconds = [f64::INFINITY; 2];
    let mut clock = Clock::Timestamps;
    for round in 0..rounds {
        // Neither is always first.
        for at in [round % 2, 1 - round % 2] {
            let (whose, runner) = runners[at];
            let time = whose.does(|| stopwatch.time(runner, times))?;
            seconds[at] = seconds[at].min(time.work.as_secs_f64() / times as f64);
            if time.clock == Clock::Wall {
                clock = Clock::Wall;
            }
        }
    }
    Ok((seconds, clock))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Given;
    use crate::ops::add::Add;

    #[test]
    fn a_failure_is_told_of_the_kernel_that_failed() {
        let failed = |whose: Whose| whose.does(|| Err::<(), _>(Error::device("it is lost"))).expect_err("it fails");
        let told = |whose: Whose, waited: Option<Duration>| {
            let mut case = begun(&Case::new(Add, vec![Given::f32([3]), Given::f32([3])]), &[]);
            failed(whose).tell(&mut case, waited);
            (case.ours_wrong, case.wrong.map(|wrong| wrong.what))
        };
        let waited = Some(Duration::from_millis(1500));
        assert_eq!(told(Whose::Ours, None), (true, None));
        assert_eq!(told(Whose::Ours, waited), (true, None));
        assert_eq!(told(Whose::Yours, None), (false, Some("the device gives no result: it is lost".into())));
        assert_eq!(told(Whose::Yours, waited), (false, Some("it does not finish within 1.5 s".into())));
    }
}
