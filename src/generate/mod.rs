//! Prompts in, pieces of text out: tokenizers, chat templates, prefill, decode.

mod conversation;
pub(crate) mod device;
#[cfg(feature = "cli")]
pub(crate) mod eval;
mod generation;
mod image;
mod model;
mod prompt;
mod sampler;
mod score;
mod tokenizer;

pub use crate::backend::check::{Check, OperatorCheck, WrongCase};
pub use device::{Adapter, Device};
pub use generation::{Generation, Piece, Stats, Stop};
// A crate has the same name.
pub use self::image::Image;
#[cfg(feature = "cli")]
pub(crate) use model::Text;
pub use model::{LoadOptions, Model, Precision, Weights};
pub use prompt::{ImageSource, Message, Prompt};
pub use sampler::Sampler;
pub use score::{Score, Trace, Values};
pub use tokenizer::{Decoder, Tokenizer};
