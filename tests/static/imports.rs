//! Which file of src/ imports which, read from its paths: `crate::…`, `super::…`, `self::…`.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Repository, SourceFile, Token, is_word, line_of};

/// A path in code.
pub struct Import {
    pub line: usize,
    /// The path from the root of the crate, without `crate`. It may end with `*`.
    pub path: Vec<String>,
    pub in_test: bool,
}

/// The imports of a file, and the paths in its expressions.
pub fn imports(file: &SourceFile) -> Vec<Import> {
    let outside: BTreeSet<usize> = file.tokens_outside_tests().iter().map(|token| token.so_far.len()).collect();
    let inline = inline_modules(file);
    let mut found = Vec::new();
    for token in file.tokens() {
        let at = token.so_far.len();
        if !file.code[at + token.text.len()..].starts_with("::") || token.before.ends_with("::") {
            continue;
        }
        let here = module(file).into_iter().chain(inline.iter().filter(|m| m.1.contains(&at)).map(|m| m.0.clone()));
        let Some((base, rest)) = base(&token, here.collect(), &file.code) else { continue };
        let mut paths = Vec::new();
        expand(&file.code, rest, &base, &mut paths);
        let in_test = !outside.contains(&at);
        found.extend(paths.into_iter().map(|(at, path, _)| Import { line: line_of(&file.code, at), path, in_test }));
    }
    found
}

/// The module that `crate`, `self` or a chain of `super` names, and the position where the path continues.
fn base(token: &Token, mut here: Vec<String>, code: &str) -> Option<(Vec<String>, usize)> {
    let mut rest = token.so_far.len() + token.text.len() + "::".len();
    match token.text {
        "crate" => here.clear(),
        "self" => {}
        "super" => {
            here.pop()?;
            while code[rest..].starts_with("super::") {
                here.pop()?;
                rest += "super::".len();
            }
        }
        _ => return None,
    }
    Some((here, rest))
}

/// Reads `a::{b, c::d as e}` from `at` on: for each name its position, its path below `base`, and its local name.
/// Returns the position after the path.
fn expand(code: &str, mut at: usize, base: &[String], found: &mut Vec<(usize, Vec<String>, String)>) -> usize {
    let blank = |at: usize| at + code[at..].len() - code[at..].trim_start().len();
    let word = |at: usize| code[at..].find(|c| !is_word(c)).map_or(code.len(), |length| at + length);
    let mut path = base.to_vec();
    let mut start = at;
    loop {
        at = blank(at);
        if code[at..].starts_with('{') {
            at = blank(at + 1);
            while at < code.len() && !code[at..].starts_with('}') {
                let end = expand(code, at, &path, found);
                // Skips a character that cannot be in a path, so that the loop ends.
                at = blank(if end == at { at + code[at..].chars().next().map_or(1, char::len_utf8) } else { end });
                if code[at..].starts_with(',') {
                    at = blank(at + 1);
                }
            }
            return (at + 1).min(code.len());
        }
        let end = if code[at..].starts_with('*') { at + 1 } else { word(at) };
        if end == at {
            // The position after the last name, where `::<T>` or a macro's placeholder may follow.
            if path.len() == base.len() {
                return at;
            }
            break;
        }
        start = if path.len() == base.len() { at } else { start };
        let name = &code[at..end];
        if name != "self" {
            path.push(name.to_string());
        }
        at = end;
        if !code[at..].starts_with("::") {
            break;
        }
        at += "::".len();
    }
    // Macros have no module path: `crate::operators!` is recognised by its name alone.
    if code[at..].starts_with('!') && !code[at..].starts_with("!=") && path.len() == 1 {
        return at;
    }
    let mut called = path.last().cloned().unwrap_or_default();
    if let Some(alias) = code[at..].strip_prefix(" as ") {
        let from = code.len() - alias.len();
        at = word(from);
        called = code[from..at].to_string();
    }
    found.push((start, path, called));
    at
}

/// `src/ops/matmul.rs` → `ops`, `matmul`; `src/ops/mod.rs` → `ops`; the root of the crate → an empty path.
pub fn module(file: &SourceFile) -> Vec<String> {
    let inside = file.path.strip_prefix("src/").unwrap_or(&file.path).trim_end_matches(".rs");
    let inside = inside.strip_suffix("/mod").unwrap_or(inside);
    if inside == "lib" { Vec::new() } else { inside.split('/').map(str::to_string).collect() }
}

/// The modules written inside a file, outer ones first: name, and byte range of its braces.
fn inline_modules(file: &SourceFile) -> Vec<(String, std::ops::Range<usize>)> {
    let mut found = Vec::new();
    for token in file.tokens().into_iter().filter(|token| token.text == "mod") {
        let rest = token.after.trim_start();
        let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        if length == 0 || !rest[length..].trim_start().starts_with('{') {
            continue;
        }
        let start = token.so_far.len();
        let mut depth = 0;
        let end = file.code[start..].char_indices().find_map(|(offset, c)| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            (c == '}' && depth == 0).then_some(start + offset)
        });
        found.push((rest[..length].to_string(), start..end.unwrap_or(file.code.len())));
    }
    found
}

/// The files of src/ as modules, and the names that each imports from others.
pub struct Modules<'a> {
    files: BTreeMap<Vec<String>, &'a SourceFile>,
    names: BTreeMap<(Vec<String>, String), Vec<String>>,
}

impl<'a> Modules<'a> {
    pub fn of(repository: &'a Repository) -> Self {
        let files: BTreeMap<_, _> =
            repository.under("src", "rs").into_iter().map(|file| (module(file), file)).collect();
        let mut names = BTreeMap::new();
        for (module, file) in &files {
            let inline = inline_modules(file);
            for token in file.tokens_outside_tests() {
                let at = token.so_far.len();
                if token.text != "use" || inline.iter().any(|(_, range)| range.contains(&at)) {
                    continue;
                }
                let mut paths = Vec::new();
                expand(&file.code, at + "use".len(), &[], &mut paths);
                for (_, path, called) in paths {
                    let child = |name: &String| files.contains_key(&[&module[..], std::slice::from_ref(name)].concat());
                    let whole = match path[0].as_str() {
                        "crate" => path[1..].to_vec(),
                        "super" => {
                            let ups = path.iter().take_while(|word| *word == "super").count();
                            [&module[..module.len().saturating_sub(ups)], &path[ups..]].concat()
                        }
                        _ if child(&path[0]) => [&module[..], &path[..]].concat(),
                        _ => continue,
                    };
                    names.insert((module.clone(), called), whole);
                }
            }
        }
        Self { files, names }
    }

    /// The file that defines the item of a path, found through re-exports.
    pub fn file(&self, path: &[String]) -> Option<&'a SourceFile> {
        self.resolve(path, 8).and_then(|module| self.files.get(&module).copied())
    }

    fn resolve(&self, path: &[String], hops: usize) -> Option<Vec<String>> {
        let length = (0..=path.len()).rev().find(|&length| self.files.contains_key(&path[..length]))?;
        let (module, rest) = path.split_at(length);
        let handed_on = rest.first().and_then(|name| self.names.get(&(module.to_vec(), name.clone())));
        match handed_on {
            Some(whole) if hops > 0 => {
                self.resolve(&[&whole[..], &rest[1..]].concat(), hops - 1).or(Some(module.to_vec()))
            }
            _ => Some(module.to_vec()),
        }
    }

    /// Imports between files, outside tests: from, to, and the line. A module's own file lists its children, so it may
    /// name them; a path that cannot be resolved gives no import.
    pub fn edges(&self) -> BTreeMap<(&'a str, &'a str), usize> {
        let mut edges = BTreeMap::new();
        for (from, file) in &self.files {
            for import in imports(file).into_iter().filter(|import| !import.in_test) {
                let Some(to) = self.resolve(&import.path, 8) else { continue };
                let target = self.files[&to];
                if !to.starts_with(from) {
                    edges.entry((file.path.as_str(), target.path.as_str())).or_insert(import.line);
                }
            }
        }
        edges
    }
}

/// The sets of files that import each other in a circle, each in order.
pub fn circles<'a>(edges: &BTreeMap<(&'a str, &'a str), usize>) -> BTreeSet<Vec<&'a str>> {
    let reached = |from: &'a str| {
        let mut seen = BTreeSet::new();
        let mut next = vec![from];
        while let Some(file) = next.pop() {
            let targets = edges.keys().filter(|(from, _)| *from == file).map(|(_, to)| *to);
            next.extend(targets.filter(|to| seen.insert(*to)));
        }
        seen
    };
    let reached: BTreeMap<&str, BTreeSet<&str>> = edges.keys().map(|(from, _)| (*from, reached(from))).collect();
    let circle = |file: &&'a str| -> Vec<&'a str> {
        reached[file]
            .iter()
            .copied()
            .filter(|other| reached.get(other).is_some_and(|back| back.contains(file)))
            .collect()
    };
    reached.keys().map(circle).filter(|circle| circle.len() > 1).collect()
}

#[test]
fn paths_are_read_as_the_compiler_reads_them() {
    let text = "use crate::a::{self, b::{C, D as E}, f};\nmod inner { fn g() { super::h::<T>(); } }\nself::i!();
        use super::super::j::*; crate::table! { crate::k } #[cfg(test)] mod tests { use super::l; }";
    let file = SourceFile::new("src/x/y.rs", text.to_string());
    let found: Vec<_> = imports(&file).into_iter().map(|i| (i.line, i.path.join("::"), i.in_test)).collect();
    let wanted = [
        (1, "a", false),
        (1, "a::b::C", false),
        (1, "a::b::D", false),
        (1, "a::f", false),
        (2, "x::y::h", false),
        (3, "x::y::i", false),
        (4, "j::*", false),
        (4, "k", false),
        (4, "x::y::l", true),
    ];
    assert_eq!(found, wanted.map(|(line, path, in_test)| (line, path.to_string(), in_test)));
}
