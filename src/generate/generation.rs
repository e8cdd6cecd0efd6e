//! One sequence: its prompt, then pieces of text.

use super::boxes::{Located, located};
use super::clock::Times;
use super::encode::{Conversation, Encoded};
use super::model::Model;
use super::options::Options;
use super::prompt::{Kind, Message, Prompt};
use super::sampler::{Sampler, Sampling};
use super::scheduler::Scheduler;
use super::sequence::{Mask, Request};
use super::stream::{Piece, Stop, TextStream};
use crate::error::{Error, Result};
use crate::work::OwnKernelUse;

/// The continuation of a prompt, as it is generated: an iterator of [`Piece`]s with its own KV cache. Dropping it stops
/// the work.
///
/// It ends at the model's end token, after [`Generation::max_tokens`], when the context is full, or with an error.
pub struct Generation {
    model: Model,
    prompt: Encoded,
    /// Whether the prompt continues the scheduler's last sequence.
    continues: bool,
    release_vision: bool,
    sampling: Sampling,
    options: Options,
    /// The caller's mask, until the scheduler takes it.
    mask: Option<Mask>,
    /// `None` after an error.
    scheduler: Option<Scheduler>,
    /// The scheduler's key of the sequence, and its text, once it runs.
    running: Option<(usize, TextStream)>,
    /// Bytes of weights before and after the vision half was released.
    released: Option<(u64, u64)>,
}

/// The statistics of a generation: counts, and times in seconds.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Stats {
    pub prompt_tokens: usize,
    /// The `prompt_tokens` that are rows of images.
    pub image_tokens: usize,
    /// The number of tokens, without the end token.
    pub generated_tokens: usize,
    /// `None` while it runs, and if it failed.
    pub stop: Option<Stop>,
    pub load_s: f64,
    /// Time for decoding and resizing images.
    pub preprocess_s: f64,
    /// Time for vision tower and projector.
    pub vision_s: f64,
    /// Time from the end of reading images to the first token.
    pub prefill_s: f64,
    /// Time from the first token to the last.
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
    /// Kernels of the user's own that run in the place of dunlin's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub own_kernels: Vec<OwnKernelUse>,
}

impl Stats {
    /// Statistics of a sequence that has not begun.
    pub(super) fn new(model: &Model, prompt: &Encoded) -> Self {
        let engine = &model.0.engine;
        let device = engine.device();
        Stats {
            prompt_tokens: prompt.ids.len(),
            image_tokens: prompt.pictures.pixels.len() * model.0.image_tokens(),
            generated_tokens: 0,
            stop: None,
            load_s: model.0.load_s,
            preprocess_s: prompt.preprocess_s,
            vision_s: 0.0,
            prefill_s: 0.0,
            decode_s: 0.0,
            device: device.name.clone(),
            backend: device.backend.clone(),
            weight_bytes: engine.weight_bytes(),
            weight_bytes_before_release: None,
            weight_bytes_after_release: None,
            dispatches_per_token: engine.dispatches_per_token(),
            own_kernels: engine.own_kernels().to_vec(),
        }
    }

    /// Adds the statistics of a scheduler and a text stream.
    pub(super) fn of(mut self, times: Option<Times>, stream: &TextStream) -> Self {
        let Times { vision_s, prefill_s, decode_s } = times.unwrap_or_default();
        (self.vision_s, self.prefill_s, self.decode_s) = (vision_s, prefill_s, decode_s);
        (self.generated_tokens, self.stop) = (stream.generated, stream.stop);
        self
    }
}

impl Model {
    /// Continues a prompt. Nothing runs before the first piece is asked for.
    ///
    /// The KV cache then gets room for the prompt and [`Generation::max_tokens`], without a limit for the whole context.
    ///
    /// # Errors
    ///
    /// The prompt is empty, does not fit the context, or has pictures or a chat that the model cannot read; or the
    /// sampler's options are out of range.
    pub fn generate(&self, prompt: impl Into<Prompt>, sampler: &Sampler) -> Result<Generation> {
        let encoded = self.0.encode(&prompt.into())?;
        let scheduler = Scheduler::new(self.0.clone(), 1);
        Generation::new(self.clone(), encoded, sampler.resolve()?, scheduler)
    }
}

impl Generation {
    fn new(model: Model, prompt: Encoded, sampling: Sampling, scheduler: Scheduler) -> Result<Self> {
        model.0.check(&prompt.ids, prompt.pictures.pixels.len())?;
        Ok(Self {
            model,
            prompt,
            continues: false,
            release_vision: false,
            sampling,
            options: Options::default(),
            mask: None,
            scheduler: Some(scheduler),
            running: None,
            released: None,
        })
    }

    /// Ends the continuation after this many tokens. Without a limit it ends when the context is full.
    pub fn max_tokens(mut self, tokens: usize) -> Self {
        self.options.max_tokens = tokens;
        self
    }

    /// Gives every piece its `count` most probable tokens. All logits are then read back from the device.
    pub fn logprobs(mut self, count: usize) -> Self {
        self.options.logprobs = count;
        self
    }

    /// Changes the logits before each token is chosen, for example to forbid tokens: `mask` gets the ids so far, those
    /// of the prompt first, and the logits of the next token, one for each id of the vocabulary. −∞ forbids a token.
    ///
    /// The sampler then chooses from these logits as it chooses from the model's, with the same draws, and
    /// [`Piece::logprob`] and [`Piece::top`] are computed from them. A mask that changes no logit changes no piece. A
    /// mask may also forbid the end tokens, so that the text continues, or all other tokens, so that it ends. Ids past
    /// the vocabulary are rows of pictures.
    ///
    /// A step then waits for its logits and for `mask`, so that decoding takes longer than without it. The next piece
    /// is an error if `mask` forbids every token, or writes NaN.
    ///
    /// ```
    /// use dunlin::{Device, Model, Prompt, Sampler};
    ///
    /// # fn main() -> dunlin::Result<()> {
    /// let model = Model::load("examples/demo-model", &Device::cpu())?;
    /// // The answer may begin as "yes" or "no" begins.
    /// let tokenizer = model.tokenizer()?;
    /// let (yes, no) = (tokenizer.encode_without_special("yes")?[0], tokenizer.encode_without_special("no")?[0]);
    /// let answer = model.generate(Prompt::user("Is there a red circle?"), &Sampler::greedy())?;
    /// let mut answer = answer.max_tokens(1).mask(move |_, logits| {
    ///     for (id, logit) in (0..).zip(logits) {
    ///         if id != yes && id != no {
    ///             *logit = f32::NEG_INFINITY;
    ///         }
    ///     }
    /// });
    /// let piece = answer.next().expect("a token")?;
    /// assert!(piece.id == yes || piece.id == no);
    /// # Ok(())
    /// # }
    /// ```
    pub fn mask(mut self, mask: impl FnMut(&[u32], &mut [f32]) + Send + 'static) -> Self {
        self.mask = Some(Box::new(mask));
        self
    }

    /// Shows control tokens in the text as they are spelled: `<ref>`, `<box>`.
    pub fn special(mut self) -> Self {
        self.options.special = true;
        self
    }

    /// The places in the picture that the answer names so far: `<box>` and `<quad>` with their labels, in pixels and in
    /// thousandths. Any other form is text.
    pub fn boxes(&self) -> Vec<Located> {
        let reply = self.running.as_ref().map_or("", |(_, stream)| stream.reply());
        located(reply, self.prompt.pictures.sizes.last().copied())
    }

    /// Drops the weights that read pictures as soon as the pictures of this prompt are read: [`Model::release_vision`].
    pub fn release_vision(mut self) -> Self {
        self.release_vision = true;
        self
    }

    /// Reads the pictures of the prompt. Calls `progress` with the finished work and all work.
    ///
    /// The first piece does this too; a separate call serves to show progress.
    ///
    /// # Errors
    ///
    /// The weights that read pictures were released, memory ran out, or the device failed. The generation has then
    /// ended.
    pub fn encode_images(&mut self, progress: impl Fn(usize, usize)) -> Result<()> {
        let read = self.read_images(&progress);
        self.end_if_wrong(read)
    }

    /// Ends the generation after an error: what the scheduler was doing is half done.
    fn end_if_wrong(&mut self, result: Result<()>) -> Result<()> {
        if result.is_err() {
            self.scheduler = None;
        }
        result
    }

    fn read_images(&mut self, progress: &dyn Fn(usize, usize)) -> Result<()> {
        let Some(scheduler) = &mut self.scheduler else { return Ok(()) };
        let (key, stream) = self.running.get_or_insert_with(|| {
            let sampling = self.sampling.clone();
            let (request, stream) = self.options.begin(&self.model, &self.prompt, sampling, self.continues);
            let request = Request { mask: self.mask.take(), ..request };
            (scheduler.add(request), stream)
        });
        if stream.stop.is_some() {
            return Ok(());
        }
        scheduler.encode_pictures(*key, progress)?;
        if std::mem::take(&mut self.release_vision) {
            let engine = &self.model.0.engine;
            let before = engine.weight_bytes();
            engine.release_vision();
            self.released = Some((before, engine.weight_bytes()));
        }
        Ok(())
    }

    /// Runs the prompt. Calls `progress` with the number of tokens that were submitted and of all tokens.
    ///
    /// The first piece does this too; a separate call serves to show progress.
    ///
    /// # Errors
    ///
    /// Those of [`Generation::encode_images`], and of a [`mask`](Generation::mask) that leaves no token. The generation
    /// has then ended.
    pub fn prefill(&mut self, mut progress: impl FnMut(usize, usize)) -> Result<()> {
        self.encode_images(|_, _| ())?;
        let run = match (&mut self.scheduler, &self.running) {
            (Some(scheduler), Some((key, stream))) if stream.stop.is_none() => scheduler.prefill(*key, &mut progress),
            _ => Ok(()),
        };
        self.end_if_wrong(run)
    }

    /// Asks the next question of a conversation. Positions of the conversation that are in the cache are not computed
    /// again, and its pictures are not read again. Options such as [`Generation::max_tokens`] have their defaults
    /// again.
    ///
    /// It is an error if the prompt was no question or chat, or if the conversation does not fit the context.
    pub fn follow_up(mut self, question: impl Into<Prompt>, sampler: &Sampler) -> Result<Self> {
        let (model, question) = (self.model.clone(), question.into());
        let (Some(conversation), Kind::User(text)) = (self.prompt.conversation.take(), question.kind) else {
            return Err(Error::prompt(
                "a question can follow a question or a chat only, not ids or text that is continued as it is",
            ));
        };
        let Conversation { mut messages, pictures } = conversation;
        let reply = self.running.as_ref().map_or("", |(_, stream)| stream.reply());
        // No picture belongs to a place that the answer names.
        let reply = if model.reads_images() { model.0.text.without_places(reply) } else { reply.to_owned() };
        messages.push(Message::new("assistant", reply.trim()));
        let added = model.0.encode(&Prompt { kind: Kind::User(text), images: question.images })?;
        messages.extend(added.conversation.into_iter().flat_map(|added| added.messages));
        let pictures = pictures.and(added.pictures);
        let whole = Encoded { pictures, preprocess_s: added.preprocess_s, ..Encoded::default() };
        let whole = model.0.text.encode_chat(messages, &model.0.config, whole)?;
        if let (Some(scheduler), Some((key, _))) = (&mut self.scheduler, &self.running) {
            scheduler.end(*key);
        }
        let scheduler = self.scheduler.take().unwrap_or_else(|| Scheduler::new(model.0.clone(), 1));
        Ok(Self { continues: true, ..Self::new(model, whole, sampler.resolve()?, scheduler)? })
    }

    /// The statistics of the generation so far.
    pub fn stats(&self) -> Stats {
        let stats = Stats::new(&self.model, &self.prompt);
        let stats = Stats {
            weight_bytes_before_release: self.released.map(|(before, _)| before),
            weight_bytes_after_release: self.released.map(|(_, after)| after),
            ..stats
        };
        match &self.running {
            Some((key, stream)) => {
                stats.of(self.scheduler.as_ref().and_then(|scheduler| scheduler.times(*key)), stream)
            }
            None => stats,
        }
    }

    /// Waits for one token, and adds it to the text.
    fn advance(&mut self) -> Result<()> {
        self.prefill(|_, _| ())?;
        let (Some(scheduler), Some((_, stream))) = (&mut self.scheduler, &mut self.running) else { return Ok(()) };
        if stream.stop.is_some() {
            return Ok(());
        }
        let (_, sampled) = scheduler.next()?.expect("a sequence that may go on has a next token");
        stream.push(&self.model, self.prompt.ids.len(), sampled)
    }
}

impl Iterator for Generation {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((_, stream)) = &mut self.running {
                if let Some(piece) = stream.next() {
                    return Some(Ok(piece));
                }
                if stream.stop.is_some() {
                    return None;
                }
            }
            self.scheduler.as_ref()?;
            if let Err(error) = self.advance() {
                self.scheduler = None;
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

#[cfg(test)]
mod tests;
