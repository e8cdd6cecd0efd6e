//! The GPUs that Mesa's drivers play, and what wgpu makes of each.

use std::path::Path;
use std::process::Command;

use dunlin::work::DeviceProfile;
use naga::back::spv::{Capability, WriterFlags, ZeroInitializeWorkgroupMemoryMode};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use serde::Deserialize;

/// A GPU that a driver believes to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    pub name: &'static str,
    pub maker: Maker,
    /// What the driver's fake kernel interface is told.
    pub id: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maker {
    Adreno,
    Mali,
    Amd,
    Nvidia,
    Apple,
}

/// The columns of the tables.
pub const DEVICES: [Device; 10] = [
    Device { name: "Adreno 660", maker: Maker::Adreno, id: "660" },
    Device { name: "Adreno 740", maker: Maker::Adreno, id: "740" },
    Device { name: "Adreno 830", maker: Maker::Adreno, id: "830" },
    Device { name: "Mali G52", maker: Maker::Mali, id: "7212" },
    Device { name: "Mali G610", maker: Maker::Mali, id: "a867" },
    Device { name: "Mali G720", maker: Maker::Mali, id: "c870:4" },
    Device { name: "RDNA2", maker: Maker::Amd, id: "navi21" },
    Device { name: "RDNA3", maker: Maker::Amd, id: "navi31" },
    Device { name: "NVIDIA Ampere", maker: Maker::Nvidia, id: "170" },
    Device { name: "Apple M1", maker: Maker::Apple, id: "m1" },
];

impl Device {
    /// `vkstats` on this GPU, with the drivers of `scripts/phones.sh` in `folder`.
    pub fn vkstats(&self, folder: &Path, arguments: &[&str]) -> Command {
        // The names of the fake kernel interface and of the driver, and the processor that Debian packages them for.
        let (shim, driver, arch) = match self.maker {
            Maker::Adreno => ("freedreno", "freedreno", "x86_64"),
            Maker::Mali => ("panfrost", "panfrost", "aarch64"),
            Maker::Amd => ("amdgpu", "radeon", "x86_64"),
            Maker::Nvidia => ("nouveau", "nouveau", "x86_64"),
            Maker::Apple => ("asahi", "asahi", "x86_64"),
        };
        let id = match self.maker {
            Maker::Adreno => "FD_GPU_ID",
            Maker::Mali => "PAN_GPU_ID",
            Maker::Amd => "AMDGPU_GPU_ID",
            Maker::Nvidia => "NOUVEAU_CHIPSET",
            Maker::Apple => "ASAHI_GPU_ID", // Not read: there is one.
        };
        let root = folder.join("root");
        let libraries = root.join(format!("usr/lib/{arch}-linux-gnu"));
        let preload = libraries.join(format!("lib{shim}_noop_drm_shim.so"));
        let tool = folder.join(format!("vkstats.{arch}"));
        let mut command;
        if arch == "aarch64" {
            command = Command::new(root.join("usr/bin/qemu-aarch64"));
            command.arg("-L").arg(&root);
            command.arg("-E").arg(format!("LD_PRELOAD={}", preload.display()));
            command.arg("-E").arg(format!("LD_LIBRARY_PATH={}", libraries.display()));
        } else {
            command = Command::new(root.join("usr/lib64/ld-linux-x86-64.so.2"));
            command.arg("--preload").arg(&preload).arg("--library-path").arg(&libraries);
        }
        let manifest = folder.join(format!("icd/{driver}.json"));
        // Nothing of the caller's environment, so that no variable of Mesa or of the loader changes a figure.
        command.env_clear().env(id, self.id).env("VK_DRIVER_FILES", manifest);
        command.env("MESA_SHADER_CACHE_DISABLE", "true").env("VK_LOADER_LAYERS_DISABLE", "~implicit~");
        for driver in ["PAN", "NVK"] {
            command.env(format!("{driver}_I_WANT_A_BROKEN_VULKAN_DRIVER"), "1");
        }
        command.arg(tool).args(arguments);
        command
    }
}

/// What `vkstats features` prints: the facts of a Vulkan device by which wgpu decides.
#[derive(Clone, Debug, Deserialize)]
pub struct Features {
    name: String,
    driver: String,
    driver_info: String,
    vendor: u32,
    vulkan: (u8, u8),
    float16: u32,
    int8: u32,
    storage16: u32,
    uniform16: u32,
    dot_product: u32,
    robust_buffer_access2: u32,
    image_robustness: u32,
    subgroup_operations: u32,
    subgroup_stages: u32,
    subgroup_size_control: u32,
    subgroup_sizes: (u32, u32),
    max_storage_buffer_range: u64,
    max_allocation_bytes: u64,
    max_buffer_bytes: u64,
    storage_alignment: u64,
    max_invocations: u32,
    max_workgroup_width: u32,
    workgroup_memory_bytes: u32,
    matrices: Vec<u32>,
}

impl Features {
    /// wgpu-hal 30, `vulkan/adapter.rs`, `Features::SHADER_F16`.
    fn f16(&self) -> bool {
        self.float16 != 0 && self.storage16 != 0 && self.uniform16 != 0
    }

    /// `Features::SUBGROUP`, with the range of sizes.
    pub fn subgroups(&self) -> Option<(u32, u32)> {
        // Basic, vote, arithmetic, ballot, shuffle, relative shuffle, quad; fragment and compute shaders.
        const OPERATIONS: u32 = 0xbf;
        const STAGES: u32 = 0x30;
        let sizes = self.vulkan >= (1, 3) || self.vulkan >= (1, 1) && self.subgroup_size_control != 0;
        let all = self.subgroup_operations & OPERATIONS == OPERATIONS && self.subgroup_stages & STAGES == STAGES;
        (sizes && all).then_some(self.subgroup_sizes)
    }

    /// As `src/backend/wgpu/device.rs` takes them.
    fn cooperative(&self) -> Option<u32> {
        let (least, _) = self.subgroups().filter(|_| self.f16())?;
        [16, 8].into_iter().find(|size| *size <= least && self.matrices.contains(size))
    }

    /// Whether the hardware keeps accesses inside buffers, so that the shader has no code for it.
    pub fn robust(&self) -> bool {
        self.robust_buffer_access2 != 0
    }

    /// The profile that `src/backend/wgpu/device.rs` makes of the limits and features that wgpu offers.
    pub fn profile(&self) -> DeviceProfile {
        // wgpu keeps buffers below 2 GiB, but for NVIDIA's, and bindings everywhere.
        const NVIDIA: u32 = 0x10de;
        const MOST: u64 = i32::MAX as u64;
        let most_buffer = if self.vendor == NVIDIA { u64::MAX } else { MOST };
        let sizes = [self.max_storage_buffer_range.min(MOST), self.max_allocation_bytes, most_buffer];
        // Vulkan 1.2 and older have no maximum for buffers.
        let buffer = if self.max_buffer_bytes == 0 { u64::MAX } else { self.max_buffer_bytes };
        DeviceProfile {
            name: self.name.clone(),
            backend: "vulkan",
            vendor: self.vendor,
            driver: [self.driver.trim(), self.driver_info.trim()].join(" ").trim().to_string(),
            max_binding: sizes.into_iter().fold(buffer, u64::min),
            offset_alignment: self.storage_alignment.max(32),
            max_invocations: self.max_invocations.min(self.max_workgroup_width),
            workgroup_memory: self.workgroup_memory_bytes,
            f16: self.f16(),
            subgroups: self.subgroups(),
            cooperative: self.cooperative(),
            rasteriser: false,
            reduced_precision: true,
            ..DeviceProfile::baseline()
        }
    }

    /// What wgpu tells naga for this device (wgpu-hal 30, `vulkan/adapter.rs`), and dunlin for its pipelines: workgroup
    /// memory is not cleared and loops are not bounded.
    pub fn spirv_options(&self) -> naga::back::spv::Options<'static> {
        let checked = |robust| if robust { BoundsCheckPolicy::Unchecked } else { BoundsCheckPolicy::Restrict };
        let mut capabilities = vec![
            Capability::Shader,
            Capability::Matrix,
            Capability::Sampled1D,
            Capability::Image1D,
            Capability::ImageQuery,
            Capability::DerivativeControl,
            Capability::StorageImageExtendedFormats,
        ];
        if self.subgroups().is_some() {
            capabilities.extend([
                Capability::GroupNonUniform,
                Capability::GroupNonUniformVote,
                Capability::GroupNonUniformArithmetic,
                Capability::GroupNonUniformBallot,
                Capability::GroupNonUniformShuffle,
                Capability::GroupNonUniformShuffleRelative,
                Capability::GroupNonUniformQuad,
            ]);
        }
        if self.f16() {
            capabilities.push(Capability::Float16);
        }
        if self.cooperative().is_some() {
            capabilities.extend([Capability::CooperativeMatrixKHR, Capability::VulkanMemoryModel]);
        }
        if self.dot_product != 0 {
            capabilities.extend([
                Capability::DotProductInputAllKHR,
                Capability::DotProductInput4x8BitKHR,
                Capability::DotProductInput4x8BitPackedKHR,
                Capability::DotProductKHR,
            ]);
        }
        if self.int8 != 0 {
            capabilities.push(Capability::Int8);
        }
        // Names of variables between stages, which compute shaders have none of, are all that a vendor changes here.
        naga::back::spv::Options {
            lang_version: match self.vulkan {
                (1, 0) => (1, 0),
                (1, 1) => (1, 3),
                (1, 2) => (1, 5),
                _ => (1, 6),
            },
            flags: WriterFlags::LABEL_VARYINGS | WriterFlags::FORCE_POINT_SIZE,
            capabilities: Some(capabilities.into_iter().collect()),
            bounds_check_policies: BoundsCheckPolicies {
                index: BoundsCheckPolicy::Restrict,
                buffer: checked(self.robust()),
                image_load: checked(self.image_robustness != 0),
                binding_array: BoundsCheckPolicy::Unchecked,
            },
            zero_initialize_workgroup_memory: ZeroInitializeWorkgroupMemoryMode::None,
            force_loop_bounding: false,
            ..Default::default()
        }
    }
}
