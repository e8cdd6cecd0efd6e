//! Measures the times of the parts of a generation.

use crate::clock::Instant;

/// Times in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Times {
    /// Time for vision tower and projector.
    pub vision_s: f64,
    /// Time from the end of reading pictures to the first token.
    pub prefill_s: f64,
    /// Time from the first token to the last.
    pub decode_s: f64,
}

/// The stopwatch of a sequence.
#[derive(Default)]
pub(super) struct Clock {
    started: Option<Instant>,
    times: Times,
}

impl Clock {
    /// The prompt begins, unless it has already begun.
    pub fn start(&mut self) {
        self.started.get_or_insert_with(Instant::now);
    }

    /// A token was read, the first or a later one.
    pub fn token(&mut self, first: bool) {
        let elapsed = self.started.map_or(0.0, |started| started.elapsed().as_secs_f64());
        if first {
            self.times.prefill_s = elapsed;
        } else {
            self.times.decode_s = elapsed - self.times.prefill_s;
        }
    }

    /// Adds the time since `since`, which a slice of a picture took.
    pub fn picture(&mut self, since: Instant) {
        self.times.vision_s += since.elapsed().as_secs_f64();
    }

    pub fn times(&self) -> Times {
        self.times
    }
}
