//! The calibration ids that judge layers and weights: given windows, or windows drawn from documents.

use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::checkpoint::Files;
use crate::error::{Error, Result};
use crate::generate::Tokenizer;

/// The calibration data of a pruning run.
#[derive(Clone, Debug)]
pub struct Calibration {
    /// The name of the source, for messages and reports.
    name: String,
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    /// Used at every step as they are.
    Windows(Vec<Vec<u32>>),
    /// Texts from which every step draws new windows.
    Documents(Vec<String>),
}

impl Calibration {
    /// Windows of ids, all of the same length, which every step uses as they are.
    pub fn windows(windows: Vec<Vec<u32>>) -> Result<Self> {
        Self::checked("the calibration".into(), windows)
    }

    /// Documents, from which each step draws windows with the run's seed: each is used once before any is used again.
    pub fn documents<D: Into<String>>(documents: impl IntoIterator<Item = D>) -> Self {
        let documents = documents.into_iter().map(Into::into).collect();
        Calibration { name: "the calibration".into(), source: Source::Documents(documents) }
    }

    /// Reads a file. `.safetensors` or `.json`: ids of windows, (n, t), under a name that ends in `input_ids`;
    /// `.jsonl`: one document per line as `{"text": …}`; any other file: text whose documents are separated by blank
    /// lines.
    pub fn open(file: impl AsRef<Path>) -> Result<Self> {
        let path = file.as_ref();
        let name = path.display().to_string();
        let bytes = Files::from(path).read(path).map_err(|error| Error::prompt(error.to_string()))?;
        match path.extension().and_then(|end| end.to_str()) {
            Some("safetensors") => Self::checked(name.clone(), from_safetensors(&name, &bytes)?),
            Some("json") => Self::checked(name.clone(), from_json(&name, &bytes)?),
            end => {
                let text = std::str::from_utf8(&bytes)
                    .map_err(|error| Error::prompt(format!("{name} is not UTF-8 text")).caused_by(error))?;
                let documents = if end == Some("jsonl") { from_lines(&name, text)? } else { paragraphs(text) };
                Ok(Calibration { name, source: Source::Documents(documents) })
            }
        }
    }

    fn checked(name: String, windows: Vec<Vec<u32>>) -> Result<Self> {
        let length = windows.first().map_or(0, Vec::len);
        if length < 2 {
            return Err(Error::prompt(format!(
                "{name} has {} windows of {length} ids, expected at least 1 of 2",
                windows.len()
            )));
        }
        if let Some(row) = windows.iter().position(|window| window.len() != length) {
            return Err(Error::prompt(format!(
                "{name}: row {row} of the ids has {} of them, expected {length} as in the first",
                windows[row].len(),
            )));
        }
        Ok(Calibration { name, source: Source::Windows(windows) })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether ids are drawn from text.
    pub(super) fn is_text(&self) -> bool {
        matches!(self.source, Source::Documents(_))
    }

    /// The windows of each step, `samples` of `window` ids each. Ids must be below `vocab`.
    pub(super) fn draws(
        &self,
        tokenizer: &dyn Fn() -> Result<Tokenizer>,
        vocab: usize,
        [samples, window]: [usize; 2],
        seed: u64,
    ) -> Result<Draws> {
        let known = |ids: &[u32]| match ids.iter().find(|&&id| id as usize >= vocab) {
            Some(id) => Err(Error::prompt(format!("{}: the id {id} is outside the vocabulary of {vocab}", self.name))),
            None => Ok(()),
        };
        let texts = match &self.source {
            Source::Windows(windows) => {
                windows.iter().try_for_each(|window| known(window))?;
                return Ok(Draws::Fixed(windows.clone()));
            }
            Source::Documents(texts) => texts,
        };
        /// Ids of a step, 1 GB of them.
        const MOST: usize = 1 << 28;
        if samples == 0 || window < 2 || samples.checked_mul(window).is_none_or(|ids| ids > MOST) {
            return Err(Error::prompt(format!(
                "{samples} windows of {window} ids are no calibration: at least 1 of 2, at most {MOST} ids"
            )));
        }
        let (tokenizer, mut documents) = (tokenizer()?, Vec::new());
        for text in texts {
            let ids = tokenizer.encode(text)?;
            known(&ids)?;
            if ids.len() >= window {
                documents.push(ids);
            }
        }
        if documents.is_empty() {
            return Err(Error::prompt(format!(
                "{}: none of {} documents has {window} tokens; give longer ones or a smaller --window",
                self.name,
                texts.len(),
            )));
        }
        Ok(Draws::Random { documents, order: Vec::new(), samples, window, random: Random(seed) })
    }
}

/// Gives each step its windows.
pub(super) enum Draws {
    Fixed(Vec<Vec<u32>>),
    Random {
        /// Each document is at least as long as a window.
        documents: Vec<Vec<u32>>,
        /// Documents that have not been used yet, the next one last.
        order: Vec<usize>,
        samples: usize,
        window: usize,
        random: Random,
    },
}

impl Draws {
    /// The windows of the next step.
    pub fn next(&mut self) -> Vec<Vec<u32>> {
        match self {
            Draws::Fixed(windows) => windows.clone(),
            Draws::Random { documents, order, samples, window, random } => {
                order.clear();
                let mut draw = || {
                    if order.is_empty() {
                        order.extend(0..documents.len());
                        for last in (1..order.len()).rev() {
                            order.swap(last, random.below(last + 1));
                        }
                    }
                    let ids = &documents[order.pop().expect("just filled")];
                    let start = random.below(ids.len() - *window + 1);
                    ids[start..start + *window].to_vec()
                };
                (0..*samples).map(|_| draw()).collect()
            }
        }
    }

    /// Number of ids per window.
    pub fn window(&self) -> usize {
        match self {
            Draws::Fixed(windows) => windows[0].len(),
            Draws::Random { window, .. } => *window,
        }
    }

    /// Number of windows per step.
    pub fn samples(&self) -> usize {
        match self {
            Draws::Fixed(windows) => windows.len(),
            Draws::Random { samples, .. } => *samples,
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same numbers on every machine.
pub(super) struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A random number in 0 .. limit.
    fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.next()) * limit as u128) >> 64) as usize
    }
}

/// The only name that ends in `input_ids`.
fn one_name<'a>(file: &str, names: impl Iterator<Item = &'a str>) -> Result<&'a str> {
    let found: Vec<&str> = names.filter(|name| name.ends_with("input_ids")).collect();
    // Golden files also contain ids that are not for calibration.
    let calibration: Vec<&str> = found.iter().copied().filter(|name| name.starts_with("calibration")).collect();
    match (&found[..], &calibration[..]) {
        ([name], _) | (_, [name]) => Ok(*name),
        ([], _) => Err(Error::prompt(format!("{file} has nothing whose name ends in `input_ids`"))),
        _ => Err(Error::prompt(format!(
            "{file} has several names that end in `input_ids`: {}; call one of them calibration.input_ids",
            found.join(", ")
        ))),
    }
}

fn from_safetensors(file: &str, bytes: &[u8]) -> Result<Vec<Vec<u32>>> {
    let bad = |what: String| Error::prompt(format!("{file}: {what}"));
    let tensors = SafeTensors::deserialize(bytes)
        .map_err(|error| Error::prompt(format!("{file} is no safetensors file, or a damaged one")).caused_by(error))?;
    let names = tensors.names();
    let name = one_name(file, names.into_iter())?;
    let tensor = tensors.tensor(name).map_err(|error| bad(format!("`{name}`")).caused_by(error))?;
    let &[_, t] = tensor.shape() else {
        return Err(bad(format!("`{name}` has shape {:?}, expected (windows, ids)", tensor.shape())));
    };
    let data = tensor.data();
    let ids: Vec<i64> = match tensor.dtype() {
        Dtype::I64 => data.as_chunks().0.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect(),
        Dtype::I32 => data.as_chunks().0.iter().map(|&bytes| i32::from_le_bytes(bytes).into()).collect(),
        Dtype::U32 => data.as_chunks().0.iter().map(|&bytes| u32::from_le_bytes(bytes).into()).collect(),
        other => return Err(bad(format!("`{name}` holds {other:?}, expected whole numbers of 32 or 64 bits"))),
    };
    let id = |&id: &i64| u32::try_from(id).map_err(|_| bad(format!("`{name}` holds {id}, which is no token id")));
    let ids = ids.iter().map(id).collect::<Result<Vec<u32>>>()?;
    Ok(if t == 0 { Vec::new() } else { ids.chunks(t).map(<[u32]>::to_vec).collect() })
}

fn from_json(file: &str, bytes: &[u8]) -> Result<Vec<Vec<u32>>> {
    let bad = |error: serde_json::Error| Error::prompt(format!("{file} is no JSON of ids: {error}"));
    let value: Value = serde_json::from_slice(bytes).map_err(bad)?;
    let object = value
        .as_object()
        .ok_or_else(|| Error::prompt(format!("{file} is no JSON object; expected {{\"input_ids\": [[…], …]}}")))?;
    let name = one_name(file, object.keys().map(String::as_str))?;
    serde_json::from_value(object[name].clone()).map_err(bad)
}

fn from_lines(file: &str, text: &str) -> Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Line {
        text: String,
    }
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let document = |(index, line)| {
        let Line { text } = serde_json::from_str(line)
            .map_err(|error| Error::prompt(format!("{file}, line {}: {error}", index + 1)))?;
        Ok(text)
    };
    lines.map(document).collect()
}

/// The texts that are separated by blank lines.
fn paragraphs(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for line in text.lines() {
        match (line.trim().is_empty(), documents.last_mut()) {
            (false, Some(document)) => {
                if !document.is_empty() {
                    document.push('\n');
                }
                document.push_str(line);
            }
            _ => documents.push(String::new()),
        }
    }
    documents.retain(|document| !document.is_empty());
    documents
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_stand_between_blank_lines() {
        assert_eq!(paragraphs("a\nb\n\n \n\nc\n"), ["a\nb", "c"]);
        assert!(paragraphs("\n\n").is_empty());
        assert_eq!(from_lines("f", "{\"text\":\"a\"}\n\n{\"text\":\"b\",\"id\":3}\n").unwrap(), ["a", "b"]);
        assert!(from_lines("f", "{\"text\":\"a\"}\n{").unwrap_err().to_string().starts_with("f, line 2:"));
    }

    #[test]
    fn a_draw_takes_each_document_once_before_any_again() {
        let documents: Vec<Vec<u32>> = (0..5).map(|document| (10 * document..10 * document + 7).collect()).collect();
        let draws = |seed| Draws::Random {
            documents: documents.clone(),
            order: Vec::new(),
            samples: 12,
            window: 4,
            random: Random(seed),
        };
        let (mut one, mut same, mut other) = (draws(1), draws(1), draws(2));
        let windows = one.next();
        assert!(windows.iter().all(|window| window.len() == 4 && window.is_sorted() && window[3] - window[0] == 3));
        for five in windows.chunks_exact(5) {
            let mut seen: Vec<u32> = five.iter().map(|window| window[0] / 10).collect();
            seen.sort_unstable();
            assert_eq!(seen, [0, 1, 2, 3, 4]);
        }
        assert_eq!(windows, same.next());
        assert_eq!(one.next(), same.next());
        assert_ne!(windows, other.next());
    }

    #[test]
    fn ids_are_found_by_their_name() {
        let ids = |json: &str| from_json("f", json.as_bytes()).map_err(|error| error.to_string());
        assert_eq!(ids(r#"{"input_ids":[[1,2],[3,4]]}"#).unwrap(), [[1, 2], [3, 4]]);
        assert_eq!(ids(r#"{"probe.input_ids":[[9]],"calibration.input_ids":[[1,2]]}"#).unwrap(), [[1, 2]]);
        for (json, part) in [
            (r#"{"ids":[[1]]}"#, "nothing whose name ends in"),
            (r#"{"a.input_ids":[[1]],"b.input_ids":[[1]]}"#, "several names"),
            (r#"{"input_ids":[[-1,2]]}"#, "no JSON of ids"),
            ("[[1,2]]", "no JSON object"),
        ] {
            let error = ids(json).unwrap_err();
            assert!(error.contains(part), "{json}: {error}");
        }
        let error = Calibration::windows(vec![vec![1, 2], vec![3]]).unwrap_err().to_string();
        assert!(error.contains("row 1"), "{error}");
        assert!(Calibration::windows(vec![vec![1]]).unwrap_err().to_string().contains("windows of 1 ids"));
    }
}
