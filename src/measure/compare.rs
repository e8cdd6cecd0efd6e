//! Two reports side by side: ratios, and whether they are beyond the noise.

use crate::error::{Error, Result};
use crate::measure::report::{DeviceReport, Report, Timing};
use crate::measure::runs::noise;

/// What two reports say of the same measurements.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    pub lines: Vec<Line>,
    /// Measurements that only one report has, with the reason to look: `only before: …`.
    pub alone: Vec<String>,
    /// Counts and sizes that differ, and drivers: `cpu: dispatches a token: 154, now 150`.
    pub changes: Vec<String>,
}

/// A measurement that both reports have.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub before: Timing,
    pub after: Timing,
    /// How much faster it is now: the ratio of the rates, or the inverse ratio of the times.
    pub speedup: f64,
    /// How far the means of two runs of the same program may differ, as a share of the mean before. For a rate that is how
    /// far its speedup may be from 1, for a time about that.
    pub noise: f64,
}

impl Line {
    fn new(before: Timing, after: Timing) -> Self {
        let (old, new) = (before.runs.mean, after.runs.mean);
        let speedup = if before.rate { new / old } else { old / new };
        let noise = noise(&before.runs, &after.runs) / old;
        Line { before, after, speedup, noise }
    }

    /// The measured change as a share of the value before.
    fn change(&self) -> f64 {
        (self.after.runs.mean - self.before.runs.mean) / self.before.runs.mean
    }

    /// Whether the two differ by more than their runs explain.
    pub fn differs(&self) -> bool {
        self.change().abs() > self.noise
    }

    /// Whether it is slower than allowed, and not by noise: 0.05 allows a rate of 95 % of the one before, or a time of
    /// 105 %.
    pub fn slower(&self, allowed: f64) -> bool {
        let loss = if self.before.rate { -self.change() } else { self.change() };
        loss > allowed && self.differs()
    }
}

impl Comparison {
    /// Compares two reports of the same model, or of operators.
    ///
    /// # Errors
    ///
    /// They are of different models, or have no measurement in common.
    pub fn new(before: &Report, after: &Report) -> Result<Self> {
        let what = |report: &Report| match &report.model {
            Some(model) => format!(
                "{} ({}, {} parameters, {} bytes)",
                model.name, model.architecture, model.parameters, model.tensor_bytes
            ),
            None => "operators".to_owned(),
        };
        let same = match (&before.model, &after.model) {
            // A file may have got another name.
            (Some(a), Some(b)) => {
                (&a.architecture, a.parameters, a.tensor_bytes) == (&b.architecture, b.parameters, b.tensor_bytes)
            }
            (a, b) => a == b,
        };
        if !same {
            let (before, after) = (what(before), what(after));
            return Err(Error::prompt(format!("they measured different things: {before} before, {after} after")));
        }
        let (old, mut new) = (before.timings(), after.timings());
        let (mut lines, mut alone) = (Vec::new(), Vec::new());
        for timing in old {
            let same = |other: &Timing| {
                (&other.device, &other.what, other.unit) == (&timing.device, &timing.what, timing.unit)
            };
            match new.iter().position(same) {
                Some(at) => lines.push(Line::new(timing, new.remove(at))),
                None => alone.push(format!("only before: {}: {}", timing.device, timing.what)),
            }
        }
        alone.extend(new.iter().map(|timing| format!("only after: {}: {}", timing.device, timing.what)));
        if lines.is_empty() {
            let devices = |report: &Report| {
                report.devices.iter().map(|device| device.device.clone()).collect::<Vec<_>>().join(", ")
            };
            return Err(Error::prompt(format!(
                "they have no measurement in common: {} before, {} after; measure the same devices with the same options",
                devices(before),
                devices(after)
            )));
        }
        Ok(Comparison { lines, alone, changes: changes(before, after) })
    }

    /// The lines that are slower than allowed, and not by noise.
    pub fn slower(&self, allowed: f64) -> Vec<&Line> {
        self.lines.iter().filter(|line| line.slower(allowed)).collect()
    }
}

/// Versions, drivers, counts and sizes that differ.
fn changes(before: &Report, after: &Report) -> Vec<String> {
    let mut changes = Vec::new();
    let mut note = |what: String, old: String, new: String| {
        if old != new {
            changes.push(format!("{what}: {old}, now {new}"));
        }
    };
    note("dunlin".into(), before.dunlin.clone(), after.dunlin.clone());
    note("processor".into(), before.machine.processor.clone(), after.machine.processor.clone());
    let mut others: Vec<&DeviceReport> = after.devices.iter().collect();
    for old in &before.devices {
        // Of devices with one name the first belongs to the first, as with their timings.
        let Some(at) = others.iter().position(|new| new.device == old.device) else { continue };
        let new = others.remove(at);
        let name = &old.device;
        note(format!("{name}: driver"), old.driver.clone(), new.driver.clone());
        for (what, old) in counts(old) {
            if let Some((_, new)) = counts(new).into_iter().find(|(other, _)| *other == what) {
                note(format!("{name}: {what}"), old, new);
            }
        }
    }
    changes
}

/// Counts and sizes, which are the same in every run of one program.
fn counts(device: &DeviceReport) -> Vec<(String, String)> {
    let mut counts = Vec::new();
    if let Some(model) = &device.model {
        counts.push(("precision".into(), model.precision.clone()));
        counts.push(("bytes of weights on the device".into(), model.memory.device_weight_bytes.to_string()));
        for decode in &model.decodes {
            let name = decode.name();
            counts.push((format!("dispatches a token, {name}"), decode.dispatches_per_token.to_string()));
            counts.push((format!("submissions a token, {name}"), decode.submissions_per_token.to_string()));
        }
    }
    let kernels = device.operators.iter().filter_map(|case| Some((case.case.clone(), case.kernel.clone()?)));
    counts.extend(kernels.map(|(case, kernel)| (format!("kernel of {case}"), kernel)));
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::report::{Floors, Machine, SCHEMA};
    use crate::measure::runs::Runs;

    fn line(rate: bool, before: &[f64], after: &[f64]) -> Line {
        let timing = |runs: &[f64]| Timing {
            device: "cpu".into(),
            what: "prompt 8".into(),
            unit: "tokens/s",
            rate,
            runs: Runs::new(runs.to_vec()),
        };
        Line::new(timing(before), timing(after))
    }

    #[test]
    fn a_lower_rate_and_a_longer_time_are_slower() {
        let (quiet, tenth_less) = ([100.0, 101.0, 99.0, 100.0, 100.0], [90.0, 91.0, 89.0, 90.0, 90.0]);
        let rate = line(true, &quiet, &tenth_less);
        assert!((rate.speedup - 0.9).abs() < 1e-9 && rate.slower(0.05) && !rate.slower(0.11));
        assert!(!line(true, &tenth_less, &quiet).slower(0.05) && line(true, &tenth_less, &quiet).differs());
        let time = line(false, &tenth_less, &quiet);
        assert!((time.speedup - 0.9).abs() < 1e-9 && time.slower(0.05) && !time.slower(0.12));
        assert!(!line(false, &quiet, &tenth_less).slower(0.05));
        assert!(!line(true, &quiet, &quiet).differs());
    }

    #[test]
    fn devices_with_one_name_are_compared_in_their_order() {
        let device = |driver: &str| DeviceReport {
            device: "vulkan:GPU".into(),
            driver: driver.into(),
            floors: Floors::example(),
            model: None,
            operators: Vec::new(),
        };
        let machine = || Machine { processor: String::new(), threads: 1, system: String::new() };
        let report = |drivers: [&str; 2]| Report {
            schema: SCHEMA,
            dunlin: String::new(),
            machine: machine(),
            model: None,
            devices: drivers.map(device).to_vec(),
            warnings: Vec::new(),
        };
        assert!(changes(&report(["a", "b"]), &report(["a", "b"])).is_empty());
        assert_eq!(changes(&report(["a", "b"]), &report(["a", "c"])), ["vulkan:GPU: driver: b, now c"]);
    }

    #[test]
    fn noise_is_not_slower() {
        let loud = [100.0, 130.0, 70.0, 110.0, 90.0];
        let lower = loud.map(|run| 0.9 * run);
        let rate = line(true, &loud, &lower);
        assert!((rate.speedup - 0.9).abs() < 1e-9 && !rate.differs() && !rate.slower(0.05));
        // One run each: a tenth is taken for noise.
        assert!(!line(true, &[100.0], &[91.0]).slower(0.05));
        assert!(line(true, &[100.0], &[89.0]).slower(0.05));
        assert!(line(false, &[100.0], &[111.0]).slower(0.05));
    }
}
