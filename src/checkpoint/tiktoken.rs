//! `qwen.tiktoken`: one token per line, as the base64 of its bytes and its rank. Also related settings of the folder.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::config::QWEN;
use super::files::Files;
use super::json;
use crate::error::{Error, Result};

/// The file's name.
pub const FILE: &str = "qwen.tiktoken";

/// Special tokens after the ranks: `<|endoftext|>`, `<|im_start|>`, `<|im_end|>`, `<|extra_0|>` to `<|extra_204|>`.
pub const SPECIALS: usize = 3 + EXTRAS;
const EXTRAS: usize = 205;

/// The special tokens that Qwen-VL adds after those: regions, boxes, quadrilaterals and pictures.
pub const TAGS: [&str; 9] = ["<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>", "<img>", "</img>", "<imgpad>"];

/// Qwen's tokenizer and conversation style, as the files of a folder define them.
#[derive(Clone, Debug)]
pub struct Tiktoken {
    /// The bytes of each token by rank; every single byte is among them.
    pub tokens: Vec<Vec<u8>>,
    /// Whether [`TAGS`] are special tokens, which is true of models that read pictures.
    pub tags: bool,
    /// Limit on the tokens of the system part and the history of a conversation; `None` means that the model only
    /// continues text.
    pub chat_window: Option<usize>,
}

impl Tiktoken {
    /// The special tokens in the order of their ids, which follow the ranks.
    pub fn specials(&self) -> Vec<String> {
        let mut specials = vec!["<|endoftext|>".to_owned(), "<|im_start|>".to_owned(), "<|im_end|>".to_owned()];
        specials.extend((0..EXTRAS).map(|i| format!("<|extra_{i}|>")));
        specials.extend(TAGS.iter().filter(|_| self.tags).map(|tag| (*tag).to_owned()));
        specials
    }
}

/// The keys of `generation_config.json` that define the format of conversations.
#[derive(Deserialize)]
struct GenerationJson {
    chat_format: Option<String>,
    max_window_size: Option<usize>,
}

/// The default where neither file gives a value: the model's own code would refuse a conversation then.
const CHAT_WINDOW: usize = 6144;

/// Whether a folder has the file, and a model that it was made for.
pub fn is_own(files: &Files) -> Result<bool> {
    let is_there = files.is_file(&files.path().join(FILE));
    Ok(is_there && config(files)?.get("model_type").is_some_and(|model_type| model_type == QWEN))
}

/// The content of `config.json`, where it exists.
fn config(files: &Files) -> Result<serde_json::Value> {
    let file = files.path().join("config.json");
    if files.is_file(&file) { json::parse(&file, &files.read(&file)?) } else { Ok(serde_json::Value::Null) }
}

/// Reads the tokenizer of a folder, if it is Qwen's.
pub fn read(files: &Files) -> Result<Option<Tiktoken>> {
    let folder = files.path();
    let file = folder.join(FILE);
    if !files.is_file(&file) {
        return Ok(None);
    }
    let tokens = parse(&file, &files.read(&file)?)?;
    let tags = config(files)?.get("visual").is_some_and(|visual| visual.is_object());
    let generation = folder.join("generation_config.json");
    let generation: GenerationJson = if files.is_file(&generation) {
        json::parse(&generation, &files.read(&generation)?)?
    } else {
        GenerationJson { chat_format: None, max_window_size: None }
    };
    let chat_window = match generation.chat_format.as_deref() {
        None | Some("chatml") => Some(generation.max_window_size.unwrap_or(CHAT_WINDOW)),
        Some("raw") => None,
        Some(other) => {
            return Err(Error::unsupported(format!(
                "{}: chat_format `{other}` is not supported; dunlin writes chatml, and raw is text that is continued",
                folder.join("generation_config.json").display(),
            )));
        }
    };
    Ok(Some(Tiktoken { tokens, tags, chat_window }))
}

/// The tokens by rank.
fn parse(file: &Path, content: &[u8]) -> Result<Vec<Vec<u8>>> {
    let bad = |what: String| Error::checkpoint(format!("{}: {what}", file.display()));
    let mut tokens: Vec<Vec<u8>> = Vec::new();
    // Some copies have Windows line ends.
    let mut words = content.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        let rank = words.next();
        if rank.and_then(|rank| std::str::from_utf8(rank).ok()?.parse().ok()) != Some(tokens.len()) {
            let found = rank.map_or_else(|| "missing".into(), |rank| format!("`{}`", String::from_utf8_lossy(rank)));
            let expected = tokens.len();
            return Err(bad(format!(
                "the rank of token {expected} is {found}, expected {expected}: ranks count up from 0"
            )));
        }
        let token = base64(word).filter(|token| !token.is_empty());
        tokens.push(token.ok_or_else(|| bad(format!("token {} is not base64", tokens.len())))?);
    }
    let mut ranks = HashMap::with_capacity(tokens.len());
    for (rank, token) in tokens.iter().enumerate() {
        if let Some(before) = ranks.insert(&token[..], rank) {
            return Err(bad(format!("tokens {before} and {rank} are the same")));
        }
    }
    match (0..=255u8).find(|&byte| !ranks.contains_key(&[byte][..])) {
        Some(byte) => Err(bad(format!("the byte {byte} is no token, so that not every text could be written"))),
        None => Ok(tokens),
    }
}

/// RFC 4648 with its padding.
fn base64(word: &[u8]) -> Option<Vec<u8>> {
    let digit = |&byte: &u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    if !word.len().is_multiple_of(4) {
        return None;
    }
    let body = word.strip_suffix(b"==").or(word.strip_suffix(b"=")).unwrap_or(word);
    let mut bytes = Vec::with_capacity(word.len() / 4 * 3);
    for digits in body.chunks(4) {
        let bits = digits.iter().try_fold(0u32, |bits, byte| Some(bits << 6 | u32::from(digit(byte)?)))?;
        let bits = bits << (6 * (4 - digits.len()));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..digits.len()]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of a vocabulary of single bytes, followed by `more`.
    fn file(more: &str) -> Vec<u8> {
        const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let digit = |i: usize| char::from(DIGITS[i]);
        let lines = (0..256).map(|byte| format!("{}{}== {byte}\r\n", digit(byte >> 2), digit((byte & 3) << 4)));
        (lines.collect::<String>() + more).into_bytes()
    }

    #[test]
    fn lines_are_tokens_by_rank() {
        let tokens = parse(Path::new("q"), &file("aGVsbG8= 256\nIHdvcmxk 257")).unwrap();
        assert_eq!(
            (tokens.len(), &tokens[65][..], &tokens[256][..], &tokens[257][..]),
            (258, &b"A"[..], &b"hello"[..], &b" world"[..])
        );
    }

    #[test]
    fn a_broken_file_is_named() {
        let refused = |content: &[u8]| parse(Path::new("dir/qwen.tiktoken"), content).unwrap_err().to_string();
        for (more, part) in [
            ("aGVs 300\n", "rank of token 256 is `300`, expected 256"),
            ("aGVs x\n", "rank of token 256 is `x`, expected 256"),
            ("aGVs\n", "rank of token 256 is missing, expected 256"),
            ("aGV 256\n", "token 256 is not base64"),
            ("a?Vs 256\n", "token 256 is not base64"),
            ("aGVs 256\naGVs 257\n", "tokens 256 and 257 are the same"),
        ] {
            let error = refused(&file(more));
            assert!(error.contains("qwen.tiktoken") && error.contains(part), "{error}");
        }
        assert!(refused(b"IQ== 0\n").contains("byte 0 is no token"));
    }
}
