//! How long the parts of a generation take.

use crate::clock::Instant;

/// Seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Times {
    /// Vision tower and projector.
    pub vision_s: f64,
    /// From when pictures were there until the first token was.
    pub prefill_s: f64,
    /// From the first token to the last.
    pub decode_s: f64,
}

/// The stopwatch of a sequence.
#[derive(Default)]
pub(super) struct Clock {
    started: Option<Instant>,
    times: Times,
}

impl Clock {
    /// The prompt begins, unless it has begun.
    pub fn start(&mut self) {
        self.started.get_or_insert_with(Instant::now);
    }

    /// A token came, the first or another.
    pub fn token(&mut self, first: bool) {
        let elapsed = self.started.map_or(0.0, |started| started.elapsed().as_secs_f64());
        if first {
            self.times.prefill_s = elapsed;
        } else {
            self.times.decode_s = elapsed - self.times.prefill_s;
        }
    }

    /// A slice of a picture took the time since then.
    pub fn picture(&mut self, since: Instant) {
        self.times.vision_s += since.elapsed().as_secs_f64();
    }

    pub fn times(&self) -> Times {
        self.times
    }
}
