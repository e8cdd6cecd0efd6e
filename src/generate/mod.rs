//! Prompts in, pieces of text out: tokenizers, chat templates, prefill, decode.

pub(crate) mod device;
mod generation;
mod model;
mod prompt;
mod sampler;
mod score;
mod tokenizer;

pub use device::{Adapter, Device};
pub use generation::{Generation, Piece, Stats, Stop};
#[cfg(feature = "cli")]
pub(crate) use model::Text;
pub use model::{LoadOptions, Model, Precision, Weights};
pub use prompt::{Message, Prompt};
pub use sampler::Sampler;
pub use score::{Matrix, Score, Trace};
pub use tokenizer::{Decoder, Tokenizer};
