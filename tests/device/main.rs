//! Each operator, weight format and fused plan on every adapter of this machine, compared with the reference; and
//! passes of several sequences.

#[path = "../support/mod.rs"]
mod support;

mod check;
mod company;
mod formats;
mod fusion;
mod ops;
mod profile;
mod trial;
