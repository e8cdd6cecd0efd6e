//! What a trial found.

use serde::Serialize;

/// A kernel of the user's own, compared with the reference and timed beside dunlin's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrialReport {
    /// The adapter, with its backend.
    pub device: String,
    /// The kernel of dunlin's that it is to replace.
    pub kernel: String,
    /// The user's file.
    pub file: String,
    /// What the file needs of a device.
    pub needs: Needs,
    /// In the operator's order.
    pub cases: Vec<CaseTrial>,
    /// Why the remaining cases did not run, if they did not.
    pub stopped: Option<String>,
}

/// What a kernel needs of a device. Registers are not among it: wgpu does not ask drivers for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Needs {
    /// WGSL's f16.
    pub f16: bool,
    /// WGSL's subgroup functions.
    pub subgroups: bool,
    /// Rows and columns of its cooperative matrices, if it has any.
    pub cooperative: Option<u32>,
    /// Threads of a workgroup, in the cases: the fewest and the most.
    pub threads: [u32; 2],
    /// Bytes of workgroup memory, in the cases: the fewest and the most.
    pub workgroup_bytes: [u32; 2],
}

/// One case of a slot: shapes of a real model, or an edge.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CaseTrial {
    /// The operator with its attributes and shapes, its position, `few` (decoding) or `many`, and how its rows are sampled.
    pub case: String,
    /// The shapes, `few` if it decodes, and how its rows are sampled: for a table.
    pub shapes: String,
    /// Whether the shapes are those that benches time: those of real models.
    pub real: bool,
    /// Workgroups in each dimension, of each dispatch.
    pub groups: Vec<[u32; 3]>,
    /// `None` if the kernel is right.
    pub wrong: Option<Wrong>,
    /// Whether dunlin's own kernel is wrong in this case on this device, or gives no result. Then nothing is timed.
    pub ours_wrong: bool,
    /// Time of dunlin's kernel. `None` if nothing was timed.
    pub ours_us: Option<f64>,
    /// Time of the user's kernel. `None` if it is wrong.
    pub yours_us: Option<f64>,
    /// `timestamps` of the device, or `wall clock`, which includes submission and wait.
    pub clock: Option<String>,
}

/// How a kernel is wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Wrong {
    /// In a sentence.
    pub what: String,
    /// The first element that is wrong: its place in the result.
    pub element: Option<Vec<usize>>,
    /// What the reference has there (an id as a number). Values that are no number are `null` in JSON.
    pub expected: Option<f64>,
    /// What the kernel wrote there.
    pub got: Option<f64>,
    /// The largest difference that would be right.
    pub tolerance: Option<f64>,
}

#[cfg(all(feature = "gpu", not(target_family = "wasm")))]
impl Wrong {
    pub(super) fn says(what: impl Into<String>) -> Self {
        Wrong { what: what.into(), element: None, expected: None, got: None, tolerance: None }
    }
}

impl CaseTrial {
    /// Time of dunlin's kernel over that of the user's: above 1 the user's is faster.
    pub fn ratio(&self) -> Option<f64> {
        Some(self.ours_us? / self.yours_us?)
    }
}

impl TrialReport {
    /// The cases that are wrong.
    pub fn wrong(&self) -> usize {
        self.cases.iter().filter(|case| case.wrong.is_some()).count()
    }

    /// Whether every case ran and is right.
    pub fn is_right(&self) -> bool {
        self.wrong() == 0 && self.stopped.is_none()
    }

    /// The geometric mean of the ratios of some timed cases: above 1 the user's kernel is faster. `None` without such.
    pub fn ratio(&self, of: impl Fn(&CaseTrial) -> bool) -> Option<f64> {
        let ratios: Vec<f64> = self.cases.iter().filter(|case| of(case)).filter_map(CaseTrial::ratio).collect();
        let mean = ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64;
        (!ratios.is_empty()).then(|| mean.exp())
    }
}
