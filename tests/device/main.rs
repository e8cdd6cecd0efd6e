//! Each operator, weight format and fused plan on every adapter of this machine, against the reference; rows in company.

#[path = "../support/mod.rs"]
mod support;

mod check;
mod company;
mod formats;
mod fusion;
mod ops;
