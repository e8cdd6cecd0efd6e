//! What `dunlin eval` reads and writes: items, results.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{BufWriter, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::generate::eval::{Item, Outcome};

/// An item with where it stands.
pub struct Numbered {
    /// Of its file, from 1.
    pub line: usize,
    pub item: Item,
    /// What its outcome depends on.
    pub of: String,
}

/// A line of the results.
#[derive(Serialize, Deserialize)]
pub struct Line {
    /// Of the item in its file, from 1.
    pub line: usize,
    pub prompt: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    #[serde(flatten)]
    pub outcome: Outcome,
    /// What the outcome depends on, the item, the model and the options, as a hash.
    pub of: String,
}

/// Every item of `data`, a file or a folder with one `.jsonl` file. Paths of pictures count from the file.
///
/// `settings`: what outcomes depend on beside the item.
pub fn items(data: &Path, limit: Option<usize>, settings: &str) -> Result<(PathBuf, Vec<Numbered>)> {
    let file = items_file(data)?;
    let bytes = std::fs::read(&file)
        .map_err(|error| Error::prompt(format!("{} cannot be read", file.display())).caused_by(error))?;
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut items = Vec::new();
    for (index, bytes) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let bytes = bytes.trim_ascii();
        if bytes.is_empty() || limit.is_some_and(|limit| items.len() >= limit) {
            continue;
        }
        let line = index + 1;
        let bad = |what: String| Error::prompt(format!("{}, line {line}: {what}", file.display()));
        let text = std::str::from_utf8(bytes).map_err(|error| bad(format!("not UTF-8 text: {error}")))?;
        let mut item = Item::parse(text).map_err(bad)?;
        if let Some(image) = &mut item.image {
            let path = folder.join(&*image);
            if image.is_empty() || !path.is_file() {
                return Err(bad(format!("there is no picture `{image}` in {}", folder.display())));
            }
            *image = path.to_string_lossy().into_owned();
        }
        items.push(Numbered { line, item, of: format!("{:016x}", fnv(&[text, settings])) });
    }
    if items.is_empty() {
        return Err(Error::prompt(format!("{} has no items", file.display())));
    }
    Ok((file, items))
}

/// `data`, or the only `.jsonl` file in it.
fn items_file(data: &Path) -> Result<PathBuf> {
    if !data.is_dir() {
        return Ok(data.to_path_buf());
    }
    let shown = data.display();
    let entries =
        std::fs::read_dir(data).map_err(|error| Error::prompt(format!("{shown} cannot be read")).caused_by(error))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    files.sort();
    match &files[..] {
        [file] => Ok(file.clone()),
        [] => Err(Error::prompt(format!("{shown} has no .jsonl file; --data takes one, or its folder"))),
        [first, second, ..] => Err(Error::prompt(format!(
            "{shown} has several .jsonl files, as {} and {}; name one",
            first.display(),
            second.display()
        ))),
    }
}

/// A file of results.
pub struct Results {
    path: PathBuf,
    /// Bytes of whole lines. What is behind them was cut short.
    whole: usize,
    /// What is there of the items, by line.
    pub done: HashMap<usize, Line>,
}

impl Results {
    /// Looks at the file that is there. Nothing is written before [`Self::append`].
    pub fn open(path: &Path, resume: bool, items: &[Numbered]) -> Result<Self> {
        let mut results = Self { path: path.to_path_buf(), whole: 0, done: HashMap::new() };
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(results),
            read => read.map_err(|error| results.failed("cannot be read").caused_by(error))?,
        };
        if !bytes.is_empty() && !resume {
            return Err(results.failed("is there already; --resume goes on where it ends, or give another --out"));
        }
        results.whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        let (whole, rest) = bytes.split_at(results.whole);
        let begins = &br#"{"line":"#[..];
        if !rest.starts_with(begins) && !begins.starts_with(rest) {
            return Err(results.failed("does not end as results do; give another --out"));
        }
        let items: HashMap<usize, &Numbered> = items.iter().map(|item| (item.line, item)).collect();
        for (index, bytes) in whole.split(|&byte| byte == b'\n').enumerate().filter(|(_, bytes)| !bytes.is_empty()) {
            let bad = |what: String| results.failed(&format!("line {}: {what}; give another --out", index + 1));
            let line: Line = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
            if items.get(&line.line).is_some_and(|item| item.of != line.of) {
                let what = "was made from another item, by another model, or with other options";
                return Err(bad(format!("the result of line {} {what}", line.line)));
            }
            results.done.insert(line.line, line);
        }
        Ok(results)
    }

    /// The file, open behind its last whole line.
    pub fn append(&self) -> Result<impl Write + use<>> {
        let open = || {
            let mut file = OpenOptions::new().create(true).write(true).truncate(false).open(&self.path)?;
            file.set_len(self.whole as u64)?;
            file.seek(SeekFrom::End(0))?;
            Ok(BufWriter::new(file))
        };
        open().map_err(|error: std::io::Error| self.failed("cannot be written").caused_by(error))
    }

    fn failed(&self, what: &str) -> Error {
        let comma = if what.starts_with("line") { "," } else { "" };
        Error::prompt(format!("{}{comma} {what}", self.path.display()))
    }
}

/// Names, sizes and times of a model's files: another model in the same place is another model.
pub fn fingerprint(model: &Path) -> String {
    let mut files = match std::fs::read_dir(model) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(_) => vec![model.to_path_buf()],
    };
    files.sort();
    let shown = files.iter().map(|path| {
        let metadata = std::fs::metadata(path);
        let found = metadata.map(|found| (found.len(), found.modified().ok()));
        format!("{} {found:?}", path.canonicalize().unwrap_or_else(|_| path.clone()).display())
    });
    shown.collect::<Vec<_>>().join("\n")
}

/// FNV-1a.
fn fnv(texts: &[&str]) -> u64 {
    let bytes = texts.iter().flat_map(|text| text.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_paper() {
        // fnv1a of "a\0": one more byte, 0, than the published value of "a", af63dc4c8601ec8c.
        assert_eq!(fnv(&["a"]), 0xaf63_dc4c_8601_ec8c_u64.wrapping_mul(0x0100_0000_01b3));
        assert_ne!(fnv(&["ab", "c"]), fnv(&["a", "bc"]));
    }
}
