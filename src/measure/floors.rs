//! The lower bound of times on a device: an almost empty dispatch.

use std::time::Duration;

use crate::backend::check::Prepared;
use crate::backend::wgpu::device::Gpu;
use crate::backend::wgpu::timing::{Clock, Stopwatch, Time};
use crate::error::Result;
use crate::ops::add::Add;
use crate::ops::{Case, Given};

/// The times of an almost empty dispatch.
pub struct Floor {
    /// Time of one of many dispatches in a pass, each of which waits for the one before.
    pub dispatch: Duration,
    /// Time for the host to record it.
    pub record: Duration,
    /// Time from the submission of a single dispatch until the host knows that it is done.
    pub submission: Duration,
    pub clock: Clock,
}

pub fn floor(gpu: &Gpu) -> Result<Floor> {
    const MANY: u32 = 256;
    let case = Case::new(Add, vec![Given::f32([1, 4]), Given::f32([1, 4])]);
    let runner = Prepared::new(&case).runner(gpu, &gpu.profile)?;
    runner.run(&case.rows);
    let mut stopwatch = Stopwatch::new(gpu);
    let mut best = |times: u32, key: fn(&Time) -> Duration| -> Result<Time> {
        let times = (0..10).map(|_| stopwatch.time(&runner, times as usize)).collect::<Result<Vec<Time>>>()?;
        Ok(times.into_iter().min_by_key(key).expect("ten times"))
    };
    let single = best(1, |time| time.wait)?;
    let many = best(MANY, |time| time.work)?;
    Ok(Floor { dispatch: many.work / MANY, record: many.record / MANY, submission: single.wait, clock: many.clock })
}

impl std::fmt::Display for Floor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let us = |time: Duration| time.as_secs_f64() * 1e6;
        write!(
            f,
            "an empty dispatch {:.2} µs ({}), {:.2} µs to record it; a submission with one {:.0} µs",
            us(self.dispatch),
            self.clock,
            us(self.record),
            us(self.submission)
        )
    }
}
