//! House rules of ARCHITECTURE.md that the compiler cannot check, as tests over the text of the repository.
//!
//! Each rule is one test, and each complaint names `file:line` and what to do. Files are looked at in two ways: as they
//! are, and as code, where comments and the insides of literals are blanked (source.rs). Each rule is shown, too, to
//! complain of texts that break it and of a repository that is empty (rule.rs).

use std::collections::BTreeSet;

use crate::imports::{Modules, circles, imports};
use crate::rule::{Broken, Inspection};
use crate::source::{Repository, SourceFile, Token, is_word};

/// The one-way street, left to right: a module imports only what stands to its left.
const STREET: [&str; 18] = [
    "error",
    "clock",
    "threads",
    "formats",
    "tensor",
    "checkpoint",
    "kernel",
    "ops",
    "cpu",
    "graph",
    "models",
    "plan",
    "backend",
    "generate",
    "prune",
    "lib",
    "cli",
    "main",
];

/// Sets of files that import each other, which ought to become fewer. The list is exact: one that is gone has to go here.
const KNOWN_CIRCLES: &[&[&str]] = &[&["src/backend/wgpu/device.rs", "src/backend/wgpu/pipelines.rs"]];

/// The rule holds here, and complains of each way to break a small repository that keeps all of them.
#[track_caller]
fn holds(rule: impl Fn(&mut Inspection), broken: &[Broken]) {
    let mut files = vec![
        ("ARCHITECTURE.md", "`src/ops/` and `tests/static/tidy.rs`"),
        (
            "src/ops/mod.rs",
            "pub use identity::Identity; operators! {\n    rms_norm\n    identity // no shader: it moves nothing\n}",
        ),
        ("src/ops/rms_norm.rs", "impl Operator for RmsNorm {} static K: Kernel = kernel!(\"rms_norm.wgsl\");"),
        ("src/ops/identity.rs", "use crate::ops::rms_norm::RmsNorm; impl Operator for Identity {}"),
        ("src/kernel/source.rs", "modules! { \"norm\" }"),
        ("src/formats/mod.rs", "macro_rules! formats { () => { f! { Q4_0 q4_0, } } } pub use bits::Bits;"),
        ("src/formats/q4_0.rs", ""),
        ("shaders/shared/weight_q4_0.wgsl", ""),
        ("src/backend/mod.rs", "mod wgpu; pub trait Engine {}"),
        ("src/backend/wgpu/mod.rs", "use crate::backend::Engine; fn f(device: wgpu::Device) {}"),
        ("src/models/llama.rs", "fn hidden() {}"),
        ("src/lib.rs", "pub use error::{Error, Result};"),
        ("shaders/rms_norm.wgsl", ""),
        ("shaders/shared/norm.wgsl", ""),
        ("tests/static/tidy.rs", "#[test] fn f() {}"),
    ];
    let rest: Vec<String> = STREET.iter().map(|name| format!("src/{name}.rs")).collect();
    let there = |path: &str| files.iter().any(|(file, _)| file.starts_with(path.trim_end_matches(".rs")));
    let rest: Vec<_> = rest.iter().filter(|path| !there(path)).map(|path| (path.as_str(), "")).collect();
    files.extend(rest);
    let files = files.iter().map(|(path, text)| SourceFile::new(path, text.to_string()));
    crate::rule::holds(rule, &Repository::new(files.collect()), broken);
}

#[test]
fn imports_point_left() {
    let rule = |inspection: &mut Inspection| {
        let modules = Modules::of(inspection.repository);
        for name in STREET {
            inspection.module(name);
        }
        for file in inspection.files("src", "rs") {
            let module = file.top_module();
            let Some(here) = place(&module) else {
                let street = STREET.join(" → ");
                let message = format!("`{module}` is not on the one-way street ({street}): give it a place");
                inspection.add(file, 1, message);
                continue;
            };
            for import in imports(file) {
                let Some(name) = import.path.first() else { continue };
                // `crate::Error` is as far left as the module that lib.rs takes it from.
                let written = modules.file(&import.path).map(SourceFile::top_module);
                let target = if place(name).is_some() { name.clone() } else { written.unwrap_or_default() };
                match place(&target) {
                    Some(there) if there < here || target == module => {}
                    Some(there) if Some(there) != place("lib") => {
                        let message = format!("`{module}` may not import `{target}`, to its right");
                        inspection.add(file, import.line, message);
                    }
                    _ if Some(here) >= place("lib") => {}
                    _ => {
                        inspection.add(file, import.line, format!("`crate::{name}`: name the module that it lives in"))
                    }
                }
            }
        }
    };
    holds(
        rule,
        &[
            ("src/tensor.rs", "use crate::{error::Error, ops::RmsNorm};", "`tensor` may not import `ops`"),
            ("src/ops/identity.rs", "fn f() { super::super::plan::g() }", "`ops` may not import `plan`"),
            ("src/tensor.rs", "use crate::Engine;", "name the module"),
            ("src/new.rs", "", "not on the one-way street"),
            ("src/lib.rs", "pub use plan::Plan;\nfn f() { crate::cli::g() }", "`lib` may not import `cli`"),
        ],
    );
}

#[test]
fn files_of_a_module_import_in_no_circle() {
    let rule = |inspection: &mut Inspection| {
        inspection.files("src", "rs");
        let edges = Modules::of(inspection.repository).edges();
        let found = circles(&edges);
        for circle in found.iter().filter(|circle| !KNOWN_CIRCLES.contains(&&circle[..])) {
            let inside = |(from, to): &(&str, &str)| circle.contains(from) && circle.contains(to);
            let steps = edges.iter().filter(|(edge, _)| inside(edge));
            let steps: Vec<_> = steps.map(|((from, to), line)| format!("  {from}:{line} imports {to}")).collect();
            let advice =
                "move what both need to a third file (KNOWN_CIRCLES is for those that were there before this rule)";
            inspection.add_of_all(format!("{} import each other: {advice}\n{}", circle.join(", "), steps.join("\n")));
        }
    };
    holds(
        rule,
        &[
            ("src/ops/rms_norm.rs", "use super::identity::Identity;", "src/ops/rms_norm.rs import each other"),
            ("src/ops/rms_norm.rs", "use crate::ops::Identity;", "src/ops/rms_norm.rs import each other"),
            ("src/ops/rms_norm.rs", "mod inner { fn f() { super::super::identity::g() } }", "import each other"),
        ],
    );
}

#[test]
fn known_circles_are_there() {
    let edges = Modules::of(Repository::here()).edges();
    let found = circles(&edges);
    let gone: Vec<_> = KNOWN_CIRCLES.iter().filter(|circle| !found.contains(**circle)).collect();
    assert!(gone.is_empty(), "no circle has just these files any more, so list them no longer: {gone:#?}");
}

#[test]
fn work_before_the_backend_uses_no_threads_and_no_clocks() {
    let rule = |inspection: &mut Inspection| {
        // A browser runs these modules on its one thread. The reference in `ops` may spread rows over the helpers of `threads`.
        for module in ["kernel", "ops", "graph", "models", "plan"] {
            for file in inspection.module(module) {
                for token in file.tokens_outside_tests() {
                    let banned = match token.text {
                        "Instant" | "SystemTime" => true,
                        "thread" => token.before.ends_with("std::") || token.after.starts_with("::spawn"),
                        "rayon" => true,
                        "threads" => token.before.ends_with("::"),
                        _ => false,
                    };
                    if banned {
                        inspection.add(
                            file,
                            token.line,
                            format!("`{}` in `{module}`: move it to the backend", token.text),
                        );
                    }
                }
            }
        }
    };
    holds(
        rule,
        &[
            ("src/plan.rs", "use std::time::Instant;", "`Instant` in `plan`"),
            ("src/kernel/source.rs", "fn f() { std::thread::spawn(g) }", "`thread` in `kernel`"),
            ("src/models/llama.rs", "use rayon::prelude::*;", "`rayon` in `models`"),
            ("src/graph.rs", "use crate::threads::rows;", "`threads` in `graph`"),
        ],
    );
}

#[test]
fn clocks_come_from_one_file() {
    // In a browser the standard library's panic when they are read. The command line never runs there.
    let rule = |inspection: &mut Inspection| {
        let files = inspection.files("src", "rs").into_iter();
        for file in files.filter(|file| file.path != "src/clock.rs" && file.top_module() != "cli") {
            for token in file.tokens_outside_tests() {
                let statement = token.so_far.rsplit(';').next().unwrap_or("");
                let standard = token.before.ends_with("std::time::") || statement.contains("use std::");
                if standard && matches!(token.text, "Instant" | "SystemTime" | "UNIX_EPOCH") {
                    inspection.add(file, token.line, "a clock of `std`: take it from `crate::clock`".into());
                }
            }
        }
    };
    holds(
        rule,
        &[
            ("src/generate.rs", "use std::time::{Duration, Instant};", "src/generate.rs:1: a clock of `std`"),
            ("src/backend/mod.rs", "fn f() { std::time::SystemTime::now() }", "a clock of `std`"),
        ],
    );
}

#[test]
fn an_operator_has_one_name() {
    let rule = |inspection: &mut Inspection| {
        let Some(table) = inspection.file("src/ops/mod.rs") else { return };
        for operator in inspection.operators() {
            let name = &operator.name;
            if !inspection.repository.exists(&format!("src/ops/{name}.rs")) {
                inspection.add(table, operator.line, format!("operator `{name}` has no src/ops/{name}.rs"));
            }
            let has_shader = inspection.repository.exists(&format!("shaders/{name}.wgsl"))
                || inspection.repository.exists(&format!("shaders/{name}"));
            if !has_shader && !operator.no_shader {
                let files = format!("shaders/{name}.wgsl nor shaders/{name}/");
                let advice = "if it needs none, say `no shader` and why in a comment on its line";
                inspection.add(table, operator.line, format!("operator `{name}` has neither {files}: {advice}"));
            }
        }
    };
    holds(
        rule,
        &[
            ("src/ops/mod.rs", "operators! {\n    rms_norm\n    softmax\n}", "no src/ops/softmax.rs"),
            ("src/ops/mod.rs", "operators! {\n    rms_norm\n    identity\n}", "has neither shaders/identity.wgsl"),
        ],
    );
}

#[test]
fn every_operator_is_in_the_table() {
    let rule = |inspection: &mut Inspection| {
        let names = inspection.operator_names();
        for file in inspection.files("src/ops", "rs") {
            let implements = file.code.lines().position(|line| {
                line.trim_start().starts_with("impl") && line.contains("Operator for ") && !line.contains('$')
            });
            if let Some(line) = implements
                && !names.is_empty()
                && !file.is_test()
                && !names.contains(file.stem())
                && file.stem() != "mod"
            {
                inspection.add(file, line + 1, format!("operator `{}` is not in src/ops/mod.rs's table", file.stem()));
            }
        }
    };
    holds(
        rule,
        &[
            ("src/ops/softmax.rs", "impl Operator for Softmax {}", "operator `softmax` is not in"),
            ("src/ops/mod.rs", "operators! {}", "no operator is read"),
        ],
    );
}

#[test]
fn every_shader_belongs_to_an_operator() {
    let rule = |inspection: &mut Inspection| {
        let names = inspection.operator_names();
        let literals = source_literals(inspection);
        for file in inspection.files("shaders", "wgsl") {
            let path = file.path.strip_prefix("shaders/").expect("listed from there").to_string();
            let Some((folder, _)) = path.split_once('/').or(path.split_once('.')) else { continue };
            if folder == "shared" {
                continue;
            }
            if !names.is_empty() && !names.contains(folder) {
                inspection.add(file, 1, format!("no operator is called `{folder}`: rename the shader or remove it"));
            }
            if !names.is_empty() && !is_included(&literals, &path) {
                inspection.add(file, 1, "no file of src/ includes this shader: remove it or list its kernel".into());
            }
        }
    };
    holds(
        rule,
        &[
            ("shaders/softmax.wgsl", "", "no operator is called `softmax`"),
            ("shaders/softmax/tile.wgsl", "", "no operator is called `softmax`"),
            ("shaders/rms_norm/tile.wgsl", "", "no file of src/ includes this shader"),
        ],
    );
}

#[test]
fn every_shared_shader_is_included() {
    let rule = |inspection: &mut Inspection| {
        let literals = source_literals(inspection);
        let modules = inspection.file("src/kernel/source.rs").map(SourceFile::literals).unwrap_or_default();
        let formats = inspection.format_names();
        for file in inspection.files("shaders/shared", "wgsl") {
            let path = file.path.strip_prefix("shaders/").expect("listed from there").to_string();
            // The table of shared files in kernel/source.rs gives stems to a macro that adds folder and extension; the
            // readers of weights come from the table of formats.
            let listed = modules.iter().any(|literal| literal == file.stem())
                || file.stem().strip_prefix("weight_").is_some_and(|name| formats.contains(name));
            if !listed && !is_included(&literals, &path) {
                inspection.add(file, 1, "no include_str! of src/ brings this file in: remove it or list it".into());
            }
        }
    };
    holds(
        rule,
        &[
            ("shaders/shared/left.wgsl", "", "no include_str! of src/"),
            ("shaders/shared/weight_q9_9.wgsl", "", "no include_str! of src/"),
        ],
    );
}

#[test]
fn every_format_is_in_the_table() {
    let rule = |inspection: &mut Inspection| {
        let formats = inspection.format_names();
        for file in inspection.files("src/formats", "rs") {
            if !formats.contains(file.stem()) && !["mod", "bits", "tests"].contains(&file.stem()) {
                let message = format!("format `{}` is not in the table of src/formats/mod.rs", file.stem());
                inspection.add(file, 1, message);
            }
        }
    };
    holds(
        rule,
        &[
            ("src/formats/q9_9.rs", "", "format `q9_9` is not in the table"),
            ("src/formats/mod.rs", "macro_rules! formats { () => {} } pub use a::B;", "no format is read"),
        ],
    );
}

#[test]
fn the_backend_names_no_operator() {
    let rule = |inspection: &mut Inspection| {
        let names = inspection.operator_names();
        let types: BTreeSet<String> = inspection.operators().into_iter().flat_map(|operator| operator.types).collect();
        for file in inspection.files("src/backend", "rs") {
            for token in file.tokens_outside_tests() {
                // Methods and fields (`.add(…)`, `step.sample`) are other things with a common word's name, and so are the
                // standard library's operators.
                let snake =
                    names.contains(token.text) && !token.before.ends_with('.') && !token.before.ends_with("std::ops::");
                let camel = types.contains(token.text) && !token.before.ends_with("std::ops::");
                if snake || camel {
                    let advice = "ask its trait or its Dispatch instead";
                    inspection.add(file, token.line, format!("the backend names operator `{}`: {advice}", token.text));
                }
            }
            for (line, literal) in file.literals_by_line_outside_tests() {
                // One common word in a message is no dispatch on a name; a compound name like "rms_norm" is.
                if names.contains(&literal) && literal.contains('_') {
                    inspection.add(file, line, format!("the backend names operator \"{literal}\""));
                }
            }
        }
    };
    holds(
        rule,
        &[
            ("src/backend/mod.rs", "use crate::ops::rms_norm;", "the backend names operator `rms_norm`"),
            ("src/backend/wgpu/mod.rs", "fn f(_: &RmsNorm) {}", "the backend names operator `RmsNorm`"),
            (
                "src/backend/mod.rs",
                "fn f(name: &str) -> bool { name == \"rms_norm\" }",
                "the backend names operator \"rms_norm\"",
            ),
        ],
    );
}

#[test]
fn models_name_no_weight_format() {
    let rule = |inspection: &mut Inspection| {
        // How a weight is stored is a property of the tensor. A model that asks becomes a twin that drifts.
        let formats = inspection.format_names();
        for file in inspection.files("src/models", "rs") {
            // The recipe hands the formats of a checkpoint on to the builder.
            for token in file.tokens_outside_tests().into_iter().filter(|_| file.stem() != "recipe") {
                // `f32` is also the type of Rust's numbers.
                let format = token.text != "f32" && formats.contains(&token.text.to_ascii_lowercase());
                if format || token.text == "DType" {
                    inspection.add(file, token.line, format!("a model names the weight format `{}`", token.text));
                }
            }
        }
    };
    holds(
        rule,
        &[
            ("src/models/llama.rs", "fn f(_: DType) {}", "names the weight format `DType`"),
            ("src/models/llama.rs", "fn f() { q4_0() }", "names the weight format `q4_0`"),
        ],
    );
}

#[test]
fn wgpu_stays_in_its_backend() {
    let rule = |inspection: &mut Inspection| {
        for file in inspection.files("src", "rs") {
            // The parent of `backend::wgpu` names its child.
            if file.path.starts_with("src/backend/wgpu/") || file.path == "src/backend/mod.rs" {
                continue;
            }
            for token in file.tokens() {
                // `backend::wgpu::open` is our module; `wgpu::Device`, `::wgpu::Device` and `use wgpu;` are the crate.
                let ours = token.before.strip_suffix("::").is_some_and(|rest| rest.ends_with(is_word));
                let path = token.after.starts_with("::") || token.before.trim_end().ends_with("use");
                if token.text == "wgpu" && path && !ours {
                    inspection.add(file, token.line, "wgpu outside src/backend/wgpu: put it behind `backend`".into());
                }
            }
        }
    };
    holds(
        rule,
        &[
            ("src/plan.rs", "fn f(_: wgpu::Device) {}", "wgpu outside src/backend/wgpu"),
            ("src/generate.rs", "use wgpu;", "wgpu outside src/backend/wgpu"),
        ],
    );
}

#[test]
fn only_readers_touch_files() {
    let rule = |inspection: &mut Inspection| {
        let may = |path: &str| {
            ["src/checkpoint/", "src/cli/"].iter().any(|folder| path.starts_with(folder))
                || ["tokenizer", "prompt", "image"].iter().any(|file| {
                    path == format!("src/generate/{file}.rs") || path.starts_with(&format!("src/generate/{file}/"))
                })
        };
        for file in inspection.files("src", "rs").into_iter().filter(|file| !may(&file.path)) {
            for token in file.tokens_outside_tests() {
                let path = token.before.ends_with("::") || token.after.starts_with("::") || in_std_group(&token);
                // A tensor's bytes may be a mapping; who made it is the reader's business.
                let maps = token.text == "memmap2" && file.path != "src/tensor.rs";
                if token.text == "fs" && path || token.text == "OpenOptions" || maps {
                    let readers = "checkpoint/, generate/{tokenizer,prompt,image} and cli/";
                    inspection.add(file, token.line, format!("`{}`: only {readers} touch files", token.text));
                }
            }
        }
    };
    holds(
        rule,
        &[
            ("src/plan.rs", "use std::fs;", "`fs`: only"),
            ("src/plan.rs", "use std::{collections::HashMap, fs};", "`fs`: only"),
            ("src/ops/identity.rs", "fn f() { OpenOptions::new() }", "`OpenOptions`: only"),
            ("src/backend/mod.rs", "use memmap2::Mmap;", "`memmap2`: only"),
        ],
    );
}

#[test]
fn nothing_unwraps_in_silence() {
    let rule = |inspection: &mut Inspection| {
        for file in inspection.files("src", "rs") {
            let raw: Vec<&str> = file.text.lines().collect();
            for (index, code) in file.code_outside_tests().lines().enumerate() {
                if !code.contains(".unwrap()") {
                    continue;
                }
                // rustfmt may put the reason on the line above.
                let above = index.checked_sub(1).map_or("", |above| raw[above].trim_start());
                let reason = raw[index].contains("//") || above.starts_with("//") && !above.starts_with("///");
                if !reason {
                    let advice = "return an error, use expect with the reason, or say in a comment why it cannot fail";
                    inspection.add(file, index + 1, format!("unwrap without a reason: {advice}"));
                }
            }
        }
    };
    holds(
        rule,
        &[
            ("src/plan.rs", "fn f() {\n    g().unwrap();\n}", "src/plan.rs:2: unwrap without a reason"),
            ("src/plan.rs", "/// Not a reason.\nfn f() { g().unwrap() }", "unwrap without a reason"),
        ],
    );
}

#[test]
fn what_is_left_to_do_has_a_reason() {
    let rule = |inspection: &mut Inspection| {
        // Written in two parts so that this file does not break its own rule.
        let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
        for file in inspection.ours() {
            for (index, line) in file.text.lines().enumerate() {
                for mark in marks {
                    let Some(at) = line.find(mark) else { continue };
                    let (before, after) = (&line[..at], &line[at + mark.len()..]);
                    if before.ends_with(is_word) || after.starts_with(is_word) {
                        continue;
                    }
                    let reason = after.trim_start_matches([':', ' ']);
                    if !after.starts_with(':') || reason.split_whitespace().count() < 3 {
                        let advice = "write `: ` and what is missing and why, or do it";
                        inspection.add(file, index + 1, format!("{mark} without a reason: {advice}"));
                    }
                }
            }
        }
    };
    holds(
        rule,
        &[
            ("src/plan.rs", concat!("// TO", "DO"), "without a reason"),
            ("shaders/rms_norm.wgsl", concat!("// FIX", "ME: later"), "without a reason"),
        ],
    );
}

#[test]
fn nothing_is_kept_under_an_old_name() {
    let rule = |inspection: &mut Inspection| {
        let endings = ["_old", "_slow", "_orig", "_backup", "_tmp", "_v1", "_v2", "_v3"];
        // Versions that other people gave: the two MobileVLM generations, GGUF's file versions.
        let given = ["mobilevlm_v1", "mobilevlm_v2", "gguf_v2", "gguf_v3"];
        let outdated = |name: &str| {
            let name = name.to_ascii_lowercase();
            endings.iter().any(|ending| name.ends_with(ending)) && !given.iter().any(|given| name.ends_with(given))
        };
        let advice = "replace the other one, or give it a name that says what differs";
        for file in inspection.ours() {
            if outdated(file.stem()) {
                inspection.add(file, 1, format!("file `{}`: {advice}", file.stem()));
            }
            if file.path.ends_with(".rs") || file.path.ends_with(".wgsl") {
                for token in file.tokens().into_iter().filter(|token| outdated(token.text)) {
                    inspection.add(file, token.line, format!("`{}`: {advice}", token.text));
                }
            }
        }
    };
    holds(
        rule,
        &[
            ("src/plan_old.rs", "", "file `plan_old`"),
            ("src/plan.rs", concat!("fn place_v", "2() {}"), concat!("`place_v", "2`")),
            ("shaders/rms_norm.wgsl", concat!("fn sum_", "slow() {}"), concat!("`sum_", "slow`")),
        ],
    );
}

#[test]
fn the_architecture_is_a_map() {
    let rule = |inspection: &mut Inspection| {
        let Some(file) = inspection.file("ARCHITECTURE.md") else { return };
        let lines = file.text.lines().count();
        if lines > 200 {
            inspection.add(file, lines, format!("{lines} lines, more than 200: leave the land to the code"));
        }
        let mut named = BTreeSet::new();
        for (index, line) in file.text.lines().enumerate() {
            for span in line.split('`').skip(1).step_by(2) {
                // `foo` stands for any operator.
                let ours =
                    ["src/", "tests/", "shaders/"].iter().any(|root| span.starts_with(root)) && !span.contains("foo");
                if ours && !inspection.repository.exists(span) {
                    inspection.add(file, index + 1, format!("`{span}` is not there"));
                }
                named.insert(span);
            }
        }
        for test in inspection.files("tests", "rs").iter().filter(|file| file.code.contains("#[test]")) {
            if !named.contains(test.path.as_str()) {
                inspection.add(
                    test,
                    1,
                    "ARCHITECTURE.md does not say which rule this file holds or what it needs".into(),
                );
            }
        }
    };
    holds(
        rule,
        &[
            ("ARCHITECTURE.md", "`src/ops/gone.rs` and `tests/static/tidy.rs`", "`src/ops/gone.rs` is not there"),
            ("tests/static/new.rs", "#[test] fn f() {}", "does not say which rule this file holds"),
            ("ARCHITECTURE.md", &"`tests/static/tidy.rs`\n".repeat(201), "more than 200"),
        ],
    );
}

// ---- what the rules are written with ----

/// Where a top-level module stands on the street.
fn place(module: &str) -> Option<usize> {
    STREET.iter().position(|name| *name == module)
}

/// Whether the token stands in `use std::{…, fs, …}`.
fn in_std_group(token: &Token) -> bool {
    let statement = token.so_far.rsplit(';').next().unwrap_or("");
    statement.contains("use std::{")
}

/// Every string literal of src/.
fn source_literals(inspection: &mut Inspection) -> Vec<String> {
    inspection.files("src", "rs").into_iter().flat_map(SourceFile::literals).collect()
}

/// Whether a literal names this file of shaders/, with its folder, with or without the extension that a macro adds.
fn is_included(literals: &[String], path: &str) -> bool {
    let stem = path.trim_end_matches(".wgsl");
    literals.iter().any(|literal| {
        literal == stem || literal.strip_suffix(path).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
    })
}
