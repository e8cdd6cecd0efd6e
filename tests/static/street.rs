//! Which part of the code may import which: the one-way street of ARCHITECTURE.md and related rules, as tests over the
//! text of the repository, written like those of tidy.rs.

use std::collections::BTreeSet;

use crate::imports::{Modules, circles, imports};
use crate::rule::{Inspection, STREET, holds};
use crate::source::{SourceFile, Token, is_word};

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
                // `crate::Error` has the position of the module from which lib.rs re-exports it.
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
        for circle in &found {
            let inside = |(from, to): &(&str, &str)| circle.contains(from) && circle.contains(to);
            let steps = edges.iter().filter(|(edge, _)| inside(edge));
            let steps: Vec<_> = steps.map(|((from, to), line)| format!("  {from}:{line} imports {to}")).collect();
            let advice = "move what both need to a third file";
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
fn work_before_the_backend_uses_no_threads_and_no_clocks() {
    let rule = |inspection: &mut Inspection| {
        // A browser runs these modules on its one thread. The references in `ops` may split rows over the helpers of
        // `threads`.
        for module in ["work", "ops", "graph", "models", "plan"] {
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
            ("src/work/source.rs", "fn f() { std::thread::spawn(g) }", "`thread` in `work`"),
            ("src/models/llama.rs", "use rayon::prelude::*;", "`rayon` in `models`"),
            ("src/graph.rs", "use crate::threads::rows;", "`threads` in `graph`"),
        ],
    );
}

#[test]
fn clocks_come_from_one_file() {
    // In a browser the standard library's clocks panic. The command line never runs there.
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
fn the_backend_names_no_operator() {
    let rule = |inspection: &mut Inspection| {
        let names = inspection.operator_names();
        let types: BTreeSet<String> = inspection.operators().into_iter().flat_map(|operator| operator.types).collect();
        for file in inspection.files("src/backend", "rs") {
            for token in file.tokens_outside_tests() {
                // Methods and fields (`.add(…)`, `step.sample`) and the standard library's operators share common words
                // with operators, but do not name them.
                let snake =
                    names.contains(token.text) && !token.before.ends_with('.') && !token.before.ends_with("std::ops::");
                let camel = types.contains(token.text) && !token.before.ends_with("std::ops::");
                if snake || camel {
                    let advice = "ask its trait or its Dispatch instead";
                    inspection.add(file, token.line, format!("the backend names operator `{}`: {advice}", token.text));
                }
            }
            for (line, literal) in file.literals_by_line_outside_tests() {
                // A common word in a message does not name an operator; a compound name such as "rms_norm" does.
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
        // The storage format of a weight is a property of the tensor. If a model depended on it, there would soon be a
        // model for each format.
        let formats = inspection.format_names();
        for file in inspection.files("src/models", "rs") {
            // The recipe passes the formats of a checkpoint to the builder.
            for token in file.tokens_outside_tests().into_iter().filter(|_| file.stem() != "recipe") {
                // `f32` is also a type of Rust.
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
            // The parent module of `backend::wgpu` must name it.
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
                // What Linux tells of a process is in files of /proc.
                || path == "src/measure/host.rs"
                || ["tokenizer", "prompt", "image"].iter().any(|file| {
                    path == format!("src/generate/{file}.rs") || path.starts_with(&format!("src/generate/{file}/"))
                })
        };
        for file in inspection.files("src", "rs").into_iter().filter(|file| !may(&file.path)) {
            for token in file.tokens_outside_tests() {
                let path = token.before.ends_with("::") || token.after.starts_with("::") || in_std_group(&token);
                // A tensor's bytes may be a mapped file; src/tensor.rs accepts mappings, and only readers create them.
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

/// The position of a top-level module on the street.
fn place(module: &str) -> Option<usize> {
    STREET.iter().position(|name| *name == module)
}

/// Whether the token is inside `use std::{…, fs, …}`.
fn in_std_group(token: &Token) -> bool {
    let statement = token.so_far.rsplit(';').next().unwrap_or("");
    statement.contains("use std::{")
}
