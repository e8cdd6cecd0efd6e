//! What a device can do (floors, yardsticks), and what models and operators take on it. `dunlin bench` prints it.

pub mod compare;
pub mod devices;
pub mod floors;
pub mod host;
pub mod model;
pub mod operators;
pub mod print;
pub mod report;
pub mod runs;
#[cfg(feature = "gpu")]
pub mod yardsticks;
