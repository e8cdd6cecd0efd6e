//! Counts what this thread has created and submitted on any device. Tests check a decoding step with it.

use std::cell::Cell;
use std::time::Duration;

thread_local! {
    static CREATED: Cell<usize> = const { Cell::new(0) };
    static SUBMITTED: Cell<usize> = const { Cell::new(0) };
    static WAITED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Buffers, bind groups and pipelines that this thread made. A steady decoding step makes none.
pub fn created() -> usize {
    CREATED.get()
}

/// Submissions that this thread made. A decoding step makes one.
pub fn submitted() -> usize {
    SUBMITTED.get()
}

/// Time that this thread was blocked until a device was done.
pub fn waited() -> Duration {
    WAITED.get()
}

/// Counts a buffer, a bind group or a pipeline.
pub(super) fn count_created() {
    CREATED.set(CREATED.get() + 1);
}

pub(super) fn count_submitted() {
    SUBMITTED.set(SUBMITTED.get() + 1);
}

pub(super) fn count_waited(time: Duration) {
    WAITED.set(WAITED.get() + time);
}
