//! Every case of every operator × every adapter of this machine × every kernel variant: device against reference.

#[path = "support/adapters.rs"]
mod adapters;

use dunlin::backend::check::gpu::deviation;
use dunlin::backend::check::{Prepared, check};
use dunlin::backend::wgpu::device::Gpu;
use dunlin::kernel::{Access, DeviceProfile, Dispatch, Kernel, KernelRef, Requires, Run};
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

/// Adds, where its reference copies: what finds this finds other faults.
#[derive(Debug)]
struct Wrong;

/// Its shader is no WGSL.
#[derive(Debug)]
struct Broken;

static BROKEN: Kernel = Kernel {
    file: "broken.wgsl",
    source: "fn broken( {",
    entry: "broken",
    modules: &[],
    bindings: &[Access::ReadWrite; 3],
    params: 0,
    constants: &[],
    requires: Requires::NOTHING,
};

impl Operator for Wrong {
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

impl Operator for Broken {
    fn name(&self) -> &'static str {
        Add.name()
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        Add.infer(reads)
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], run: &Run) {
        Add.reference(reads, writes, run);
    }

    fn dispatch(&self, reads: &[Operand], writes: &[Operand], profile: &DeviceProfile) -> Vec<Dispatch> {
        let dispatches = Add.dispatch(reads, writes, profile).into_iter();
        dispatches.map(|dispatch| Dispatch { kernel: KernelRef(&BROKEN), params: Vec::new(), ..dispatch }).collect()
    }
}

#[test]
fn what_is_wrong_is_found_and_nothing_else() {
    let ones = || Given::floats([3], &[1.0; 3]);
    let wrong = |values: [f32; 3]| Case::new(Wrong, vec![ones(), Given::floats([3], &values)]);
    let right = || Case::new(Add, vec![ones(), ones()]);
    let cases = vec![
        wrong([0.0, 0.0, 0.0]),
        wrong([0.0, 0.1, 0.0]),
        right(),
        wrong([0.0, f32::NAN, 0.0]),
        Case::new(Broken, vec![ones(), ones()]),
        right(),
    ];
    for adapter in adapters::all() {
        let found =
            check(adapter.index, &[("add", cases.clone()), ("more", vec![right()])], &|_, _| ()).expect("a check");
        let [add, more] = &found.operators[..] else { panic!("{found:?}") };
        let precisions = if adapter.f16 { 2 } else { 1 };
        assert_eq!((add.cases, add.wrong.len()), (6 * precisions, 3 * precisions), "{found:?}");
        let [slightly, no_number, broken] = [0, 1, 2].map(|i| &add.wrong[i * precisions]);
        assert!(slightly.error > 1.0 && slightly.error.is_finite() && slightly.precision == "f32", "{found:?}");
        assert_eq!((no_number.error, &no_number.failure), (f64::INFINITY, &None), "{found:?}");
        assert!(broken.error.is_infinite() && broken.failure.is_some(), "{found:?}");
        assert_eq!((more.wrong.len(), more.worst_f32, &found.stopped), (0, 0.0, &None), "{found:?}");
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
