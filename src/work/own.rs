//! Kernels of a user's own, which run in the place of ours: the file, and what it makes of a dispatch.

use std::sync::Arc;

use serde::Serialize;

use super::{Candidate, Dispatch, KernelRef, MOST_GROUPS};

/// A WGSL file of a user's own, and the kernel in whose place it runs.
///
/// The file is complete WGSL with the entry point, the bindings and the size of `Params` of that kernel. An `override`
/// of the same name gets the value that the kernel gets; others need a default or [`KernelFile::set`]. The grid of
/// workgroups is that of the kernel. A file that wants another one declares `override GRID_X: f32 = 0.5;`: half as many
/// workgroups along x, rounded up; `GRID_Y` and `GRID_Z` likewise.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelFile {
    /// The kernel's name, or parts of it that no other kernel has together.
    pub(crate) name: String,
    /// The file's name, for messages.
    pub(crate) file: String,
    pub(crate) text: Arc<str>,
    /// Values of `override`s that win over those of the dispatch.
    pub(crate) set: Vec<(String, f64)>,
}

impl KernelFile {
    /// A file for the kernel `name`, or for the one kernel whose name has all parts of `name`, joined by `+`. `file` is
    /// what messages call it, and `text` what it contains.
    pub fn new(name: impl Into<String>, file: impl Into<String>, text: impl AsRef<str>) -> Self {
        KernelFile { name: name.into(), file: file.into(), text: text.as_ref().into(), set: Vec::new() }
    }

    /// Sets an `override` of the file for every dispatch, whatever the dispatch itself sets.
    pub fn set(mut self, constant: impl Into<String>, value: f64) -> Self {
        self.set.push((constant.into(), value));
        self
    }

    /// What messages call the file.
    pub fn file(&self) -> &str {
        &self.file
    }
}

/// A [`KernelFile`] that fits the kernel which it replaces.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnKernel {
    /// Its `replaces` is the kernel of ours, its `constants` are the `override`s of the file.
    pub kernel: KernelRef,
    pub set: Vec<(&'static str, f64)>,
    /// The number of workgroups in each dimension, relative to ours.
    pub grid: [f64; 3],
}

impl OwnKernel {
    pub fn replaces(&self, kernel: KernelRef) -> bool {
        self.kernel.0.replaces.is_some_and(|ours| KernelRef(ours) == kernel)
    }

    /// A count of uses.
    pub fn used(&self, uses: usize) -> OwnKernelUse {
        let kernel = self.kernel.0.replaces.map_or_else(String::new, |ours| ours.name());
        OwnKernelUse { kernel, file: self.kernel.0.file.into(), uses }
    }

    /// The same work by the user's kernel.
    pub fn take(&self, candidate: Candidate) -> Candidate {
        let dispatches = candidate.dispatches.into_iter().map(|dispatch| self.dispatch(dispatch)).collect();
        Candidate { dispatches, why: "the user's own kernel in the place of ours" }
    }

    fn dispatch(&self, dispatch: Dispatch) -> Dispatch {
        let declared = |name: &str| self.kernel.0.constants.iter().any(|(own, _)| *own == name);
        let set = |name: &str| self.set.iter().any(|(own, _)| *own == name);
        let ours = dispatch.constants.into_iter().filter(|(name, _)| declared(name) && !set(name));
        let constants = ours.chain(self.set.iter().copied()).collect();
        let scaled = |i: usize| scaled(dispatch.groups[i], self.grid[i]);
        let groups = [scaled(0), scaled(1), scaled(2)];
        Dispatch { kernel: self.kernel, constants, groups, ..dispatch }
    }
}

/// `groups` · `scale`, rounded up, and no more than run. A third of 9 is 3, although f32 has no exact third.
fn scaled(groups: u32, scale: f64) -> u32 {
    let wanted = f64::from(groups) * scale;
    (wanted - 1e-6 * wanted).ceil().clamp(1.0, f64::from(MOST_GROUPS)) as u32
}

/// How often a user's kernel is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OwnKernelUse {
    /// The kernel that it replaces.
    pub kernel: String,
    /// The user's file.
    pub file: String,
    /// Of a model: the dispatches of a decoding step, a prompt and a picture that run it. Of a check: the cases.
    pub uses: usize,
}

#[test]
fn a_grid_is_scaled_and_rounded_up() {
    assert_eq!([(9, 1.0), (9, 0.5), (1, 0.25), (40000, 2.0)].map(|(n, s)| scaled(n, s)), [9, 5, 1, 65535]);
    assert_eq!(scaled(9, f64::from(1.0f32 / 3.0)), 3);
}
