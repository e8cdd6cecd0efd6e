//! What the device could do at most: the lines of a roofline.

use crate::backend::DeviceChoice;
use crate::error::Result;
use crate::measure::host;

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

impl Roof {
    /// Measures a device.
    pub fn measure(device: &DeviceChoice) -> Result<Self> {
        // TEMPORARY until the floors of `measure` are merged.
        match device {
            DeviceChoice::Cpu => Ok(Roof { bytes: host::copy_rate(), flops: vec![("f32", 1e11)], dispatch: None }),
            DeviceChoice::Adapter(index) => {
                let gpu = crate::backend::wgpu::device::Gpu::open(*index)?;
                let bytes = crate::backend::wgpu::timing::copy_rate(&gpu)?;
                Ok(Roof { bytes, flops: vec![("f32", 1e11)], dispatch: None })
            }
        }
    }

    /// The best that a kernel with this many operations a byte can do, in operations a second.
    pub fn at(&self, intensity: f64) -> f64 {
        self.most().min(intensity * self.bytes)
    }

    /// The share of the roof that rates of bytes and operations reach: of the copy rate or of the peak, whichever is
    /// nearer.
    pub fn reached(&self, bytes: f64, flops: f64) -> f64 {
        let peak = if self.most() > 0.0 { flops / self.most() } else { 0.0 };
        peak.max(bytes / self.bytes)
    }

    /// The highest rate of multiply-adds.
    pub fn most(&self) -> f64 {
        self.flops.iter().map(|&(_, rate)| rate).fold(0.0, f64::max)
    }
}
