//! Adapters, and opening one: limits and features → [`DeviceProfile`].

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::Duration;

use crate::backend::AdapterInfo;
use crate::backend::wgpu::counters::{count_created, count_submitted};
use crate::backend::wgpu::pipelines::Pipelines;
use crate::error::{Error, Result};
use crate::work::{DeviceProfile, MOST_GROUPS};

/// An open device: its queue, its compiled pipelines, and the first fault that its driver reported.
pub struct Gpu {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub profile: DeviceProfile,
    pub pipelines: Pipelines,
    /// The longest wait for one submission. Without it a device may take as long as it wants.
    pub patience: Option<Duration>,
    faults: Arc<Faults>,
}

/// The first fault that the driver reported and that was not told yet.
#[derive(Default)]
struct Faults(Mutex<Option<Fault>>);

enum Fault {
    /// The device works on, with less: the fault is told once.
    OutOfMemory(String),
    /// The device is not used again, but opened anew.
    Lost(String),
    /// As `Lost`: what was refused may be missing from later work.
    Other(String),
}

impl Faults {
    fn report(&self, fault: Fault) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(fault);
    }

    /// The error for the fault of the device called `name`, if there is one.
    fn check(&self, name: &str) -> Result<()> {
        let mut fault = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let error = match &*fault {
            None => return Ok(()),
            Some(Fault::OutOfMemory(message)) => Error::out_of_memory(format!(
                "{name} is out of memory ({message}); take a shorter --context, smaller --weights, or another device"
            )),
            Some(Fault::Lost(message)) => {
                Error::device(format!("{name} was lost ({message}); load the model again, or on another device"))
            }
            Some(Fault::Other(message)) => Error::device(format!("{name} refused its work: {message}")),
        };
        fault.take_if(|fault| matches!(fault, Fault::OutOfMemory(_)));
        Err(error)
    }
}

/// The adapters: the best supported backend first, then the driver's order. An index stays valid while the program
/// runs.
static ADAPTERS: LazyLock<Vec<wgpu::Adapter>> = LazyLock::new(|| {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let mut adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    adapters.sort_by_key(|adapter| match adapter.get_info().backend {
        wgpu::Backend::Vulkan => 0,
        wgpu::Backend::Metal => 1,
        wgpu::Backend::Dx12 => 2,
        _ => 3,
    });
    adapters
});

/// The open devices. Models on one adapter share its device and pipelines.
static OPEN: LazyLock<Mutex<HashMap<usize, Weak<Gpu>>>> = LazyLock::new(Mutex::default);

/// Features that kernels or measurements can use.
const FEATURES: [(wgpu::Features, &str); 6] = [
    (wgpu::Features::SHADER_F16, "f16"),
    (wgpu::Features::SUBGROUP, "subgroups"),
    (COOPERATIVE, "cooperative-matrix"),
    (wgpu::Features::TIMESTAMP_QUERY, "timestamps"),
    (wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES, "timestamps-in-passes"),
    (wgpu::Features::PIPELINE_CACHE, "pipeline-cache"),
];

const COOPERATIVE: wgpu::Features = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;

/// Every adapter of this machine.
pub fn adapters() -> Vec<AdapterInfo> {
    ADAPTERS.iter().map(describe).collect()
}

fn describe(adapter: &wgpu::Adapter) -> AdapterInfo {
    let (info, limits) = (adapter.get_info(), adapter.limits());
    let kind = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => "discrete",
        wgpu::DeviceType::IntegratedGpu => "integrated",
        wgpu::DeviceType::VirtualGpu => "virtual",
        wgpu::DeviceType::Cpu => "cpu",
        wgpu::DeviceType::Other => "other",
    };
    // Mesa's OpenGL rasteriser does not report that it runs on the CPU.
    let rasterisers = ["llvmpipe", "softpipe", "swiftshader", "warp", "basic render"];
    let name = info.name.to_lowercase();
    AdapterInfo {
        backend: backend(info.backend).into(),
        driver: driver(&info),
        kind: kind.into(),
        software: info.device_type == wgpu::DeviceType::Cpu || rasterisers.iter().any(|r| name.contains(r)),
        unusable: too_small(&limits),
        limits: vec![
            ("max_storage_buffer_binding_size".into(), limits.max_storage_buffer_binding_size),
            ("max_buffer_size".into(), limits.max_buffer_size),
            ("max_storage_buffers_per_shader_stage".into(), limits.max_storage_buffers_per_shader_stage.into()),
            ("max_compute_workgroup_storage_size".into(), limits.max_compute_workgroup_storage_size.into()),
            ("max_compute_invocations_per_workgroup".into(), limits.max_compute_invocations_per_workgroup.into()),
            ("min_storage_buffer_offset_alignment".into(), limits.min_storage_buffer_offset_alignment.into()),
            ("subgroup_min_size".into(), info.subgroup_min_size.into()),
            ("subgroup_max_size".into(), info.subgroup_max_size.into()),
        ],
        features: FEATURES.iter().filter(|(f, _)| usable(adapter).contains(*f)).map(|f| f.1.into()).collect(),
        name: info.name,
    }
}

/// A driver with its version.
fn driver(info: &wgpu::AdapterInfo) -> String {
    [info.driver.trim(), info.driver_info.trim()].join(" ").trim().to_string()
}

/// The first limit of an adapter that is below WebGPU's default, which every kernel may need.
fn too_small(limits: &wgpu::Limits) -> Option<String> {
    let least = [
        ("max_storage_buffers_per_shader_stage", limits.max_storage_buffers_per_shader_stage, 8),
        ("max_compute_workgroup_storage_size", limits.max_compute_workgroup_storage_size, 16 << 10),
        ("max_compute_invocations_per_workgroup", limits.max_compute_invocations_per_workgroup, 256),
    ];
    least
        .iter()
        .find(|(_, have, need)| have < need)
        .map(|(name, have, need)| format!("{name} is {have}, needed {need}"))
}

/// The features of an adapter that dunlin uses.
fn usable(adapter: &wgpu::Adapter) -> wgpu::Features {
    let known = FEATURES.iter().fold(wgpu::Features::empty(), |all, f| all | f.0);
    let mut features = known & adapter.features();
    if cooperative_size(adapter).is_none() {
        features.remove(COOPERATIVE);
    }
    features
}

/// The largest cooperative matrices that have kernels: square, f16 · f16 summed in f32, in subgroups (the only scope
/// that wgpu lists) of at least as many threads. Lavapipe also lists 8 × 8 in subgroups of 4, but then fails to open.
fn cooperative_size(adapter: &wgpu::Adapter) -> Option<u32> {
    if !adapter.features().contains(COOPERATIVE | wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP) {
        return None;
    }
    let (listed, threads) = (adapter.cooperative_matrix_properties(), adapter.get_info().subgroup_min_size);
    [16, 8].into_iter().filter(|&size| size <= threads).find(|&size| {
        listed.iter().any(|matrix| {
            (matrix.m_size, matrix.n_size, matrix.k_size) == (size, size, size)
                && matrix.ab_type == wgpu::CooperativeScalarType::F16
                && matrix.cr_type == wgpu::CooperativeScalarType::F32
        })
    })
}

fn descriptor(features: wgpu::Features, limits: &wgpu::Limits) -> wgpu::DeviceDescriptor<'static> {
    let experimental_features = match features.contains(COOPERATIVE) {
        // SAFETY: experimental features may misbehave. We request only one, and its kernels follow the rules that naga
        // does not check: whole subgroups, and loads from workgroup memory at multiples of 16 bytes.
        true => unsafe { wgpu::ExperimentalFeatures::enabled() },
        false => wgpu::ExperimentalFeatures::disabled(),
    };
    wgpu::DeviceDescriptor {
        label: Some("dunlin"),
        required_features: features,
        required_limits: limits.clone(),
        experimental_features,
        memory_hints: wgpu::MemoryHints::MemoryUsage,
        ..Default::default()
    }
}

fn backend(backend: wgpu::Backend) -> &'static str {
    match backend {
        wgpu::Backend::Vulkan => "vulkan",
        wgpu::Backend::Metal => "metal",
        wgpu::Backend::Dx12 => "dx12",
        wgpu::Backend::Gl => "gl",
        _ => "other",
    }
}

impl Gpu {
    /// Opens the adapter at `index` of [`adapters`], or shares its device if it is open.
    pub fn open(index: usize) -> Result<Arc<Gpu>> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gpu) = open.get(&index).and_then(Weak::upgrade)
            && gpu.check().is_ok()
        {
            return Ok(gpu);
        }
        let gpu = Arc::new(pollster::block_on(Self::request(index))?);
        open.insert(index, Arc::downgrade(&gpu));
        Ok(gpu)
    }

    /// Opens the adapter at `index` for the caller alone: its faults affect no other user.
    pub fn open_alone(index: usize) -> Result<Gpu> {
        pollster::block_on(Self::request(index))
    }

    async fn request(index: usize) -> Result<Gpu> {
        let adapter = ADAPTERS.get(index).ok_or_else(|| {
            Error::device(format!(
                "there is no adapter {index}; this machine has {}: see `dunlin info`",
                ADAPTERS.len()
            ))
        })?;
        let (info, limits) = (adapter.get_info(), adapter.limits());
        if let Some(limit) = too_small(&limits) {
            return Err(Error::device(format!("{} cannot be used: {limit}; take another device", info.name)));
        }
        let mut features = usable(adapter);
        let mut opened = adapter.request_device(&descriptor(features, &limits)).await;
        // Some devices fail to open with an experimental feature, and open without it.
        if opened.is_err() && features.contains(COOPERATIVE) {
            features.remove(COOPERATIVE);
            opened = adapter.request_device(&descriptor(features, &limits)).await;
        }
        let (device, queue) =
            opened.map_err(|error| Error::device(format!("{} does not open", info.name)).caused_by(error))?;

        let faults: Arc<Faults> = Arc::default();
        let seen = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            seen.report(match error {
                wgpu::Error::OutOfMemory { .. } => Fault::OutOfMemory(error.to_string()),
                _ => Fault::Other(error.to_string()),
            });
        }));
        let seen = faults.clone();
        device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                seen.report(Fault::Lost(message));
            }
        });

        let profile = DeviceProfile {
            name: info.name.clone(),
            backend: backend(info.backend),
            vendor: info.vendor,
            driver: driver(&info),
            refused: BTreeSet::new(),
            own: Vec::new(),
            max_binding: limits.max_storage_buffer_binding_size.min(limits.max_buffer_size),
            offset_alignment: u64::from(limits.min_storage_buffer_offset_alignment),
            max_invocations: limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x),
            max_groups: limits.max_compute_workgroups_per_dimension.min(MOST_GROUPS),
            workgroup_memory: limits.max_compute_workgroup_storage_size,
            f16: features.contains(wgpu::Features::SHADER_F16),
            subgroups: features
                .contains(wgpu::Features::SUBGROUP)
                .then_some((info.subgroup_min_size, info.subgroup_max_size)),
            cooperative: cooperative_size(adapter).filter(|_| features.contains(COOPERATIVE)),
            rasteriser: describe(adapter).software,
            reduced_precision: true,
        };
        let pipelines = Pipelines::new(&device);
        Ok(Gpu { device, queue, profile, pipelines, patience: None, faults })
    }

    pub fn create_buffer(&self, descriptor: &wgpu::BufferDescriptor) -> wgpu::Buffer {
        count_created();
        self.device.create_buffer(descriptor)
    }

    pub fn create_bind_group(&self, descriptor: &wgpu::BindGroupDescriptor) -> wgpu::BindGroup {
        count_created();
        self.device.create_bind_group(descriptor)
    }

    pub fn submit(&self, commands: wgpu::CommandBuffer) -> wgpu::SubmissionIndex {
        count_submitted();
        self.queue.submit([commands])
    }

    /// An error if the driver reported a fault. Memory that ran out is told once, so that a shorter context can follow;
    /// after any other fault the device stays unusable.
    pub fn check(&self) -> Result<()> {
        self.faults.check(&self.profile.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn memory_that_ran_out_is_told_once_and_other_faults_stay() {
        let faults = Faults::default();
        faults.report(Fault::OutOfMemory("a buffer".into()));
        // A fault that follows from the first one.
        faults.report(Fault::Other("an invalid buffer".into()));
        let error = faults.check("a device").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfMemory);
        assert!(error.to_string().contains("a device is out of memory (a buffer)"), "{error}");
        assert!(faults.check("a device").is_ok());
        for fault in [Fault::Lost("a hang".into()), Fault::Other("a bug".into())] {
            let faults = Faults::default();
            faults.report(fault);
            for _ in 0..2 {
                assert_eq!(faults.check("a device").unwrap_err().kind(), ErrorKind::Device);
            }
        }
    }
}
