//! dunlin runs deep-and-thin language models (MobileLLM and its family) and the vision-language models on top of them
//! (MobileVLM) on GPUs through wgpu, with a CPU path that defines what is right.
//!
//! ```no_run
//! use dunlin::{Device, Model, Prompt, Sampler};
//!
//! fn main() -> dunlin::Result<()> {
//!     let model = Model::load("models/SmolLM2-135M-Instruct.Q4_1.gguf", &Device::auto())?;
//!     let mut generation = model.generate(Prompt::user("What is gravity?"), &Sampler::greedy())?.max_tokens(64);
//!     for piece in &mut generation {
//!         print!("{}", piece?);
//!     }
//!     println!("\n{:?}", generation.stats());
//!     Ok(())
//! }
//! ```
//!
//! * [`Device`] says where a model runs: a GPU if there is a real one, the CPU, or an adapter by index or name.
//!   [`Device::check`] compares the kernels that run on an adapter with the CPU path.
//! * [`Model`] is a Hugging Face folder or a `.gguf` file on a device, read from disk or from memory
//!   ([`Files::memory`]). It is cheap to clone and shared between threads. [`LoadOptions`] converts weights while
//!   loading, bounds the context, and reports progress.
//! * [`Prompt`] is text, a chat or ids; chat models get text through their own template. [`Prompt::image`] adds a
//!   picture: a path, or an [`Image`] from memory. [`Sampler`] says how tokens are chosen.
//! * [`Generation`] is an iterator of [`Piece`]s with its own KV cache. Dropping it stops the work;
//!   [`Generation::follow_up`] goes on with the conversation; [`Generation::mask`] changes logits before tokens are
//!   chosen; [`Generation::boxes`] gives the places in a picture that the answer names ([`Located`]).
//! * [`Generations`] continues several prompts together ([`Model::generate_all`]): an iterator of (index, piece).
//! * [`Model::score`] measures how well a text is predicted; [`Model::trace`] shows what passes through the layers.
//! * [`prune`] makes a model smaller: heads and channels that matter little go, layer by layer ([`PruneOptions`]).
//! * [`kernel`] is a bench for kernels of your own: which there are to replace, and whether yours is right and how fast.
//!   [`LoadOptions::kernel`] runs a model with it.
//! * [`Error`] is one sentence that says what was found, what was expected and what to do; [`ErrorKind`] sorts errors
//!   by what a caller can do about them.
//!
//! Features, all on by default: `cli` (the `dunlin` program), `demo` (the model `demo` inside it), `gpu` (wgpu), `mmap`
//! (files are mapped; without it they are read), `threads` (the CPU path uses every core).

// Hidden modules are for this project's own tests, benches and program; their interface may change at any time.
#[doc(hidden)]
pub mod backend;
#[doc(hidden)]
pub mod checkpoint;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod clock;
#[doc(hidden)]
pub mod cpu;
mod error;
#[doc(hidden)]
pub mod formats;
#[doc(hidden)]
pub mod generate;
#[doc(hidden)]
pub mod graph;
pub mod kernel;
#[doc(hidden)]
pub mod measure;
#[doc(hidden)]
pub mod models;
#[doc(hidden)]
pub mod ops;
#[doc(hidden)]
pub mod plan;
#[doc(hidden)]
pub mod profile;
mod prune;
#[doc(hidden)]
pub mod tensor;
#[doc(hidden)]
pub mod threads;
#[doc(hidden)]
pub mod work;

pub use checkpoint::Files;
pub use error::{Error, ErrorKind, Result};
pub use generate::{
    Adapter, Check, Decoder, Device, Ended, Generation, Generations, Image, ImageSource, LoadOptions, Located, Message,
    Model, OperatorCheck, Outline, Piece, Precision, Prompt, Sampler, Score, Stats, Stop, Tokenizer, Trace, Values,
    Weights, WrongCase,
};
pub use prune::{
    Activations, Calibration, GroupImportance, Importance, LayerImportance, PruneOptions, PruneProgress, PruneReport,
    PruneStep, Pruned, QueryHeads, prune,
};
