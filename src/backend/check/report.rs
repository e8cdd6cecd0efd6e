//! Results of a device compared with those of the CPU reference, operator by operator.

use serde::Serialize;

use crate::backend::Progress;
use crate::error::Result;
use crate::ops::Case;
use crate::work::{KernelFile, OwnKernelUse};

/// The results of a device, compared with those of the CPU reference.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// The adapter, with its backend.
    pub device: String,
    /// In the order of [`Device::operators`](crate::Device::operators).
    pub operators: Vec<OperatorCheck>,
    /// Why the remaining cases did not run, if they did not.
    pub stopped: Option<String>,
    /// Kernels of the user's own, each with the number of cases that ran it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub own_kernels: Vec<OwnKernelUse>,
}

/// The cases of one operator: shapes of real models, and edge cases of kernels.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct OperatorCheck {
    pub operator: String,
    /// Cases that were compared, in float32 and, if the adapter supports it, float16.
    pub cases: usize,
    /// The largest error in float32, relative to its tolerance: at most 1 if all results are right.
    pub worst_f32: f64,
    /// The same in float16, if the adapter supports it.
    pub worst_f16: Option<f64>,
    pub wrong: Vec<WrongCase>,
}

/// A case that the device computes wrongly, or not at all.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WrongCase {
    /// The operator with its attributes, shapes and position.
    pub case: String,
    /// `f32` or `f16`.
    pub precision: &'static str,
    /// The error divided by its tolerance; infinite if a result is NaN or another id, or if there is no result (`null`
    /// in JSON).
    pub error: f64,
    /// The device's error message, if it gave no result.
    pub failure: Option<String>,
}

impl Check {
    pub fn cases(&self) -> usize {
        self.operators.iter().map(|operator| operator.cases).sum()
    }

    pub fn wrong(&self) -> usize {
        self.operators.iter().map(|operator| operator.wrong.len()).sum()
    }
}

/// Runs cases of operators from [`ops::cases`](crate::ops::cases) on the adapter at `index`: in full precision, and in
/// half precision if the adapter supports it.
pub fn check(index: usize, operators: &[(&str, Vec<Case>)], progress: Progress) -> Result<Check> {
    check_with(index, operators, &[], progress)
}

/// [`check`] with kernels of the user's own.
#[cfg(not(feature = "gpu"))]
pub fn check_with(_: usize, _: &[(&str, Vec<Case>)], _: &[KernelFile], _: Progress) -> Result<Check> {
    Err(crate::backend::no_gpu())
}

/// [`check`] with kernels of the user's own.
#[cfg(feature = "gpu")]
pub fn check_with(
    index: usize,
    operators: &[(&str, Vec<Case>)],
    own: &[KernelFile],
    progress: Progress,
) -> Result<Check> {
    use super::gpu::deviation;
    use crate::backend::wgpu::device::Gpu;
    use crate::backend::wgpu::own::read_all;
    use crate::work::{Candidate, DeviceProfile};

    let own = read_all(own)?;
    let mut gpu = Gpu::open_alone(index)?;
    let profile = DeviceProfile { own: own.clone(), ..gpu.profile.clone() };
    let full = DeviceProfile { reduced_precision: false, ..profile.clone() };
    let half = profile.kv_f16().then_some(profile);
    let profiles: Vec<DeviceProfile> = [full].into_iter().chain(half).collect();
    let all = profiles.len() * operators.iter().map(|(_, cases)| cases.len()).sum::<usize>();
    let device = format!("{}:{}", gpu.profile.backend, gpu.profile.name);
    let own_kernels = own.iter().map(|own| own.used(0)).collect();
    let mut check = Check { device, operators: Vec::new(), stopped: None, own_kernels };
    for (name, cases) in operators {
        let mut operator = OperatorCheck { operator: name.to_string(), ..OperatorCheck::default() };
        for (case, profile) in cases.iter().flat_map(|case| profiles.iter().map(move |profile| (case, profile))) {
            progress(check.cases() + operator.cases, all);
            let (error, failure) = match deviation(case, &gpu, profile) {
                Ok(error) => (error, None),
                Err(error) => (f64::INFINITY, Some(error.to_string())),
            };
            if failure.is_some() {
                // A device with a fault refuses all work, so the next case gets a new device.
                match Gpu::open_alone(index) {
                    Ok(new) => gpu = new,
                    Err(error) => check.stopped = Some(error.to_string()),
                }
            }
            operator.cases += 1;
            for (own, count) in own.iter().zip(&mut check.own_kernels) {
                let allowed = |candidate: &Candidate| profile.allows(candidate.kernel().0).is_ok();
                let chosen = case.candidates(profile).into_iter().find(allowed);
                count.uses += usize::from(chosen.is_some_and(|chosen| own.replaces(chosen.kernel())));
            }
            let half = profile.kv_f16();
            let worst = if half { operator.worst_f16.get_or_insert_default() } else { &mut operator.worst_f32 };
            *worst = worst.max(error);
            if error > 1.0 {
                let precision = if half { "f16" } else { "f32" };
                operator.wrong.push(WrongCase { case: case.label(), precision, error, failure });
            }
            if check.stopped.is_some() {
                break;
            }
        }
        check.operators.push(operator);
        if check.stopped.is_some() {
            break;
        }
    }
    progress(all, all);
    Ok(check)
}
