//! The devices that are measured.

use crate::backend::{self, AdapterInfo, DeviceChoice};
use crate::error::Result;
use crate::generate::Device;
use crate::measure::host;

/// A device to measure.
#[derive(Clone, Debug)]
pub struct Measured {
    pub choice: DeviceChoice,
    /// The device as a caller of the library names it.
    pub device: Device,
    /// The same for the command line: `cpu`, or an index.
    pub argument: String,
    /// `cpu`, or for example `vulkan:llvmpipe (LLVM 15.0.6, 256 bits)`.
    pub label: String,
    pub driver: String,
}

/// The CPU and every usable adapter, and a sentence for each adapter that is not.
pub fn all() -> Result<(Vec<Measured>, Vec<String>)> {
    let (mut found, mut skipped) = (vec![of_choice(DeviceChoice::Cpu, &[])?], Vec::new());
    let adapters = backend::devices();
    for (index, adapter) in adapters.iter().enumerate() {
        match &adapter.unusable {
            Some(why) => skipped.push(format!("{} is left out: {why}", label(adapter))),
            None => found.push(of_choice(DeviceChoice::Adapter(index), &adapters)?),
        }
    }
    Ok((found, skipped))
}

/// The device that a request such as `auto` or `vulkan:llvmpipe` chooses.
pub fn one(wanted: &str) -> Result<Measured> {
    of_choice(Device::parse(wanted)?.choose()?, &backend::devices())
}

fn of_choice(choice: DeviceChoice, adapters: &[AdapterInfo]) -> Result<Measured> {
    let (argument, label, driver) = match choice {
        DeviceChoice::Cpu => {
            ("cpu".to_owned(), "cpu".to_owned(), format!("{}, {} threads", host::processor(), host::threads()))
        }
        DeviceChoice::Adapter(index) => (index.to_string(), label(&adapters[index]), adapters[index].driver.clone()),
    };
    Ok(Measured { choice, device: Device::parse(&argument)?, argument, label, driver })
}

fn label(adapter: &AdapterInfo) -> String {
    format!("{}:{}", adapter.backend, adapter.name)
}
