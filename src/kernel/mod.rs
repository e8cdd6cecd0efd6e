//! A bench for kernels of your own: which kernels there are to replace ([`Slot`]), and whether yours is right and how
//! fast it is beside dunlin's ([`Trial`]).
//!
//! A slot has a name, bindings, a `Params` struct and a grid, and [`Slot::wgsl`] is a complete file to begin with:
//!
//! ```
//! use dunlin::kernel::Slot;
//!
//! # fn main() -> dunlin::Result<()> {
//! let slot = Slot::find("rms_norm")?;
//! assert_eq!(slot.name(), "rms_norm");
//! assert!(slot.wgsl().contains("fn rms_norm("));
//! assert!(slot.describe().grid.contains("One workgroup per row"));
//! # Ok(())
//! # }
//! ```
//!
//! A trial compares your file with the CPU reference in every case of the slot, and times it where it is right:
//!
//! ```no_run
//! use dunlin::Device;
//! use dunlin::kernel::{KernelFile, Trial};
//!
//! # fn main() -> dunlin::Result<()> {
//! let text = std::fs::read_to_string("mine.wgsl").expect("the file");
//! let report = Trial::new(KernelFile::new("rms_norm", "mine.wgsl", text)).device(Device::gpu()).run(|_, _| {})?;
//! for case in &report.cases {
//!     match &case.wrong {
//!         Some(wrong) => println!("{}: {}", case.case, wrong.what),
//!         None => println!("{}: {:?} µs, ours {:?} µs", case.case, case.yours_us, case.ours_us),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A model runs with it through [`LoadOptions::kernel`](crate::LoadOptions::kernel).

#[cfg(all(feature = "gpu", not(target_family = "wasm")))]
mod judge;
mod report;
#[cfg(all(feature = "gpu", not(target_family = "wasm")))]
mod run;
mod slot;

use std::time::Duration;

pub use crate::work::{KernelFile, OwnKernelUse};
pub use report::{CaseTrial, Needs, TrialReport, Wrong};
#[cfg(feature = "cli")]
pub(crate) use slot::needs;
pub use slot::{Slot, SlotDescription};

use crate::backend::{self, DeviceChoice};
use crate::error::Result;
use crate::generate::Device;

/// The time after which a kernel that does not finish is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// A kernel of your own, to be compared with the reference and timed beside dunlin's.
#[derive(Clone, Debug)]
pub struct Trial {
    #[cfg_attr(any(not(feature = "gpu"), target_family = "wasm"), expect(dead_code, reason = "only a GPU runs it"))]
    file: KernelFile,
    device: Device,
    cases: String,
    patience: Duration,
    timed: bool,
}

impl Trial {
    /// A trial of `file` on the first GPU, in every case of its slot.
    pub fn new(file: KernelFile) -> Self {
        Trial { file, device: Device::gpu(), cases: String::new(), patience: PATIENCE, timed: true }
    }

    /// The adapter to run on. The CPU has no kernels.
    pub fn device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// Only cases whose label contains this text, such as `q4_0` or `f32[1, 576]`.
    pub fn cases(mut self, part: impl Into<String>) -> Self {
        self.cases = part.into();
        self
    }

    /// How long one run of a case may take before the kernel is given up; 20 s by default.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Compares and does not time.
    pub fn untimed(mut self) -> Self {
        self.timed = false;
        self
    }

    /// Compares the kernel in each case, and times it where it is right. Calls `progress` with the number of finished
    /// cases and of all cases.
    ///
    /// A wrong kernel is a result, not an error, and is not timed.
    ///
    /// # Errors
    ///
    /// There is no such slot, adapter or case; the file is not valid WGSL (the message has line and column) or does not
    /// fit the slot; or the device lacks what the kernel needs.
    pub fn run(&self, progress: impl Fn(usize, usize)) -> Result<TrialReport> {
        match self.device.choose()? {
            DeviceChoice::Cpu => Err(backend::own_on_cpu()),
            DeviceChoice::Adapter(index) => self.run_on(index, &progress),
        }
    }

    #[cfg(any(not(feature = "gpu"), target_family = "wasm"))]
    fn run_on(&self, _: usize, _: backend::Progress) -> Result<TrialReport> {
        Err(backend::no_own())
    }
}
