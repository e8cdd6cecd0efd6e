//! The text of the repository's files for tidy.rs, street.rs and imports.rs: as written, and as code, in which comments
//! and the contents of literals are blanked so that only real identifiers remain.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The files that we write, in a fixed order, without golden data.
#[derive(Clone)]
pub struct Repository {
    pub files: Vec<SourceFile>,
    /// The paths of these files, and of other files in the same folders.
    paths: BTreeSet<String>,
}

/// A file of the repository.
#[derive(Clone)]
pub struct SourceFile {
    /// The path from the root, with `/`.
    pub path: String,
    pub text: String,
    /// `text` with comments and the contents of literals blanked; every character stays on its line.
    pub code: String,
}

/// An identifier in code, with the text before and after it on its line.
pub struct Token<'a> {
    pub line: usize,
    pub text: &'a str,
    pub before: &'a str,
    pub after: &'a str,
    /// The code of the file up to here.
    pub so_far: &'a str,
}

impl SourceFile {
    pub fn new(path: &str, text: String) -> Self {
        let (code, _) = blank(&text);
        Self { path: path.to_string(), text, code }
    }

    pub fn stem(&self) -> &str {
        let name = self.path.rsplit('/').next().unwrap_or(&self.path);
        name.split('.').next().unwrap_or(name)
    }

    pub fn is_test(&self) -> bool {
        self.stem() == "tests" || self.path.contains("/tests/")
    }

    /// `src/ops/linear.rs` → `ops`, `src/error.rs` → `error`.
    pub fn top_module(&self) -> String {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        inside.split(['/', '.']).next().unwrap_or(inside).to_string()
    }

    pub fn tokens(&self) -> Vec<Token<'_>> {
        tokens(&self.code)
    }

    pub fn tokens_outside_tests(&self) -> Vec<Token<'_>> {
        let tests = self.test_ranges();
        let inside = |token: &Token| tests.iter().any(|range| range.contains(&token.so_far.len()));
        self.tokens().into_iter().filter(|token| !inside(token)).collect()
    }

    pub fn code_outside_tests(&self) -> String {
        let mut code = self.code.clone().into_bytes();
        for range in self.test_ranges() {
            for byte in &mut code[range] {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
        }
        String::from_utf8_lossy(&code).into_owned()
    }

    /// Byte ranges of the items after `#[cfg(test)]` or `#[test]`; the whole file if it is called `tests`.
    fn test_ranges(&self) -> Vec<std::ops::Range<usize>> {
        if self.is_test() {
            return std::iter::once(0..self.code.len()).collect();
        }
        let mut ranges = Vec::new();
        let mut from = 0;
        while let Some(at) = ["#[cfg(test)]", "#[test]", "#[cfg(all(test"]
            .iter()
            .filter_map(|mark| self.code[from..].find(mark))
            .min()
            .map(|at| from + at)
        {
            // The item ends with its closing brace, or with a semicolon if it has no braces.
            let mut depth = 0;
            let mut end = self.code.len();
            let item = at + self.code[at..].find(']').unwrap_or(0) + 1;
            for (offset, c) in self.code[item..].char_indices() {
                match c {
                    '{' | '(' | '[' => depth += 1,
                    ')' | ']' => depth -= 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 0 && matches!(c, '}' | ';') {
                    end = item + offset + 1;
                    break;
                }
            }
            ranges.push(at..end);
            from = end;
        }
        ranges
    }

    pub fn literals(&self) -> Vec<String> {
        blank(&self.text).1.into_iter().map(|(_, literal)| literal).collect()
    }

    pub fn literals_by_line_outside_tests(&self) -> Vec<(usize, String)> {
        let in_tests: Vec<_> = self
            .test_ranges()
            .into_iter()
            .map(|range| line_of(&self.code, range.start)..=line_of(&self.code, range.end.max(1) - 1))
            .collect();
        let mut literals = blank(&self.text).1;
        literals.retain(|(line, _)| !in_tests.iter().any(|lines| lines.contains(line)));
        literals
    }
}

pub fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

pub fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

pub fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let mut start_of_line = 0;
    for (index, line) in code.split_inclusive('\n').enumerate() {
        let mut at = 0;
        while at < line.len() {
            let Some(start) = line[at..].find(is_word).map(|start| at + start) else { break };
            let end = line[start..].find(|c| !is_word(c)).map_or(line.len(), |end| start + end);
            found.push(Token {
                line: index + 1,
                text: &line[start..end],
                before: &line[..start],
                after: line[end..].trim_end(),
                so_far: &code[..start_of_line + start],
            });
            at = end;
        }
        start_of_line += line.len();
    }
    found
}

/// Rust or WGSL code in which spaces replace comments and the contents of string and character literals, byte for byte;
/// and the string literals with their lines.
fn blank(text: &str) -> (String, Vec<(usize, String)>) {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut literals = Vec::new();
    let mut hide = |range: std::ops::Range<usize>| {
        for byte in &mut code[range] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    };
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let word_before = text[..at].ends_with(is_word);
        let end = if rest.starts_with("//") {
            let end = at + rest.find('\n').unwrap_or(rest.len());
            hide(at..end);
            end
        } else if rest.starts_with("/*") {
            let mut depth = 0;
            let mut end = at;
            while end < bytes.len() {
                if text.as_bytes()[end..].starts_with(b"/*") {
                    (depth, end) = (depth + 1, end + 2);
                } else if text.as_bytes()[end..].starts_with(b"*/") {
                    (depth, end) = (depth - 1, end + 2);
                } else {
                    end += 1;
                }
                if depth == 0 {
                    break;
                }
            }
            hide(at..end);
            end
        } else if let Some((open, hashes)) = raw_string(rest).filter(|_| !word_before) {
            let close = format!("\"{}", "#".repeat(hashes));
            let from = at + open;
            let to = from + text[from..].find(&close).unwrap_or(text.len() - from);
            literals.push((line_of(text, from), text[from..to].to_string()));
            hide(from..to);
            (to + close.len()).min(bytes.len())
        } else if rest.starts_with('"') {
            let mut to = at + 1;
            while to < bytes.len() && bytes[to] != b'"' {
                to += if bytes[to] == b'\\' { 2 } else { 1 };
            }
            let to = to.min(bytes.len());
            literals.push((line_of(text, at), text[at + 1..to].to_string()));
            hide(at + 1..to);
            to + 1
        } else if rest.starts_with("'\\") {
            let to = at + 3 + rest.get(3..).and_then(|rest| rest.find('\'')).unwrap_or(0);
            hide(at + 1..to.min(bytes.len()));
            to + 1
        } else if let Some(c) = rest.strip_prefix('\'').and_then(|rest| rest.chars().next())
            && rest[1 + c.len_utf8()..].starts_with('\'')
        {
            // A character literal; `'a` without a second quote is a lifetime.
            hide(at + 1..at + 1 + c.len_utf8());
            at + 2 + c.len_utf8()
        } else {
            at + rest.chars().next().map_or(1, char::len_utf8)
        };
        at = end.max(at + 1);
        while at < bytes.len() && !text.is_char_boundary(at) {
            at += 1;
        }
    }
    (String::from_utf8(code).expect("whole characters were replaced"), literals)
}

/// For `r"`, `r#"`, `br##"` …: the length of the opening and the number of hashes.
fn raw_string(text: &str) -> Option<(usize, usize)> {
    let prefix = ["r", "br", "cr"]
        .iter()
        .find(|prefix| text.strip_prefix(**prefix).is_some_and(|rest| rest.trim_start_matches('#').starts_with('"')))?;
    let hashes = text[prefix.len()..].bytes().take_while(|byte| *byte == b'#').count();
    Some((prefix.len() + hashes + 1, hashes))
}

impl Repository {
    /// This repository.
    pub fn here() -> &'static Repository {
        static HERE: LazyLock<Repository> = LazyLock::new(|| {
            let root = Path::new(env!("CARGO_MANIFEST_DIR"));
            let mut found = Vec::from([root.join("ARCHITECTURE.md")]);
            let mut folders: Vec<_> = FOLDERS.iter().map(|folder| root.join(folder)).collect();
            while let Some(folder) = folders.pop() {
                for entry in fs::read_dir(&folder).expect("a folder of the repository") {
                    let path = entry.expect("an entry").path();
                    // The benchmark that is a crate of its own has its own build folder.
                    let list = if path.is_dir() && !path.ends_with("target") { &mut folders } else { &mut found };
                    list.push(path);
                }
            }
            let relative = |path: &Path| {
                let parts = path.strip_prefix(root).expect("listed from there").iter();
                parts.map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
            };
            let known = |path: &&PathBuf| path.extension().is_some_and(|e| EXTENSIONS.iter().any(|known| e == *known));
            let files = found.iter().filter(known).map(|path| {
                let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                SourceFile::new(&relative(path), text)
            });
            let mut here = Repository::new(files.collect());
            here.paths.extend(found.iter().map(|path| relative(path)));
            here
        });
        &HERE
    }

    pub fn new(mut files: Vec<SourceFile>) -> Self {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Self { paths: files.iter().map(|file| file.path.clone()).collect(), files }
    }

    /// The repository with one file added or replaced.
    pub fn with(&self, path: &str, text: &str) -> Self {
        let mut files = self.files.clone();
        files.retain(|file| file.path != path);
        files.push(SourceFile::new(path, text.to_string()));
        Self::new(files)
    }

    pub fn file(&self, path: &str) -> Option<&SourceFile> {
        self.files.iter().find(|file| file.path == path)
    }

    /// The files under a folder that have this extension.
    pub fn under(&self, folder: &str, extension: &str) -> Vec<&SourceFile> {
        let inside = |path: &str| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        let ends = |path: &str| path.rsplit('.').next() == Some(extension);
        self.files.iter().filter(|file| inside(&file.path) && ends(&file.path)).collect()
    }

    /// Whether a file or a non-empty folder of this name exists.
    pub fn exists(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let below =
            |found: &String| found.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.paths.iter().any(below)
    }
}

const FOLDERS: [&str; 6] = ["src", "shaders", "tests", "benches", "examples", "scripts"];
const EXTENSIONS: [&str; 5] = ["rs", "wgsl", "sh", "py", "md"];

#[test]
fn blanking_keeps_lines_and_code() {
    let text = "a // b\n/* c /* d */ e */ f \"g\\\"h\" r#\"i\"j\"# 'k' '\\n' '\"' &'l m \"ö\nn\" o";
    let (code, literals) = blank(text);
    assert_eq!(code.len(), text.len());
    assert_eq!(tokens(&code).iter().map(|token| token.text).collect::<Vec<_>>(), ["a", "f", "r", "l", "m", "o"]);
    let literals: Vec<_> = literals.iter().map(|(line, literal)| (*line, literal.as_str())).collect();
    assert_eq!(literals, [(2, "g\\\"h"), (2, "i\"j"), (2, "ö\nn")]);
}
