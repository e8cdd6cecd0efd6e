//! The devices that tests run models on: the CPU, and every adapter of this machine in each precision that it supports.

use std::sync::Arc;

use dunlin::backend::{self, DeviceChoice, Engine, EngineOptions};
use dunlin::checkpoint::Checkpoint;
use dunlin::{Device, LoadOptions, Model, Precision};

use super::adapters;

/// A device, in full precision unless `auto` is set.
pub struct Runtime {
    pub label: String,
    pub choice: DeviceChoice,
    pub auto: bool,
    /// Whether a rasteriser runs the kernels for GPUs.
    pub hardware: bool,
}

/// The CPU and every adapter, with activations, tiles and KV cache in f32.
pub fn full() -> Vec<Runtime> {
    let mut runtimes = vec![Runtime { label: "cpu".into(), choice: DeviceChoice::Cpu, auto: false, hardware: false }];
    for adapter in adapters::all() {
        let choice = DeviceChoice::Adapter(adapter.index);
        runtimes.push(Runtime { label: adapter.label(), choice, auto: false, hardware: false });
    }
    runtimes
}

/// [`full`], and the CPU and every adapter that has f16 with their own choice of precision.
pub fn all() -> Vec<Runtime> {
    let mut runtimes = full();
    runtimes.push(Runtime { label: "cpu auto".into(), choice: DeviceChoice::Cpu, auto: true, hardware: false });
    for adapter in adapters::all().into_iter().filter(|adapter| adapter.f16) {
        let label = format!("{} auto", adapter.label());
        runtimes.push(Runtime { label, choice: DeviceChoice::Adapter(adapter.index), auto: true, hardware: false });
    }
    runtimes
}

/// [`all`], and every adapter that has cooperative matrices with kernels for them. A rasteriser would choose others.
pub fn with_cooperative() -> Vec<Runtime> {
    let mut runtimes = all();
    for adapter in adapters::all().into_iter().filter(|adapter| adapter.cooperative) {
        let label = format!("{} cooperative matrices", adapter.label());
        runtimes.push(Runtime { label, choice: DeviceChoice::Adapter(adapter.index), auto: true, hardware: true });
    }
    runtimes
}

impl Runtime {
    pub fn is_gpu(&self) -> bool {
        self.choice != DeviceChoice::Cpu
    }

    pub fn load(&self, checkpoint: &Checkpoint) -> Arc<dyn Engine> {
        self.load_with(checkpoint, None)
    }

    /// Like [`Runtime::load`], with bindings of at most `max_binding` bytes.
    pub fn load_with(&self, checkpoint: &Checkpoint, max_binding: Option<u64>) -> Arc<dyn Engine> {
        let (full_precision, hardware) = (!self.auto, self.hardware);
        let options = EngineOptions { full_precision, hardware, max_binding, ..Default::default() };
        backend::load(checkpoint, &self.choice, &options, &|_, _| {})
            .unwrap_or_else(|error| panic!("{}: {}: {error}", checkpoint.path.display(), self.label))
    }

    pub fn device(&self) -> Device {
        match self.choice {
            DeviceChoice::Cpu => Device::cpu(),
            DeviceChoice::Adapter(index) => Device::parse(&index.to_string()).expect("an index"),
        }
    }

    /// Loads a model through the public interface.
    pub fn model(&self, path: &std::path::Path, options: &LoadOptions) -> Model {
        assert!(!self.hardware, "the public interface has no such option");
        let precision = if self.auto { Precision::Auto } else { Precision::F32 };
        let options = options.clone().precision(precision);
        Model::load_with(path, &self.device(), &options)
            .unwrap_or_else(|error| panic!("{}: {}: {error}", path.display(), self.label))
    }
}

/// The largest difference; NaN if a difference is NaN.
pub fn worst(found: &[f32], wanted: &[f32]) -> f32 {
    assert_eq!(found.len(), wanted.len());
    found.iter().zip(wanted).map(|(f, w)| (f - w).abs()).fold(0.0, |a, b| if b <= a { a } else { b })
}
