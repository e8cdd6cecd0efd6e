//! Every case of every operator × every adapter of this machine × every kernel variant: device against reference.

#[path = "support/adapters.rs"]
mod adapters;

use dunlin::backend::check::{Prepared, nmse};
use dunlin::backend::wgpu::device::Gpu;
use dunlin::kernel::DeviceProfile;
use dunlin::ops;
use dunlin::plan::{Fusion, Plan};

/// f16 storage of tiles and KV cache: about 2⁻¹¹ a value, squared, over values of like size.
const HALF_NMSE: f64 = 1e-6;

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
        for (profile, half) in variants(&gpu) {
            for (op, cases) in ops::cases() {
                if only.as_ref().is_some_and(|only| !only.iter().any(|only| only == op)) {
                    continue;
                }
                for case in cases {
                    let prepared = Prepared::new(&case);
                    let wanted = prepared.reference(&case);
                    let found = match prepared.on_device(&case, &gpu, &profile) {
                        Ok(found) => found,
                        Err(error) => panic!("{} on {}: {error}", case.label(), adapter.label()),
                    };
                    let plan = Plan::new(prepared.graph.clone(), &case.profile(&profile), Fusion::Off);
                    let requires = plan.steps.iter().map(|step| step.dispatch.kernel.0.requires);
                    cooperative += requires.filter(|requires| requires.cooperative.is_some()).count();
                    let limit = if half { HALF_NMSE.max(case.nmse) } else { case.nmse };
                    for (((name, id), found), wanted) in prepared.results.iter().zip(&found).zip(&wanted) {
                        count += 1;
                        let error = nmse(prepared.graph.ty(*id), found, wanted);
                        // A NaN is wrong too.
                        if error.is_nan() || error > limit {
                            failures.push(format!(
                                "{} {} {name}: nmse {error:.1e} > {limit:.0e}",
                                adapter.label(),
                                case.label()
                            ));
                        }
                    }
                }
            }
        }
    }
    adapters::say(&format!("{count} results compared, {cooperative} dispatches of cooperative matrices"));
    let expected = adapters::expected().is_some_and(|feature| feature == "cooperative-matrix");
    assert!(cooperative > 0 || !expected, "no case ran on cooperative matrices");
    assert!(failures.is_empty(), "{} of {count} results are wrong:\n{}", failures.len(), failures.join("\n"));
}

/// The profiles that reach every kernel which the device can run: full precision, half precision. (Cases say where weights are split.)
fn variants(gpu: &Gpu) -> Vec<(DeviceProfile, bool)> {
    let full = DeviceProfile { reduced_precision: false, ..gpu.profile.clone() };
    let mut variants = vec![(full, false)];
    if gpu.profile.f16 {
        variants.push((gpu.profile.clone(), true));
    }
    if gpu.profile.rasteriser {
        // The kernels that hardware runs, here too.
        for (profile, half) in variants.clone() {
            variants.push((DeviceProfile { rasteriser: false, ..profile }, half));
        }
    }
    if let Some(size) = gpu.profile.cooperative {
        let hardware = DeviceProfile { rasteriser: false, ..gpu.profile.clone() };
        // Subgroups that are larger than the plan thinks do their strips in turns; smaller ones do some twice.
        for threads in [size, 64] {
            variants.push((DeviceProfile { subgroups: Some((threads, threads)), ..hardware.clone() }, true));
        }
        // What stands behind cooperative matrices: tiles of float16.
        variants.push((DeviceProfile { cooperative: None, ..hardware }, true));
    }
    variants
}
