//! Text → ids → text.

mod byte_level;
mod decoder;
mod sentencepiece;
mod tiktoken;

use std::path::Path;
use std::sync::Arc;

use crate::checkpoint::Files;
use crate::checkpoint::text::{AddedToken, Prefix, TextFiles, Vocabulary};
use crate::error::{Error, Result};
pub use decoder::Decoder;
pub(super) use tiktoken::{Allowed, Encoder as Tiktoken, SPAN};

/// A model's tokenizer, from `tokenizer.json`, SentencePiece's `tokenizer.model`, `qwen.tiktoken`, or a GGUF file.
///
/// Cheap to clone.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

struct Inner {
    encoder: Encoder,
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    add_eos: bool,
}

enum Encoder {
    SentencePiece {
        pieces: Box<sentencepiece::Encoder>,
        added: Added,
        prefix: Prefix,
    },
    HuggingFace {
        tokenizer: Box<tokenizers::Tokenizer>,
        style: Style,
        /// Whether the file's decoder removes a space from the beginning of a text.
        strips: bool,
        /// Whether the file's own template adds BOS and EOS.
        template: bool,
    },
    Tiktoken(Box<Tiktoken>),
}

/// How a Hugging Face tokenizer spells bytes in its tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    /// Every byte is a printable character.
    ByteLevel,
    /// Spaces are U+2581, and `<0x0A>` is a byte.
    SentencePiece,
}

/// The printed form of a token.
enum Shown<'a> {
    Text(std::borrow::Cow<'a, str>),
    Bytes(Vec<u8>),
    /// Control tokens, and ids without a token.
    Nothing,
}

impl Tokenizer {
    /// Reads the tokenizer of a Hugging Face folder or a `.gguf` file, and no weights.
    pub fn load(files: impl Into<Files>) -> Result<Self> {
        let files = files.into();
        let text = TextFiles::open(files.clone())?.ok_or_else(|| missing(files.path()))?;
        Self::new(&text)
    }

    pub(crate) fn new(files: &TextFiles) -> Result<Self> {
        let name = files.source.display().to_string();
        let inner = match &files.vocabulary {
            Vocabulary::SentencePiece { model, prefix } => {
                let id = |key: &str| {
                    let text = files.special(key)?;
                    files.added.iter().find(|token| token.text == text).map(|token| token.id)
                };
                let (bos, eos) = (id("bos_token").or(files.bos), id("eos_token").or(files.eos));
                let encoder = Encoder::SentencePiece {
                    pieces: Box::new(sentencepiece::Encoder::new(model.clone())?),
                    added: Added::new(&files.added),
                    prefix: *prefix,
                };
                let (add_bos, add_eos) = (files.add_bos.unwrap_or(true), files.add_eos.unwrap_or(false));
                Inner { encoder, bos, eos, add_bos, add_eos }
            }
            Vocabulary::ByteLevel { pre, tokens, merges } => {
                let (tokenizer, family_adds_bos) = byte_level::build(&name, pre, tokens, merges, &files.added)?;
                let (tokenizer, style) = (Box::new(tokenizer), Style::ByteLevel);
                let encoder = Encoder::HuggingFace { tokenizer, style, strips: false, template: false };
                let (add_bos, add_eos) = (files.add_bos.unwrap_or(family_adds_bos), files.add_eos.unwrap_or(false));
                Inner { encoder, bos: files.bos, eos: files.eos, add_bos, add_eos }
            }
            Vocabulary::Tiktoken(model) => {
                let encoder = Tiktoken::new(&name, model)?;
                let eos = Some(encoder.end_of_text());
                Inner { encoder: Encoder::Tiktoken(Box::new(encoder)), bos: None, eos, add_bos: false, add_eos: false }
            }
            Vocabulary::HuggingFace { json, class } => {
                let mut tokenizer = tokenizers::Tokenizer::from_bytes(json).map_err(|error| {
                    Error::checkpoint(format!("{name} is not a tokenizer that dunlin can read")).caused_by(error)
                })?;
                // A file may request both for training batches; prompts are neither truncated nor padded.
                let _ = tokenizer.with_truncation(None);
                tokenizer.with_padding(None);
                let (style, strips) = style(json);
                let id = |key: &str| tokenizer.token_to_id(files.special(key)?);
                let own = |text: &str| (style == Style::SentencePiece).then(|| tokenizer.token_to_id(text)).flatten();
                let (bos, eos) = (id("bos_token").or_else(|| own("<s>")), id("eos_token").or_else(|| own("</s>")));
                // Llama's tokenizer class builds its own template from these two keys.
                let llama = class.contains("Llama");
                let (add_bos, add_eos) = (files.add_bos.unwrap_or(true), files.add_eos.unwrap_or(false));
                let encoder = Encoder::HuggingFace { tokenizer: Box::new(tokenizer), style, strips, template: !llama };
                Inner { encoder, bos, eos, add_bos, add_eos }
            }
        };
        for (key, add, id) in [("bos_token", inner.add_bos, inner.bos), ("eos_token", inner.add_eos, inner.eos)] {
            let template = matches!(inner.encoder, Encoder::HuggingFace { template: true, .. });
            if add && id.is_none() && !template {
                return Err(Error::checkpoint(format!("{name}: add_{key} is set, but there is no {key}")));
            }
        }
        Ok(Self(Arc::new(inner)))
    }

    /// The ids of `text`, with the BOS and EOS that the model was trained with around it.
    ///
    /// Special tokens written out in the text (`</s>`) become their ids.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let inner = &*self.0;
        if let Encoder::HuggingFace { tokenizer, template: true, .. } = &inner.encoder {
            return hugging_face(tokenizer, text, true);
        }
        let mut ids = Vec::new();
        ids.extend(inner.bos.filter(|_| inner.add_bos));
        self.append(text, &mut ids)?;
        ids.extend(inner.eos.filter(|_| inner.add_eos));
        Ok(ids)
    }

    /// The ids of `text` alone: no BOS, no EOS. Special tokens written out in the text become their ids.
    pub fn encode_without_special(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        self.append(text, &mut ids)?;
        Ok(ids)
    }

    /// The text of `ids`. Control tokens give no text, broken UTF-8 gives U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.decoded(ids, self.decoder())
    }

    /// The text of `ids`, with control tokens as they are spelled: `<box>`, `<|im_end|>`.
    pub fn decode_with_special(&self, ids: &[u32]) -> String {
        self.decoded(ids, self.decoder().with_special())
    }

    fn decoded(&self, ids: &[u32], mut decoder: Decoder) -> String {
        let ids = match &self.0.encoder {
            Encoder::Tiktoken(encoder) => encoder.without_spans(ids),
            _ => ids.to_vec(),
        };
        let mut text: String = ids.into_iter().map(|id| decoder.push(id)).collect();
        text.push_str(&decoder.finish());
        text
    }

    /// Decodes ids one at a time, from the beginning of a text.
    pub fn decoder(&self) -> Decoder {
        Decoder::new(self.clone(), self.drops_leading_space())
    }

    /// Decodes ids one at a time after other text: a leading space is kept.
    pub fn continuation(&self) -> Decoder {
        Decoder::new(self.clone(), false)
    }

    /// The id that begins a text, whether or not [`Tokenizer::encode`] adds it.
    pub fn bos(&self) -> Option<u32> {
        self.0.bos
    }

    /// The id that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.0.eos
    }

    /// The text of `id` in the vocabulary: `▁Hello`, `<s>`.
    pub fn token(&self, id: u32) -> Option<String> {
        match &self.0.encoder {
            Encoder::SentencePiece { pieces, added, .. } => match added.token(id) {
                Some(token) => Some(token.text.clone()),
                None => Some(pieces.model.pieces.get(id as usize)?.text.clone()),
            },
            Encoder::HuggingFace { tokenizer, .. } => tokenizer.id_to_token(id),
            Encoder::Tiktoken(encoder) => match encoder.bytes(id) {
                Some(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
                None => encoder.special(id).map(str::to_owned),
            },
        }
    }

    /// Qwen's encoder, which conversations and pictures need for special ids.
    pub(super) fn tiktoken(&self) -> Option<&Tiktoken> {
        match &self.0.encoder {
            Encoder::Tiktoken(encoder) => Some(encoder),
            _ => None,
        }
    }

    /// The ids of `text` from SentencePiece alone, without special tokens.
    #[cfg(test)]
    fn encode_bare(&self, text: &str) -> Vec<u32> {
        let Encoder::SentencePiece { pieces, .. } = &self.0.encoder else { panic!("not a SentencePiece tokenizer") };
        let mut ids = Vec::new();
        pieces.encode(text, pieces.model.add_dummy_prefix, &mut ids);
        ids
    }

    fn append(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        match &self.0.encoder {
            Encoder::SentencePiece { pieces, added, prefix } => {
                added.split(text, |at, part| match part {
                    Part::Text(text) => {
                        let prefix = *prefix == Prefix::Every || (*prefix == Prefix::First && at == 0);
                        pieces.encode(text, prefix, ids);
                    }
                    Part::Token(id) => ids.push(id),
                });
            }
            Encoder::HuggingFace { tokenizer, .. } => ids.extend(hugging_face(tokenizer, text, false)?),
            Encoder::Tiktoken(encoder) => ids.extend(encoder.encode(text, Allowed::All)?),
        }
        Ok(())
    }

    fn drops_leading_space(&self) -> bool {
        match &self.0.encoder {
            Encoder::SentencePiece { pieces, prefix, .. } => {
                *prefix != Prefix::Never || pieces.model.add_dummy_prefix || pieces.model.remove_extra_whitespaces
            }
            Encoder::HuggingFace { strips, .. } => *strips,
            Encoder::Tiktoken(_) => false,
        }
    }

    /// The printed form of `id`; control tokens are printed only if `with_special`.
    fn shown(&self, id: u32, with_special: bool) -> Shown<'_> {
        match &self.0.encoder {
            Encoder::SentencePiece { pieces, added, .. } => {
                use crate::checkpoint::sentencepiece::PieceKind;
                if let Some(token) = added.token(id) {
                    let hidden = token.special && !with_special;
                    return if hidden { Shown::Nothing } else { Shown::Text(token.text.as_str().into()) };
                }
                let Some(piece) = pieces.model.pieces.get(id as usize) else { return Shown::Nothing };
                match piece.kind {
                    PieceKind::Control | PieceKind::Unknown => Shown::Nothing,
                    PieceKind::Byte => piece.byte().map_or(Shown::Nothing, |byte| Shown::Bytes(vec![byte])),
                    _ => Shown::Text(piece.text.replace(sentencepiece::SPACE, " ").into()),
                }
            }
            Encoder::HuggingFace { tokenizer, style, .. } => {
                let Some(token) = tokenizer.id_to_token(id) else { return Shown::Nothing };
                let added = tokenizer.get_added_vocabulary();
                match style {
                    _ if added.is_special_token(&token) && with_special => Shown::Text(token.into()),
                    _ if added.is_special_token(&token) => Shown::Nothing,
                    Style::ByteLevel => Shown::Bytes(byte_level::bytes(&token)),
                    Style::SentencePiece => {
                        let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
                        match digits.filter(|digits| digits.len() == 2).map(|digits| u8::from_str_radix(digits, 16)) {
                            Some(Ok(byte)) => Shown::Bytes(vec![byte]),
                            _ => Shown::Text(token.replace(sentencepiece::SPACE, " ").into()),
                        }
                    }
                }
            }
            Encoder::Tiktoken(encoder) => match (encoder.bytes(id), encoder.special(id)) {
                (Some(bytes), _) => Shown::Bytes(bytes.to_vec()),
                (None, Some(text)) if with_special => Shown::Text(text.into()),
                _ => Shown::Nothing,
            },
        }
    }

    /// Whether each invalid byte becomes a U+FFFD (SentencePiece), or each invalid sequence one (GPT-2).
    fn replaces_every_byte(&self) -> bool {
        matches!(
            &self.0.encoder,
            Encoder::SentencePiece { .. } | Encoder::HuggingFace { style: Style::SentencePiece, .. }
        )
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("bos", &self.0.bos).field("eos", &self.0.eos).finish_non_exhaustive()
    }
}

/// The error for text without a tokenizer.
pub(crate) fn missing(path: &Path) -> Error {
    Error::prompt(format!(
        "{} has no tokenizer (tokenizer.json, tokenizer.model or qwen.tiktoken), so text cannot be read: give ids with --tokens",
        path.display()
    ))
}

fn hugging_face(tokenizer: &tokenizers::Tokenizer, text: &str, special: bool) -> Result<Vec<u32>> {
    let encoding = tokenizer
        .encode_fast(text, special)
        .map_err(|error| Error::prompt("the text cannot be tokenized").caused_by(error))?;
    Ok(encoding.get_ids().to_vec())
}

/// How a `tokenizer.json` spells bytes, and whether its decoder removes a space at the beginning of a text.
fn style(json: &[u8]) -> (Style, bool) {
    let json: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
    let decoder = json.get("decoder").map(ToString::to_string).unwrap_or_default();
    if decoder.contains("ByteLevel") {
        return (Style::ByteLevel, false);
    }
    // Llama 2 adds a space in front and removes it again; Gemma does neither.
    let strips = decoder.contains("\"Strip\"") || decoder.contains("\"Metaspace\"");
    (Style::SentencePiece, strips)
}

/// Tokens that are cut out of text before anything else, longest first.
struct Added {
    tokens: Vec<AddedToken>,
    /// Which bytes begin such a token.
    first: Box<[bool; 256]>,
}

enum Part<'a> {
    Text(&'a str),
    Token(u32),
}

impl Added {
    fn new(tokens: &[AddedToken]) -> Self {
        let mut tokens = tokens.to_vec();
        tokens.sort_by_key(|token| std::cmp::Reverse(token.text.len()));
        let mut first = Box::new([false; 256]);
        for token in &tokens {
            first[usize::from(token.text.as_bytes()[0])] = true;
        }
        Self { tokens, first }
    }

    fn token(&self, id: u32) -> Option<&AddedToken> {
        self.tokens.iter().find(|token| token.id == id)
    }

    /// Calls `each` with the parts of `text` and their positions.
    fn split<'a>(&self, text: &'a str, mut each: impl FnMut(usize, Part<'a>)) {
        let (mut plain, mut at) = (0, 0);
        let bytes = text.as_bytes();
        while at < bytes.len() {
            let found = if self.first[usize::from(bytes[at])] {
                self.tokens.iter().find(|token| bytes[at..].starts_with(token.text.as_bytes()))
            } else {
                None
            };
            let Some(token) = found else {
                at += 1;
                continue;
            };
            let before = &text[plain..at];
            let before = if token.lstrip { before.trim_end() } else { before };
            if !before.is_empty() {
                each(plain, Part::Text(before));
            }
            each(at, Part::Token(token.id));
            at += token.text.len();
            if token.rstrip {
                at = text.len() - text[at..].trim_start().len();
            }
            plain = at;
        }
        if plain < text.len() {
            each(plain, Part::Text(&text[plain..]));
        }
    }
}

#[cfg(test)]
mod tests;
