//! The program `dunlin`: what it prints, what it writes, and how it fails.

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod cli;
mod cli_adapters;
mod eval;
mod prune;
mod qwen_cli;
mod vision_bad_input;
mod vision_cli;
