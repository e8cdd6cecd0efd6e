//! Ids → text, one id at a time.

use super::{Shown, Tokenizer};

/// Turns ids into text one by one. It never returns half a character: bytes wait until their character is complete.
///
/// The concatenated results of [`Decoder::push`] and [`Decoder::finish`] equal [`Tokenizer::decode`] of all ids.
#[derive(Clone, Debug)]
pub struct Decoder {
    tokenizer: Tokenizer,
    /// The bytes of an incomplete character.
    waiting: Vec<u8>,
    /// Whether the first piece drops a leading space, which SentencePiece adds to every text.
    drop_space: bool,
    /// Whether control tokens are printed as they are spelled.
    with_special: bool,
}

impl Decoder {
    pub(super) fn new(tokenizer: Tokenizer, drop_space: bool) -> Self {
        Self { tokenizer, waiting: Vec::new(), drop_space, with_special: false }
    }

    /// Prints control tokens as they are spelled: `<box>`, `<|im_end|>`.
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
            // A space that is spelled as a byte belongs to the text.
            Shown::Bytes(bytes) => self.waiting.extend_from_slice(&bytes),
        }
        self.drop_space = false;
        self.take(false)
    }

    /// The remaining text: U+FFFD for an incomplete character.
    pub fn finish(&mut self) -> String {
        self.take(true)
    }

    /// Whether an incomplete character waits for its remaining bytes.
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
