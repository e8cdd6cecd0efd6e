//! Shared by the tests: models, devices, temporary files, and tolerances.

#![allow(dead_code, reason = "every test binary includes this module, and each uses a part of it")]

pub mod adapters;
pub mod bindings;
pub mod configs;
pub mod forward;
pub mod gguf;
pub mod golden;
pub mod pairs;
pub mod parallel;
pub mod pictures;
#[cfg(feature = "cli")]
pub mod program;
pub mod real_model;
pub mod runtimes;
pub mod scratch;
pub mod tolerance;
pub mod vocabulary;
