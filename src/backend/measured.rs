//! Where the time of a pass goes: its dispatches on the device, and the work of the host around them.

use std::fmt;
use std::sync::Arc;

use crate::clock::Instant;
use crate::plan::{Cost, Plan};
use crate::work::Row;

/// A pass, or a slice of a picture, that a session measured.
#[derive(Clone, Debug)]
pub struct Measured {
    pub plan: Arc<Plan>,
    /// The rows of the pass.
    pub rows: Vec<Row>,
    pub phase: Phase,
    pub clock: Clock,
    /// The work of the device, in its order.
    pub work: Vec<Timed>,
    /// The work of the host, in its order.
    pub host: Vec<(HostWork, Span)>,
}

/// The time of one dispatch or, on the CPU, of one step of the plan.
#[derive(Clone, Copy, Debug)]
pub struct Timed {
    /// The node of the plan's graph.
    pub node: usize,
    /// The dispatch among the plan's steps; `None` on the CPU, which runs whole nodes.
    pub dispatch: Option<usize>,
    pub cost: Cost,
    pub span: Span,
}

/// From when to when, in nanoseconds since the session began to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub begin: u64,
    pub end: u64,
}

impl Span {
    pub fn length(self) -> u64 {
        self.end - self.begin
    }
}

/// What a pass is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Vision tower and projector.
    Picture,
    /// Rows of a prompt.
    Prompt,
    /// The next token.
    Decode,
}

/// What the host does for a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostWork {
    /// Records the dispatches.
    Encode,
    /// Hands them to the driver.
    Submit,
    /// Waits for the device.
    Wait,
    /// Runs the steps itself, on the CPU.
    Run,
    /// Takes the chosen token.
    Choose,
}

/// How the time of a dispatch is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The device's clock, written between the dispatches of one pass.
    InPass,
    /// The device's clock at the beginning and the end of passes of one dispatch each.
    Passes,
    /// The host's clock around submissions of one dispatch each.
    Submissions,
    /// The host's clock around each step, at whose end all threads of the CPU path meet.
    Steps,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Picture => "picture",
            Phase::Prompt => "prompt",
            Phase::Decode => "decode",
        })
    }
}

impl fmt::Display for HostWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HostWork::Encode => "encode",
            HostWork::Submit => "submit",
            HostWork::Wait => "wait",
            HostWork::Run => "run",
            HostWork::Choose => "sample",
        })
    }
}

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Clock::InPass => "the device's timestamps between the dispatches of a pass",
            Clock::Passes => "the device's timestamps around each dispatch, in a pass of its own",
            Clock::Submissions => "the host's clock around each dispatch, in a submission of its own",
            Clock::Steps => "the host's clock around each step, at whose end all threads meet",
        })
    }
}

/// Collects what a session measures.
pub struct Recorder {
    epoch: Instant,
    measured: Vec<Measured>,
}

impl Recorder {
    pub fn new() -> Self {
        Recorder { epoch: Instant::now(), measured: Vec::new() }
    }

    /// Nanoseconds since the session began to measure.
    pub fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    /// A time in nanoseconds since the session began to measure.
    pub fn at(&self, time: Instant) -> u64 {
        time.duration_since(self.epoch).as_nanos() as u64
    }

    pub fn push(&mut self, measured: Measured) {
        self.measured.push(measured);
    }

    /// Adds work of the host for the last pass, which ends now.
    pub fn host(&mut self, work: HostWork, begin: u64) {
        let end = self.now();
        if let Some(last) = self.measured.last_mut() {
            last.host.push((work, Span { begin, end }));
        }
    }

    /// What was measured since the last call.
    pub fn take(&mut self) -> Vec<Measured> {
        std::mem::take(&mut self.measured)
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}
