//! Sequences on the CPU: their memory, and the plans of passes bound to it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::backend::cpu::{Bound, Memory, Shared, Vision, profile};
use crate::backend::measured::{Clock, HostWork, Measured, Phase, Recorder, Span, Timed};
use crate::backend::plans::PerPass;
use crate::backend::{Change, Output, Sampled, Session, Step, no_vision};
use crate::error::{Error, Result};
use crate::graph::ValueKind;
use crate::models::{self, Pass, TABLE, Want};
use crate::plan::Plan;
use crate::threads::Team;
use crate::work::{MOST_ROWS, Row, ValueId};

pub struct CpuSession {
    shared: Arc<Shared>,
    memory: Memory,
    bound: PerPass<Bound>,
    /// Tokens that were chosen but not yet taken, and how many each step chose.
    sampled: VecDeque<Sampled>,
    counts: VecDeque<usize>,
    outputs: Vec<(String, Output)>,
    encoder: Option<Encoder>,
    /// Passes since the last picture.
    since_picture: usize,
    /// Only while the session measures.
    recorder: Option<Recorder>,
}

/// The memory in which pictures are encoded, and the progress of the current picture.
struct Encoder {
    vision: Arc<Vision>,
    memory: Memory,
    bound: Bound,
    /// As many rows as the longest state has positions, because a picture may have more rows than a pass.
    rows: Vec<Row>,
    /// The finished steps of the current picture, whose rows become rows `first..`.
    next: usize,
    first: usize,
}

/// Multiply-adds of a slice of a picture: about ten milliseconds of a core.
const SLICE: usize = 1 << 30;

/// Passes without a picture after which the memory for encoding pictures is dropped.
const KEEP_ENCODER: usize = 16;

impl CpuSession {
    pub fn new(shared: Arc<Shared>, capacity: usize) -> Result<Self> {
        let memory = Memory::new(&shared.team);
        let mut session = CpuSession {
            shared,
            memory,
            bound: PerPass::default(),
            sampled: VecDeque::new(),
            counts: VecDeque::new(),
            outputs: Vec::new(),
            encoder: None,
            since_picture: 0,
            recorder: None,
        };
        session.reserve(capacity)?;
        Ok(session)
    }

    /// Makes sure that the plan of a step's pass is bound to this session's memory.
    fn bind(&mut self, step: &Step) -> Result<Pass> {
        let pass = step.pass();
        self.since_picture += 1;
        if self.since_picture > KEEP_ENCODER {
            self.encoder = None;
        }
        if self.bound.get(&pass).is_none() {
            let bound =
                Bound::new(self.shared.plans.get(pass)?, &self.shared.weights, self.shared.rounds, &mut self.memory);
            self.bound.insert(pass, bound);
        }
        Ok(pass)
    }

    /// Keeps the tokens that a step chose until they are taken.
    fn keep_sampled(&mut self, pass: Pass, step: &Step) {
        let plan = &self.bound.get(&pass).expect("a pass that ran is bound").plan;
        let (sampled, logits) = (output(&self.memory, plan, "sampled"), output(&self.memory, plan, "logits"));
        let vocab = logits.len() / (sampled.len() / 2);
        let chosen = sampled.chunks_exact(2).zip(logits.chunks_exact(vocab)).map(|(sampled, logits)| {
            let logits = step.logits.then(|| logits.to_vec());
            Sampled { id: sampled[0].to_bits(), logprob: sampled[1], logits }
        });
        self.sampled.extend(chosen);
        self.counts.push_back(sampled.len() / 2);
    }
}

impl Session for CpuSession {
    fn set_tokens(&mut self, place: usize, ids: &[u32]) -> Result<()> {
        let tokens = self.memory.state_mut(models::TOKENS);
        for (token, id) in tokens[place..].iter_mut().zip(ids) {
            *token = f32::from_bits(*id);
        }
        Ok(())
    }

    fn copy(&mut self, from: usize, to: usize, count: usize) -> Result<()> {
        self.memory.copy_state(from, to, count, &[models::IMAGES, TABLE]);
        Ok(())
    }

    fn run(&mut self, step: &Step) -> Result<()> {
        let pass = self.bind(step)?;
        let bound = self.bound.get(&pass).expect("just bound");
        match &mut self.recorder {
            Some(recorder) => {
                let all = 0..bound.len();
                run_measured(recorder, bound, &mut self.memory, &self.shared.team, step.rows, all, step.phase());
            }
            None => bound.run(&mut self.memory, &self.shared.team, step.rows, 0..bound.len()),
        }
        match step.want {
            Want::Nothing => {}
            Want::Token => self.keep_sampled(pass, step),
            Want::Logits | Want::Hidden | Want::Trace => self.outputs = outputs(&self.memory, &bound.plan),
        }
        Ok(())
    }

    fn run_changed(&mut self, step: &Step, change: Change) -> Result<()> {
        let pass = self.bind(step)?;
        let bound = self.bound.get(&pass).expect("just bound");
        let (id, after) = bound.plan.after_output("logits");
        bound.run(&mut self.memory, &self.shared.team, step.rows, 0..after);
        let (_, vocab) = bound.plan.graph.ty(id).matrix();
        let logits = self.memory.read_mut(&bound.plan, id);
        logits.chunks_exact_mut(vocab).enumerate().try_for_each(|(row, logits)| change(row, logits))?;
        bound.run(&mut self.memory, &self.shared.team, step.rows, after..bound.len());
        self.keep_sampled(pass, step);
        Ok(())
    }

    fn sampled(&mut self, chosen: &mut Vec<Sampled>) -> Result<()> {
        let begin = self.recorder.as_ref().map(Recorder::now);
        let count = self.counts.pop_front().expect("a token was asked for");
        chosen.clear();
        chosen.extend(self.sampled.drain(..count));
        if let (Some(recorder), Some(begin)) = (&mut self.recorder, begin) {
            recorder.host(HostWork::Choose, begin);
        }
        Ok(())
    }

    fn outputs(&mut self) -> Result<Vec<(String, Output)>> {
        Ok(std::mem::take(&mut self.outputs))
    }

    fn encode(&mut self, pixels: &[f32], first: usize) -> Result<()> {
        let vision = self.shared.vision.get().ok_or_else(no_vision)?;
        self.since_picture = 0;
        let same = self.encoder.as_ref().is_some_and(|encoder| Arc::ptr_eq(&encoder.vision, &vision));
        if !same {
            self.encoder = Some(Encoder::new(&self.shared, vision));
        }
        let encoder = self.encoder.as_mut().expect("just made");
        let plan = &encoder.bound.plan;
        encoder.memory.write(plan, input(plan), pixels);
        (encoder.next, encoder.first) = (0, first);
        Ok(())
    }

    fn encode_slice(&mut self) -> Result<(usize, usize)> {
        let Encoder { memory, bound, rows, next, first, .. } = self.encoder.as_mut().expect("a picture was given");
        let (start, mut work) = (*next, 0);
        while *next < bound.len() && work < SLICE {
            work += bound.work(*next);
            *next += 1;
        }
        match &mut self.recorder {
            Some(recorder) => {
                run_measured(recorder, bound, memory, &self.shared.team, rows, start..*next, Phase::Picture);
            }
            None => bound.run(memory, &self.shared.team, rows, start..*next),
        }
        if *next == bound.len() {
            let rows = output(memory, &bound.plan, models::PROJECTED);
            let cols = self.shared.hidden;
            self.memory.reserve_state(models::IMAGES, *first + rows.len() / cols, cols);
            self.memory.state_mut(models::IMAGES)[*first * cols..][..rows.len()].copy_from_slice(rows);
        }
        Ok((*next, bound.len()))
    }

    fn encoded(&mut self) -> Result<Vec<(String, Output)>> {
        let encoder = self.encoder.as_ref().expect("a picture was encoded");
        Ok(outputs(&encoder.memory, &encoder.bound.plan))
    }

    fn reserve(&mut self, capacity: usize) -> Result<()> {
        let plan = self.shared.plans.get(Pass::decode(1))?;
        let bytes: usize = (plan.graph.values.iter().filter(|value| matches!(value.kind, ValueKind::State(_))))
            .map(|value| value.ty.shape[1..].iter().product::<usize>().saturating_mul(4 * (capacity + 1)))
            .fold(0, usize::saturating_add);
        // A trial allocation that is freed at once: without it, a failed allocation of zeroed memory would end the
        // process.
        Vec::<u8>::new().try_reserve_exact(bytes).map_err(|error| {
            let message = format!("{capacity} tokens need {} MB of KV cache; take a shorter --context", bytes >> 20);
            Error::out_of_memory(message).caused_by(error)
        })?;
        for value in &plan.graph.values {
            if let ValueKind::State(name) = &value.kind {
                let positions = if name == TABLE { MOST_ROWS } else { capacity };
                self.memory.reserve_state(name, positions, value.ty.shape[1..].iter().product());
            }
        }
        Ok(())
    }

    fn depth(&self) -> usize {
        1
    }

    fn measure(&mut self, clock: Option<Clock>) -> Result<()> {
        if clock.is_some_and(|clock| clock != Clock::Steps) {
            return Err(Error::device(format!("the CPU is measured by {}: ask for no clock", Clock::Steps)));
        }
        self.recorder = Some(Recorder::new());
        Ok(())
    }

    fn measured(&mut self) -> Vec<Measured> {
        self.recorder.take().map_or(Vec::new(), |mut recorder| recorder.take())
    }
}

/// Runs some steps of a plan and records their times.
fn run_measured(
    recorder: &mut Recorder,
    bound: &Bound,
    memory: &mut Memory,
    team: &Team,
    rows: &[Row],
    part: Range<usize>,
    phase: Phase,
) {
    let begin = recorder.now();
    let times: Vec<u64> =
        bound.run_timed(memory, team, rows, part.clone()).into_iter().map(|time| recorder.at(time)).collect();
    let (plan, profile) = (&bound.plan, profile());
    let work = part.zip(times.windows(2)).map(|(node, pair)| {
        let cost = plan.node_cost(node, rows, &profile);
        Timed { node, dispatch: None, cost, span: Span { begin: pair[0], end: pair[1] } }
    });
    let (plan, rows, work) = (plan.clone(), rows.to_vec(), work.collect());
    let end = times.last().map_or(begin, |&last| last);
    let host = vec![(HostWork::Run, Span { begin, end })];
    recorder.push(Measured { plan, rows, phase, clock: Clock::Steps, work, host });
}

impl Encoder {
    fn new(shared: &Shared, vision: Arc<Vision>) -> Self {
        let mut memory = Memory::new(&shared.team);
        let mut most = 1;
        for value in &vision.plan.graph.values {
            if let ValueKind::State(name) = &value.kind {
                most = most.max(value.ty.shape[0]);
                memory.reserve_state(name, value.ty.shape[0], value.ty.shape[1..].iter().product());
            }
        }
        let bound = Bound::new(vision.plan.clone(), &vision.weights, shared.rounds, &mut memory);
        Encoder { vision, memory, bound, rows: Row::at(0).follow(most), next: 0, first: 0 }
    }
}

fn input(plan: &Plan) -> ValueId {
    let pixels = |kind: &ValueKind| matches!(kind, ValueKind::Input(name) if name == models::PIXELS);
    let index = plan.graph.values.iter().position(|value| pixels(&value.kind)).expect("a vision half reads pixels");
    ValueId(index as u32)
}

/// The floats of an output.
fn output<'a>(memory: &'a Memory, plan: &Plan, name: &str) -> &'a [f32] {
    let found = plan.graph.outputs.iter().find(|(output, _)| output == name);
    memory.read(plan, found.unwrap_or_else(|| panic!("the output {name}")).1)
}

/// All outputs with their shapes.
fn outputs(memory: &Memory, plan: &Plan) -> Vec<(String, Output)> {
    let output = |(name, id): &(String, ValueId)| {
        let (rows, cols) = plan.graph.ty(*id).matrix();
        (name.clone(), Output { rows, cols, data: memory.read(plan, *id).to_vec() })
    };
    plan.graph.outputs.iter().map(output).collect()
}
