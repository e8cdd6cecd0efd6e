//! House rules of ARCHITECTURE.md that the compiler cannot check, as tests over the text of the repository.
//!
//! Each rule is one test, and each complaint names `file:line` and what to do. Files are looked at in two ways: as they
//! are, and as code, where comments and the insides of literals are blanked (source.rs).
//! A part of the repository that does not exist breaks no rule.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{SourceFile, Token, exists, files, is_word, line_of, rust_files, tokens};

/// The one-way street, left to right: a module imports only what stands to its left.
const STREET: [&str; 16] = [
    "error",
    "threads",
    "formats",
    "tensor",
    "checkpoint",
    "kernel",
    "cpu",
    "ops",
    "graph",
    "models",
    "plan",
    "backend",
    "generate",
    "lib",
    "cli",
    "main",
];

/// Top-level modules that belong to the public face, and so may import everything but the command line.
const PUBLIC_FACE: [&str; 1] = ["internal"];

#[test]
fn imports_point_left() {
    let mut complaints = Complaints::new();
    let public = re_exports();
    for file in rust_files("src") {
        let module = file.top_module();
        let Some(here) = place(&module) else {
            let street = STREET.join(" → ");
            complaints.add(&file, 1, format!("`{module}` is not on the one-way street ({street}): give it a place"));
            continue;
        };
        for (line, name) in crate_paths(&file) {
            // `crate::Error` is as far left as the module that lib.rs takes it from.
            let target = public.get(&name).unwrap_or(&name);
            match place(target) {
                Some(there) if there < here || *target == module => {}
                Some(_) => complaints.add(&file, line, format!("`{module}` may not import `{target}`, to its right")),
                None if Some(here) >= place("lib") => {}
                None => complaints.add(&file, line, format!("`crate::{name}`: name the module that it lives in")),
            }
        }
    }
    complaints.none();
}

#[test]
fn work_before_the_backend_uses_no_threads_and_no_clocks() {
    // A browser runs these modules on its one thread. The reference in `ops` may spread rows over the helpers of `threads`.
    let mut complaints = Complaints::new();
    for module in ["kernel", "ops", "graph", "models", "plan"] {
        for file in rust_files(&format!("src/{module}")) {
            for token in file.tokens_outside_tests() {
                let banned = match token.text {
                    "Instant" | "SystemTime" => true,
                    "thread" => token.before.ends_with("std::") || token.after.starts_with("::spawn"),
                    "rayon" => true,
                    "threads" => module != "ops" && token.before.ends_with("::"),
                    _ => false,
                };
                if banned {
                    complaints.add(
                        &file,
                        token.line,
                        format!("`{}` in `{module}`: move it to the backend", token.text),
                    );
                }
            }
        }
    }
    complaints.none();
}

#[test]
fn an_operator_has_one_name() {
    let mut complaints = Complaints::new();
    let table = SourceFile::read("src/ops/mod.rs");
    for operator in operators() {
        let table = table.as_ref().expect("operators come from this file");
        let name = &operator.name;
        if !exists(&format!("src/ops/{name}.rs")) {
            complaints.add(table, operator.line, format!("operator `{name}` has no src/ops/{name}.rs"));
        }
        let has_shader = exists(&format!("shaders/{name}.wgsl")) || exists(&format!("shaders/{name}"));
        if !has_shader && !operator.no_shader {
            let files = format!("shaders/{name}.wgsl nor shaders/{name}/");
            let advice = "if it needs none, say `no shader` and why in a comment on its line";
            complaints.add(table, operator.line, format!("operator `{name}` has neither {files}: {advice}"));
        }
    }
    complaints.none();
}

#[test]
fn every_operator_is_in_the_table() {
    let mut complaints = Complaints::new();
    let names = operator_names();
    for file in rust_files("src/ops") {
        let implements = file.code.lines().position(|line| {
            line.trim_start().starts_with("impl") && line.contains("Operator for ") && !line.contains('$')
        });
        if let Some(line) = implements
            && !names.is_empty()
            && !file.is_test()
            && !names.contains(file.stem())
            && file.stem() != "mod"
        {
            complaints.add(&file, line + 1, format!("operator `{}` is not in src/ops/mod.rs's table", file.stem()));
        }
    }
    complaints.none();
}

#[test]
fn every_shader_belongs_to_an_operator() {
    let mut complaints = Complaints::new();
    let names = operator_names();
    let literals = source_literals();
    for file in files("shaders", "wgsl") {
        let path = file.path.strip_prefix("shaders/").expect("listed from there").to_string();
        let Some((folder, _)) = path.split_once('/').or(path.split_once('.')) else { continue };
        if folder == "shared" {
            continue;
        }
        if !names.is_empty() && !names.contains(folder) {
            complaints.add(&file, 1, format!("no operator is called `{folder}`: rename the shader or remove it"));
        }
        if !names.is_empty() && !is_included(&literals, &path) {
            complaints.add(&file, 1, "no file of src/ includes this shader: remove it or list its kernel".into());
        }
    }
    complaints.none();
}

#[test]
fn every_shared_shader_is_included() {
    let mut complaints = Complaints::new();
    let literals = source_literals();
    let modules = SourceFile::read("src/kernel/source.rs").map(|file| file.literals()).unwrap_or_default();
    let formats = format_names();
    for file in files("shaders/shared", "wgsl") {
        let path = file.path.strip_prefix("shaders/").expect("listed from there").to_string();
        // The table of shared files in kernel/source.rs gives stems to a macro that adds folder and extension; the readers of
        // weights come from the table of formats.
        let listed = modules.iter().any(|literal| literal == file.stem())
            || file.stem().strip_prefix("weight_").is_some_and(|name| formats.contains(name));
        if !listed && !is_included(&literals, &path) {
            complaints.add(&file, 1, "no include_str! of src/ brings this file in: remove it or list it".into());
        }
    }
    complaints.none();
}

#[test]
fn every_format_is_in_the_table() {
    let mut complaints = Complaints::new();
    let formats = format_names();
    assert!(formats.len() > 10, "the table of formats was not understood: {formats:?}");
    for file in rust_files("src/formats") {
        if !formats.contains(file.stem()) && !["mod", "bits", "tests"].contains(&file.stem()) {
            complaints.add(&file, 1, format!("format `{}` is not in the table of src/formats/mod.rs", file.stem()));
        }
    }
    complaints.none();
}

#[test]
fn the_backend_names_no_operator() {
    let mut complaints = Complaints::new();
    let names = operator_names();
    let types: BTreeSet<String> = operators().into_iter().flat_map(|operator| operator.types).collect();
    for file in rust_files("src/backend") {
        for token in file.tokens_outside_tests() {
            // Methods and fields (`.add(…)`, `step.sample`) are other things with a common word's name, and so are the
            // standard library's operators.
            let snake =
                names.contains(token.text) && !token.before.ends_with('.') && !token.before.ends_with("std::ops::");
            let camel = types.contains(token.text) && !token.before.ends_with("std::ops::");
            if snake || camel {
                let advice = "ask its trait or its Dispatch instead";
                complaints.add(&file, token.line, format!("the backend names operator `{}`: {advice}", token.text));
            }
        }
        for (line, literal) in file.literals_by_line_outside_tests() {
            // One common word in a message is no dispatch on a name; a compound name like "rms_norm" is.
            if names.contains(&literal) && literal.contains('_') {
                complaints.add(&file, line, format!("the backend names operator \"{literal}\""));
            }
        }
    }
    complaints.none();
}

#[test]
fn models_name_no_weight_format() {
    // How a weight is stored is a property of the tensor. A model that asks becomes a twin that drifts.
    let mut complaints = Complaints::new();
    let formats = format_names();
    for file in rust_files("src/models") {
        for token in file.tokens_outside_tests() {
            // `f32` is also the type of Rust's numbers.
            let format = token.text != "f32" && formats.contains(&token.text.to_ascii_lowercase());
            if format || token.text == "DType" {
                complaints.add(&file, token.line, format!("a model names the weight format `{}`", token.text));
            }
        }
    }
    complaints.none();
}

#[test]
fn wgpu_stays_in_its_backend() {
    let mut complaints = Complaints::new();
    for file in rust_files("src") {
        // The parent of `backend::wgpu` names its child.
        if file.path.starts_with("src/backend/wgpu/") || file.path == "src/backend/mod.rs" {
            continue;
        }
        for token in file.tokens() {
            // `backend::wgpu::open` is our module; `wgpu::Device`, `::wgpu::Device` and `use wgpu;` are the crate.
            let ours = token.before.strip_suffix("::").is_some_and(|rest| rest.ends_with(is_word));
            let path = token.after.starts_with("::") || token.before.trim_end().ends_with("use");
            if token.text == "wgpu" && path && !ours {
                complaints.add(&file, token.line, "wgpu outside src/backend/wgpu: put it behind `backend`".into());
            }
        }
    }
    complaints.none();
}

#[test]
fn only_readers_touch_files() {
    let may = |path: &str| {
        ["src/checkpoint/", "src/cli/"].iter().any(|folder| path.starts_with(folder))
            || ["tokenizer", "prompt", "image"].iter().any(|file| {
                path == format!("src/generate/{file}.rs") || path.starts_with(&format!("src/generate/{file}/"))
            })
    };
    let mut complaints = Complaints::new();
    for file in rust_files("src").into_iter().filter(|file| !may(&file.path)) {
        for token in file.tokens_outside_tests() {
            let path = token.before.ends_with("::") || token.after.starts_with("::") || in_std_group(&token);
            // A tensor's bytes may be a mapping; who made it is the reader's business.
            let maps = token.text == "memmap2" && file.path != "src/tensor.rs";
            if token.text == "fs" && path || token.text == "OpenOptions" || maps {
                let readers = "checkpoint/, generate/{tokenizer,prompt,image} and cli/";
                complaints.add(&file, token.line, format!("`{}`: only {readers} touch files", token.text));
            }
        }
    }
    complaints.none();
}

#[test]
fn nothing_unwraps_in_silence() {
    let mut complaints = Complaints::new();
    for file in rust_files("src") {
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
                complaints.add(&file, index + 1, format!("unwrap without a reason: {advice}"));
            }
        }
    }
    complaints.none();
}

#[test]
fn what_is_left_to_do_has_a_reason() {
    // Written in two parts so that this file does not break its own rule.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let mut complaints = Complaints::new();
    for file in our_files() {
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
                    complaints.add(&file, index + 1, format!("{mark} without a reason: {advice}"));
                }
            }
        }
    }
    complaints.none();
}

#[test]
fn nothing_is_kept_under_an_old_name() {
    let endings = ["_old", "_slow", "_orig", "_backup", "_tmp", "_v1", "_v2", "_v3"];
    // Versions that other people gave: the two MobileVLM generations, GGUF's file versions.
    let given = ["mobilevlm_v1", "mobilevlm_v2", "gguf_v2", "gguf_v3"];
    let outdated = |name: &str| {
        let name = name.to_ascii_lowercase();
        endings.iter().any(|ending| name.ends_with(ending)) && !given.iter().any(|given| name.ends_with(given))
    };
    let advice = "replace the other one, or give it a name that says what differs";
    let mut complaints = Complaints::new();
    for file in our_files() {
        if outdated(file.stem()) {
            complaints.add(&file, 1, format!("file `{}`: {advice}", file.stem()));
        }
        if file.path.ends_with(".rs") || file.path.ends_with(".wgsl") {
            for token in file.tokens().into_iter().filter(|token| outdated(token.text)) {
                complaints.add(&file, token.line, format!("`{}`: {advice}", token.text));
            }
        }
    }
    complaints.none();
}

#[test]
fn the_architecture_is_a_map() {
    let file = SourceFile::read("ARCHITECTURE.md").expect("the map is there");
    let mut complaints = Complaints::new();
    let lines = file.text.lines().count();
    if lines > 200 {
        complaints.add(&file, lines, format!("{lines} lines, more than 200: leave the land to the code"));
    }
    let mut named = BTreeSet::new();
    for (index, line) in file.text.lines().enumerate() {
        for span in line.split('`').skip(1).step_by(2) {
            // `foo` stands for any operator.
            let ours =
                ["src/", "tests/", "shaders/"].iter().any(|root| span.starts_with(root)) && !span.contains("foo");
            if ours && !exists(span) {
                complaints.add(&file, index + 1, format!("`{span}` is not there"));
            }
            named.insert(span);
        }
    }
    for test in rust_files("tests").iter().filter(|file| file.code.contains("#[test]")) {
        if !named.contains(test.path.as_str()) {
            complaints.add(test, 1, "ARCHITECTURE.md does not say which rule this file holds or what it needs".into());
        }
    }
    complaints.none();
}

// ---- what the rules are written with ----

/// What a rule found, printed together so that one run shows everything there is to fix.
struct Complaints(Vec<String>);

impl Complaints {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn add(&mut self, file: &SourceFile, line: usize, message: String) {
        self.0.push(format!("{}:{line}: {message}", file.path));
    }

    #[track_caller]
    fn none(self) {
        assert!(self.0.is_empty(), "\n{}\n", self.0.join("\n"));
    }
}

/// An entry of the `operators!` table.
struct OperatorLine {
    name: String,
    line: usize,
    /// The type names on the line, and the one that the name suggests.
    types: Vec<String>,
    /// A comment on the line says `no shader`.
    no_shader: bool,
}

/// The entries of `operators! { … }` in src/ops/mod.rs: one a line, the operator's name first.
fn operators() -> Vec<OperatorLine> {
    let Some(file) = SourceFile::read("src/ops/mod.rs") else { return Vec::new() };
    let Some(start) = file.code.find("operators! {").or(file.code.find("operators!{")) else { return Vec::new() };
    let body = start + file.code[start..].find('{').expect("just found") + 1;
    let end = body + file.code[body..].find('}').unwrap_or(file.code.len() - body);
    let raw: Vec<&str> = file.text.lines().collect();
    let mut found: Vec<OperatorLine> = Vec::new();
    for token in tokens(&file.code).into_iter().filter(|token| (body..end).contains(&token.so_far.len())) {
        let same_line = found.last_mut().filter(|last| last.line == token.line);
        if token.text.starts_with(|c: char| c.is_ascii_uppercase()) {
            if let Some(operator) = same_line {
                operator.types.push(token.text.to_string());
            }
        } else if same_line.is_none() {
            found.push(OperatorLine {
                name: token.text.to_string(),
                line: token.line,
                types: Vec::from([camel_case(token.text)]),
                no_shader: raw[token.line - 1].contains("no shader"),
            });
        }
    }
    found
}

fn operator_names() -> BTreeSet<String> {
    operators().into_iter().map(|operator| operator.name).collect()
}

/// The names in the `formats!` table of src/formats/mod.rs: pairs like `Q4_0 q4_0`.
fn format_names() -> BTreeSet<String> {
    let Some(file) = SourceFile::read("src/formats/mod.rs") else { return BTreeSet::new() };
    let tokens = file.tokens();
    let start = tokens.iter().position(|token| token.so_far.ends_with("macro_rules! ")).unwrap_or(tokens.len());
    let table = &tokens[start..];
    let end = table.iter().position(|token| token.text == "pub").unwrap_or(table.len());
    let pairs = table[..end].windows(2).filter(|pair| pair[0].text != pair[1].text);
    pairs
        .filter(|pair| pair[0].text.to_ascii_lowercase() == pair[1].text)
        .map(|pair| pair[1].text.to_string())
        .collect()
}

/// The top-level modules that a file names: `crate::x`, `crate::{x, y::z}`, and `super::` chains that reach the root.
fn crate_paths(file: &SourceFile) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let inside = file.path.strip_prefix("src/").unwrap_or(&file.path).trim_end_matches(".rs").trim_end_matches("/mod");
    let depth = if matches!(inside, "lib" | "main") { 0 } else { inside.split('/').count() };
    for token in file.tokens() {
        let rest = match token.text {
            "crate" => &file.code[token.so_far.len() + "crate".len()..],
            "super" if !token.before.ends_with("super::") => {
                let mut rest = &file.code[token.so_far.len()..];
                let mut ups = 0;
                while let Some(up) = rest.strip_prefix("super::") {
                    (rest, ups) = (up, ups + 1);
                }
                if depth == 0 || ups < depth {
                    continue;
                }
                &file.code[file.code.len() - rest.len() - "::".len()..]
            }
            _ => continue,
        };
        let Some(path) = rest.strip_prefix("::") else { continue };
        let at = file.code.len() - path.len();
        if let Some(group) = path.strip_prefix('{') {
            let mut nesting = 0;
            let mut starts = true;
            for (offset, c) in group.char_indices() {
                match c {
                    '{' => nesting += 1,
                    '}' if nesting == 0 => break,
                    '}' => nesting -= 1,
                    ',' if nesting == 0 => starts = true,
                    c if starts && nesting == 0 && is_word(c) => {
                        let name: String = group[offset..].chars().take_while(|c| is_word(*c)).collect();
                        found.push((line_of(&file.code, at + 1 + offset), name));
                        starts = false;
                    }
                    _ => {}
                }
            }
        } else {
            let name: String = path.chars().take_while(|c| is_word(*c)).collect();
            // Macros have no place: `crate::operators!` is found by its name alone.
            if !name.is_empty() && !path[name.len()..].starts_with('!') {
                found.push((line_of(&file.code, at), name));
            }
        }
    }
    found
}

/// What lib.rs takes from its modules: name → module, of `use module::…` and `pub use module::{…}`.
fn re_exports() -> BTreeMap<String, String> {
    let Some(file) = SourceFile::read("src/lib.rs") else { return BTreeMap::new() };
    let mut found = BTreeMap::new();
    for statement in file.code.split(';') {
        let Some((_, path)) = statement.rsplit_once("use ") else { continue };
        let words =
            tokens(path).into_iter().map(|token| token.text).filter(|word| *word != "crate").collect::<Vec<_>>();
        if let [module, names @ ..] = words.as_slice() {
            found.extend(names.iter().map(|name| (name.to_string(), module.to_string())));
        }
    }
    found
}

/// Where a top-level module stands on the street.
fn place(module: &str) -> Option<usize> {
    let module = if PUBLIC_FACE.contains(&module) { "lib" } else { module };
    STREET.iter().position(|name| *name == module)
}

/// Whether the token stands in `use std::{…, fs, …}`.
fn in_std_group(token: &Token) -> bool {
    let statement = token.so_far.rsplit(';').next().unwrap_or("");
    statement.contains("use std::{")
}

/// Every string literal of src/.
fn source_literals() -> Vec<String> {
    rust_files("src").iter().flat_map(SourceFile::literals).collect()
}

/// Whether a literal names this file of shaders/, with its folder, with or without the extension that a macro adds.
fn is_included(literals: &[String], path: &str) -> bool {
    let stem = path.trim_end_matches(".wgsl");
    literals.iter().any(|literal| {
        literal == stem || literal.strip_suffix(path).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
    })
}

/// `rms_norm` → `RmsNorm`.
fn camel_case(name: &str) -> String {
    let upper = |word: &str| word[..1].to_ascii_uppercase() + &word[1..];
    name.split('_').filter(|word| !word.is_empty()).map(upper).collect()
}

/// Everything that we write: sources, shaders, tests, benches, examples and scripts, but no golden data.
fn our_files() -> Vec<SourceFile> {
    let mut found = files("shaders", "wgsl");
    for folder in ["src", "tests", "benches", "examples"] {
        found.extend(rust_files(folder));
    }
    for extension in ["sh", "py"] {
        found.extend(files("scripts", extension));
        found.extend(files("tests", extension));
    }
    found
}
