//! The text settings in the files: the vocabulary, special tokens and chat templates, unchanged.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::files::Files;
use super::gguf::{Array, Gguf};
use super::sentencepiece::{self, Piece, PieceKind, SentencePiece};
use super::tiktoken::{self, Tiktoken};
use super::{Checkpoint, Source};
use crate::error::{Error, Result};
use crate::tensor::Bytes;

/// Everything that is needed to convert text into ids and back. Nothing is compiled yet.
#[derive(Clone, Debug)]
pub struct TextFiles {
    /// The file that holds the vocabulary, for error messages.
    pub source: PathBuf,
    pub vocabulary: Vocabulary,
    /// Added tokens, which are found in text before anything else, and the special tokens of `special`.
    pub added: Vec<AddedToken>,
    /// The strings of `bos_token`, `eos_token`, … by key, for chat templates and for BOS.
    pub special: Vec<(String, String)>,
    /// The ids of BOS and EOS, where the files give ids instead of strings.
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    /// Chat templates by name; the name of the standard one is `default`.
    pub templates: Vec<(String, String)>,
}

#[derive(Clone, Debug)]
pub enum Vocabulary {
    /// The bytes of a `tokenizer.json`.
    HuggingFace {
        json: Vec<u8>,
        class: String,
    },
    SentencePiece {
        model: SentencePiece,
        prefix: Prefix,
    },
    /// GPT-2's byte-level BPE in GGUF: `pre` names the family of its pre-tokenizer; a merge is written `left right`.
    ByteLevel {
        pre: String,
        tokens: Vec<String>,
        merges: Vec<String>,
    },
    /// Qwen's tokens by rank.
    Tiktoken(Tiktoken),
}

/// The pieces of text between special tokens that get a space in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// Every piece: `legacy: true`, and files older than that key.
    Every,
    /// Only the text at the very beginning: `legacy: false`.
    First,
    Never,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedToken {
    pub id: u32,
    pub text: String,
    /// Whether the token is omitted when ids are converted to text.
    pub special: bool,
    /// Whether the token absorbs the whitespace on its left, and on its right.
    pub lstrip: bool,
    pub rstrip: bool,
}

impl AddedToken {
    pub fn special(id: u32, text: impl Into<String>) -> Self {
        Self { id, text: text.into(), special: true, lstrip: false, rstrip: false }
    }
}

impl TextFiles {
    /// The string of the special token `key` (`bos_token`), if the files define it.
    pub fn special(&self, key: &str) -> Option<&str> {
        self.special.iter().find(|(name, _)| name == key).map(|(_, text)| text.as_str())
    }

    /// Reads the text settings of a Hugging Face folder or a `.gguf` file, or `None` where the files have none.
    pub fn open(files: impl Into<Files>) -> Result<Option<Self>> {
        let files = files.into();
        let path = files.path();
        if files.is_dir(path) {
            Self::read(&files)
        } else if files.is_file(path) {
            let (gguf, _) = Gguf::read(path, &files.read(path)?)?;
            Self::from_gguf(path, &gguf)
        } else {
            Err(super::not_there(&files))
        }
    }

    /// The text settings of an open checkpoint.
    pub fn of(checkpoint: &Checkpoint) -> Result<Option<Self>> {
        match checkpoint.source() {
            Source::Folder(files) => Self::read(files),
            Source::Gguf(gguf) => Self::from_gguf(&checkpoint.path, gguf),
        }
    }

    /// Reads `tokenizer.json`, else `tokenizer.model`, else `qwen.tiktoken`, and the JSON files beside it, where they
    /// exist. In the folder of a Qwen 1, `qwen.tiktoken` comes first: the others are conversions that users made.
    pub fn read(files: &Files) -> Result<Option<Self>> {
        let folder = files.path();
        let config = read_json(files, &folder.join("tokenizer_config.json"))?.unwrap_or(Value::Null);
        let json = folder.join("tokenizer.json");
        let model = folder.join("tokenizer.model");
        let mut special = special_tokens(&config);
        // In folders older than `added_tokens_decoder` a second file takes precedence.
        if config.get("added_tokens_decoder").is_none()
            && let Some(map) = read_json(files, &folder.join("special_tokens_map.json"))?
        {
            for (key, text) in special_tokens(&map) {
                special.retain(|(old, _)| *old != key || key.starts_with("additional"));
                special.push((key, text));
            }
        }
        let flag = |key: &str| config.get(key).and_then(Value::as_bool);
        let own = tiktoken::is_own(files)?;
        let other = |path: &Path| if own { Ok(None) } else { read_bytes(files, path) };
        let mut text = if let Some(bytes) = other(&json)? {
            let class = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default().to_owned();
            Self::new(json, Vocabulary::HuggingFace { json: bytes.to_vec(), class })
        } else if let Some(bytes) = other(&model)? {
            let model_name = model.display().to_string();
            let sentencepiece = sentencepiece::read(&model_name, &bytes)?;
            let prefix = match flag("legacy").unwrap_or(true) {
                true if sentencepiece.add_dummy_prefix => Prefix::Every,
                false if flag("add_prefix_space").unwrap_or(true) => Prefix::First,
                _ => Prefix::Never,
            };
            let (bos, eos) = (sentencepiece.bos, sentencepiece.eos);
            let mut text = Self::new(model, Vocabulary::SentencePiece { model: sentencepiece, prefix });
            text.added = added_tokens(files, &config, &special, &text.vocabulary)?;
            // MobileLLM's configuration sets its special tokens to "", which means those of the vocabulary.
            (text.bos, text.eos) = (bos, eos);
            text
        } else if let Some(qwen) = tiktoken::read(files)? {
            Self::new(folder.join(tiktoken::FILE), Vocabulary::Tiktoken(qwen))
        } else {
            return Ok(None);
        };
        text.special = special;
        (text.add_bos, text.add_eos) = (flag("add_bos_token"), flag("add_eos_token"));
        text.templates = templates(files, &config)?;
        Ok(Some(text))
    }

    /// Reads the `tokenizer.*` keys of a GGUF file, which may have none.
    pub fn from_gguf(path: &Path, gguf: &Gguf) -> Result<Option<Self>> {
        let key = |key: &str| gguf.metadata(&format!("tokenizer.{key}"));
        let Some(model) = key("ggml.model").and_then(|value| value.as_str()) else { return Ok(None) };
        let malformed = |what: &str| Error::checkpoint(format!("{}: tokenizer.ggml.{what}", path.display()));
        let array = |name: &str| key(&format!("ggml.{name}")).and_then(|value| value.as_array());
        let strings = |name: &str| -> Result<Vec<String>> {
            let found = array(name).and_then(Array::strings).ok_or_else(|| malformed(&format!("{name} is missing")))?;
            Ok(found.map(str::to_owned).collect())
        };
        let numbers = |name: &str| array(name).and_then(Array::numbers).map(Iterator::collect::<Vec<f64>>);
        let flag = |name: &str| key(&format!("ggml.{name}")).and_then(|value| value.as_bool());
        let id = |name: &str| key(&format!("ggml.{name}"))?.as_u64().and_then(|id| u32::try_from(id).ok());

        let tokens = strings("tokens")?;
        let kinds = numbers("token_type").unwrap_or_else(|| vec![1.0; tokens.len()]);
        if kinds.len() != tokens.len() {
            return Err(malformed(&format!("token_type has {} entries for {} tokens", kinds.len(), tokens.len())));
        }
        let kinds: Vec<PieceKind> =
            kinds.iter().map(|&code| PieceKind::from_code(code as u64).unwrap_or(PieceKind::Normal)).collect();
        let (bos, eos) = (id("bos_token_id"), id("eos_token_id"));
        let added = (0..).zip(&tokens).zip(&kinds).filter_map(|((id, text), kind)| {
            let special = matches!(kind, PieceKind::Control | PieceKind::Unknown);
            let added = (special || *kind == PieceKind::UserDefined) && !text.is_empty();
            added.then(|| AddedToken { special, ..AddedToken::special(id, text) })
        });
        let added: Vec<AddedToken> = added.collect();
        let named = [("bos_token", bos), ("eos_token", eos), ("unk_token", id("unknown_token_id"))];
        let special = named
            .into_iter()
            .filter_map(|(name, id)| Some((name.to_owned(), tokens.get(id? as usize)?.clone())))
            .collect();

        let vocabulary = match model {
            "llama" => {
                let scores = numbers("scores").ok_or_else(|| malformed("scores is missing"))?;
                if scores.len() != tokens.len() {
                    return Err(malformed(&format!("scores has {} entries for {} tokens", scores.len(), tokens.len())));
                }
                let pieces = tokens.into_iter().zip(scores).zip(&kinds);
                let pieces = pieces.map(|((text, score), &kind)| Piece {
                    text,
                    score: score as f32,
                    // A user-defined piece of SentencePiece is an added token here; the kind `Control` prevents a
                    // second match.
                    kind: if kind == PieceKind::UserDefined { PieceKind::Control } else { kind },
                });
                let add_dummy_prefix = flag("add_space_prefix").unwrap_or(true);
                let model = SentencePiece {
                    pieces: pieces.collect(),
                    byte_fallback: true,
                    unk: id("unknown_token_id").unwrap_or(0),
                    bos,
                    eos,
                    add_dummy_prefix,
                    remove_extra_whitespaces: flag("remove_extra_whitespaces").unwrap_or(false),
                    charsmap: Vec::new(),
                };
                let prefix = if add_dummy_prefix { Prefix::Every } else { Prefix::Never };
                Vocabulary::SentencePiece { model, prefix }
            }
            "gpt2" => {
                let pre = key("ggml.pre").and_then(|value| value.as_str()).unwrap_or("default").to_owned();
                Vocabulary::ByteLevel { pre, tokens, merges: strings("merges")? }
            }
            other => {
                return Err(Error::unsupported(format!(
                    "{}: tokenizer.ggml.model is `{other}`; dunlin knows llama and gpt2",
                    path.display(),
                )));
            }
        };
        let mut text = Self::new(path.to_path_buf(), vocabulary);
        (text.added, text.special, text.bos, text.eos) = (added, special, bos, eos);
        (text.add_bos, text.add_eos) = (flag("add_bos_token"), flag("add_eos_token"));
        let template = key("chat_template").and_then(|value| value.as_str());
        text.templates = template.map(|template| ("default".to_owned(), template.to_owned())).into_iter().collect();
        Ok(Some(text))
    }

    fn new(source: PathBuf, vocabulary: Vocabulary) -> Self {
        Self {
            source,
            vocabulary,
            added: Vec::new(),
            special: Vec::new(),
            bos: None,
            eos: None,
            add_bos: None,
            add_eos: None,
            templates: Vec::new(),
        }
    }
}

/// Special tokens by key, in the order in which Hugging Face assigns ids to new ones. Empty strings are skipped.
fn special_tokens(json: &Value) -> Vec<(String, String)> {
    const KEYS: [&str; 7] =
        ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
    let text = |value: &Value| -> Option<String> {
        let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
        (!text.is_empty()).then(|| text.to_owned())
    };
    let named = KEYS.iter().filter_map(|key| Some(((*key).to_owned(), text(json.get(*key)?)?)));
    let additional = json.get("additional_special_tokens").and_then(Value::as_array);
    let additional = additional.into_iter().flatten().filter_map(text);
    named.chain(additional.map(|text| ("additional_special_tokens".to_owned(), text))).collect()
}

/// The added tokens of a SentencePiece folder: first those with an id in the files, then the special tokens by name.
fn added_tokens(
    files: &Files,
    config: &Value,
    special: &[(String, String)],
    vocabulary: &Vocabulary,
) -> Result<Vec<AddedToken>> {
    let Vocabulary::SentencePiece { model, .. } = vocabulary else { return Ok(Vec::new()) };
    let mut added = Vec::new();
    let malformed = |file: &str| Error::checkpoint(format!("{}: malformed {file}", files.path().display()));
    if let Some(tokens) = config.get("added_tokens_decoder").and_then(Value::as_object) {
        for (id, token) in tokens {
            let flag = |key: &str| token.get(key).and_then(Value::as_bool).unwrap_or(false);
            let id = id.parse().map_err(|_| malformed("added_tokens_decoder in tokenizer_config.json"))?;
            let text = token.get("content").and_then(Value::as_str).unwrap_or_default().to_owned();
            let (special, lstrip, rstrip) = (flag("special"), flag("lstrip"), flag("rstrip"));
            added.push(AddedToken { id, text, special, lstrip, rstrip });
        }
    } else if let Some(Value::Object(tokens)) = read_json(files, &files.path().join("added_tokens.json"))? {
        for (text, id) in tokens {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| malformed("added_tokens.json"))?;
            added.push(AddedToken { id, text, special: false, lstrip: false, rstrip: false });
        }
    }
    // Tokens that the configuration does not name have the names of the vocabulary.
    let own = [model.unk].into_iter().chain(model.bos).chain(model.eos);
    let own = own.filter_map(|id| Some(model.pieces.get(id as usize)?.text.clone()));
    for text in special.iter().map(|(_, text)| text.clone()).chain(own) {
        if let Some(known) = added.iter_mut().find(|token| token.text == text) {
            known.special = true;
            continue;
        }
        let in_vocabulary = model.pieces.iter().position(|piece| piece.text == text);
        let next = added.iter().map(|token| token.id as usize + 1).max().unwrap_or(0).max(model.pieces.len());
        added.push(AddedToken::special(in_vocabulary.unwrap_or(next) as u32, text));
    }
    added.retain(|token| !token.text.is_empty());
    Ok(added)
}

/// `chat_template.jinja`, `additional_chat_templates/NAME.jinja`, or the key of `tokenizer_config.json`: a string, or
/// a list of named templates.
fn templates(files: &Files, config: &Value) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    match config.get("chat_template") {
        Some(Value::String(template)) => found.push(("default".to_owned(), template.clone())),
        Some(Value::Array(named)) => {
            for entry in named {
                let text = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
                found.extend(text("name").zip(text("template")));
            }
        }
        _ => {}
    }
    let file = files.path().join("chat_template.jinja");
    if let Some(bytes) = read_bytes(files, &file)? {
        let template = String::from_utf8(bytes.to_vec())
            .map_err(|error| Error::checkpoint(format!("{} is not UTF-8", file.display())).caused_by(error))?;
        found.retain(|(name, _)| name != "default");
        found.insert(0, ("default".to_owned(), template));
    }
    Ok(found)
}

fn read_json(files: &Files, path: &Path) -> Result<Option<Value>> {
    let Some(bytes) = read_bytes(files, path)? else { return Ok(None) };
    let json = serde_json::from_slice(&bytes)
        .map_err(|error| Error::checkpoint(format!("{} is not valid JSON", path.display())).caused_by(error))?;
    Ok(Some(json))
}

/// The bytes of a file, or `None` where it does not exist.
fn read_bytes(files: &Files, path: &Path) -> Result<Option<Bytes>> {
    if files.is_file(path) { files.read(path).map(Some) } else { Ok(None) }
}
