//! Each operator, weight format and fused plan on every adapter of this machine, against the reference.

#[path = "../support/mod.rs"]
mod support;

mod check;
mod formats;
mod fusion;
mod ops;
