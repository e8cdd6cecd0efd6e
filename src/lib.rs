//! dunlin runs deep-and-thin language models (MobileLLM and its family) on GPUs through wgpu, with a CPU path that
//! defines what is right.

mod backend;
mod checkpoint;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod error;
mod generate;
mod graph;
mod kernel;
mod models;
mod ops;
mod plan;
mod tensor;

pub use error::{Error, ErrorKind, Result};
pub use generate::{
    Adapter, Decoder, Device, Generation, LoadOptions, Matrix, Message, Model, Piece, Precision, Prompt, Sampler,
    Score, Stats, Stop, Tokenizer, Trace, Weights,
};
