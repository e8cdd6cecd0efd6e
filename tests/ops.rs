//! Every case of every operator × every adapter of this machine × every kernel variant: device against reference.

#[path = "support/adapters.rs"]
mod adapters;

use dunlin::backend::check::{Prepared, nmse};
use dunlin::backend::wgpu::device::Gpu;
use dunlin::kernel::DeviceProfile;
use dunlin::ops;

/// f16 storage of tiles and KV cache: about 2⁻¹¹ a value, squared, over values of like size.
const HALF_NMSE: f64 = 1e-6;

#[test]
fn devices_agree_with_the_reference() {
    let only = std::env::var("DUNLIN_OP").ok();
    let mut failures = Vec::new();
    let mut count = 0;
    for adapter in adapters::all() {
        let gpu = Gpu::open(adapter.index).expect("adapter opens");
        for (profile, half) in variants(&gpu) {
            for (op, cases) in ops::cases() {
                if only.as_ref().is_some_and(|only| only != op) {
                    continue;
                }
                for case in cases {
                    let prepared = Prepared::new(&case);
                    let wanted = prepared.reference(&case);
                    let found = match prepared.on_device(&case, &gpu, &profile) {
                        Ok(found) => found,
                        Err(error) => panic!("{} on {}: {error}", case.label(), adapter.label()),
                    };
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
    println!("{count} results compared");
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
    variants
}
