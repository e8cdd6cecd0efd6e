//! Every case of every operator × every adapter of this machine × every kernel variant: device against reference.

#[path = "support/adapters.rs"]
mod adapters;

use dunlin::backend::check::Prepared;
use dunlin::backend::check::gpu::deviation;
use dunlin::backend::wgpu::device::Gpu;
use dunlin::kernel::{DeviceProfile, Dispatch, Run};
use dunlin::ops::add::Add;
use dunlin::ops::{self, Case, Given, Operand, Operator, Read, TensorType};
use dunlin::plan::{Fusion, Plan};

#[test]
fn devices_agree_with_the_reference() {
    let only: Option<Vec<String>> =
        std::env::var("DUNLIN_OP").ok().map(|names| names.split(',').map(str::to_string).collect());
    let named = |name: &String| ops::cases().iter().any(|(op, _)| op == name);
    assert!(only.iter().flatten().all(named), "DUNLIN_OP={only:?} names no operator");
    let mut failures = Vec::new();
    let (mut count, mut cooperative) = (0, 0);
    for adapter in adapters::all() {
        let gpu = Gpu::open(adapter.index).expect("adapter opens");
        for profile in variants(&gpu) {
            for (op, cases) in ops::cases() {
                if only.as_ref().is_some_and(|only| !only.iter().any(|only| only == op)) {
                    continue;
                }
                for case in cases {
                    let (at, label) = (adapter.label(), case.label());
                    let plan = Plan::new(Prepared::new(&case).graph, &case.profile(&profile), Fusion::Off);
                    let requires = plan.steps.iter().map(|step| step.dispatch.kernel.0.requires);
                    cooperative += requires.filter(|requires| requires.cooperative.is_some()).count();
                    count += 1;
                    match deviation(&case, &gpu, &profile) {
                        Ok(share) if share <= 1.0 => {}
                        Ok(share) => failures.push(format!("{at} {label}: {share:.1} times its tolerance")),
                        Err(error) => panic!("{label} on {at}: {error}"),
                    }
                }
            }
        }
    }
    adapters::say(&format!("{count} cases compared, {cooperative} dispatches of cooperative matrices"));
    let expected = adapters::expected().is_some_and(|feature| feature == "cooperative-matrix");
    assert!(cooperative > 0 || !expected, "no case ran on cooperative matrices");
    assert!(failures.is_empty(), "{} of {count} cases are wrong:\n{}", failures.len(), failures.join("\n"));
}

/// A kernel that doubles where the reference does not: with the comparison itself at fault, all else here would pass.
#[derive(Debug)]
struct Doubled;

impl Operator for Doubled {
    fn name(&self) -> &'static str {
        Add.name()
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        Add.infer(reads)
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], _run: &Run) {
        writes[0].copy_from_slice(reads[0].f32());
    }

    fn dispatch(&self, reads: &[Operand], writes: &[Operand], profile: &DeviceProfile) -> Vec<Dispatch> {
        Add.dispatch(reads, writes, profile)
    }
}

#[test]
fn a_wrong_kernel_is_found() {
    for adapter in adapters::all() {
        let gpu = Gpu::open(adapter.index).expect("adapter opens");
        let deviation = |reads| deviation(&Case::new(Doubled, reads), &gpu, &gpu.profile).expect("a deviation");
        let ones = || Given::floats([3], &[1.0; 3]);
        assert_eq!(deviation(vec![ones(), Given::f32([3]).zero()]), 0.0, "{}", adapter.label());
        let slightly = deviation(vec![ones(), Given::floats([3], &[0.0, 0.1, 0.0])]);
        assert!(slightly > 1.0 && slightly.is_finite(), "{}: {slightly}", adapter.label());
        let no_number = deviation(vec![ones(), Given::floats([3], &[0.0, f32::NAN, 0.0])]);
        assert_eq!(no_number, f64::INFINITY, "{}", adapter.label());
    }
}

/// The profiles that reach every kernel which the device can run: full precision, half precision. (Cases say where weights are split.)
fn variants(gpu: &Gpu) -> Vec<DeviceProfile> {
    let full = DeviceProfile { reduced_precision: false, ..gpu.profile.clone() };
    let mut variants = vec![full];
    if gpu.profile.f16 {
        variants.push(gpu.profile.clone());
    }
    if gpu.profile.rasteriser {
        // The kernels that hardware runs, here too.
        for profile in variants.clone() {
            variants.push(DeviceProfile { rasteriser: false, ..profile });
        }
    }
    if let Some(size) = gpu.profile.cooperative {
        let hardware = DeviceProfile { rasteriser: false, ..gpu.profile.clone() };
        // Subgroups that are larger than the plan thinks do their strips in turns; smaller ones do some twice.
        for threads in [size, 64] {
            variants.push(DeviceProfile { subgroups: Some((threads, threads)), ..hardware.clone() });
        }
        // What stands behind cooperative matrices: tiles of float16.
        variants.push(DeviceProfile { cooperative: None, ..hardware });
    }
    variants
}
