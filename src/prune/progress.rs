//! How far a run has come.

use std::ops::ControlFlow;

use super::report::PruneProgress;

/// The progress of a run.
pub struct Ahead<'a> {
    pub step: usize,
    pub steps: usize,
    pub parameters: usize,
    /// An estimate of the remaining steps, including the current one.
    pub left: f64,
    /// Units of work of this step that are done.
    pub done: usize,
    pub all: usize,
    pub progress: &'a mut dyn FnMut(PruneProgress) -> ControlFlow<()>,
}

impl Ahead<'_> {
    /// Adds completed units of work, and tells the caller, who may end the run.
    pub fn add(&mut self, done: usize) -> ControlFlow<()> {
        self.done += done;
        let Ahead { step, steps, parameters, left, .. } = *self;
        let behind = (step - 1) as f64;
        let share = (behind + self.done as f64 / self.all as f64) / (behind + left);
        (self.progress)(PruneProgress { step, steps, parameters, share })
    }
}
