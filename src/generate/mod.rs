//! Prompts in, pieces of text out: tokenizers, chat templates, prefill, decode.

mod batch;
mod boxes;
mod chatml;
mod clock;
pub(crate) mod device;
mod encode;
#[cfg(feature = "cli")]
pub(crate) mod eval;
mod generation;
mod image;
mod logits;
mod model;
mod options;
mod prompt;
mod sampler;
mod scheduler;
mod score;
mod sequence;
mod stream;
mod template;
mod text;
mod tokenizer;
pub mod workload;

pub use crate::backend::check::{Check, OperatorCheck, WrongCase};
pub use batch::{Ended, Generations};
pub use boxes::{Located, Outline};
pub use device::{Adapter, Device};
pub use generation::{Generation, Stats};
// A crate has the same name, so the path begins with `self`.
pub use self::image::Image;
pub use model::{LoadOptions, Model, Precision, Weights};
pub use prompt::{ImageSource, Message, Prompt};
pub use sampler::Sampler;
pub use score::{Score, Trace, Values};
pub use stream::{Piece, Stop};
#[cfg(feature = "cli")]
pub(crate) use text::Text;
pub use tokenizer::{Decoder, Tokenizer};
