//! Every kernel with its constants, without a device: it is valid WGSL with only the capabilities it declares, and naga
//! translates it to SPIR-V, MSL, HLSL and GLSL.

use std::collections::BTreeSet;

use crate::kernels::{Complaints, KERNELS, Translated, all, copy, edited, kernel, kernels, leak, none, translate};
use dunlin::ops;
use dunlin::work::{Kernel, Module as SharedModule, Requires};
use naga::valid::Capabilities;
use naga::{ShaderStage, back};

#[test]
fn every_kernel_is_valid_with_only_what_it_declares() {
    assert!(KERNELS.len() > 100, "{} kernels × constants", KERNELS.len());
    none(KERNELS.iter().filter_map(|translated| translated.as_ref().err().cloned()).collect());
}

#[test]
fn every_kernel_is_written_as_spirv_msl_and_hlsl() {
    none(all().flat_map(translations).collect());
}

/// The yardsticks of `dunlin bench`, which are no operators.
#[test]
fn yardsticks_are_valid_and_written_as_spirv_msl_and_hlsl() {
    let yardsticks = dunlin::measure::yardsticks::kernels().map(|kernel| translate(kernel, &[]));
    none(
        yardsticks
            .iter()
            .flat_map(|yardstick| yardstick.as_ref().map_or_else(|error| vec![error.clone()], translations))
            .collect(),
    );
}

#[test]
fn every_kernel_is_written_as_glsl_or_has_a_float32_twin() {
    none(all().flat_map(glsl).collect());
}

/// SPIR-V, MSL and HLSL.
fn translations(t: &Translated) -> Complaints {
    let entry = t.kernel.entry.to_string();
    let stage = ShaderStage::Compute;
    let mut complaints = Vec::new();
    let mut written = |language: &str, result: Result<(), String>| {
        if let Err(error) = result {
            complaints.push(format!("{}: {language}: {error}", t.label));
        }
    };
    let options = back::spv::PipelineOptions { shader_stage: stage, entry_point: entry.clone() };
    let spirv = back::spv::write_vec(&t.compiled, &t.info, &Default::default(), Some(&options));
    written("SPIR-V", spirv.map(drop).map_err(|e| e.to_string()));

    let options = back::msl::PipelineOptions { entry_point: Some((stage, entry.clone())), ..Default::default() };
    // Metal supports matrices of a simdgroup from version 2.3 on.
    let lang_version = if t.kernel.requires.cooperative.is_some() { (2, 3) } else { (2, 0) };
    let language = back::msl::Options { lang_version, ..Default::default() };
    let msl = back::msl::write_string(&t.compiled, &t.info, &language, &options);
    written("MSL", msl.map(drop).map_err(|e| e.to_string()));

    // HLSL has no cooperative matrices, and naga's writer panics at them; wgpu offers the feature on no DX12 device.
    if t.kernel.requires.cooperative.is_some() {
        if back::hlsl::supported_capabilities().contains(Capabilities::COOPERATIVE_MATRIX) {
            let exemption = "take away their exemption in tests/static/translation.rs";
            complaints.push(format!("{}: HLSL with cooperative matrices is written now: {exemption}", t.label));
        }
        return complaints;
    }
    // naga's writer accepts f16 with any shader model; compilers support it from 6.2 on.
    let shader_model =
        if t.kernel.requires.f16 { back::hlsl::ShaderModel::V6_2 } else { back::hlsl::ShaderModel::V5_1 };
    let options = back::hlsl::PipelineOptions { entry_point: Some((stage, entry)) };
    let language = back::hlsl::Options { shader_model, ..Default::default() };
    let mut text = String::new();
    let hlsl = back::hlsl::Writer::new(&mut text, &language, &options).write(&t.compiled, &t.info, None);
    let hlsl = hlsl.map_err(|e| e.to_string()).and_then(|reflection| {
        reflection.entry_point_names.into_iter().try_for_each(|name| name.map(drop).map_err(|e| e.to_string()))
    });
    written("HLSL", hlsl);
    complaints
}

/// GLSL ES 3.10 has no f16: kernels that need f16 are refused, and each must have an alternative in f32.
fn glsl(t: &Translated) -> Complaints {
    let language = back::glsl::Options { version: back::glsl::Version::new_gles(310), ..Default::default() };
    let options = back::glsl::PipelineOptions {
        shader_stage: ShaderStage::Compute,
        entry_point: t.kernel.entry.into(),
        multiview: None,
    };
    let mut text = String::new();
    let policies = naga::proc::BoundsCheckPolicies::default();
    let written = back::glsl::Writer::new(&mut text, &t.compiled, &t.info, &language, &options, policies)
        .and_then(|mut writer| writer.write());
    match (written, t.kernel.requires.f16) {
        (Ok(_), false) => Vec::new(),
        (Err(error), false) => vec![format!("{}: GLSL: {error}", t.label)],
        (Ok(_), true) => {
            vec![format!(
                "{}: GLSL with f16 is written now: take away its exemption in tests/static/translation.rs",
                t.label
            )]
        }
        (Err(_), true) if has_twin(t.kernel) => Vec::new(),
        (Err(_), true) => {
            vec![format!(
                "{}: needs f16, and no kernel of its operator is the same in f32 for devices without",
                t.label
            )]
        }
    }
}

/// Whether a kernel without f16 exists that differs from this one only in its modules: `…_f32` for each element module
/// `…_f16`, and tiles instead of cooperative matrices.
fn has_twin(kernel: &Kernel) -> bool {
    let modules =
        |kernel: &Kernel| -> BTreeSet<String> { kernel.modules.iter().map(|module| module.name.to_string()).collect() };
    // A weight format comes from the file; it is not a choice of element type.
    let in_f32 = |name: String| match name.split_once('_') {
        Some(("gemm", "cooperative")) => "gemm".to_string(),
        Some(("cooperative", _)) => "tile_f32".to_string(),
        Some((family, "f16")) if family != "weight" => format!("{family}_f32"),
        _ => name,
    };
    let wanted: BTreeSet<String> = modules(kernel).into_iter().map(in_f32).collect();
    ops::kernels().into_iter().flat_map(|(_, kernels)| kernels).any(|other| {
        (other.file, other.entry, other.params, other.bindings)
            == (kernel.file, kernel.entry, kernel.params, kernel.bindings)
            && !other.requires.f16
            && modules(other) == wanted
    })
}

// ---- the checks detect faults ----

#[test]
fn a_broken_kernel_is_reported() {
    let add = kernel("add");
    let changed = |from: &str, to: &str| edited(add, from, to);
    let reported = |kernel: &'static Kernel, wanted: &[&str]| {
        let report = translate(kernel, &[]).err().unwrap_or_else(|| panic!("{wanted:?}: nothing was reported"));
        wanted.iter().for_each(|wanted| assert!(report.contains(wanted), "expected `{wanted}` in:\n{report}"));
    };
    let line = 1 + add.source.lines().position(|line| line.contains("a[i] + b[i]")).expect("the sum");
    let at = format!("shaders/add.wgsl:{line}: ");
    reported(changed("a[i] + b[i]", "a[i] + c[i]"), &[&at, "no definition in scope for identifier: `c`"]);
    reported(changed("a[i] + b[i]", "u32(a[i])"), &[&at]);
    reported(changed("a[i] + b[i]", "f32(f16(a[i]))"), &["f16"]);
    reported(changed("a[i] + b[i]", "subgroupAdd(a[i])"), &["SUBGROUP"]);

    // Lines of a shared file are numbered from its own first line.
    let norm = kernel("norm_matmul");
    let gemv = norm.modules.iter().position(|module| module.name == "gemv").expect("it is completed by gemv");
    let source = norm.modules[gemv].source.replacen("let count = min", "let count = mim", 1);
    let line = 1 + source.lines().position(|line| line.contains("mim")).expect("the mistake");
    let mut modules = norm.modules.to_vec();
    modules[gemv] = leak(SharedModule { name: "gemv", source: source.leak(), variant: false });
    let broken = leak(Kernel { modules: modules.leak(), ..copy(norm) });
    reported(broken, &[&format!("shaders/shared/gemv.wgsl:{line}: "), "mim"]);

    let unknown = translate(norm, &[("SPLITS", 4.0)]).err().expect("an unknown constant");
    assert!(unknown.contains("SPLITS"), "{unknown}");
}

#[test]
fn a_kernel_without_a_twin_is_reported() {
    for requires in [Requires::F16, Requires::cooperative(8)] {
        let half = kernels().find(|kernel| kernel.requires == requires).expect("a kernel in f16");
        let alone = translate(leak(Kernel { file: "none.wgsl", ..copy(half) }), &[]).expect("valid");
        let found = glsl(&alone);
        assert!(found.iter().any(|complaint| complaint.contains("is the same in f32")), "{found:?}");
        assert!(glsl(&translate(half, &[]).expect("valid")).is_empty());
    }
}
