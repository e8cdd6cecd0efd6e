//! Every case of every operator × every adapter of this machine × every candidate: device against reference.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use crate::support::{adapters, parallel};
use dunlin::backend::check::{Prepared, is_id};
use dunlin::backend::wgpu::device::Gpu;
use dunlin::ops::{self, Case};
use dunlin::plan::{Fusion, Plan};
use dunlin::work::{DeviceProfile, Kernel};

#[test]
fn devices_agree_with_the_reference() {
    let only: Option<Vec<String>> =
        std::env::var("DUNLIN_OP").ok().map(|names| names.split(',').map(str::to_string).collect());
    let named = |name: &String| ops::cases().iter().any(|(op, _)| op == name);
    assert!(only.iter().flatten().all(named), "DUNLIN_OP={only:?} names no operator");
    let adapters = adapters::all();
    let open = |adapter: &adapters::Adapter| Gpu::open(adapter.index).expect("adapter opens");
    let gpus: Vec<(String, Arc<Gpu>)> = adapters.iter().map(|adapter| (adapter.label(), open(adapter))).collect();
    let chosen = |op: &str| only.as_ref().is_none_or(|only| only.iter().any(|only| only == op));
    let cases: Vec<Case> = ops::cases().into_iter().filter(|(op, _)| chosen(op)).flat_map(|(_, cases)| cases).collect();
    let found = Mutex::new(Found::default());
    parallel::each(&cases, |case| compare(case, &gpus, &found));
    let Found { count, cooperative, ran, mut failures } = found.into_inner().expect("no thread panicked");
    failures.sort();
    // Kernels meant for other devices run here too: the variants of a rasteriser include those for hardware.
    let kernels = ops::kernels().into_iter().filter(|(op, _)| chosen(op)).flat_map(|(_, kernels)| kernels);
    let rasterisers = || gpus.iter().filter(|(_, gpu)| gpu.profile.rasteriser);
    let runs = |kernel: &&Kernel| {
        rasterisers().any(|(_, gpu)| variants(gpu).iter().any(|(profile, _)| profile.allows(kernel).is_ok()))
    };
    let missed: BTreeSet<String> = kernels.filter(runs).flat_map(parts).filter(|part| !ran.contains(part)).collect();
    let advice = "add a case, or to `variants` a profile that it is listed for";
    adapters::say(&format!("{count} cases compared, {cooperative} dispatches of cooperative matrices"));
    let expected = adapters::expected().is_some_and(|feature| feature == "cooperative-matrix");
    assert!(cooperative > 0 || !expected, "no case ran on cooperative matrices");
    assert!(failures.is_empty(), "{} of {count} cases are wrong:\n{}", failures.len(), failures.join("\n"));
    assert!(missed.is_empty(), "no case runs a kernel with {missed:?} in its name: {advice}");
}

/// The parts of a kernel's name: its file with the entry point, and the variants of the shared files.
fn parts(kernel: &'static Kernel) -> Vec<String> {
    kernel.name().split('+').map(str::to_string).collect()
}

/// The results of all threads.
#[derive(Default)]
struct Found {
    /// The number of comparisons.
    count: usize,
    /// The number of dispatches of cooperative matrices.
    cooperative: usize,
    /// The parts of the names of all kernels that ran.
    ran: BTreeSet<String>,
    failures: Vec<String>,
}

/// Compares a case with its reference on each adapter, with every candidate.
fn compare(case: &Case, gpus: &[(String, Arc<Gpu>)], found: &Mutex<Found>) {
    let (label, prepared) = (case.label(), Prepared::new(case));
    let wanted = prepared.reference(case);
    for ((name, id), wanted) in prepared.results.iter().zip(&wanted) {
        let float = |&&bits: &&u32| !is_id(prepared.graph.ty(*id), bits);
        let finite = wanted.iter().filter(float).all(|&bits| f32::from_bits(bits).is_finite());
        assert!(finite, "{label}: the reference of {name} is not finite, so every error would be allowed");
    }
    for (at, gpu) in gpus {
        let plan = |profile: &DeviceProfile| Plan::new(prepared.graph.clone(), &case.profile(profile), Fusion::Off);
        let mut variants = variants(gpu);
        let first = plan(&variants[0].0).expect("a kernel for every case");
        variants.extend(fewer_groups(&first, &variants[0].0).map(|profile| (profile, false)));
        for (mut profile, all) in variants {
            let mut planned = Ok(plan(&profile).expect("a kernel for every case"));
            while let Ok(Plan { steps, .. }) = planned {
                let kernels = || steps.iter().map(|step| step.dispatch.kernel.0);
                let by = kernels().next().map(Kernel::name).unwrap_or_default();
                let share = prepared
                    .deviation(case, &wanted, gpu, &profile)
                    .unwrap_or_else(|error| panic!("{label} by {by} on {at}: {error}"));
                let mut found = found.lock().expect("no thread panicked");
                found.count += 1;
                found.ran.extend(kernels().flat_map(parts));
                found.cooperative += kernels().filter(|kernel| kernel.requires.cooperative.is_some()).count();
                if share > 1.0 || share.is_nan() {
                    found.failures.push(format!("{at} {label} by {by}: {share:.1} times its tolerance"));
                }
                drop(found);
                if !all {
                    break;
                }
                // After a refusal the plan takes the next best kernel.
                profile.refused.extend(steps.iter().map(|step| step.dispatch.kernel.0.name()));
                planned = plan(&profile);
            }
        }
    }
}

/// A profile with an eighth of a plan's workgroups, if its kernel takes its items in turns. Not fewer, because llvmpipe
/// ends the loops of a shader after 65535 iterations.
fn fewer_groups(plan: &Plan, profile: &DeviceProfile) -> Option<DeviceProfile> {
    let dispatch = &plan.steps.first()?.dispatch;
    let turns = dispatch.kernel.0.source.contains("num_workgroups") && dispatch.groups[0] > 1;
    turns.then(|| DeviceProfile { max_groups: dispatch.groups[0].div_ceil(8), ..profile.clone() })
}

/// The profiles that reach every kernel that the device can run, with all its constants; and whether the other
/// candidates of an operator run too, one after the other. The profiles have full precision, half precision, and the
/// kernels for hardware. Cases state where weights are split.
fn variants(gpu: &Gpu) -> Vec<(DeviceProfile, bool)> {
    let hardware = DeviceProfile { rasteriser: false, ..gpu.profile.clone() };
    let full = |profile: &DeviceProfile| DeviceProfile { reduced_precision: false, ..profile.clone() };
    let mut variants = vec![(hardware.clone(), true)];
    if gpu.profile.f16 {
        variants.push((full(&hardware), false));
    }
    if gpu.profile.rasteriser {
        variants.push((full(&gpu.profile), false));
        if gpu.profile.f16 {
            variants.push((gpu.profile.clone(), false));
        }
    }
    if let Some(size) = gpu.profile.cooperative {
        // A subgroup larger than the plan assumes takes its strips in turns; smaller subgroups compute some strips
        // twice.
        for threads in [size, 64] {
            variants.push((DeviceProfile { subgroups: Some((threads, threads)), ..hardware.clone() }, false));
        }
    }
    variants
}
