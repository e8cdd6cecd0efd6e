//! Tests that need no device and no model: the text of the repository, kernels as naga parses them, plans, layouts,
//! pictures.

#[path = "../support/mod.rs"]
mod support;

mod choices;
mod constants;
mod cpu;
mod images;
mod imports;
mod kernels;
mod layout;
mod plan;
mod rule;
mod shaders;
mod source;
mod street;
mod tidy;
mod translation;
mod trial;
