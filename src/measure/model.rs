//! What a model takes on one device, below the public interface: end tokens end nothing, and ids do not become text.

use std::time::Duration;

use crate::backend::{Engine, Session, Step, Want, work_of_thread};
use crate::checkpoint::Config;
use crate::clock::Instant;
use crate::error::{Error, Result};
use crate::generate::Model;
use crate::generate::workload;
use crate::graph::ValueKind;
use crate::measure::report::{DecodeTimes, Floors, Memory, ModelTimes, PictureTimes, PromptTimes};
use crate::measure::runs::Runs;
use crate::models::{IMAGES, Pass, TABLE};
use crate::plan::Cost;
use crate::work::{Family, Row};

/// What to time.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Tokens of each prompt. At least one prompt; the first token is timed with the first prompt.
    pub prompts: Vec<usize>,
    /// Tokens to decode; 0 decodes nothing.
    pub decode: usize,
    /// Tokens in the cache when decoding begins. At 0 there is one, because a model needs a token to continue.
    pub depths: Vec<usize>,
    /// Sequences that decode together.
    pub parallel: Vec<usize>,
    /// Timed runs of each, after one to warm up.
    pub runs: usize,
    /// Whether to encode a picture.
    pub picture: bool,
}

impl Workload {
    /// How many measurements it has: prompts, decodings, the first token, and a picture.
    pub fn count(&self) -> usize {
        let decodes = if self.decode > 0 { self.depths.len() * self.parallel.len() } else { 0 };
        self.prompts.len() + decodes + 1 + usize::from(self.picture)
    }

    /// The longest of its sequences.
    fn longest(&self) -> usize {
        let prompts = self.prompts.iter().map(|tokens| tokens + 1);
        let decode = |&depth: &usize| if self.decode > 0 { positions(depth, self.decode) } else { 0 };
        prompts.chain(self.depths.iter().map(decode)).max().unwrap_or(0)
    }
}

/// The costs of a fresh process.
#[derive(Clone, Debug, Default)]
pub struct Cold {
    /// Seconds of loading, and milliseconds from then to the first token.
    pub load_s: Vec<f64>,
    pub first_token_ms: Vec<f64>,
    /// The largest peaks of resident memory, after loading and after the first token.
    pub peak_loading_bytes: Option<u64>,
    pub peak_bytes: Option<u64>,
}

/// A warm-up decodes this many tokens.
const WARM_UP: usize = 4;

/// Positions of a sequence that decodes from a depth.
fn positions(depth: usize, decode: usize) -> usize {
    depth.max(1) + decode + 1
}

/// Checks that a model can do the work at all, in sequences of up to `context` tokens.
///
/// # Errors
///
/// A sequence would be longer, or there is no vision half for a picture.
pub fn check(config: &Config, context: usize, work: &Workload) -> Result<()> {
    let longest = work.longest();
    if longest > context {
        return Err(Error::prompt(format!(
            "the longest sequence would have {longest} tokens, more than the context of {context}: give smaller -p, -n \
             or -d, or a larger --context"
        )));
    }
    if work.picture && config.vision.is_none() {
        return Err(Error::unsupported("the model reads no pictures: leave --image out, or give its --mmproj"));
    }
    Ok(())
}

/// Times everything. `progress` is called with the name of each measurement before it begins.
///
/// # Errors
///
/// Those of [`check`]; more sequences than decode together on the device; what devices do.
pub fn measure(
    model: &Model,
    work: &Workload,
    cold: &Cold,
    floors: &Floors,
    progress: &mut dyn FnMut(&str),
) -> Result<ModelTimes> {
    check(model.config(), model.context(), work)?;
    let (together, most) = (work.parallel.iter().copied().max().unwrap_or(1), model.engine().most_rows());
    if work.decode > 0 && together > most {
        return Err(Error::prompt(format!(
            "{together} sequences are more than the {most} that decode together on {}: give a smaller --parallel",
            model.device()
        )));
    }
    let mut bench = Bench { engine: &**model.engine(), model, work, floors, allocated: None, most: 0, arena: 0 };
    let mut prompts = Vec::new();
    for &tokens in &work.prompts {
        progress(&format!("prompt {tokens}"));
        prompts.push(bench.prompt(tokens)?);
    }
    progress("first token");
    let first_token_warm_ms = bench.first_token()?;
    let mut decodes = Vec::new();
    if work.decode > 0 {
        for &depth in &work.depths {
            for &parallel in &work.parallel {
                progress(&format!("decode at {depth}, {parallel} together"));
                decodes.push(bench.decode(depth, parallel)?);
            }
        }
    }
    let picture = match work.picture {
        true => {
            progress("picture");
            Some(bench.picture()?)
        }
        false => None,
    };
    Ok(ModelTimes {
        precision: if bench.engine.profile().kv_f16() { "f16" } else { "f32" }.to_owned(),
        load_s: Runs::new(cold.load_s.clone()),
        first_token_cold_ms: Runs::new(cold.first_token_ms.clone()),
        first_token_warm_ms,
        memory: bench.memory(cold)?,
        prompts,
        decodes,
        picture,
    })
}

/// Seconds from here to the first token of a prompt, in a new session.
pub fn first_token(model: &Model, tokens: usize) -> Result<f64> {
    let start = Instant::now();
    let mut session = model.engine().session(tokens + 1)?;
    fill(&mut *session, model, tokens)?;
    Ok(start.elapsed().as_secs_f64())
}

/// Computes a prompt in the first slot of a session, and takes the token that follows.
fn fill(session: &mut dyn Session, model: &Model, tokens: usize) -> Result<()> {
    session.set_tokens(0, &ids(tokens, model.config().vocab))?;
    let chunk = model.engine().chunk();
    for rows in passes(tokens, chunk) {
        let want = if rows.last().is_some_and(|row| row.position as usize + 1 == tokens) {
            Want::Token
        } else {
            Want::Nothing
        };
        session.run(&Step { rows: &rows, family: Family::Many, want, logits: false, images: false })?;
    }
    session.sampled(&mut Vec::new())
}

/// The rows of each pass of a prompt.
fn passes(tokens: usize, chunk: usize) -> impl Iterator<Item = Vec<Row>> {
    (0..tokens).step_by(chunk).map(move |position| Row::at(position).follow(chunk.min(tokens - position)))
}

/// Different ids from all over the vocabulary; no rate depends on them.
fn ids(tokens: usize, vocab: usize) -> Vec<u32> {
    (0..tokens).map(|i| ((1000 + 7919 * i) % vocab) as u32).collect()
}

struct Bench<'a> {
    engine: &'a dyn Engine,
    model: &'a Model,
    work: &'a Workload,
    floors: &'a Floors,
    /// The most bytes that the device's allocator had handed out, the most positions of a session, and the largest arena
    /// of a pass with that of a picture.
    allocated: Option<u64>,
    most: usize,
    arena: u64,
}

/// One run of decoding.
struct Decoded {
    seconds: f64,
    /// Time in calls of the session, less the time that they waited for the device.
    host: Duration,
    submissions: usize,
}

impl Bench<'_> {
    fn prompt(&mut self, tokens: usize) -> Result<PromptTimes> {
        let mut session = self.session(tokens + 1)?;
        let mut once = || {
            let start = Instant::now();
            fill(&mut *session, self.model, tokens)?;
            Ok(start.elapsed().as_secs_f64())
        };
        once()?;
        let seconds = Runs::new((0..self.work.runs).map(|_| once()).collect::<Result<_>>()?);
        self.note_memory();
        let mut flop = 0;
        for rows in passes(tokens, self.engine.chunk()) {
            let last = rows.last().is_some_and(|row| row.position as usize + 1 == tokens);
            let want = if last { Want::Token } else { Want::Nothing };
            flop += self.cost(Pass::prompt(rows.len(), want), &rows)?.flops;
        }
        let flop_per_s = flop as f64 / seconds.mean;
        Ok(PromptTimes {
            tokens,
            tokens_per_s: seconds.map(|seconds| tokens as f64 / seconds),
            flop,
            flop_per_s,
            share_of_peak: self.floors.peak_flop_per_s.shares(flop_per_s),
        })
    }

    /// Milliseconds to the first token of the first prompt, in new sessions.
    fn first_token(&mut self) -> Result<Runs> {
        let tokens = self.work.prompts[0];
        let once = || Ok(1e3 * first_token(self.model, tokens)?);
        Ok(Runs::new((0..self.work.runs).map(|_| once()).collect::<Result<_>>()?))
    }

    fn decode(&mut self, depth: usize, parallel: usize) -> Result<DecodeTimes> {
        let (start, tokens) = (depth.max(1), self.work.decode);
        let size = positions(depth, tokens);
        let mut session = self.session(size * parallel)?;
        fill(&mut *session, self.model, start)?;
        for sequence in 1..parallel {
            session.copy(0, sequence * size, start + 1)?;
        }
        let rows = |position| -> Vec<Row> {
            (0..parallel).map(|i| Row { slot: (i * size) as u32, ..Row::at(position) }).collect()
        };
        decode_once(&mut *session, tokens.min(WARM_UP), &|step| rows(start + step))?;
        let once = |_| decode_once(&mut *session, tokens, &|step| rows(start + step));
        let runs = (0..self.work.runs).map(once).collect::<Result<Vec<Decoded>>>()?;
        self.note_memory();

        let all = (tokens * parallel) as f64;
        let seconds_per_token = Runs::new(runs.iter().map(|run| run.seconds / all).collect());
        let host = || Runs::new(runs.iter().map(|run| 1e6 * run.host.as_secs_f64() / all).collect());
        let on_device = self.floors.dispatch_us.is_some();
        let pass = Pass::decode(parallel);
        let middle = rows(start + tokens / 2);
        let bytes_per_token = self.cost(pass, &middle)?.bytes as f64 / parallel as f64;
        let dispatches = if on_device { self.engine.plan(pass)?.steps.len() } else { 0 };
        let dispatches_per_token = dispatches as f64 / parallel as f64;
        let us = 1e6 * seconds_per_token.mean;
        let copy_floor_us = 1e6 * bytes_per_token / self.floors.copy_bytes_per_s;
        let dispatch_floor_us = self.floors.dispatch_us.map(|dispatch| dispatch * dispatches_per_token);
        Ok(DecodeTimes {
            depth,
            tokens,
            parallel,
            tokens_per_s: seconds_per_token.map(|seconds| 1.0 / seconds),
            // A rasteriser works in the call that submits, so the time of the host cannot be told from it.
            host_us_per_token: (on_device && !self.engine.profile().rasteriser).then(host),
            submissions_per_token: runs.iter().map(|run| run.submissions).max().unwrap_or(0) as f64 / all,
            dispatches_per_token,
            bytes_per_token,
            copy_floor_us,
            copy_floor_share: copy_floor_us / us,
            dispatch_floor_us,
            dispatch_floor_share: dispatch_floor_us.map(|floor| floor / us),
        })
    }

    fn picture(&mut self) -> Result<PictureTimes> {
        let vision = self.model.config().vision.as_ref().expect("the work was checked");
        let side = vision.image_size;
        let plan = self.engine.vision_plan().expect("a model with a vision half has its plan");
        // Neither time nor operations depend on the pixels.
        let pixels: Vec<f32> = (0..3 * side * side).map(|i| ((i * 7919 % 1009) as f32) / 504.5 - 1.0).collect();
        let mut session = self.session(1)?;
        let mut once = || {
            let start = Instant::now();
            session.encode(&pixels, 0)?;
            loop {
                let (done, all) = session.encode_slice()?;
                if done == all {
                    return Ok(start.elapsed().as_secs_f64());
                }
            }
        };
        once()?;
        let seconds = Runs::new((0..self.work.runs).map(|_| once()).collect::<Result<_>>()?);
        self.note_memory();
        self.arena += plan.arena;
        let flop = plan.cost(&[Row::at(0)], &self.engine.profile()).flops;
        let flop_per_s = flop as f64 / seconds.mean;
        Ok(PictureTimes {
            side,
            tokens: vision.tokens(),
            encode_ms: seconds.map(|seconds| 1e3 * seconds),
            dispatches: plan.steps.len(),
            flop,
            flop_per_s,
            share_of_peak: self.floors.peak_flop_per_s.shares(flop_per_s),
        })
    }

    fn session(&mut self, capacity: usize) -> Result<Box<dyn Session>> {
        self.most = self.most.max(capacity);
        self.engine.session(capacity)
    }

    /// What a pass with these rows costs.
    fn cost(&mut self, pass: Pass, rows: &[Row]) -> Result<Cost> {
        let plan = self.engine.plan(pass)?;
        self.arena = self.arena.max(plan.arena);
        Ok(plan.cost(rows, &self.engine.profile()))
    }

    /// Asks the allocator while a session is alive.
    fn note_memory(&mut self) {
        self.allocated = self.allocated.max(self.engine.allocated_bytes());
    }

    fn memory(&self, cold: &Cold) -> Result<Memory> {
        let (plan, profile) = (self.engine.plan(Pass::decode(1))?, self.engine.profile());
        let state = plan.graph.values.iter().filter_map(|value| match &value.kind {
            ValueKind::State(name) if name != IMAGES && name != TABLE => Some(&value.ty),
            _ => None,
        });
        let cache: u64 = state.map(|ty| ty.bytes(&profile) / ty.shape[0] as u64 * self.most as u64).sum();
        Ok(Memory {
            host_peak_loading_bytes: cold.peak_loading_bytes,
            host_peak_bytes: cold.peak_bytes,
            device_weight_bytes: self.engine.weight_bytes(),
            device_cache_bytes: cache,
            device_positions: self.most,
            device_arena_bytes: self.arena.max(plan.arena),
            device_allocated_bytes: self.allocated,
        })
    }
}

/// Decodes `count` tokens of each sequence.
fn decode_once(session: &mut dyn Session, count: usize, rows: &dyn Fn(usize) -> Vec<Row>) -> Result<Decoded> {
    let steps: Vec<Vec<Row>> = (0..count).map(rows).collect();
    let depth = session.depth();
    let before = work_of_thread();
    let start = Instant::now();
    workload::decode(session, &steps, depth, &mut |_| ())?;
    let seconds = start.elapsed();
    let after = work_of_thread();
    // Between the calls is nothing but counting, so the time of the loop is the time of the calls.
    let host = seconds.saturating_sub(after.waited.saturating_sub(before.waited));
    Ok(Decoded { seconds: seconds.as_secs_f64(), host, submissions: after.submitted - before.submitted })
}
