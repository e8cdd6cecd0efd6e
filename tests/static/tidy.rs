//! House rules of ARCHITECTURE.md that the compiler cannot check, as tests over the text of the repository: names,
//! tables and words here, imports in street.rs.
//!
//! Each rule is one test, and each complaint names `file:line` and the remedy. Rules read files as written, or as code
//! in which comments and the contents of literals are blanked (source.rs). Each test also shows that its rule complains
//! of texts that break it and of an empty repository (rule.rs).

use std::collections::BTreeSet;

use crate::rule::{Inspection, holds};
use crate::source::{SourceFile, is_word};
use crate::support::scratch::Scratch;

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
        let modules = inspection.file("src/work/source.rs").map(SourceFile::literals).unwrap_or_default();
        let formats = inspection.format_names();
        for file in inspection.files("shaders/shared", "wgsl") {
            let path = file.path.strip_prefix("shaders/").expect("listed from there").to_string();
            // The table of shared files in kernel/source.rs passes stems to a macro that adds folder and extension; the
            // files that read weights come from the table of formats.
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
fn kernels_with_fewer_workgroups_than_items_loop() {
    let rule = |inspection: &mut Inspection| {
        for operator in inspection.operator_names() {
            let (path, shader) = (format!("src/ops/{operator}.rs"), format!("shaders/{operator}.wgsl"));
            let Some(file) = inspection.repository.file(&path) else { continue };
            let loops = inspection.repository.file(&shader).is_some_and(|file| file.code.contains("num_workgroups"));
            if file.code.contains("in_turns(") && !loops {
                let message = format!("takes its items in_turns, but {shader} does not loop by num_workgroups");
                inspection.add(file, 1, message);
            }
        }
    };
    holds(
        rule,
        &[
            ("src/ops/rms_norm.rs", "fn f() { in_turns(rows, 1, profile) }", "rms_norm.wgsl does not loop"),
            ("src/ops/mod.rs", "operators! {}", "no operator is read"),
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
        // Versions that others defined: the two MobileVLM generations, and GGUF's file versions.
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
        if lines > 230 {
            inspection.add(file, lines, format!("{lines} lines, more than 230: leave the land to the code"));
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
            ("ARCHITECTURE.md", &"`tests/static/tidy.rs`\n".repeat(231), "more than 230"),
        ],
    );
}

/// `scripts/phones.sh DIR` makes its folder anew, and DIR may be anything.
#[cfg(unix)]
#[test]
fn phones_sh_removes_only_what_it_made() {
    let scratch = Scratch::new();
    // Should it go on, it ends at the first command that would fetch something.
    let apt = scratch.write("bin/apt-get", "#!/bin/sh\nexit 1\n");
    std::fs::set_permissions(&apt, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a program");
    let path = format!("{}:{}", apt.parent().expect("a folder").display(), std::env::var("PATH").expect("a path"));
    let run = |folder: &str| {
        let mut script = std::process::Command::new("bash");
        script.arg("scripts/phones.sh").arg(scratch.path(folder)).env("PATH", &path);
        let output = script.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("bash");
        assert!(!output.status.success());
        String::from_utf8(output.stderr).expect("UTF-8").contains("has files that are not of this script")
    };
    let others = ["thesis.tex", "mark"].map(|name| scratch.write(&format!("documents/{name}"), "three years\n"));
    assert!(run("documents"));
    assert!(others.iter().all(|file| file.exists()));
    // One that it made before, whole or not, and one that is not there.
    scratch.write("whole/mark", format!("26.1.6-1 {}\n", "0".repeat(64)));
    scratch.write("begun/made-by-phones.sh", "");
    for folder in ["whole", "begun", "new"] {
        assert!(!run(folder), "{folder}");
    }
}

/// Every string literal of src/.
fn source_literals(inspection: &mut Inspection) -> Vec<String> {
    inspection.files("src", "rs").into_iter().flat_map(SourceFile::literals).collect()
}

/// Whether a literal names this file of shaders/, with its folder, and with or without the extension, which a macro may
/// add.
fn is_included(literals: &[String], path: &str) -> bool {
    let stem = path.trim_end_matches(".wgsl");
    literals.iter().any(|literal| {
        literal == stem || literal.strip_suffix(path).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
    })
}
