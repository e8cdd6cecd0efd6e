//! Tokens → pieces of text: characters, end tokens, the most probable tokens.

use std::collections::VecDeque;

use super::logits::{best, log_softmax};
use super::model::Model;
use super::tokenizer::Decoder;
use crate::backend::Sampled;
use crate::error::{Error, Result};

/// One generated token.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Piece {
    #[serde(rename = "token")]
    pub id: u32,
    /// The text that this token completes. Empty if the token ends inside a character: the character's last token has
    /// its text.
    pub text: String,
    /// Natural logarithm of the token's probability at temperature 1.
    pub logprob: f32,
    /// The most probable tokens with their logarithms, best first; empty unless
    /// [`Generation::logprobs`](crate::Generation::logprobs) requested them.
    pub top: Vec<(u32, f32)>,
}

impl std::fmt::Display for Piece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stop {
    /// The model chose an end token.
    Eos,
    /// `max_tokens` were generated, or the context is full.
    Length,
}

/// The text of one sequence, as its tokens come.
pub(super) struct TextStream {
    decoder: Option<Decoder>,
    /// The most probable tokens that each piece gets.
    logprobs: usize,
    /// The number of tokens that may be generated.
    limit: usize,
    /// The number of tokens taken, and how many of them are not end tokens.
    taken: usize,
    pub generated: usize,
    /// The whole text so far.
    pub text: String,
    /// The text with control tokens as they are spelled, for a tokenizer whose control tokens belong to answers
    /// (Qwen-VL's `<box>`); else `None`.
    tagged: Option<(Decoder, String)>,
    /// Pieces whose text waits for the rest of a character, and pieces that are ready.
    waiting: Vec<Piece>,
    ready: VecDeque<Piece>,
    pub stop: Option<Stop>,
}

impl TextStream {
    /// A text of at most `limit` tokens. With a limit of 0 it has already ended.
    ///
    /// `special`: pieces show control tokens.
    pub fn new(model: &Model, limit: usize, logprobs: usize, special: bool) -> Self {
        let tokenizer = model.tokenizer().ok();
        let shown = |decoder: Decoder| if special { decoder.with_special() } else { decoder };
        let tagged = tokenizer.filter(|tokenizer| tokenizer.tiktoken().is_some());
        Self {
            tagged: tagged.map(|tokenizer| (tokenizer.continuation().with_special(), String::new())),
            decoder: tokenizer.map(|tokenizer| shown(tokenizer.continuation())),
            logprobs,
            limit,
            taken: 0,
            generated: 0,
            text: String::new(),
            waiting: Vec::new(),
            ready: VecDeque::new(),
            stop: (limit == 0).then_some(Stop::Length),
        }
    }

    /// The next piece whose text is complete.
    pub fn next(&mut self) -> Option<Piece> {
        self.ready.pop_front()
    }

    /// Takes a token. It is an error if the token is not in the vocabulary, or if its logits are NaN; `prompt` is the
    /// number of tokens before the first.
    pub fn push(&mut self, model: &Model, prompt: usize, sampled: Sampled) -> Result<()> {
        let Sampled { id, mut logprob, logits } = sampled;
        let config = &model.0.config;
        self.taken += 1;
        if id as usize >= config.vocab || logprob.is_nan() {
            let after = prompt + self.taken - 1;
            return Err(nonsense(model, &format!("no token after {after} (id {id}, log-probability {logprob})")));
        }
        if config.eos.contains(&id) {
            self.finish(Stop::Eos);
            return Ok(());
        }
        let mut top = Vec::new();
        if let Some(logits) = logits.filter(|_| self.logprobs > 0) {
            let logprobs = log_softmax(&logits).ok_or_else(|| not_a_number(model))?;
            logprob = logprobs[id as usize];
            top = best(&logprobs, self.logprobs);
        }
        let text = self.decoder.as_mut().map(|decoder| decoder.push(id)).unwrap_or_default();
        self.generated += 1;
        self.text += &text;
        if let Some((decoder, text)) = &mut self.tagged {
            text.push_str(&decoder.push(id));
        }
        self.waiting.push(Piece { id, text, logprob, top });
        if !self.decoder.as_ref().is_some_and(Decoder::is_waiting) {
            self.ready.extend(self.waiting.drain(..));
        }
        if self.taken == self.limit {
            self.finish(Stop::Length);
        }
        Ok(())
    }

    /// The whole text so far, with the control tokens that belong to answers, for the next turn of a conversation.
    pub fn reply(&self) -> &str {
        self.tagged.as_ref().map_or(&self.text, |(_, text)| text)
    }

    fn finish(&mut self, stop: Stop) {
        if let (Some(decoder), Some(last)) = (&mut self.decoder, self.waiting.last_mut()) {
            let rest = decoder.finish();
            self.text += &rest;
            last.text.push_str(&rest);
        }
        if let Some((decoder, text)) = &mut self.tagged {
            text.push_str(&decoder.finish());
        }
        self.ready.extend(self.waiting.drain(..));
        self.stop = Some(stop);
    }
}

pub(super) fn not_a_number(model: &Model) -> Error {
    nonsense(model, "logits that are not numbers")
}

/// The CPU path defines what is right: if it gives NaN, the files are damaged. On other devices the driver may be
/// wrong.
fn nonsense(model: &Model, what: &str) -> Error {
    let device = model.device();
    if model.0.engine.device().backend == "cpu" {
        return Error::checkpoint(format!("the model computes {what}: its weights or its configuration are damaged"));
    }
    Error::device(format!("{device} computed {what}: its driver may be wrong; try --device cpu"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{Device, boxes};

    /// The control tokens of an answer are shown on request, and the parsers of answers always get them.
    #[test]
    fn boxes_are_kept_whatever_is_shown() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/qwenvl_b");
        let model = Model::load(folder, &Device::cpu()).unwrap();
        let answer = "<ref>Hello</ref><box>(100,200),(300,400)</box>";
        let ids = model.tokenizer().unwrap().encode(answer).unwrap();
        for (special, shown) in [(false, "Hello(100,200),(300,400)"), (true, answer)] {
            let mut stream = TextStream::new(&model, 99, 0, special);
            for &id in &ids {
                stream.push(&model, 1, Sampled { id, logprob: 0.0, logits: None }).unwrap();
            }
            stream.push(&model, 1, Sampled { id: model.0.config.eos[1], logprob: 0.0, logits: None }).unwrap();
            assert_eq!(stream.stop, Some(Stop::Eos), "<|im_start|> ends an answer");
            let pieces: String = std::iter::from_fn(|| stream.next()).map(|piece| piece.text).collect();
            assert_eq!((pieces.as_str(), stream.reply()), (shown, answer));
            let found = boxes::located(stream.reply(), Some((720, 1280)));
            assert_eq!(found.len(), 1);
            assert_eq!(
                (found[0].label.as_deref(), &found[0].pixels[..]),
                (Some("Hello"), &[[72, 256], [216, 512]][..])
            );
        }
    }
}
