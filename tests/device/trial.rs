//! A trial of a user's kernel: a right copy passes and is timed, every kind of wrong one is noticed and is not.

use std::cell::RefCell;

use crate::support::adapters;
use dunlin::Device;
use dunlin::kernel::{KernelFile, Slot, Trial, TrialReport};
use dunlin::ops;

fn attempt(adapter: usize, file: KernelFile, cases: &str) -> dunlin::Result<TrialReport> {
    let device = Device::parse(&adapter.to_string()).expect("an index");
    Trial::new(file).device(device).cases(cases).run(|_, _| {})
}

fn text(slot: &str) -> String {
    Slot::find(slot).expect("a slot").wgsl()
}

#[test]
fn a_right_kernel_is_timed() {
    let gemv = "linear/gemv+epilogue_plain+quads_shared+weight_q4_0";
    for adapter in adapters::all() {
        let at = adapter.label();
        for (slot, cases) in
            [("rms_norm", "(f32[3, 31]"), (gemv, "q4_0[67, 160]"), ("cache_write+kv_f32", "(f32[3, 110]")]
        {
            let report = attempt(adapter.index, KernelFile::new(slot, "mine.wgsl", text(slot)), cases).expect(slot);
            assert!(report.is_right() && !report.cases.is_empty(), "{at}: {report:?}");
            for case in &report.cases {
                let timed = case.ours_us.zip(case.yours_us).expect("it is timed");
                assert!(timed.0 > 0.0 && timed.1 > 0.0 && !case.ours_wrong, "{at}: {case:?}");
            }
            assert!(report.ratio(|_| true).expect("it is timed") > 0.0);
        }
        // Half the workgroups, which its loop makes up for; and a workgroup of another size.
        let halved =
            text("add").replacen("@compute", "override GRID_X: f32 = 0.5;\noverride WG: u32 = 64u;\n@compute", 1);
        let halved =
            halved.replace("@workgroup_size(64)", "@workgroup_size(WG)").replace("64u * groups.x", "WG * groups.x");
        let file = KernelFile::new("add", "mine.wgsl", halved).set("WG", 32.0);
        let report = attempt(adapter.index, file, "").expect("a right kernel");
        assert!(report.is_right(), "{at}: {report:?}");
        assert_eq!(report.needs.threads, [32, 32]);
        assert_eq!(report.cases.last().expect("cases").groups, [[576, 1, 1]]);
    }
}

#[test]
fn every_kind_of_wrong_kernel_is_noticed_and_not_timed() {
    let norm: &[(&str, &str, &str)] = &[
        ("inverseSqrt(", "1.001 * inverseSqrt(", "expected"), // a wrong constant
        ("row * params.cols", "(max(row, 1u) - 1u) * params.cols", "expected"), // off by a row
        ("workgroupBarrier();", "", "expected"),              // no barrier
        (
            "c < params.cols; c += WG) {\n            y",
            "c < params.cols / 2u * 2u; c += WG) {\n            y",
            "as it was",
        ),
    ];
    let add: &[(&str, &str, &str)] = &[
        ("a[i] + b[i];", "a[i] + b[i];\n        if i + 1u == params.count { y[i + 1u] = 0.0; }", "past the end"),
        ("a[i] + b[i]", "a[i] + b[i] + sqrt(-1.0 - a[i] * a[i])", "NaN"),
        ("i < params.count;", "i < 0u * params.count;", "as it was before"), // it does nothing
        ("a[i] + b[i]", "a[i] + b[i] + select(0.0, 0.01, i + 1u == params.count)", "expected"), // the last element
        ("a[i] + b[i];", "a[i] + b[i];\n        a[i] = 0.0;", "writes to its input read0"),
    ];
    // State that is written in place has an end too.
    let cache: &[(&str, &str, &str)] = &[(
        "cache[at] = Kv(x[i]);",
        "cache[at] = Kv(x[i]);\n        cache[11u * params.heads * params.head_stride] = Kv(1.0);",
        "past the end of state0: word ",
    )];
    for adapter in adapters::all() {
        let changed = [
            ("rms_norm", norm, "(f32[3, 31]"),
            ("add", add, "(f32[3, 31]"),
            ("cache_write+kv_f32", cache, "(f32[3, 110]"),
        ];
        for (slot, changes, cases) in changed {
            for (from, to, part) in changes {
                assert!(text(slot).contains(from), "{slot} has no `{from}`");
                let file = KernelFile::new(slot, "mine.wgsl", text(slot).replace(from, to));
                let report = attempt(adapter.index, file, cases).unwrap_or_else(|error| panic!("{to}: {error}"));
                let at = format!("{} {to}: {report:?}", adapter.label());
                assert!(!report.is_right() && report.wrong() > 0, "{at}");
                for case in &report.cases {
                    assert_eq!(case.wrong.is_some(), case.yours_us.is_none(), "{at}");
                }
                assert!(
                    report.cases.iter().filter_map(|case| case.wrong.as_ref()).any(|wrong| wrong.what.contains(part)),
                    "{at}"
                );
            }
        }
    }
}

/// What one workgroup leaves in its memory is nothing that the next one finds.
#[test]
fn workgroup_memory_begins_as_zeros() {
    let kept = text("add")
        .replace("@compute", "var<workgroup> kept: array<f32, 64>;\n@compute")
        .replace("a[i] + b[i];", "a[i] + b[i] + kept[i % 64u];");
    let end = kept.rfind('}').expect("the end of the entry point");
    let kept = format!("{}    kept[id.x % 64u] = 1.0;\n{}", &kept[..end], &kept[end..]);
    for adapter in adapters::all() {
        let report = attempt(adapter.index, KernelFile::new("add", "mine.wgsl", &kept), "").expect("it runs");
        assert!(report.is_right(), "{}: {report:?}", adapter.label());
    }
}

/// Cases of the same shapes differ in their rows and contents, and each of them counts.
#[test]
fn no_case_of_a_kernel_is_left_out() {
    let cases = ops::cases().into_iter().find(|(name, _)| *name == "sample").expect("an operator").1;
    let penalty = "select(before * row.repeat_penalty, before / row.repeat_penalty, before > 0.0)";
    assert!(text("sample").contains(penalty));
    let wrong = text("sample").replace(penalty, "before / row.repeat_penalty");
    for adapter in adapters::all() {
        let attempt = |text: &str| {
            let device = Device::parse(&adapter.index.to_string()).expect("an index");
            let trial = Trial::new(KernelFile::new("sample", "mine.wgsl", text)).device(device).untimed();
            let steps = RefCell::new(Vec::new());
            let report = trial.run(|done, all| steps.borrow_mut().push((done, all))).expect("it runs");
            (report, steps.into_inner())
        };
        let (report, steps) = attempt(&text("sample"));
        assert!(report.is_right(), "{}: {report:?}", adapter.label());
        assert_eq!(report.cases.len(), cases.len());
        assert_eq!(steps.last(), Some(&(cases.len(), cases.len())));
        assert!(report.cases.iter().any(|case| case.case.ends_with("at 5, many, seed 7, temperature 0.8, top_p 0.7")));
        assert!(attempt(&wrong).0.wrong() > 0, "{}: a penalty that helps negative logits is wrong", adapter.label());
    }
}

#[test]
fn what_the_device_lacks_is_said_before_anything_runs() {
    let large = text("rms_norm").replace("array<f32, WG>", "array<f32, 500000>");
    let wide = text("rms_norm").replace("@workgroup_size(WG)", "@workgroup_size(8192)");
    // Their product and their sum are no u32.
    let huge = text("rms_norm").replace("@workgroup_size(WG)", "@workgroup_size(16384, 16384, 16)");
    let arrays: String = (0..3).map(|i| format!("var<workgroup> more{i}: array<f32, 500000000>;\n")).collect();
    let vast = text("rms_norm").replace("@compute", &format!("{arrays}@compute"));
    let touched: String = (0..3).map(|i| format!("more{i}[thread] = 1.0;")).collect();
    let vast = vast.replace("let first = row", &format!("{touched} let first = row"));
    let half = text("add").replace("a[i] + b[i]", "f32(f16(a[i])) + b[i]");
    for adapter in adapters::all() {
        let refused = |slot: &str, text: &str, part: &str| {
            let file = KernelFile::new(slot, "mine.wgsl", text);
            let error = attempt(adapter.index, file, "").expect_err(part).to_string();
            assert!(error.contains(part), "{}: {error}", adapter.label());
        };
        refused("rms_norm", &large, "2000000 bytes of workgroup memory");
        refused("rms_norm", &wide, "8192 threads in a workgroup");
        refused("rms_norm", &huge, "4294967295 threads in a workgroup");
        refused("rms_norm", &vast, "4294967295 bytes of workgroup memory");
        let half = format!("enable f16;\n{half}");
        if adapter.f16 {
            // The tolerance is that of the slot, which is one of f32.
            let report =
                attempt(adapter.index, KernelFile::new("add", "mine.wgsl", half), "(f32[3, 31]").expect("it runs");
            assert!(report.needs.f16 && report.wrong() > 0, "{report:?}");
        } else {
            refused("add", &half, "the device has no f16");
        }
        let error = attempt(adapter.index, KernelFile::new("add", "mine.wgsl", text("add")), "no such case");
        let error = error.expect_err("no such case").to_string();
        assert!(error.contains("no case of add contains `no such case`") && error.contains("\n  Add"), "{error}");
    }
    let error = Trial::new(KernelFile::new("add", "mine.wgsl", text("add"))).device(Device::cpu()).run(|_, _| {});
    assert!(error.expect_err("the CPU").to_string().contains("kernels run on GPUs"));
}
