//! The lower bounds of times on a device: the rate of a copy, an almost empty dispatch, the peaks of its arithmetic.

#[cfg(feature = "gpu")]
use std::time::Duration;

use crate::backend::DeviceChoice;
use crate::error::Result;
use crate::measure::host;
use crate::measure::report::{Floors, Peaks};

#[cfg(feature = "gpu")]
use crate::backend::check::Prepared;
#[cfg(feature = "gpu")]
use crate::backend::wgpu::device::Gpu;
#[cfg(feature = "gpu")]
use crate::backend::wgpu::timing::{Clock, Stopwatch, Time, copy_rate};
#[cfg(feature = "gpu")]
use crate::measure::yardsticks;
#[cfg(feature = "gpu")]
use crate::ops::add::Add;
#[cfg(feature = "gpu")]
use crate::ops::{Case, Given};

/// Measures what a device can do.
pub fn floors(device: &DeviceChoice) -> Result<Floors> {
    match device {
        DeviceChoice::Cpu => Ok(of_host()),
        #[cfg(feature = "gpu")]
        DeviceChoice::Adapter(index) => of_gpu(&*Gpu::open(*index)?),
        #[cfg(not(feature = "gpu"))]
        DeviceChoice::Adapter(_) => Ok(of_host()),
    }
}

fn of_host() -> Floors {
    Floors {
        copy_bytes_per_s: host::copy_rate(),
        dispatch_us: None,
        record_us: None,
        submission_us: None,
        clock: None,
        peak_flop_per_s: Peaks { f32: Some(host::peak_rate()), ..Peaks::default() },
    }
}

#[cfg(feature = "gpu")]
fn of_gpu(gpu: &Gpu) -> Result<Floors> {
    let Floor { dispatch, record, submission, clock } = floor(gpu)?;
    let us = |time: Duration| Some(time.as_secs_f64() * 1e6);
    Ok(Floors {
        copy_bytes_per_s: copy_rate(gpu)?,
        dispatch_us: us(dispatch),
        record_us: us(record),
        submission_us: us(submission),
        clock: Some(clock.to_string()),
        peak_flop_per_s: yardsticks::peaks(gpu)?,
    })
}

/// The times of an almost empty dispatch.
#[cfg(feature = "gpu")]
pub struct Floor {
    /// Time of one of many dispatches in a pass, each of which waits for the one before.
    pub dispatch: Duration,
    /// Time for the host to record it.
    pub record: Duration,
    /// Time from the submission of a single dispatch until the host knows that it is done.
    pub submission: Duration,
    pub clock: Clock,
}

/// Measures an almost empty dispatch.
#[cfg(feature = "gpu")]
pub fn floor(gpu: &Gpu) -> Result<Floor> {
    const MANY: u32 = 256;
    let case = Case::new(Add, vec![Given::f32([1, 4]), Given::f32([1, 4])]);
    let runner = Prepared::new(&case).runner(gpu, &gpu.profile)?;
    runner.run(&case.rows);
    let mut stopwatch = Stopwatch::new(gpu);
    let mut ten = |times| (0..10).map(|_| stopwatch.time(&runner, times as usize)).collect::<Result<Vec<Time>>>();
    let (single, many) = (ten(1)?, ten(MANY)?);
    let (work, clock) = least_work(&many);
    Ok(Floor {
        dispatch: work / MANY,
        record: least(many.iter().map(|time| time.record)) / MANY,
        submission: least(single.iter().map(|time| time.wait)),
        clock,
    })
}

#[cfg(feature = "gpu")]
fn least(times: impl Iterator<Item = Duration>) -> Duration {
    times.min().unwrap_or_default()
}

/// The shortest work, and its clock. A driver may leave timestamps out now and then: a time of the host's clock, which has
/// a submission in it, counts only where there is no other.
#[cfg(feature = "gpu")]
fn least_work(times: &[Time]) -> (Duration, Clock) {
    let stamped = times.iter().any(|time| time.clock == Clock::Timestamps);
    let clock = if stamped { Clock::Timestamps } else { Clock::Wall };
    (least(times.iter().filter(|time| time.clock == clock).map(|time| time.work)), clock)
}

#[cfg(all(test, feature = "gpu"))]
mod tests {
    use super::*;

    #[test]
    fn times_of_two_clocks_are_not_mixed() {
        let time = |us, clock| {
            let work = Duration::from_micros(us);
            Time { work, record: work, wait: work, clock }
        };
        let (stamped, wall) = (|us| time(us, Clock::Timestamps), |us| time(us, Clock::Wall));
        let (nine, seven) = (Duration::from_micros(9), Duration::from_micros(7));
        assert_eq!(least_work(&[wall(7), stamped(9), wall(8), stamped(10)]), (nine, Clock::Timestamps));
        assert_eq!(least_work(&[wall(9), wall(7)]), (seven, Clock::Wall));
    }
}
