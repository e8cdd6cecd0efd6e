//! The program `dunlin`: output, written files, and failures.

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod bench;
mod cli;
mod cli_adapters;
mod eval;
mod kernel;
mod profile;
mod prune;
mod qwen_cli;
mod vision_bad_input;
mod vision_cli;
