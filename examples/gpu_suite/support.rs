//! What the tests have, too.

#[path = "../../tests/support/configs.rs"]
pub mod configs;
#[path = "../../tests/support/gguf.rs"]
pub mod gguf;
#[path = "../../tests/support/vocabulary.rs"]
pub mod vocabulary;
