//! dunlin runs deep-and-thin language models (MobileLLM and its family) on GPUs through wgpu, with a CPU path that
//! defines what is right.

// Hidden modules are for this project's own tests, benches and program; they promise nothing.
#[doc(hidden)]
pub mod backend;
#[doc(hidden)]
pub mod checkpoint;
mod error;
#[doc(hidden)]
pub mod generate;
#[doc(hidden)]
pub mod graph;
#[doc(hidden)]
pub mod kernel;
#[doc(hidden)]
pub mod models;
#[doc(hidden)]
pub mod ops;
#[doc(hidden)]
pub mod plan;
#[doc(hidden)]
pub mod tensor;
mod threads;

pub use error::{Error, ErrorKind, Result};
