//! Several prompts at once, which share the passes of one session.

use std::collections::VecDeque;

use super::boxes::{Located, located};
use super::encode::Encoded;
use super::generation::Stats;
use super::model::Model;
use super::options::Options;
use super::prompt::Prompt;
use super::sampler::Sampler;
use super::scheduler::Scheduler;
use super::stream::{Piece, TextStream};
use crate::error::Result;

/// The continuations of several prompts, as they are generated: an iterator of the prompt's index, from 0, and a
/// [`Piece`] or an error. Dropping it stops the work.
///
/// Each prompt is continued as [`Model::generate`] continues it alone, bit for bit. The next prompt is taken from the
/// iterator when another one ends. A common beginning of prompts is computed once, and a picture that several prompts
/// show is read once. An error ends its prompt only, but a failure of the device ends all prompts.
pub struct Generations {
    model: Model,
    prompts: Box<dyn Iterator<Item = Prompt> + Send>,
    sampler: Sampler,
    parallel: usize,
    options: Options,
    /// The number of prompts that were taken so far.
    taken: usize,
    scheduler: Option<Scheduler>,
    running: Vec<Running>,
    ready: VecDeque<(usize, Result<Piece>)>,
    ended: VecDeque<Ended>,
}

/// A prompt whose continuation has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// The index of the prompt, from 0.
    pub index: usize,
    /// The statistics of the continuation.
    pub stats: Stats,
    /// The places in the prompt's last picture that the continuation names: see
    /// [`Generation::boxes`](crate::Generation::boxes).
    pub boxes: Vec<Located>,
}

/// A prompt that is being continued.
struct Running {
    index: usize,
    key: usize,
    prompt: Encoded,
    stream: TextStream,
}

/// The number of sequences that run at a time unless [`Generations::parallel`] sets another.
const PARALLEL: usize = 8;

impl Model {
    /// Continues several prompts together, [`Generations::parallel`] at a time: each weight is read once for all of
    /// them. Nothing runs before the first piece is requested. A sampler with a seed draws the same tokens for each
    /// prompt as for the prompt alone; a sampler without a seed draws each prompt's tokens from a new seed.
    ///
    /// Each prompt that runs gets room in the KV cache for itself and [`Generations::max_tokens`], without a limit for
    /// the whole context. Prompts for which the device has no memory wait until others end.
    ///
    /// # Errors
    ///
    /// The sampler's options are out of range. An error of one prompt comes from the iterator, with the prompt's index.
    pub fn generate_all<P: Into<Prompt> + 'static>(
        &self,
        prompts: impl IntoIterator<Item = P, IntoIter: Send + 'static>,
        sampler: &Sampler,
    ) -> Result<Generations> {
        sampler.resolve()?;
        Ok(Generations {
            model: self.clone(),
            prompts: Box::new(prompts.into_iter().map(Into::into)),
            sampler: sampler.clone(),
            parallel: PARALLEL,
            options: Options::default(),
            taken: 0,
            scheduler: None,
            running: Vec::new(),
            ready: VecDeque::new(),
            ended: VecDeque::new(),
        })
    }
}

impl Generations {
    /// Sets how many prompts are continued at a time: 8 by default, 512 at most, and fewer if the device has no memory
    /// for as many. Each has room in the KV cache for itself and [`Generations::max_tokens`].
    pub fn parallel(mut self, prompts: usize) -> Self {
        self.parallel = prompts.max(1);
        self
    }

    /// Ends each continuation after this many tokens. Without a limit it ends when the context is full.
    pub fn max_tokens(mut self, tokens: usize) -> Self {
        self.options.max_tokens = tokens;
        self
    }

    /// Gives every piece its `count` most probable tokens. All logits are then read back from the device.
    pub fn logprobs(mut self, count: usize) -> Self {
        self.options.logprobs = count;
        self
    }

    /// Shows control tokens in the text as they are spelled: `<ref>`, `<box>`.
    pub fn special(mut self) -> Self {
        self.options.special = true;
        self
    }

    /// A prompt whose continuation has ended: each prompt once, in the order in which they end.
    pub fn ended(&mut self) -> Option<Ended> {
        self.ended.pop_front()
    }

    /// Takes prompts while there is room for them.
    fn fill(&mut self) {
        let scheduler = self.scheduler.get_or_insert_with(|| Scheduler::new(self.model.0.clone(), self.parallel));
        while scheduler.has_room()
            && let Some(prompt) = self.prompts.next()
        {
            let index = self.taken;
            self.taken += 1;
            let encoded = self.model.0.encode(&prompt).and_then(|encoded| {
                self.model.0.check(&encoded.ids, encoded.pictures.pixels.len())?;
                Ok((encoded, self.sampler.resolve()?))
            });
            let (prompt, sampling) = match encoded {
                Ok(encoded) => encoded,
                Err(error) => {
                    self.ready.push_back((index, Err(error)));
                    continue;
                }
            };
            let (request, stream) = self.options.begin(&self.model, &prompt, sampling, false);
            if stream.stop.is_some() {
                let stats = Stats::new(&self.model, &prompt).of(None, &stream);
                self.ended.push_back(Ended { index, stats, boxes: Vec::new() });
                continue;
            }
            let key = scheduler.add(request);
            self.running.push(Running { index, key, prompt, stream });
        }
    }

    /// Reads one token of any prompt. Returns false if all have ended.
    fn advance(&mut self) -> Result<bool> {
        self.fill();
        let scheduler = self.scheduler.as_mut().expect("made when prompts were taken");
        let Some((key, sampled)) = scheduler.next()? else { return Ok(false) };
        let at = self.running.iter().position(|running| running.key == key).expect("its token came");
        let Running { index, prompt, stream, .. } = &mut self.running[at];
        let pushed = stream.push(&self.model, prompt.ids.len(), sampled);
        self.ready.extend(std::iter::from_fn(|| stream.next()).map(|piece| (*index, Ok(piece))));
        if stream.stop.is_some() || pushed.is_err() {
            let times = scheduler.times(key);
            scheduler.end(key);
            let Running { index, prompt, stream, .. } = self.running.swap_remove(at);
            match pushed {
                Ok(()) => {
                    let stats = Stats::new(&self.model, &prompt).of(times, &stream);
                    let boxes = located(stream.reply(), prompt.pictures.sizes.last().copied());
                    self.ended.push_back(Ended { index, stats, boxes });
                }
                Err(error) => self.ready.push_back((index, Err(error))),
            }
        }
        Ok(true)
    }
}

impl Iterator for Generations {
    type Item = (usize, Result<Piece>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(ready);
            }
            match self.advance() {
                Ok(true) => {}
                Ok(false) if self.ready.is_empty() => return None,
                Ok(false) => {}
                // The device failed, and with it every prompt. Prompts that were not taken yet do not begin.
                Err(error) => {
                    self.prompts = Box::new(std::iter::empty());
                    self.scheduler = None;
                    let first = self.running.drain(..).map(|running| running.index).min();
                    return first.map(|index| (index, Err(error)));
                }
            }
        }
    }
}

impl std::fmt::Debug for Generations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let running: Vec<usize> = self.running.iter().map(|running| running.index).collect();
        f.debug_struct("Generations").field("running", &running).finish_non_exhaustive()
    }
}
