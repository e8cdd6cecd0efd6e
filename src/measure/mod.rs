//! What a device can do (yardsticks), and what models and operators take on it. `dunlin bench` prints it.

pub mod devices;
#[cfg(feature = "gpu")]
pub mod floors;
pub mod host;
#[cfg(feature = "gpu")]
pub mod yardsticks;
