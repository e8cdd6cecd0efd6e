//! Prompts in, pieces of text out.

mod prompt;
mod tokenizer;

pub use prompt::{Message, Prompt};
pub use tokenizer::{Decoder, Tokenizer};
