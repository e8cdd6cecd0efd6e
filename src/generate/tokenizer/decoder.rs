//! Ids → text, one id at a time.

use super::{Shown, Tokenizer};

/// Turns ids into text as they come. Never hands out half a character: bytes wait until theirs is whole.
///
/// What [`Decoder::push`] and [`Decoder::finish`] return, put together, is [`Tokenizer::decode`] of all ids.
#[derive(Clone, Debug)]
pub struct Decoder {
    tokenizer: Tokenizer,
    /// The beginning of a character.
    waiting: Vec<u8>,
    /// SentencePiece puts a space in front of every text; the first piece loses it again.
    drop_space: bool,
    /// Control tokens print as they are written.
    with_special: bool,
}

impl Decoder {
    pub(super) fn new(tokenizer: Tokenizer, drop_space: bool) -> Self {
        Self { tokenizer, waiting: Vec::new(), drop_space, with_special: false }
    }

    /// Prints control tokens as they are written: `<box>`, `<|im_end|>`.
    pub fn with_special(mut self) -> Self {
        self.with_special = true;
        self
    }

    /// The text that `id` completes; often that of `id`, empty for control tokens and inside a character.
    pub fn push(&mut self, id: u32) -> String {
        match self.tokenizer.shown(id, self.with_special) {
            Shown::Nothing => return String::new(),
            Shown::Text(text) => {
                let text = if self.drop_space { text.strip_prefix(' ').unwrap_or(&text) } else { &text };
                self.waiting.extend_from_slice(text.as_bytes());
            }
            // A space that is spelled as a byte was in the text.
            Shown::Bytes(bytes) => self.waiting.extend_from_slice(&bytes),
        }
        self.drop_space = false;
        self.take(false)
    }

    /// The rest: U+FFFD for a character that was never finished.
    pub fn finish(&mut self) -> String {
        self.take(true)
    }

    /// Whether the beginning of a character waits for its end.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn take(&mut self, all: bool) -> String {
        let each = self.tokenizer.replaces_every_byte();
        let mut text = String::new();
        let mut bytes = self.waiting.as_slice();
        while !bytes.is_empty() {
            let error = match std::str::from_utf8(bytes) {
                Ok(valid) => {
                    text.push_str(valid);
                    bytes = &[];
                    break;
                }
                Err(error) => error,
            };
            let (valid, rest) = bytes.split_at(error.valid_up_to());
            text.push_str(&String::from_utf8_lossy(valid));
            bytes = rest;
            let broken = match error.error_len() {
                Some(len) => len,
                None if all => rest.len(),
                None => break,
            };
            text.push(char::REPLACEMENT_CHARACTER);
            bytes = &bytes[if each { 1 } else { broken }..];
        }
        let rest = bytes.len();
        self.waiting.drain(..self.waiting.len() - rest);
        text
    }
}
