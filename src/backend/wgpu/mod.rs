//! The GPU path through wgpu: interprets dispatches, and knows no operator by name.

pub mod counters;
pub mod device;
pub mod engine;
pub mod own;
mod pipelines;
mod profiler;
pub mod session;
pub mod timing;
pub mod upload;
mod vision;
mod wait;
