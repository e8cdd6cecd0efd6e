//! The cache of pipelines: a kernel with its constants is compiled once for each device.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::backend::wgpu::counters::count_created;
use crate::plan::Plan;
use crate::work::{Access, Dispatch, Kernel, KernelRef, MOST_ROWS, Row, source};

/// Bytes from one params struct to the next: the largest alignment that WebGPU allows a device to require.
pub const PARAMS_STRIDE: u64 = 256;

/// Bytes of the largest params struct.
pub const PARAMS_BYTES: u64 = 64;

/// Bytes of the table of a pass's rows.
pub const TABLE_BYTES: u64 = (MOST_ROWS * size_of::<Row>()) as u64;

/// Compiled kernels and their layouts.
pub struct Pipelines {
    compiled: Mutex<HashMap<Key, Arc<OnceLock<wgpu::ComputePipeline>>>>,
    layouts: Mutex<HashMap<&'static [Access], wgpu::BindGroupLayout>>,
    /// Group 1: `params` at a dynamic offset, `batch`.
    pub common: wgpu::BindGroupLayout,
    /// Whether ours are compiled as a user's kernel is, so that the times of both can be compared.
    pub ours_as_users: bool,
}

/// How a kernel is compiled. The tests know the loops and the workgroup memory of ours, and nobody knows a user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Care {
    /// Loops are counted: what a driver's compiler makes of an endless loop is undefined.
    bounded_loops: bool,
    /// Workgroup memory holds zeros at first, and not what was there before.
    zeroed_memory: bool,
}

impl Care {
    fn of(kernel: &Kernel, ours_as_users: bool) -> Self {
        let careful = kernel.replaces.is_some() || ours_as_users;
        Care { bounded_loops: careful, zeroed_memory: careful }
    }
}

/// A kernel and the bits of its constants.
type Key = (KernelRef, Vec<(&'static str, u64)>);

impl Pipelines {
    pub fn new(device: &wgpu::Device) -> Self {
        let uniform = |binding, dynamic, size| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Uniform,
                has_dynamic_offset: dynamic,
                min_binding_size: NonZeroU64::new(size),
            },
            count: None,
        };
        let common = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("params and batch"),
            entries: &[uniform(0, true, PARAMS_BYTES), uniform(1, false, TABLE_BYTES)],
        });
        Pipelines { compiled: Mutex::default(), layouts: Mutex::default(), common, ours_as_users: false }
    }

    /// How many pipelines were compiled so far.
    pub fn count(&self) -> usize {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The layout of group 0.
    pub fn layout(&self, device: &wgpu::Device, bindings: &'static [Access]) -> wgpu::BindGroupLayout {
        let mut layouts = self.layouts.lock().unwrap_or_else(PoisonError::into_inner);
        layouts.entry(bindings).or_insert_with(|| group_layout(device, bindings)).clone()
    }

    /// The pipeline of a dispatch. Several threads may compile different ones at the same time.
    pub fn pipeline(&self, device: &wgpu::Device, dispatch: &Dispatch) -> wgpu::ComputePipeline {
        let constants = dispatch.constants.iter().map(|&(name, value)| (name, value.to_bits())).collect();
        let key = (dispatch.kernel, constants);
        let cell = self.compiled.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone();
        cell.get_or_init(|| self.compile(device, dispatch)).clone()
    }

    /// Compiles the kernels of plans on `threads` threads: drivers take tens to hundreds of milliseconds for each.
    pub fn prepare(&self, device: &wgpu::Device, plans: &[&Plan], threads: usize) {
        let next = AtomicUsize::new(0);
        let dispatches: Vec<&Dispatch> =
            plans.iter().flat_map(|plan| plan.steps.iter().map(|step| &step.dispatch)).collect();
        let compile = || {
            while let Some(dispatch) = dispatches.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.pipeline(device, dispatch);
            }
        };
        // A browser has only the caller's thread.
        if threads == 1 {
            return compile();
        }
        std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(compile))));
    }

    fn compile(&self, device: &wgpu::Device, dispatch: &Dispatch) -> wgpu::ComputePipeline {
        let kernel = dispatch.kernel.0;
        let name = kernel.name();
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(&name),
            source: wgpu::ShaderSource::Wgsl(source::assemble(kernel).into()),
        };
        let care = Care::of(kernel, self.ours_as_users);
        let mut checks = wgpu::ShaderRuntimeChecks::checked();
        checks.force_loop_bounding = care.bounded_loops;
        // SAFETY: only loops of ours go unbounded, and each of them counts to a bound. Bounds checks stay on.
        let module = unsafe { device.create_shader_module_trusted(descriptor, checks) };
        let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(&name),
            bind_group_layouts: &[Some(&self.layout(device, kernel.bindings)), Some(&self.common)],
            immediate_size: 0,
        });
        count_created();
        device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&name),
            layout: Some(&layout),
            module: &module,
            entry_point: Some(kernel.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &dispatch.constants,
                // Ours write workgroup memory before they read it.
                zero_initialize_workgroup_memory: care.zeroed_memory,
            },
            cache: None,
        })
    }
}

fn group_layout(device: &wgpu::Device, bindings: &[Access]) -> wgpu::BindGroupLayout {
    let entry = |(i, access): (usize, &Access)| wgpu::BindGroupLayoutEntry {
        binding: i as u32,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Storage { read_only: *access == Access::Read },
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    };
    let entries: Vec<_> = bindings.iter().enumerate().map(entry).collect();
    device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some("tensors"), entries: &entries })
}

#[test]
fn a_users_kernel_is_compiled_with_care() {
    let ours = crate::ops::kernels()[0].1[0];
    let counts_down = "fn f() { for (var i = 3u; i >= 0u; i--) { } }";
    let users = Kernel { source: counts_down, modules: &[], replaces: Some(ours), ..*ours };
    let care = |careful| Care { bounded_loops: careful, zeroed_memory: careful };
    assert_eq!(Care::of(&users, false), care(true));
    assert_eq!([false, true].map(|as_users| Care::of(ours, as_users)), [care(false), care(true)]);
}
