//! What a caller asks of a continuation, apart from its prompt and sampler.

use super::encode::Encoded;
use super::model::Model;
use super::sampler::Sampling;
use super::sequence::Request;
use super::stream::TextStream;

/// How long a continuation may get, and what comes with each of its pieces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    /// Tokens after which it ends. A full context ends it too.
    pub max_tokens: usize,
    /// The most probable tokens that each piece gets.
    pub logprobs: usize,
    /// Pieces show control tokens as they are written.
    pub special: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { max_tokens: usize::MAX, logprobs: 0, special: false }
    }
}

impl Options {
    /// What a scheduler is asked for, and the text that the tokens become. Where no token may come, the text has ended already,
    /// and the scheduler need not be asked.
    pub fn begin(&self, model: &Model, prompt: &Encoded, sampling: Sampling, continues: bool) -> (Request, TextStream) {
        let limit = self.max_tokens.min(model.0.context - prompt.ids.len());
        let request = Request {
            ids: prompt.ids.clone(),
            images: prompt.images.clone(),
            sampling,
            limit,
            logits: self.logprobs > 0,
            mask: None,
            continues,
        };
        (request, TextStream::new(model, limit, self.logprobs, self.special))
    }
}
