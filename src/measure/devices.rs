//! The devices that benches run on: the CPU and every usable adapter, or the requested ones.

use std::fmt;

use crate::backend::{self, AdapterInfo, DeviceChoice};
use crate::measure::host;

/// A device, and its name in tables.
#[derive(Clone)]
pub struct Device {
    pub choice: DeviceChoice,
    /// `cpu`, or for example `vulkan:llvmpipe (LLVM 15.0.6, 256 bits)`.
    pub label: String,
    pub driver: String,
}

/// The devices whose labels contain one of `parts`, or all devices. Prints which cannot be used.
pub fn all(parts: &[String]) -> Vec<Device> {
    let cpu = format!("{}, {} threads", host::processor(), host::threads());
    let mut found = vec![Device { choice: DeviceChoice::Cpu, label: "cpu".into(), driver: cpu }];
    for (index, AdapterInfo { name, backend, driver, unusable, .. }) in backend::devices().into_iter().enumerate() {
        let label = format!("{backend}:{name}");
        match unusable {
            Some(why) => eprintln!("skipped: {label}: {why}"),
            None => found.push(Device { choice: DeviceChoice::Adapter(index), label, driver }),
        }
    }
    let parts: Vec<String> = parts.iter().map(|part| part.trim().to_lowercase()).collect();
    let wanted = |label: String| parts.is_empty() || parts.iter().any(|part| label.contains(part));
    found.retain(|device| wanted(device.label.to_lowercase()));
    found
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.label, self.driver)
    }
}

/// Devices named by the environment: `DUNLIN_DEVICE=cpu,vulkan`.
pub fn asked_for() -> Vec<String> {
    let parts = std::env::var("DUNLIN_DEVICE").unwrap_or_default();
    parts.split(',').filter(|part| !part.trim().is_empty()).map(str::to_owned).collect()
}
