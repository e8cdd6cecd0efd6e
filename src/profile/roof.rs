//! What the device could do at most: the lines of a roofline.

use crate::measure::report::{Floors, Peaks};

/// Measured rates that no kernel can pass for long.
#[derive(Clone, Debug)]
pub struct Roof {
    /// Bytes a second, read and written, of a copy in the device's memory.
    pub bytes: f64,
    /// Multiplications and additions a second in registers, by kind of arithmetic.
    pub flops: Vec<(&'static str, f64)>,
    /// Nanoseconds of an almost empty dispatch.
    pub dispatch: Option<f64>,
}

impl From<&Floors> for Roof {
    fn from(floors: &Floors) -> Self {
        let Peaks { f32, f16, matrix } = floors.peak_flop_per_s;
        let peaks = [("f32", f32), ("f16", f16), ("matrix units", matrix)];
        Roof {
            bytes: floors.copy_bytes_per_s,
            flops: peaks.into_iter().filter_map(|(kind, rate)| Some((kind, rate?))).collect(),
            dispatch: floors.dispatch_us.map(|us| 1e3 * us),
        }
    }
}

impl Roof {
    /// The share of the roof that rates of bytes and operations reach: of the copy rate or of the highest peak,
    /// whichever is nearer.
    pub fn reached(&self, bytes: f64, flops: f64) -> f64 {
        let peak = if self.most() > 0.0 { flops / self.most() } else { 0.0 };
        peak.max(bytes / self.bytes)
    }

    /// The highest rate of multiply-adds.
    pub fn most(&self) -> f64 {
        self.flops.iter().map(|&(_, rate)| rate).fold(0.0, f64::max)
    }
}
