//! Prefill, then decode with several steps in flight; ids are read late and turned into pieces of text.

use std::collections::VecDeque;
use std::time::Instant;

use super::conversation::Encoded;
use super::model::Model;
use super::prompt::{Kind, Message, Prompt};
use super::sampler::{Sampler, Sampling};
use super::tokenizer::Decoder;
use crate::backend::{Sampled, Session, Step, Want};
use crate::error::{Error, Result};
use crate::kernel::Family;

/// A continuation in the making: an iterator of [`Piece`]s with its own KV cache. Dropping it cancels it.
///
/// It ends at the model's end token, after [`Generation::max_tokens`], when the context is full, or with an error.
pub struct Generation {
    model: Model,
    prompt: Vec<u32>,
    /// Pixels of the prompt's pictures, and how many of them are encoded.
    images: Vec<Vec<f32>>,
    encoded: usize,
    /// The conversation that the prompt is, where it is one.
    messages: Option<Vec<Message>>,
    /// What was generated: ids, and their text.
    ids: Vec<u32>,
    reply: String,
    /// Tokens of the prompt that the cache holds already: a conversation goes on.
    cached: usize,
    release_vision: bool,
    sampling: Sampling,
    max_tokens: usize,
    logprobs: usize,
    decoder: Option<Decoder>,
    session: Option<Box<dyn Session>>,
    /// Tokens that may be generated: `max_tokens`, or what the context leaves.
    limit: usize,
    /// Steps that choose a token: asked for, and read.
    enqueued: usize,
    taken: usize,
    chosen: Vec<Sampled>,
    /// Pieces whose text waits for the rest of a character, and pieces to hand out.
    waiting: Vec<Piece>,
    ready: VecDeque<Piece>,
    end: Option<Option<Stop>>,
    generated: usize,
    started: Option<Instant>,
    preprocess_s: f64,
    vision_s: f64,
    prefill_s: f64,
    decode_s: f64,
    /// Bytes of weights before and after the vision half was released.
    released: Option<(u64, u64)>,
}

/// One generated token.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Piece {
    #[serde(rename = "token")]
    pub id: u32,
    /// The text that this token completes: empty inside a character, where the last of its tokens has it.
    pub text: String,
    /// Natural logarithm of the token's probability at temperature 1.
    pub logprob: f32,
    /// The most probable tokens with their logarithms, best first; empty unless [`Generation::logprobs`] asked.
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
    /// The model said so.
    Eos,
    /// `max_tokens` were generated, or the context is full.
    Length,
}

/// What a generation took. Times are in seconds.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Stats {
    pub prompt_tokens: usize,
    /// Those of `prompt_tokens` that are rows of images.
    pub image_tokens: usize,
    /// The end token is not counted.
    pub generated_tokens: usize,
    /// Nothing while it runs, or if it failed.
    pub stop: Option<Stop>,
    pub load_s: f64,
    /// Decoding and resizing images.
    pub preprocess_s: f64,
    /// Vision tower and projector.
    pub vision_s: f64,
    /// From when images were there until the first token was.
    pub prefill_s: f64,
    /// From the first token to the last.
    pub decode_s: f64,
    pub device: String,
    pub backend: String,
    /// Bytes of weights on the device.
    pub weight_bytes: u64,
    /// The same before and after the vision half was released, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_bytes_before_release: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_bytes_after_release: Option<u64>,
    pub dispatches_per_token: usize,
}

impl Generation {
    pub(super) fn new(model: Model, prompt: Encoded, sampling: Sampling) -> Result<Self> {
        model.0.check(&prompt.ids, prompt.images.len())?;
        let decoder = model.tokenizer().ok().map(|tokenizer| tokenizer.continuation());
        Ok(Self {
            model,
            prompt: prompt.ids,
            images: prompt.images,
            encoded: 0,
            messages: prompt.messages,
            ids: Vec::new(),
            reply: String::new(),
            cached: 0,
            release_vision: false,
            sampling,
            max_tokens: usize::MAX,
            logprobs: 0,
            decoder,
            session: None,
            limit: 0,
            enqueued: 0,
            taken: 0,
            chosen: Vec::new(),
            waiting: Vec::new(),
            ready: VecDeque::new(),
            end: None,
            generated: 0,
            started: None,
            preprocess_s: prompt.preprocess_s,
            vision_s: 0.0,
            prefill_s: 0.0,
            decode_s: 0.0,
            released: None,
        })
    }

    /// Ends after this many tokens. Without it, when the context is full.
    pub fn max_tokens(mut self, tokens: usize) -> Self {
        self.max_tokens = tokens;
        self
    }

    /// Gives every piece its `count` most probable tokens. Costs reading all logits back from the device.
    pub fn logprobs(mut self, count: usize) -> Self {
        self.logprobs = count;
        self
    }

    /// Drops the weights that read pictures as soon as this prompt's are read: [`Model::release_vision`].
    pub fn release_vision(mut self) -> Self {
        self.release_vision = true;
        self
    }

    /// Reads the pictures of the prompt, telling `progress` how much of the work is done, and of how much.
    ///
    /// The first piece does this by itself; calling it is for showing progress.
    pub fn encode_images(&mut self, progress: impl Fn(usize, usize)) -> Result<()> {
        if self.end.is_some() || self.started.is_some() {
            return Ok(());
        }
        let engine = &self.model.0.engine;
        let capacity = self.prompt.len() + self.limit();
        let session = match &mut self.session {
            Some(session) => {
                session.reserve(capacity)?;
                session
            }
            None => self.session.insert(engine.session(capacity)?),
        };
        let start = Instant::now();
        let first = self.encoded;
        let count = self.images.len() - first;
        while self.encoded < self.images.len() {
            let before = self.encoded - first;
            session.encode(&self.images[self.encoded], self.encoded * self.model.0.image_tokens())?;
            loop {
                let (done, all) = session.encode_slice()?;
                progress(before * all + done, count * all);
                if done == all {
                    break;
                }
            }
            self.encoded += 1;
            self.vision_s = start.elapsed().as_secs_f64();
        }
        if std::mem::take(&mut self.release_vision) {
            let before = engine.weight_bytes();
            engine.release_vision();
            self.released = Some((before, engine.weight_bytes()));
        }
        Ok(())
    }

    /// Runs the prompt, telling `progress` how many of its tokens were handed to the device, and of how many.
    ///
    /// The first piece does this by itself; calling it is for showing progress.
    pub fn prefill(&mut self, mut progress: impl FnMut(usize, usize)) -> Result<()> {
        if self.started.is_some() || self.end.is_some() {
            return Ok(());
        }
        self.limit = self.limit();
        if self.limit == 0 {
            self.end = Some(Some(Stop::Length));
            return Ok(());
        }
        self.encode_images(|_, _| ())?;
        self.started = Some(Instant::now());
        let logits = self.logprobs > 0;
        let session = self.session.as_mut().expect("reading the pictures opens a session");
        let (rows, vocab) = (self.prompt.len(), self.model.0.config.vocab);
        session.set_tokens(self.cached, &self.prompt[self.cached..])?;
        let chunk = self.model.0.engine.chunk();
        for start in (self.cached..rows).step_by(chunk) {
            progress(start, rows);
            let end = (start + chunk).min(rows);
            let want = if end == rows { Want::Token } else { Want::Nothing };
            let images = self.prompt[start..end].iter().any(|&id| id as usize >= vocab);
            let rows = self.sampling.row(0, start).follow(end - start);
            session.run(&Step { rows: &rows, family: Family::Many, want, logits, images })?;
        }
        progress(rows, rows);
        self.enqueued = 1;
        Ok(())
    }

    /// The next question of a conversation. What the cache holds of it is not computed again: pictures are not read a
    /// second time. Options such as [`Generation::max_tokens`] begin anew.
    ///
    /// Errors: the prompt was no question or chat, or the conversation does not fit the context.
    pub fn follow_up(mut self, question: impl Into<Prompt>, sampler: &Sampler) -> Result<Self> {
        let (model, question) = (self.model.clone(), question.into());
        let (Some(mut messages), Kind::User(text)) = (self.messages.take(), question.kind) else {
            return Err(Error::prompt(
                "a question can follow a question or a chat only, not ids or text that is continued as it is",
            ));
        };
        messages.push(Message::new("assistant", self.reply.trim()));
        let added = model.0.encode(&Prompt { kind: Kind::User(text), images: question.images })?;
        messages.extend(added.messages.into_iter().flatten().filter(|message| message.role == "user"));
        let images = self.images.iter().cloned().chain(added.images).collect();
        let whole = Encoded { images, preprocess_s: added.preprocess_s, ..Encoded::default() };
        let whole = model.0.text.encode_chat(messages, &model.0.config, whole)?;
        self.continued(whole, sampler.resolve()?)
    }

    /// Another prompt to the same model. What the cache holds of its beginning, pictures among it, is not computed again.
    pub(super) fn continued(mut self, prompt: Encoded, sampling: Sampling) -> Result<Self> {
        let mut next = Self::new(self.model.clone(), prompt, sampling)?;
        let Some(mut session) = self.session.take() else { return Ok(next) };
        // A session has the rows of the pictures that it read, in order: for others it is another session.
        if self.images.get(..self.encoded) != next.images.get(..self.encoded) {
            return Ok(next);
        }
        // Steps that ran ahead of the end are waited for; the last token of them that was taken may not be in the cache.
        for _ in self.taken..self.enqueued {
            session.sampled(&mut self.chosen)?;
        }
        // A prompt that never ran left the cache as it was.
        let held = if self.enqueued == 0 { self.cached } else { self.prompt.len() + self.enqueued - 1 };
        let known = self.prompt.iter().chain(&self.ids).take(held);
        let common = known.zip(&next.prompt).take_while(|(a, b)| a == b).count();
        next.cached = common.min(next.prompt.len() - 1);
        next.encoded = self.encoded;
        next.session = Some(session);
        Ok(next)
    }

    /// Tokens that may be generated.
    fn limit(&self) -> usize {
        self.max_tokens.min(self.model.0.context - self.prompt.len())
    }

    /// What it took so far.
    pub fn stats(&self) -> Stats {
        let engine = &self.model.0.engine;
        let device = engine.device();
        Stats {
            prompt_tokens: self.prompt.len(),
            image_tokens: self.images.len() * self.model.0.image_tokens(),
            generated_tokens: self.generated,
            stop: self.end.flatten(),
            load_s: self.model.0.load_s,
            preprocess_s: self.preprocess_s,
            vision_s: self.vision_s,
            prefill_s: self.prefill_s,
            decode_s: self.decode_s,
            device: device.name.clone(),
            backend: device.backend.clone(),
            weight_bytes: engine.weight_bytes(),
            weight_bytes_before_release: self.released.map(|(before, _)| before),
            weight_bytes_after_release: self.released.map(|(_, after)| after),
            dispatches_per_token: engine.dispatches_per_token(),
        }
    }

    /// Keeps the device busy, then reads one token.
    fn advance(&mut self) -> Result<()> {
        self.prefill(|_, _| ())?;
        // Where no token may be generated, the prompt ended it; pictures may have opened a session before.
        let Some(session) = self.session.as_mut().filter(|_| self.end.is_none()) else { return Ok(()) };
        // The first token is read alone: what it took is the prompt's time, not that of steps behind it.
        let depth = if self.taken == 0 { 1 } else { session.depth().max(1) };
        while self.enqueued < self.limit && self.enqueued - self.taken < depth {
            let position = self.prompt.len() + self.enqueued - 1;
            let (rows, logits) = ([self.sampling.row(0, position)], self.logprobs > 0);
            session.run(&Step { rows: &rows, family: Family::Few, want: Want::Token, logits, images: false })?;
            self.enqueued += 1;
        }
        session.sampled(&mut self.chosen)?;
        let sampled = self.chosen.pop().expect("a token for the one row");
        self.clock();
        self.taken += 1;
        let config = &self.model.0.config;
        if sampled.id as usize >= config.vocab || sampled.logprob.is_nan() {
            let after = self.prompt.len() + self.taken - 1;
            let what = format!("no token after {after} (id {}, log-probability {})", sampled.id, sampled.logprob);
            return Err(nonsense(&self.model, &what));
        }
        self.ids.push(sampled.id);
        if config.eos.contains(&sampled.id) {
            self.finish(Stop::Eos);
            return Ok(());
        }
        self.emit(sampled)?;
        if self.taken == self.limit {
            self.finish(Stop::Length);
        }
        Ok(())
    }

    fn emit(&mut self, sampled: Sampled) -> Result<()> {
        let Sampled { id, mut logprob, logits } = sampled;
        let mut top = Vec::new();
        if let Some(logits) = logits.filter(|_| self.logprobs > 0) {
            let logprobs = log_softmax(&logits).ok_or_else(|| not_a_number(&self.model))?;
            logprob = logprobs[id as usize];
            top = best(&logprobs, self.logprobs);
        }
        let text = self.decoder.as_mut().map(|decoder| decoder.push(id)).unwrap_or_default();
        self.generated += 1;
        self.reply += &text;
        self.waiting.push(Piece { id, text, logprob, top });
        if !self.decoder.as_ref().is_some_and(Decoder::is_waiting) {
            self.ready.extend(self.waiting.drain(..));
        }
        Ok(())
    }

    /// The session stays for a question that may follow; it goes with the generation.
    fn finish(&mut self, stop: Stop) {
        if let (Some(decoder), Some(last)) = (&mut self.decoder, self.waiting.last_mut()) {
            let rest = decoder.finish();
            self.reply += &rest;
            last.text.push_str(&rest);
        }
        self.ready.extend(self.waiting.drain(..));
        self.end = Some(Some(stop));
    }

    fn clock(&mut self) {
        let elapsed = self.started.map_or(0.0, |started| started.elapsed().as_secs_f64());
        if self.taken == 0 {
            self.prefill_s = elapsed;
        } else {
            self.decode_s = elapsed - self.prefill_s;
        }
    }
}

impl Iterator for Generation {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Some(Ok(piece));
            }
            if self.end.is_some() {
                return None;
            }
            if let Err(error) = self.advance() {
                self.end = Some(None);
                self.session = None;
                return Some(Err(error));
            }
        }
    }
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generation").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

pub(super) fn not_a_number(model: &Model) -> Error {
    nonsense(model, "logits that are not numbers")
}

/// The CPU path defines what is right: what it cannot compute, the file does not hold.
fn nonsense(model: &Model, what: &str) -> Error {
    let device = model.device();
    if model.0.engine.device().backend == "cpu" {
        return Error::checkpoint(format!("the model computes {what}: its weights or its configuration are damaged"));
    }
    Error::device(format!("{device} computed {what}: its driver may be wrong; try --device cpu"))
}

/// Logarithms of probabilities, summed in f64. Nothing if a logit is not a number.
pub(super) fn log_softmax(logits: &[f32]) -> Option<Vec<f32>> {
    let offset = log_sum_exp(logits)?;
    Some(logits.iter().map(|&logit| (f64::from(logit) - offset) as f32).collect())
}

/// ln Σ exp(logit). Nothing if it is not a number.
pub(super) fn log_sum_exp(logits: &[f32]) -> Option<f64> {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
    Some(largest + sum.ln()).filter(|value| value.is_finite())
}

/// The `count` largest, best first, ties by id.
fn best(logprobs: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut all: Vec<(u32, f32)> = (0..).zip(logprobs.iter().copied()).collect();
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if count < all.len() {
        all.select_nth_unstable_by(count, order);
        all.truncate(count);
    }
    all.sort_unstable_by(order);
    all
}

#[cfg(test)]
mod tests;
