//! dunlin runs deep-and-thin language models (MobileLLM and its family) on GPUs through wgpu, with a CPU path that
//! defines what is right.

// Hidden modules are for this project's own tests, benches and program; they promise nothing.
#[doc(hidden)]
pub mod backend;
#[doc(hidden)]
pub mod checkpoint;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
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
pub use generate::{
    Adapter, Decoder, Device, Generation, LoadOptions, Matrix, Message, Model, Piece, Precision, Prompt, Sampler,
    Score, Stats, Stop, Tokenizer, Trace, Weights,
};
