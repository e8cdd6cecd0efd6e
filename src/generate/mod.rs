//! Prompts in, pieces of text out.

mod tokenizer;

pub use tokenizer::{Decoder, Tokenizer};
