//! The house rules of shaders/README.md, checked on naga's IR of every kernel with its constants, and on the files; no
//! device.
//!
//! A rule is a function from a translated kernel to complaints, so that the last tests can apply it to a broken kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::offset_of;
use std::path::{Path, PathBuf};

use crate::kernels::{
    Complaints, Translated, all, capabilities, compile, copy, edited, kernel, kernels, labelled, leak, none, translate,
};
use dunlin::work::{Access, KERNEL_MODULES, Kernel, Module as SharedModule, Requires, Row};
use naga::{AddressSpace, CooperativeRole, Scalar, ScalarKind, ShaderStage, StorageAccess, TypeInner};

// ---- house rules ----

#[test]
fn bindings_follow_the_convention() {
    none(all().flat_map(bindings).collect());
}

#[test]
fn params_have_the_layout_of_their_rust_twin() {
    none(all().flat_map(params).collect());
}

#[test]
fn row_has_the_layout_of_its_rust_twin() {
    none(all().flat_map(row).collect());
}

#[test]
fn every_kernel_fits_the_default_limits_of_webgpu() {
    none(all().flat_map(limits).collect());
}

#[test]
fn the_entry_point_is_the_stem_of_the_file() {
    none(all().flat_map(entry_point).collect());
}

#[test]
fn what_a_kernel_requires_it_uses() {
    none(all().flat_map(requirements).collect());
}

#[test]
fn constants_of_a_kernel_are_its_overrides() {
    none(all().flat_map(overrides).collect());
}

/// Group 0: the dispatch's tensors, in order. Group 1: `params`, and `batch` if the kernel uses it.
fn bindings(t: &Translated) -> Complaints {
    let mut complaints = Vec::new();
    let mut found = BTreeMap::new();
    for (_, variable) in t.module.global_variables.iter() {
        let name = variable.name.clone().unwrap_or_default();
        let Some(binding) = variable.binding else {
            if !matches!(variable.space, AddressSpace::WorkGroup | AddressSpace::Private) {
                complaints.push(format!("`{name}` is {:?} and has no binding", variable.space));
            }
            continue;
        };
        let name_of = |ty: naga::Handle<naga::Type>| t.module.types[ty].name.clone().unwrap_or_default();
        let ty = match t.module.types[variable.ty].inner {
            TypeInner::Array { base, .. } => format!("array<{}>", name_of(base)),
            _ => name_of(variable.ty),
        };
        if found.insert((binding.group, binding.binding), (name.clone(), variable.space, ty)).is_some() {
            complaints.push(format!("`{name}` has the binding of another variable"));
        }
    }
    for (i, access) in t.kernel.bindings.iter().enumerate() {
        let wanted = match access {
            Access::Read => StorageAccess::LOAD,
            Access::ReadWrite => StorageAccess::LOAD | StorageAccess::STORE,
        };
        match found.remove(&(0, i as u32)) {
            None => complaints.push(format!("@group(0) @binding({i}) is missing: KERNELS lists it as {access:?}")),
            Some((_, AddressSpace::Storage { access }, _)) if access == wanted => {}
            Some((name, space, _)) => {
                complaints.push(format!("`{name}` at @group(0) @binding({i}) is {space:?}, KERNELS says {access:?}"))
            }
        }
    }
    for (binding, name, ty) in [(0, "params", "Params"), (1, "batch", "array<Row>")] {
        match found.remove(&(1, binding)) {
            // Group 1 has one layout for all kernels; only `batch` may be absent.
            None if binding == 0 => {
                complaints.push("@group(1) @binding(0) is missing: var<uniform> params: Params".into())
            }
            None => {}
            Some(found) if found == (name.into(), AddressSpace::Uniform, ty.into()) => {}
            Some(found) => complaints
                .push(format!("@group(1) @binding({binding}) is {found:?}, expected var<uniform> {name}: {ty}")),
        }
    }
    for ((group, binding), (name, ..)) in found {
        complaints.push(format!("`{name}` at @group({group}) @binding({binding}): KERNELS knows no such binding"));
    }
    labelled(t, complaints)
}

/// `Params` has the size of the Rust struct, only 4-byte scalars (so that padding cannot differ), and at most 64 bytes,
/// the size that the backend binds.
fn params(t: &Translated) -> Complaints {
    const MOST: usize = 64;
    let mut complaints = Vec::new();
    let Some((members, span)) = structure(&t.module, "Params") else {
        return labelled(t, vec!["has no struct Params".into()]);
    };
    if span as usize != t.kernel.params {
        complaints
            .push(format!("Params is {span} bytes, its Rust twin {}: write the same members in both", t.kernel.params));
    }
    if span as usize > MOST {
        complaints.push(format!("Params is {span} bytes, more than the {MOST} that the backend binds"));
    }
    for (name, _, kind) in members {
        if kind.is_none() {
            complaints.push(format!("Params.{name} is no 4-byte scalar: u32, i32 or f32 have one layout everywhere"));
        }
    }
    labelled(t, complaints)
}

/// `Row`: names, order, offsets, types and size of `work::Row`.
fn row(t: &Translated) -> Complaints {
    let Some((members, span)) = structure(&t.module, "Row") else { return Vec::new() };
    let mut complaints = Vec::new();
    if span as usize != size_of::<Row>() {
        complaints.push(format!("shared/rows.wgsl: Row is {span} bytes, work::Row {}", size_of::<Row>()));
    }
    let wanted = row_members();
    for (i, wanted) in wanted.iter().enumerate() {
        let found = members.get(i);
        if found != Some(wanted) {
            complaints.push(format!("shared/rows.wgsl: member {i} of Row is {found:?}, work::Row has {wanted:?}"));
        }
    }
    if members.len() > wanted.len() {
        complaints.push(format!("shared/rows.wgsl: Row has {} members, work::Row {}", members.len(), wanted.len()));
    }
    labelled(t, complaints)
}

/// The limits that every WebGPU device supports (https://www.w3.org/TR/webgpu/#limits).
fn limits(t: &Translated) -> Complaints {
    const STORAGE_BUFFERS: usize = 8;
    const WORKGROUP_MEMORY: u32 = 16 << 10;
    const INVOCATIONS: u32 = 256;
    let mut complaints = Vec::new();
    let variables = || t.module.global_variables.iter().map(|(_, variable)| variable);
    let storage = variables().filter(|variable| matches!(variable.space, AddressSpace::Storage { .. })).count();
    if storage > STORAGE_BUFFERS {
        complaints.push(format!("{storage} storage buffers, at most {STORAGE_BUFFERS} may be bound"));
    }
    let mut layouter = naga::proc::Layouter::default();
    if let Err(error) = layouter.update(t.compiled.to_ctx()) {
        return labelled(t, vec![format!("types have no layout: {error}")]);
    }
    let workgroup = t.compiled.global_variables.iter().filter(|(_, v)| v.space == AddressSpace::WorkGroup);
    let memory: u32 = workgroup.map(|(_, variable)| layouter[variable.ty].size.next_multiple_of(16)).sum();
    if memory > WORKGROUP_MEMORY {
        complaints.push(format!("{memory} bytes of workgroup memory, at most {WORKGROUP_MEMORY} are there"));
    }
    for entry in &t.compiled.entry_points {
        let invocations: u32 = entry.workgroup_size.iter().product();
        if invocations > INVOCATIONS {
            complaints.push(format!("{invocations} invocations a workgroup, at most {INVOCATIONS} may run"));
        }
    }
    labelled(t, complaints)
}

/// One compute entry point, with the name of the file and of KERNELS.
fn entry_point(t: &Translated) -> Complaints {
    let stem = Path::new(t.kernel.file).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let found: Vec<(ShaderStage, &str)> = t.module.entry_points.iter().map(|e| (e.stage, e.name.as_str())).collect();
    if found == [(ShaderStage::Compute, stem)] && t.kernel.entry == stem {
        return Vec::new();
    }
    labelled(
        t,
        vec![format!("entry points {found:?}, KERNELS says `{}`: the file wants one, `{stem}`", t.kernel.entry)],
    )
}

/// A feature that is declared but not used excludes devices that could run the kernel. (A feature that is used but not
/// declared is a validation error.)
fn requirements(t: &Translated) -> Complaints {
    let half = |(_, ty): (_, &naga::Type)| match ty.inner {
        TypeInner::Scalar(scalar) | TypeInner::Vector { scalar, .. } | TypeInner::Matrix { scalar, .. } => {
            scalar.width == 2
        }
        _ => false,
    };
    let mut complaints = Vec::new();
    if t.kernel.requires.f16 && !t.compiled.types.iter().any(half) {
        complaints.push("requires f16 and has no value of it".into());
    }
    if t.kernel.requires.subgroups
        && compile(t.kernel, &[], capabilities(Requires { subgroups: false, ..t.kernel.requires })).is_ok()
    {
        complaints.push("requires subgroups and is valid without".into());
    }
    // Sums are cooperative matrices; their type remains in the compiled module.
    let sums = |(_, ty): (_, &naga::Type)| match ty.inner {
        TypeInner::CooperativeMatrix { columns, rows, scalar: Scalar::F32, role: CooperativeRole::C } => {
            Some((columns as u32, rows as u32))
        }
        _ => None,
    };
    let found: BTreeSet<(u32, u32)> = t.compiled.types.iter().filter_map(sums).collect();
    let wanted: BTreeSet<(u32, u32)> = t.kernel.requires.cooperative.map(|size| (size, size)).into_iter().collect();
    if found != wanted {
        complaints.push(format!("sums cooperative matrices of {found:?}, requires {wanted:?}"));
    }
    labelled(t, complaints)
}

/// KERNELS lists exactly the constants that the text declares: a missing one would never be tuned or validated.
fn overrides(t: &Translated) -> Complaints {
    let declared: BTreeSet<&str> = t.module.overrides.iter().filter_map(|(_, o)| o.name.as_deref()).collect();
    let listed: BTreeSet<&str> = t.kernel.constants.iter().map(|(name, _)| *name).collect();
    if declared == listed {
        return Vec::new();
    }
    labelled(t, vec![format!("declares the overrides {declared:?}, KERNELS lists {listed:?}")])
}

// ---- files ----

#[test]
fn every_shared_file_is_used() {
    let used: BTreeSet<&str> = kernels().flat_map(|kernel| kernel.modules).map(|module| module.name).collect();
    let listed: BTreeSet<&str> = KERNEL_MODULES.iter().map(|module| module.name).collect();
    let on_disk = wgsl_files("shared");
    let mut complaints = Vec::new();
    for (path, _) in &on_disk {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if !listed.contains(stem) {
            complaints.push(format!("{}: not in the table of src/work/source.rs", path.display()));
        } else if !used.contains(stem) {
            complaints.push(format!("{}: no kernel is completed by it; remove it", path.display()));
        }
    }
    none(complaints);
}

#[test]
fn variants_of_a_shared_file_define_the_same_names() {
    let mut families: BTreeMap<&str, Vec<&SharedModule>> = BTreeMap::new();
    for module in KERNEL_MODULES.iter().filter(|module| module.variant) {
        families.entry(module.name.split('_').next().unwrap_or_default()).or_default().push(module);
    }
    let mut complaints = Vec::new();
    for (family, modules) in families {
        let names: BTreeSet<&str> = modules.iter().flat_map(|m| declarations(m.source).into_keys()).collect();
        // The interface consists of the names that kernels and other shared files use; other names are helpers of one
        // format.
        let strangers: Vec<&str> = (kernels().map(|kernel| kernel.source))
            .chain(KERNEL_MODULES.iter().filter(|m| !modules.iter().any(|own| own.name == m.name)).map(|m| m.source))
            .collect();
        let interface: Vec<&str> =
            names.into_iter().filter(|name| strangers.iter().any(|text| mentions(text, name))).collect();
        if modules.len() < 2 || interface.is_empty() {
            complaints.push(format!("shared/{family}_…: {} variants with the interface {interface:?}", modules.len()));
        }
        for name in interface {
            let first = declarations(modules[0].source).get(name).cloned();
            for module in &modules {
                match (declarations(module.source).get(name), &first) {
                    (None, _) => complaints.push(format!("shared/{}.wgsl does not define `{name}`", module.name)),
                    // Aliases may differ between variants; functions must have the same signature.
                    (Some(found), Some(first)) if found.starts_with("fn") && found != first => {
                        complaints.push(format!(
                            "shared/{}.wgsl: `{found}`, but shared/{}.wgsl has `{first}`",
                            module.name, modules[0].name
                        ))
                    }
                    _ => {}
                }
            }
        }
    }
    none(complaints);
}

/// Loops run without the guard that naga would add (`force_loop_bounding`), so each must count up to a visible bound.
#[test]
fn every_loop_counts() {
    let mut complaints = Vec::new();
    for (path, text) in wgsl_files("") {
        for (index, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default().trim();
            let at = format!("{}:{}", path.display(), index + 1);
            if code.starts_with("while ") || code.starts_with("loop ") {
                complaints.push(format!("{at}: write a counted `for`, this loop may not end: {code}"));
            }
            let Some(header) = code.strip_prefix("for (") else { continue };
            let parts: Vec<&str> = header.split("; ").collect();
            let counts = match parts[..] {
                [init, test, step] => init.strip_prefix("var ").and_then(|i| i.split(' ').next()).is_some_and(|name| {
                    (test.starts_with(&format!("{name} < ")) || test.starts_with(&format!("{name} > ")))
                        && step.starts_with(name)
                }),
                _ => false,
            };
            if !counts {
                complaints.push(format!("{at}: expected `for (var i = …; i < bound; i += …)`: {code}"));
            }
        }
    }
    none(complaints);
}

// ---- the checks detect faults ----

#[test]
fn a_kernel_that_breaks_a_rule_is_reported() {
    type Rule = fn(&Translated) -> Complaints;
    let check = |rule: Rule, kernel: &'static Kernel, wanted: &str| {
        let t =
            translate(kernel, &[]).unwrap_or_else(|error| panic!("valid apart from the rule, for `{wanted}`: {error}"));
        let found = rule(&t);
        assert!(found.iter().any(|complaint| complaint.contains(wanted)), "expected `{wanted}`, found {found:?}");
    };
    let (add, rope) = (kernel("add"), kernel("rope"));

    check(bindings, edited(rope, "var<storage, read> angles", "var<storage, read_write> angles"), "KERNELS says Read");
    check(bindings, edited(add, "@binding(2)", "@binding(3)"), "@group(0) @binding(2) is missing");
    check(bindings, edited(rope, "@group(1) @binding(1)", "@group(1) @binding(2)"), "no such binding");
    check(bindings, edited(add, "var<uniform> params", "var<storage, read> params"), "expected var<uniform> params");

    check(params, edited(add, "count: u32,", "count: u32,\n    more: u32,"), "Params is 8 bytes, its Rust twin 4");
    check(params, edited(add, "count: u32,", "count: u32,\n    more: vec2<u32>,"), "more is no 4-byte scalar");

    let with_row = |from: &str, to: &str| {
        let modules: Vec<&'static SharedModule> = rope
            .modules
            .iter()
            .map(|module| match module.name {
                "rows" => {
                    assert!(module.source.contains(from), "shared/rows.wgsl has no `{from}`");
                    leak(SharedModule { source: module.source.replacen(from, to, 1).leak(), ..**module })
                }
                _ => *module,
            })
            .collect();
        leak(Kernel { modules: modules.leak(), ..copy(rope) })
    };
    check(row, with_row("seed: u32", "seed: f32"), "member 2 of Row");
    check(row, with_row("    min_p: f32,", "    p: f32,"), "member 6 of Row");
    // Elements of a uniform array have a size that is a multiple of 16 bytes.
    let wider = || with_row("    seed: u32,\n", "    seed: u32,\n    a: u32,\n    b: u32,\n    c: u32,\n    d: u32,\n");
    check(row, wider(), "Row is 48 bytes");
    check(row, wider(), "Row has 12 members");

    let wide = edited(add, "@workgroup_size(64)", "@workgroup_size(512)");
    check(limits, wide, "512 invocations");
    let large = kernel("layer_norm");
    check(limits, edited(large, "array<vec2<f32>, 64>", "array<vec2<f32>, 5000>"), "40000 bytes of workgroup memory");
    let many: String =
        (3..9).map(|i| format!("@group(0) @binding({i}) var<storage, read> extra{i}: array<f32>;\n")).collect();
    check(limits, edited(add, "@compute", &format!("{many}@compute")), "9 storage buffers");

    check(
        entry_point,
        leak(Kernel { entry: "sum", ..copy(edited(add, "fn add(", "fn sum(")) }),
        "the file wants one, `add`",
    );
    check(requirements, leak(Kernel { requires: Requires::F16, ..copy(add) }), "requires f16");
    let cooperative = kernels().find(|kernel| kernel.requires.cooperative == Some(8)).expect("a kernel of 8 × 8");
    let other = Requires::cooperative(16);
    check(
        requirements,
        leak(Kernel { requires: other, ..copy(cooperative) }),
        "cooperative matrices of {(8, 8)}, requires {(16, 16)}",
    );
    check(requirements, leak(Kernel { requires: other, ..copy(add) }), "cooperative matrices of {}");
    check(overrides, edited(add, "@compute", "override MORE: u32 = 1u;\n@compute"), "MORE");
}

// ---- helpers of the checks ----

/// Name, offset and kind of the members of a struct, and its size. Only 4-byte scalars have a kind.
#[expect(clippy::type_complexity, reason = "three facts a member, used here alone")]
fn structure(module: &naga::Module, name: &str) -> Option<(Vec<(String, u32, Option<ScalarKind>)>, u32)> {
    let (_, ty) = module.types.iter().find(|(_, ty)| ty.name.as_deref() == Some(name))?;
    let TypeInner::Struct { members, span } = &ty.inner else { return None };
    let kind = |ty| match module.types[ty].inner {
        TypeInner::Scalar(scalar) if scalar.width == 4 => Some(scalar.kind),
        _ => None,
    };
    let members = members.iter().map(|m| (m.name.clone().unwrap_or_default(), m.offset, kind(m.ty))).collect();
    Some((members, *span))
}

/// The members of `work::Row` as [`structure`] would return them. It compiles only if it lists all of them.
fn row_members() -> Vec<(String, u32, Option<ScalarKind>)> {
    trait Word {
        const KIND: ScalarKind;
    }
    impl Word for u32 {
        const KIND: ScalarKind = ScalarKind::Uint;
    }
    impl Word for f32 {
        const KIND: ScalarKind = ScalarKind::Float;
    }
    fn kind<W: Word>(_: W) -> ScalarKind {
        W::KIND
    }
    macro_rules! members {
        ($($name:ident)*) => {{
            let Row { $($name),* } = Row::at(0);
            vec![$((stringify!($name).to_string(), offset_of!(Row, $name) as u32, Some(kind($name)))),*]
        }};
    }
    members!(slot position seed temperature top_k top_p min_p repeat_penalty)
}

/// Top-level declarations: name → first line.
fn declarations(text: &'static str) -> BTreeMap<&'static str, String> {
    let mut found = BTreeMap::new();
    for line in text.lines() {
        for keyword in ["fn ", "alias ", "const ", "override ", "struct ", "var<workgroup> ", "var<private> "] {
            if let Some(rest) = line.strip_prefix(keyword) {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                found.insert(&rest[..end], line.to_string());
            }
        }
    }
    found
}

/// Whether code (not comments) has this identifier.
fn mentions(text: &str, name: &str) -> bool {
    text.lines().any(|line| {
        let code = line.split("//").next().unwrap_or_default();
        code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name)
    })
}

/// The files of a folder below `shaders/`, with its subfolders, and their text.
fn wgsl_files(folder: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join("shaders").join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of shaders") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "wgsl") {
                let text = std::fs::read_to_string(&path).expect("a shader");
                found.push((path.strip_prefix(root).expect("listed from there").to_path_buf(), text));
            }
        }
    }
    found.sort();
    found
}
