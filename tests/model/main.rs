//! Models: golden checkpoints and the real model, on the CPU and on every adapter.

#[path = "../support/mod.rs"]
mod support;

mod chat;
mod company;
mod demo;
mod files;
mod generate;
mod gguf;
mod mask;
mod models;
mod qwen;
mod sampling;
mod text;
mod vision;
