//! Every case of every operator × every adapter of this machine × every kernel variant: device against reference.

use std::sync::Arc;

use crate::support::adapters;
use dunlin::backend::check::Prepared;
use dunlin::backend::wgpu::device::Gpu;
use dunlin::kernel::DeviceProfile;
use dunlin::ops;
use dunlin::plan::{Fusion, Plan};

#[test]
fn devices_agree_with_the_reference() {
    let only: Option<Vec<String>> =
        std::env::var("DUNLIN_OP").ok().map(|names| names.split(',').map(str::to_string).collect());
    let named = |name: &String| ops::cases().iter().any(|(op, _)| op == name);
    assert!(only.iter().flatten().all(named), "DUNLIN_OP={only:?} names no operator");
    let mut failures = Vec::new();
    let (mut count, mut cooperative) = (0, 0);
    let adapters = adapters::all();
    let open = |adapter: &adapters::Adapter| Gpu::open(adapter.index).expect("adapter opens");
    let gpus: Vec<(String, Arc<Gpu>)> = adapters.iter().map(|adapter| (adapter.label(), open(adapter))).collect();
    for (op, cases) in ops::cases() {
        if only.as_ref().is_some_and(|only| !only.iter().any(|only| only == op)) {
            continue;
        }
        for case in cases {
            let (label, prepared) = (case.label(), Prepared::new(&case));
            let wanted = prepared.reference(&case);
            for (at, gpu) in &gpus {
                for profile in variants(gpu) {
                    let plan = Plan::new(prepared.graph.clone(), &case.profile(&profile), Fusion::Off);
                    let requires = plan.steps.iter().map(|step| step.dispatch.kernel.0.requires);
                    cooperative += requires.filter(|requires| requires.cooperative.is_some()).count();
                    count += 1;
                    match prepared.deviation(&case, &wanted, gpu, &profile) {
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
