//! The GPU path through wgpu: interprets dispatches, and knows no operator by name.

pub mod counters;
pub mod device;
pub mod engine;
#[cfg(not(target_family = "wasm"))]
pub mod own;
mod pipelines;
mod profiler;
mod sequences;
pub mod session;
pub mod timing;
pub mod upload;
mod vision;
mod wait;

/// A browser compiles WGSL itself, and has no naga to read a user's with.
#[cfg(target_family = "wasm")]
pub mod own {
    use crate::backend::no_own;
    use crate::error::Result;
    use crate::work::{KernelFile, OwnKernel};

    pub fn read_all(files: &[KernelFile]) -> Result<Vec<OwnKernel>> {
        if files.is_empty() { Ok(Vec::new()) } else { Err(no_own()) }
    }
}
