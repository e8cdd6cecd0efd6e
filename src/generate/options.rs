//! A caller's options for a continuation, apart from prompt and sampler.

use super::encode::Encoded;
use super::model::Model;
use super::sampler::Sampling;
use super::sequence::Request;
use super::stream::TextStream;

/// The length of a continuation, and the additional contents of its pieces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    /// The largest number of tokens. A full context ends the continuation too.
    pub max_tokens: usize,
    /// The number of most probable tokens that each piece gets.
    pub logprobs: usize,
    /// Whether the text shows control tokens as they are spelled.
    pub special: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { max_tokens: usize::MAX, logprobs: 0, special: false }
    }
}

impl Options {
    /// The request to a scheduler, and the text of its tokens. If no token is allowed, the text has already ended, and
    /// the scheduler need not be asked.
    pub fn begin(&self, model: &Model, prompt: &Encoded, sampling: Sampling, continues: bool) -> (Request, TextStream) {
        let limit = self.max_tokens.min(model.0.context - prompt.ids.len());
        let request = Request {
            ids: prompt.ids.clone(),
            images: prompt.pictures.pixels.clone(),
            sampling,
            limit,
            logits: self.logprobs > 0,
            mask: None,
            continues,
        };
        (request, TextStream::new(model, limit, self.logprobs, self.special))
    }
}
