//! The files that `dunlin eval` reads and writes: items, results.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::generate::eval::{Item, Outcome};

/// An item with its line number.
pub struct Numbered {
    /// The line of the item in its file, from 1.
    pub line: usize,
    pub item: Item,
    /// The text of the line, and the size and time of its picture.
    text: String,
}

impl Numbered {
    /// A hash of all that an outcome depends on: the item, and `settings`, which are the model and the options.
    pub fn of(&self, settings: &str) -> String {
        format!("{:016x}", fnv(&[&self.text, settings]))
    }
}

/// A line of the results.
#[derive(Serialize, Deserialize)]
pub struct Line {
    /// The line of the item in its file, from 1.
    pub line: usize,
    pub prompt: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    #[serde(flatten)]
    pub outcome: Outcome,
    /// [`Numbered::of`].
    pub of: String,
}

/// Every item of `data`, a file or a folder with one `.jsonl` file; and the file. Paths of pictures are relative to it.
pub fn items(data: &Path) -> Result<(PathBuf, Vec<Numbered>)> {
    let file = items_file(data)?;
    let bytes = std::fs::read(&file)
        .map_err(|error| Error::prompt(format!("{} cannot be read", file.display())).caused_by(error))?;
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut items = Vec::new();
    for (index, bytes) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let bytes = bytes.trim_ascii();
        if bytes.is_empty() {
            continue;
        }
        let line = index + 1;
        let bad = |what: String| Error::prompt(format!("{}, line {line}: {what}", file.display()));
        let text = std::str::from_utf8(bytes).map_err(|error| bad(format!("not UTF-8 text: {error}")))?;
        let mut item = Item::parse(text).map_err(bad)?;
        let mut text = text.to_string();
        if let Some(image) = &mut item.image {
            let path = folder.join(&*image);
            if image.as_os_str().is_empty() || !path.is_file() {
                return Err(bad(format!("there is no picture `{}` in {}", image.display(), folder.display())));
            }
            text += &size_and_time(&path);
            *image = path;
        }
        items.push(Numbered { line, item, text });
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

/// A file of results, which is locked for this process while it is open.
pub struct Results {
    path: PathBuf,
    file: File,
    /// The results in the file, by line of the items.
    pub done: HashMap<usize, Line>,
}

impl Results {
    /// Opens the file, or creates it. Its content stays as it is; the next write replaces a last line that was cut
    /// short.
    pub fn open(path: &Path, resume: bool) -> Result<Self> {
        let failed = |what: &str| failed(path, what);
        let mut options = OpenOptions::new();
        let mut file = options
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(path)
            .map_err(|error| failed("cannot be written").caused_by(error))?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(failed("is being written by another process; give another --out"));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|error| failed("cannot be read").caused_by(error))?;
        if !bytes.is_empty() && !resume {
            return Err(failed("is there already; --resume goes on where it ends, or give another --out"));
        }
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        let (lines, rest) = bytes.split_at(whole);
        let begins = &br#"{"line":"#[..];
        if !rest.starts_with(begins) && !begins.starts_with(rest) {
            return Err(failed("does not end as results do; give another --out"));
        }
        let mut done = HashMap::new();
        for (index, bytes) in lines.split(|&byte| byte == b'\n').enumerate().filter(|(_, bytes)| !bytes.is_empty()) {
            let line: Line = serde_json::from_slice(bytes).map_err(|error| {
                let what = format!("is no result of dunlin eval ({error}); give another --out");
                Error::prompt(format!("{}, line {} {what}", path.display(), index + 1))
            })?;
            done.insert(line.line, line);
        }
        file.seek(SeekFrom::Start(whole as u64)).map_err(|error| failed("cannot be written").caused_by(error))?;
        Ok(Self { path: path.to_path_buf(), file, done })
    }

    /// Checks that every result belongs to one of these items, under `settings`.
    pub fn compare(&self, items: &[Numbered], settings: &str) -> Result<()> {
        let items: HashMap<usize, &Numbered> = items.iter().map(|item| (item.line, item)).collect();
        let other = |line: &&Line| items.get(&line.line).is_none_or(|item| item.of(settings) != line.of);
        match self.done.values().filter(other).map(|line| line.line).min() {
            None => Ok(()),
            Some(line) => Err(self.failed(&format!(
                "has a result for line {line} of another item, another model or device, or other options; give another --out"
            ))),
        }
    }

    /// Adds a line.
    pub fn write(&mut self, line: &Line) -> Result<()> {
        let mut add = || {
            let text = serde_json::to_string(line)? + "\n";
            self.file.write_all(text.as_bytes())?;
            let end = self.file.stream_position()?;
            self.file.set_len(end)
        };
        add().map_err(|error: std::io::Error| failed(&self.path, "cannot be written").caused_by(error))
    }

    fn failed(&self, what: &str) -> Error {
        failed(&self.path, what)
    }
}

fn failed(path: &Path, what: &str) -> Error {
    Error::prompt(format!("{} {what}", path.display()))
}

/// Names, sizes and times of the files that may belong to a model: they change if another model replaces it.
pub fn fingerprint(model: &Path) -> String {
    fn walk(path: &Path, depth: usize, found: &mut Vec<PathBuf>) {
        match std::fs::read_dir(path) {
            Ok(entries) if depth > 0 => entries.flatten().for_each(|entry| walk(&entry.path(), depth - 1, found)),
            _ => found.push(path.to_path_buf()),
        }
    }
    let mut files = Vec::new();
    // A vision tower is in a folder two levels below: openai/clip-vit-large-patch14-336.
    walk(model, 3, &mut files);
    let read = ["json", "safetensors", "bin", "model", "gguf"];
    files
        .retain(|file| file == model || file.extension().is_some_and(|extension| read.iter().any(|e| extension == *e)));
    files.sort();
    let shown = files.iter().map(|path| {
        let name = path.canonicalize().unwrap_or_else(|_| path.clone());
        format!("{} {}", name.display(), size_and_time(path))
    });
    shown.collect::<Vec<_>>().join("\n")
}

fn size_and_time(path: &Path) -> String {
    let found = std::fs::metadata(path);
    format!("{:?}", found.map(|found| (found.len(), found.modified().ok())).ok())
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
        // fnv1a of "a\0" continues the published value of "a", af63dc4c8601ec8c, by one more byte, 0.
        assert_eq!(fnv(&["a"]), 0xaf63_dc4c_8601_ec8c_u64.wrapping_mul(0x0100_0000_01b3));
        assert_ne!(fnv(&["ab", "c"]), fnv(&["a", "bc"]));
    }
}
