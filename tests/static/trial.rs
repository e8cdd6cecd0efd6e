//! Kernels of a user's own, without a device: what `dunlin kernel show` prints is the kernel with comments added alone,
//! and a file that does not fit is refused with a sentence that says where and why.

use crate::kernels::{kernels, none};
use dunlin::backend::read_own;
use dunlin::kernel::{KernelFile, Slot};
use dunlin::ops;
use dunlin::work::source::assemble;
use dunlin::work::{DeviceProfile, KernelRef};

#[test]
fn every_kernel_is_shown_as_it_compiles() {
    let mut complaints = Vec::new();
    for (slot, kernel) in Slot::all().into_iter().zip(kernels()) {
        let (name, shown) = (slot.name(), slot.wgsl());
        let Some(header) = shown.strip_suffix(&assemble(kernel)) else {
            complaints.push(format!("{name}: what is shown does not end with what compiles"));
            continue;
        };
        complaints.extend(
            (header.lines())
                .filter(|line| !line.is_empty() && !line.starts_with("//"))
                .map(|line| format!("{name}: the header has code: {line}")),
        );
        if let Err(error) = naga::front::wgsl::parse_str(&shown) {
            complaints.push(format!("{name}: {}", error.emit_to_string(&shown)));
        }
    }
    none(complaints);
}

/// A file that `show` prints fits its slot, needs what the kernel needs, and declares its overrides.
#[test]
fn every_kernel_fits_its_own_slot() {
    let mut complaints = Vec::new();
    for (slot, kernel) in Slot::all().into_iter().zip(kernels()) {
        let name = slot.name();
        match read_own(&[KernelFile::new(&name, "mine.wgsl", slot.wgsl())]) {
            Err(error) => complaints.push(format!("{name}: {error}")),
            Ok(own) => {
                let found = own[0].kernel.0;
                let names = |constants: &[(&'static str, f64)]| {
                    let mut names: Vec<&str> = constants.iter().map(|(name, _)| *name).collect();
                    names.sort();
                    names
                };
                if found.requires != kernel.requires || names(found.constants) != names(kernel.constants) {
                    complaints.push(format!("{name}: {:?} {:?}", found.requires, found.constants));
                }
                assert!(own[0].replaces(KernelRef(kernel)) && found.name() == format!("{name}=mine.wgsl"));
            }
        }
    }
    none(complaints);
}

#[test]
fn a_file_that_does_not_fit_is_refused_with_a_sentence() {
    let text = Slot::find("rms_norm").expect("a slot").wgsl();
    let refused = |from: &str, to: &str, parts: &[&str]| {
        assert!(text.contains(from), "rms_norm has no `{from}`");
        let file = KernelFile::new("rms_norm", "mine.wgsl", text.replace(from, to));
        let error = read_own(&[file]).expect_err(parts[0]).to_string();
        parts.iter().for_each(|part| assert!(error.contains(part), "`{part}` is not in: {error}"));
    };
    let place = |part: &str| {
        let line = text.lines().position(|line| line.contains(part) && !line.starts_with("//")).expect(part);
        let column = text.lines().nth(line).expect(part).find(part).expect(part);
        format!("mine.wgsl:{}:{}: ", line + 1, column + 1)
    };
    // Syntax, a name that is nowhere, a type that does not fit: where each is, with the line below.
    let semicolon = place("let factor");
    refused("let first = row * params.cols;", "let first = row * params.cols", &[&semicolon, "expected", "^"]);
    let unknown = place("params.eps)");
    refused("params.eps)", "parms.eps)", &[&unknown, "parms", "| ", "^^^^^"]);
    refused("squares = 0.0", "squares = 0u", &["mine.wgsl:", "squares"]);
    refused("squares += x[first + c] * x[first + c];", "squares += 1u;", &["mine.wgsl:", "squares += 1u;"]);

    refused("fn rms_norm(", "fn norm(", &["mine.wgsl", "`rms_norm`", "the file has `norm`"]);
    refused("@binding(2)", "@binding(3)", &["@group(0) @binding(2) is missing", "3 bindings", "read_write"]);
    refused(
        "storage, read> gain",
        "storage, read_write> gain",
        &[&place("var<storage, read> gain"), "`gain`", "var<storage, read>"],
    );
    let more = "@group(0) @binding(5) var<storage, read_write> more: array<f32>;\n@compute";
    refused("@compute", more, &["`more` at @group(0) @binding(5) is one too many", "rms_norm has no such binding"]);
    refused("    eps: f32,", "    eps: f32,\n    more: u32,", &["`params` has 16 bytes", "has 12"]);
    refused("var<uniform> params", "var<storage, read> params", &["must be var<uniform>"]);
    refused("@compute", "override MORE: u32;\n@compute", &["`MORE` has no value", "--set MORE=VALUE"]);
    refused(
        "@compute",
        "@id(3) override MORE: u32 = 1u;\n@compute",
        &["mine.wgsl:", "`MORE` gets its value by name", "@id(3)"],
    );
    refused("@compute", "override GRID_X: f32 = 0.0;\n@compute", &["`GRID_X`", "above 0"]);

    let set = KernelFile::new("rms_norm", "mine.wgsl", &text).set("SPLIT", 4.0);
    let error = read_own(&[set]).expect_err("an unknown override").to_string();
    assert!(error.contains("no override `SPLIT`; it has none"), "{error}");
    let twice = ["a.wgsl", "b.wgsl"].map(|file| KernelFile::new("rms_norm", file, &text));
    let error = read_own(&twice).expect_err("two files").to_string();
    assert!(error.contains("a.wgsl and b.wgsl"), "{error}");
    let error = read_own(&[KernelFile::new("linear/gemv", "mine.wgsl", "")]).expect_err("many kernels").to_string();
    assert!(error.contains("kernels are called `linear/gemv`") && error.contains("\n  linear/gemv+"), "{error}");
}

/// The dispatch of a user's kernel: the values of the slot for the overrides that the file has, those that are set, and
/// the grid.
#[test]
fn a_dispatch_follows_the_file() {
    let name = "linear/gemv+epilogue_plain+quads_shared+weight_q4_0";
    let text = Slot::find(name).expect("a slot").wgsl();
    let cases = ops::cases().into_iter().flat_map(|(_, cases)| cases);
    let profile = DeviceProfile::baseline();
    let ours = cases.flat_map(|case| case.candidates(&profile)).find(|c| c.kernel().0.name() == name).expect("a case");
    let taken = |text: String, set: &[(&str, f64)]| {
        let file = KernelFile::new(name, "mine.wgsl", text);
        let own = read_own(&[set.iter().fold(file, |file, (name, value)| file.set(*name, *value))]).expect("it fits");
        own[0].take(ours.clone()).dispatches.remove(0)
    };
    let value = |dispatch: &dunlin::work::Dispatch, name: &str| {
        dispatch.constants.iter().find(|(own, _)| *own == name).map(|(_, value)| *value)
    };
    let ours = ours.dispatches[0].clone();
    let same = taken(text.clone(), &[]);
    assert_eq!((&same.constants, same.groups, &same.params), (&ours.constants, ours.groups, &ours.params));
    let set = taken(text.clone(), &[("SPLIT", 2.0)]);
    assert_eq!((value(&ours, "SPLIT"), value(&set, "SPLIT")), (Some(8.0), Some(2.0)));
    let fixed = taken(text.replace("override SPLIT: u32 = 4u;", "const SPLIT: u32 = 4u;"), &[]);
    assert_eq!(value(&fixed, "SPLIT"), None);
    let twice = format!("{text}\noverride GRID_X: f32 = 2.0;\n");
    assert_eq!(taken(twice.clone(), &[]).groups[0], 2 * ours.groups[0]);
    assert_eq!(taken(twice, &[("GRID_X", 3.0)]).groups[0], 3 * ours.groups[0]);
}
