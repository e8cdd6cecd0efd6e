//! Helpers for the rules of tidy.rs and street.rs: inspection of a repository, and the proof that a rule detects
//! violations.

use std::collections::BTreeSet;

use crate::source::{Repository, SourceFile, tokens};

/// One rule's inspection of a repository: the files that it reads, and its complaints, which are printed together so
/// that one run shows everything to fix.
pub struct Inspection<'a> {
    pub repository: &'a Repository,
    complaints: Vec<String>,
}

impl<'a> Inspection<'a> {
    fn of(repository: &'a Repository, rule: impl Fn(&mut Self)) -> Vec<String> {
        let mut inspection = Self { repository, complaints: Vec::new() };
        rule(&mut inspection);
        inspection.complaints
    }

    pub fn add(&mut self, file: &SourceFile, line: usize, message: String) {
        self.complaints.push(format!("{}:{line}: {message}", file.path));
    }

    /// Adds a complaint that belongs to no line.
    pub fn add_of_all(&mut self, message: String) {
        self.complaints.push(message);
    }

    pub fn file(&mut self, path: &str) -> Option<&'a SourceFile> {
        let found = self.repository.file(path);
        if found.is_none() {
            self.complaints.push(format!("{path} is not there, so this rule holds of nothing: say where it looks now"));
        }
        found
    }

    /// The Rust files of a module: `src/name.rs`, or all under `src/name/`.
    pub fn module(&mut self, name: &str) -> Vec<&'a SourceFile> {
        match self.repository.file(&format!("src/{name}.rs")) {
            Some(file) => [vec![file], self.repository.under(&format!("src/{name}"), "rs")].concat(),
            None => self.files(&format!("src/{name}"), "rs"),
        }
    }

    /// The files under a folder. It is a complaint if there are none.
    pub fn files(&mut self, folder: &str, extension: &str) -> Vec<&'a SourceFile> {
        let found = self.repository.under(folder, extension);
        if found.is_empty() {
            self.complaints.push(format!("{folder} has no .{extension} file, so this rule holds of nothing"));
        }
        found
    }

    /// All files that we write, except documents.
    pub fn ours(&mut self) -> Vec<&'a SourceFile> {
        let ours: Vec<_> = self.repository.files.iter().filter(|file| !file.path.ends_with(".md")).collect();
        if ours.is_empty() {
            self.add_of_all("there is no file, so this rule holds of nothing".into());
        }
        ours
    }

    /// The entries of `operators! { … }` in src/ops/mod.rs: one a line, beginning with the operator's name.
    pub fn operators(&mut self) -> Vec<OperatorLine> {
        let Some(file) = self.file("src/ops/mod.rs") else { return Vec::new() };
        let found = operators(file);
        if found.is_empty() {
            self.add(file, 1, "no operator is read from the table `operators! { … }`".into());
        }
        found
    }

    /// The names in the `formats!` table of src/formats/mod.rs: pairs like `Q4_0 q4_0`.
    pub fn format_names(&mut self) -> BTreeSet<String> {
        let Some(file) = self.file("src/formats/mod.rs") else { return BTreeSet::new() };
        let tokens = file.tokens();
        let start = tokens.iter().position(|token| token.so_far.ends_with("macro_rules! ")).unwrap_or(tokens.len());
        let table = &tokens[start..];
        let end = table.iter().position(|token| token.text == "pub").unwrap_or(table.len());
        let pairs = table[..end].windows(2).filter(|pair| pair[0].text != pair[1].text);
        let pairs = pairs.filter(|pair| pair[0].text.to_ascii_lowercase() == pair[1].text);
        let found: BTreeSet<String> = pairs.map(|pair| pair[1].text.to_string()).collect();
        if found.is_empty() {
            self.add(file, 1, "no format is read from the table `formats!`".into());
        }
        found
    }

    pub fn operator_names(&mut self) -> BTreeSet<String> {
        self.operators().into_iter().map(|operator| operator.name).collect()
    }
}

/// An entry of the `operators!` table.
pub struct OperatorLine {
    pub name: String,
    pub line: usize,
    /// The type names on the line, and the type name that corresponds to the operator's name.
    pub types: Vec<String>,
    /// Whether a comment on the line says `no shader`.
    pub no_shader: bool,
}

fn operators(file: &SourceFile) -> Vec<OperatorLine> {
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

/// `rms_norm` → `RmsNorm`.
fn camel_case(name: &str) -> String {
    let upper = |word: &str| word[..1].to_ascii_uppercase() + &word[1..];
    name.split('_').filter(|word| !word.is_empty()).map(upper).collect()
}

/// A violation of a rule: a file of the small repository, its new text, and a part of the complaint.
pub type Broken<'a> = (&'a str, &'a str, &'a str);

/// The order of modules, left to right: a module imports only modules to its left.
pub const STREET: [&str; 21] = [
    "error",
    "clock",
    "threads",
    "formats",
    "tensor",
    "checkpoint",
    "work",
    "ops",
    "cpu",
    "graph",
    "models",
    "plan",
    "backend",
    "generate",
    "prune",
    "measure",
    "profile",
    "kernel",
    "lib",
    "cli",
    "main",
];

/// A minimal repository that follows every rule.
fn small() -> Repository {
    let mut files = vec![
        ("ARCHITECTURE.md", "`src/ops/` and `tests/static/tidy.rs`"),
        (
            "src/ops/mod.rs",
            "pub use identity::Identity; operators! {\n    rms_norm\n    identity // no shader: it moves nothing\n}",
        ),
        ("src/ops/rms_norm.rs", "impl Operator for RmsNorm {} static K: Kernel = kernel!(\"rms_norm.wgsl\");"),
        ("src/ops/identity.rs", "use crate::ops::rms_norm::RmsNorm; impl Operator for Identity {}"),
        ("src/work/source.rs", "modules! { \"norm\" }"),
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
    Repository::new(files.iter().map(|(path, text)| SourceFile::new(path, text.to_string())).collect())
}

/// Checks that this repository and a small one follow the rule, and that the rule complains of each broken version of
/// the small one and of an empty repository.
#[track_caller]
pub fn holds(rule: impl Fn(&mut Inspection), broken: &[Broken]) {
    let complaints = Inspection::of(Repository::here(), &rule);
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
    let small = small();
    assert_eq!(Inspection::of(&small, &rule), [""; 0], "of the small repository, which keeps every rule");
    for (path, text, wanted) in broken {
        let found = Inspection::of(&small.with(path, text), &rule);
        let named = found.iter().any(|complaint| complaint.contains(wanted));
        assert!(named, "the rule does not see that {path} breaks it:\n{text}\ncomplaints: {found:?}, not `{wanted}`");
    }
    let nothing = Inspection::of(&Repository::new(Vec::new()), &rule);
    assert!(!nothing.is_empty(), "the rule holds of a repository without files");
}
