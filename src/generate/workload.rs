//! A prompt and a number of tokens, run on a session of their own to be measured. No end token stops them.

use std::time::Duration;

use super::encode::Encoded;
use super::model::Model;
use super::prompt::Prompt;
use super::sampler::Sampling;
use crate::backend::measured::{Clock, Measured, Phase};
use crate::backend::{Sampled, Session, Step, Want};
use crate::clock::Instant;
use crate::error::{Error, Result};
use crate::work::{Family, Row};

/// What is run: the pictures of a prompt, the prompt, and decoding steps.
pub struct Workload {
    model: Model,
    prompt: Encoded,
    /// Decoding steps after the prompt, whose pass chooses the first token.
    tokens: usize,
}

/// The time of each phase of one run, and the chosen tokens.
type Once = (Vec<(Phase, Duration)>, Vec<u32>);

/// The same work twice: as it always runs, and measured.
pub struct Runs {
    /// The time of each phase, from the first call to the last result: undisturbed, and measured.
    pub phases: Vec<(Phase, [Duration; 2])>,
    pub measured: Vec<Measured>,
    /// The chosen tokens.
    pub ids: Vec<u32>,
}

impl Workload {
    /// # Errors
    ///
    /// If the prompt cannot be read, or does not fit the context together with the tokens.
    pub fn new(model: &Model, prompt: Prompt, tokens: usize) -> Result<Self> {
        let prompt = model.0.encode(&prompt)?;
        model.0.check(&prompt.ids, prompt.pictures.pixels.len())?;
        let (count, context) = (prompt.ids.len(), model.0.context);
        if count + tokens > context {
            return Err(Error::prompt(format!(
                "the prompt has {count} tokens, and {tokens} more do not fit the context of {context}: decode fewer, \
                 shorten the prompt or give a larger --context"
            )));
        }
        Ok(Workload { model: model.clone(), prompt, tokens })
    }

    /// The number of tokens of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt.ids.len()
    }

    /// Runs the work three times: to warm up, undisturbed, and measured with a clock or with the best there is. Calls
    /// `progress` with the finished passes and all passes.
    pub fn run(&self, clock: Option<Clock>, progress: &dyn Fn(usize, usize)) -> Result<Runs> {
        let mut session = self.model.0.engine.session(self.prompt.ids.len() + self.tokens + 1)?;
        // The first run compiles kernels, reads weights from disk, and finds out whether the clock can be trusted.
        session.measure(clock)?;
        let few = self.tokens.min(2);
        let all = 3 * self.passes(0) + few + 2 * self.tokens;
        self.once(&mut *session, few, 1, &|done| progress(done, all))?;
        let found = session.measured();
        // Of a driver that writes no timestamps, the first pass is not recorded. Here it was the only one.
        let trusted = clock.unwrap_or(found.last().map_or(Clock::Submissions, |measured| measured.clock));

        let before = self.passes(few);
        let depth = session.depth();
        let (undisturbed, _) = self.once(&mut *session, self.tokens, depth, &|done| progress(before + done, all))?;
        session.measure(Some(trusted))?;
        let before = before + self.passes(self.tokens);
        let (measured, ids) = self.once(&mut *session, self.tokens, 1, &|done| progress(before + done, all))?;
        let both = undisturbed.into_iter().zip(measured);
        let phases = both.map(|((phase, first), (_, second))| (phase, [first, second])).collect();
        Ok(Runs { phases, measured: session.measured(), ids })
    }

    /// Pictures, chunks of the prompt, and decoding steps.
    fn passes(&self, tokens: usize) -> usize {
        self.prompt.pictures.pixels.len() + self.prompt.ids.len().div_ceil(self.model.0.engine.chunk()) + tokens
    }

    /// One run. Up to `depth` steps are in flight.
    fn once(&self, session: &mut dyn Session, tokens: usize, depth: usize, progress: &dyn Fn(usize)) -> Result<Once> {
        let (model, ids) = (&self.model.0, &self.prompt.ids);
        let (mut phases, mut passes) = (Vec::new(), 0);
        let mut passed = || {
            passes += 1;
            progress(passes);
        };
        let start = Instant::now();
        for (index, pixels) in self.prompt.pictures.pixels.iter().enumerate() {
            session.encode(pixels, index * model.image_tokens())?;
            while let (done, all) = session.encode_slice()?
                && done < all
            {}
            passed();
        }
        if !self.prompt.pictures.pixels.is_empty() {
            phases.push((Phase::Picture, start.elapsed()));
        }

        let start = Instant::now();
        let stretch = model.config.rope.beyond.stretch(ids.len());
        let row = |position| Sampling::GREEDY.row(0, position).stretched(stretch);
        let mut chosen = Vec::new();
        let mut found = Vec::with_capacity(tokens + 1);
        session.set_tokens(0, ids)?;
        for first in (0..ids.len()).step_by(model.engine.chunk()) {
            let end = ids.len().min(first + model.engine.chunk());
            let images = ids[first..end].iter().any(|&id| model.picture_ids().row(id).is_some());
            let want = if end == ids.len() { Want::Token } else { Want::Nothing };
            let rows = row(first).follow(end - first);
            session.run(&Step { rows: &rows, family: Family::Many, want, logits: false, images })?;
            passed();
        }
        session.sampled(&mut chosen)?;
        found.extend(chosen.iter().map(|sampled| sampled.id));
        phases.push((Phase::Prompt, start.elapsed()));

        let steps: Vec<Vec<Row>> = (0..tokens).map(|step| vec![row(ids.len() + step)]).collect();
        let start = Instant::now();
        decode(session, &steps, depth, &mut |chosen| {
            found.extend(chosen.iter().map(|sampled| sampled.id));
            passed();
        })?;
        if tokens > 0 {
            phases.push((Phase::Decode, start.elapsed()));
        }
        Ok((phases, found))
    }
}

/// Decodes steps with the given rows, as the scheduler does: up to `depth` steps are in flight. `each` gets the tokens of
/// each step.
pub fn decode(
    session: &mut dyn Session,
    steps: &[Vec<Row>],
    depth: usize,
    each: &mut dyn FnMut(&[Sampled]),
) -> Result<()> {
    let (mut asked, mut chosen) = (0, Vec::new());
    for taken in 0..steps.len() {
        while asked < steps.len() && asked - taken < depth.max(1) {
            let rows = &steps[asked];
            session.run(&Step { rows, family: Family::Few, want: Want::Token, logits: false, images: false })?;
            asked += 1;
        }
        session.sampled(&mut chosen)?;
        each(&chosen);
    }
    Ok(())
}
