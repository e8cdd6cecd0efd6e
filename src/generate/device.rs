//! The device that a caller asks for. No other file asks the backend for devices and engines.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::backend::check::Check;
use crate::backend::{self, AdapterInfo, DeviceChoice, Engine, EngineOptions, Progress};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::ops;
use crate::work::KernelFile;

/// The device that a model is to run on. Nothing is opened before [`Model::load`](crate::Model::load).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device(Wanted);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    Auto,
    Cpu,
    Gpu,
    Index(usize),
    /// Both in lower case.
    Name {
        backend: Option<String>,
        part: String,
    },
}

/// The names of backends in requests such as `vulkan:llvmpipe`.
const BACKENDS: [&str; 4] = ["vulkan", "metal", "dx12", "gl"];

impl Device {
    /// A real GPU that can run models if there is one, else the CPU. Never a software rasteriser.
    pub fn auto() -> Self {
        Self(Wanted::Auto)
    }

    /// The first GPU adapter, real ones before software ones. Loading fails if there is none.
    pub fn gpu() -> Self {
        Self(Wanted::Gpu)
    }

    /// The CPU path, which defines what is right.
    pub fn cpu() -> Self {
        Self(Wanted::Cpu)
    }

    /// `auto`, `cpu`, `gpu`, an index of [`Device::list`], `vulkan`, `metal`, `dx12` or `gl`, or `[BACKEND:]NAME-PART`
    /// such as `vulkan:llvmpipe`.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim().to_lowercase();
        Ok(Self(match text.as_str() {
            "" => {
                return Err(Error::device("the device is empty: give auto, cpu, gpu, an index or a part of a name"));
            }
            "auto" => Wanted::Auto,
            "cpu" => Wanted::Cpu,
            "gpu" => Wanted::Gpu,
            backend if BACKENDS.contains(&backend) => {
                Wanted::Name { backend: Some(backend.to_owned()), part: String::new() }
            }
            _ => match (text.parse(), text.split_once(':')) {
                (Ok(index), _) => Wanted::Index(index),
                (_, Some((backend, part))) if BACKENDS.contains(&backend) => {
                    Wanted::Name { backend: Some(backend.to_owned()), part: part.to_owned() }
                }
                _ => Wanted::Name { backend: None, part: text },
            },
        }))
    }

    /// The adapters of this machine. [`Device::parse`] takes their indices in this list.
    pub fn list() -> Vec<Adapter> {
        backend::devices().into_iter().enumerate().map(|(index, info)| Adapter { index, info }).collect()
    }

    /// The names of all operators.
    pub fn operators() -> Vec<&'static str> {
        ops::cases().into_iter().map(|(name, _)| name).collect()
    }

    /// Runs every case of some operators, or of all if none is named, on this device and with the CPU reference. Calls
    /// `progress` with the number of finished cases and of all cases.
    ///
    /// The result lists the cases that are wrong. It is an error if there is no such device or operator, or if the
    /// device is the CPU, which is the reference.
    pub fn check(&self, operators: &[&str], progress: impl Fn(usize, usize)) -> Result<Check> {
        self.check_with(operators, &[], progress)
    }

    /// [`Device::check`] with kernels of your own in the place of dunlin's. The result says in how many cases each ran.
    pub fn check_with(&self, operators: &[&str], own: &[KernelFile], progress: impl Fn(usize, usize)) -> Result<Check> {
        if let Some(name) = operators.iter().find(|name| !Self::operators().contains(name)) {
            return Err(Error::prompt(format!(
                "there is no operator `{name}`; there are {}",
                Self::operators().join(", ")
            )));
        }
        let DeviceChoice::Adapter(index) = self.choose()? else {
            return Err(Error::device(
                "the CPU path is what devices are compared with; name an adapter of `dunlin info` with --device",
            ));
        };
        let chosen = |name: &str| operators.is_empty() || operators.contains(&name);
        let cases: Vec<_> = ops::cases().into_iter().filter(|(name, _)| chosen(name)).collect();
        backend::check::check_with(index, &cases, own, &progress)
    }

    /// The backend's device for this request. Lists adapters only if the request may need one.
    pub(crate) fn choose(&self) -> Result<DeviceChoice> {
        if self.0 == Wanted::Cpu { Ok(DeviceChoice::Cpu) } else { self.choose_from(&backend::devices()) }
    }

    fn choose_from(&self, adapters: &[AdapterInfo]) -> Result<DeviceChoice> {
        let usable = |adapter: &AdapterInfo| adapter.unusable.is_none();
        let real = adapters.iter().position(|adapter| !adapter.software && usable(adapter));
        let found = match &self.0 {
            Wanted::Auto => return Ok(real.map_or(DeviceChoice::Cpu, DeviceChoice::Adapter)),
            Wanted::Cpu => return Ok(DeviceChoice::Cpu),
            Wanted::Gpu => real
                .or(adapters.iter().position(usable))
                .or((!adapters.is_empty()).then_some(0))
                .ok_or("no GPU adapter was found, so --device gpu cannot be: use --device cpu".to_owned()),
            Wanted::Index(index) => (*index < adapters.len())
                .then_some(*index)
                .ok_or_else(|| format!("there is no adapter {index}; there {}", list(adapters))),
            Wanted::Name { backend, part } => {
                let fits = |adapter: &AdapterInfo| {
                    adapter.name.to_lowercase().contains(part)
                        && backend.as_ref().is_none_or(|backend| *backend == adapter.backend)
                };
                let wanted = backend.as_ref().map(|backend| format!("{backend}:")).unwrap_or_default() + part;
                let found = adapters.iter().position(|adapter| fits(adapter) && usable(adapter));
                found
                    .or(adapters.iter().position(fits))
                    .ok_or_else(|| format!("no adapter is called `{wanted}`; there {}", list(adapters)))
            }
        };
        let index = found.map_err(Error::device)?;
        match &adapters[index].unusable {
            Some(why) => {
                Err(Error::device(format!("adapter {index}, {}, cannot run models: {why}", adapters[index].name)))
            }
            None => Ok(DeviceChoice::Adapter(index)),
        }
    }
}

fn list(adapters: &[AdapterInfo]) -> String {
    if adapters.is_empty() {
        return "are none, only --device cpu".to_owned();
    }
    let names =
        adapters.iter().enumerate().map(|(index, adapter)| format!("{index} {}:{}", adapter.backend, adapter.name));
    format!("are {}", names.collect::<Vec<_>>().join(", "))
}

impl Default for Device {
    fn default() -> Self {
        Self::auto()
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

/// A GPU adapter of this machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    index: usize,
    info: AdapterInfo,
}

impl Adapter {
    /// The index that [`Device::parse`] takes.
    pub fn index(&self) -> usize {
        self.index
    }

    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// `vulkan`, `metal`, `dx12` or `gl`.
    pub fn backend(&self) -> &str {
        &self.info.backend
    }

    pub fn driver(&self) -> &str {
        &self.info.driver
    }

    /// `discrete`, `integrated`, `virtual`, `cpu` or `other`.
    pub fn kind(&self) -> &str {
        &self.info.kind
    }

    /// Whether it is a rasteriser that runs on the CPU.
    pub fn is_software(&self) -> bool {
        self.info.software
    }

    /// Why it cannot run models, if it cannot.
    pub fn unusable(&self) -> Option<&str> {
        self.info.unusable.as_deref()
    }

    /// Named limits, in bytes or counts.
    pub fn limits(&self) -> &[(String, u64)] {
        &self.info.limits
    }

    /// The optional features of the adapter that dunlin uses.
    pub fn features(&self) -> &[String] {
        &self.info.features
    }
}

impl fmt::Display for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AdapterInfo { name, backend, kind, driver, .. } = &self.info;
        let comma = if driver.is_empty() { "" } else { ", " };
        write!(f, "{}  {backend}:{name}  ({kind}{comma}{driver})", self.index)
    }
}

/// Puts a model on a device.
pub(crate) fn load(
    checkpoint: &Checkpoint,
    device: &Device,
    options: &EngineOptions,
    progress: Progress<'_>,
) -> Result<Arc<dyn Engine>> {
    backend::load(checkpoint, &device.choose()?, options, progress)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(backend: &str, name: &str, software: bool) -> AdapterInfo {
        AdapterInfo {
            name: name.into(),
            backend: backend.into(),
            driver: String::new(),
            kind: String::new(),
            software,
            unusable: None,
            limits: Vec::new(),
            features: Vec::new(),
        }
    }

    #[test]
    fn every_form_chooses_what_it_says() {
        let software = [adapter("vulkan", "llvmpipe (LLVM 15)", true), adapter("gl", "llvmpipe (LLVM 15)", true)];
        let mixed = [software[0].clone(), software[1].clone(), adapter("vulkan", "NVIDIA H100", false)];
        let small = AdapterInfo { unusable: Some("4 storage buffers".into()), ..mixed[2].clone() };
        let cpu = Ok(DeviceChoice::Cpu);
        let at = |index| Ok(DeviceChoice::Adapter(index));
        let check = |text: &str, adapters: &[AdapterInfo], expected: Result<DeviceChoice, &str>| {
            let chosen = Device::parse(text).and_then(|device| device.choose_from(adapters));
            match (chosen, expected) {
                (Ok(chosen), Ok(expected)) => assert_eq!(chosen, expected, "{text}"),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{text}: {error}"),
                (chosen, _) => panic!("{text}: {chosen:?}"),
            }
        };
        check("auto", &mixed, at(2));
        check("auto", &software, cpu);
        check("auto", &[], cpu);
        check("auto", std::slice::from_ref(&small), cpu);
        check("CPU", &mixed, cpu);
        check("gpu", &mixed, at(2));
        check("gpu", &software, at(0));
        check("gpu", std::slice::from_ref(&small), Err("4 storage buffers"));
        check("gpu", &[], Err("no GPU adapter"));
        check("1", &mixed, at(1));
        check("7", &mixed, Err("no adapter 7; there are 0 vulkan:llvmpipe"));
        check("0", &[], Err("there are none"));
        check("0", &[small], Err("cannot run models"));
        check("llvmpipe", &mixed, at(0));
        check("gl:llvmpipe", &mixed, at(1));
        check("Vulkan:nvidia", &mixed, at(2));
        check("gl:", &mixed, at(1));
        check("GL", &mixed, at(1));
        check("dx12", &mixed, Err("`dx12:`"));
        check("metal:m1", &mixed, Err("`metal:m1`"));
        check(" ", &mixed, Err("empty"));
    }
}
