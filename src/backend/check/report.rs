//! What a device computes beside what the CPU reference computes, operator by operator.

use serde::Serialize;

use crate::backend::Progress;
use crate::error::Result;

/// What a device computes beside what the CPU reference computes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// The adapter, with its backend.
    pub device: String,
    /// In the order of [`Device::operators`](crate::Device::operators).
    pub operators: Vec<OperatorCheck>,
}

/// The cases of one operator: shapes of real models, and those at which kernels go wrong.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct OperatorCheck {
    pub operator: String,
    /// Cases that were compared, in float32 and, where the adapter has it, float16.
    pub cases: usize,
    /// The largest error in float32, as a share of its tolerance: at most 1 where all is right.
    pub worst_f32: f64,
    /// The same in float16, where the adapter has it.
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
    /// How many times its tolerance the error is; infinite where something is not a number (`null` in JSON).
    pub error: f64,
    /// What the device said instead of an answer.
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

/// Runs every case of some operators, or of all where none is named, on the adapter at `index`, in full precision and in
/// half where it has that.
#[cfg(not(feature = "gpu"))]
pub fn check(_: usize, _: &[&str], _: Progress) -> Result<Check> {
    Err(crate::backend::no_gpu())
}

/// Runs every case of some operators, or of all where none is named, on the adapter at `index`, in full precision and in
/// half where it has that.
#[cfg(feature = "gpu")]
pub fn check(index: usize, operators: &[&str], progress: Progress) -> Result<Check> {
    use super::gpu::deviation;
    use crate::backend::wgpu::device::Gpu;
    use crate::kernel::DeviceProfile;
    use crate::ops;

    let gpu = Gpu::open(index)?;
    let full = DeviceProfile { reduced_precision: false, ..gpu.profile.clone() };
    let half = gpu.profile.kv_f16().then(|| gpu.profile.clone());
    let profiles: Vec<DeviceProfile> = [full].into_iter().chain(half).collect();
    let chosen = |name: &str| operators.is_empty() || operators.contains(&name);
    let cases: Vec<_> = ops::cases().into_iter().filter(|(name, _)| chosen(name)).collect();
    let all = profiles.len() * cases.iter().map(|(_, cases)| cases.len()).sum::<usize>();
    let mut check = Check { device: format!("{}:{}", gpu.profile.backend, gpu.profile.name), operators: Vec::new() };
    for (name, cases) in cases {
        let mut operator = OperatorCheck { operator: name.into(), ..OperatorCheck::default() };
        for case in &cases {
            for profile in &profiles {
                progress(check.cases() + operator.cases, all);
                let (error, failure) = match deviation(case, &gpu, profile) {
                    Ok(error) => (error, None),
                    Err(error) => (f64::INFINITY, Some(error.to_string())),
                };
                operator.cases += 1;
                let worst =
                    if profile.kv_f16() { operator.worst_f16.get_or_insert_default() } else { &mut operator.worst_f32 };
                *worst = worst.max(error);
                if error > 1.0 {
                    let precision = if profile.kv_f16() { "f16" } else { "f32" };
                    operator.wrong.push(WrongCase { case: case.label(), precision, error, failure });
                }
            }
        }
        check.operators.push(operator);
    }
    progress(all, all);
    Ok(check)
}
