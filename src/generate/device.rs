//! Where a model runs, as callers say it. The one file that asks the backend for devices and engines.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::backend::{AdapterInfo, DeviceChoice, Engine, EngineOptions};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};

/// The device that a model is to run on. Nothing is opened before [`Model::load`](crate::Model::load).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device(DeviceChoice);

impl Device {
    /// A GPU if there is a real one, else the CPU. Never a software rasteriser.
    pub fn auto() -> Self {
        Self(DeviceChoice::Auto)
    }

    /// The first GPU adapter, real ones before software ones. Loading fails where there is none.
    pub fn gpu() -> Self {
        Self(DeviceChoice::Gpu)
    }

    /// The CPU path, which defines what is right.
    pub fn cpu() -> Self {
        Self(DeviceChoice::Cpu)
    }

    /// `auto`, `cpu`, `gpu`, an index of [`Device::list`], or `[BACKEND:]NAME-PART` such as `vulkan:llvmpipe`.
    pub fn parse(text: &str) -> Result<Self> {
        DeviceChoice::parse(text).map(Self)
    }

    /// The adapters of this machine.
    pub fn list() -> Vec<Adapter> {
        devices().into_iter().map(Adapter).collect()
    }
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
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub struct Adapter(AdapterInfo);

impl Adapter {
    /// What [`Device::parse`] takes.
    pub fn index(&self) -> usize {
        self.0.index
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// `vulkan`, `metal`, `dx12` or `gl`.
    pub fn backend(&self) -> &str {
        &self.0.backend
    }

    /// Whether it is a rasteriser that runs on the CPU.
    pub fn is_software(&self) -> bool {
        self.0.software
    }

    /// Named limits, in bytes or counts.
    pub fn limits(&self) -> &[(String, u64)] {
        &self.0.limits
    }

    /// The optional features that dunlin uses where they are: `f16`, `subgroups` and others.
    pub fn features(&self) -> &[String] {
        &self.0.features
    }
}

impl fmt::Display for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AdapterInfo { index, name, backend, kind, driver, .. } = &self.0;
        write!(f, "{index}  {backend}:{name}  ({kind}{}{driver})", if driver.is_empty() { "" } else { ", " })
    }
}

/// Called with bytes done and bytes in all while weights are uploaded.
pub(super) type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// Puts a model on a device.
pub(super) fn load(
    checkpoint: &Checkpoint,
    device: &Device,
    options: &EngineOptions,
    progress: Progress<'_>,
) -> Result<Arc<dyn Engine>> {
    let adapters = devices();
    let adapter = device.0.choose(&adapters)?;
    let _ = (checkpoint, options, progress, adapter);
    Err(Error::device("no backend is built yet"))
}

fn devices() -> Vec<AdapterInfo> {
    Vec::new()
}
