//! The vocabulary of GPU work, as plain data: what a kernel is, what one dispatch of it needs, what a device can do.
//!
//! Nothing here knows wgpu, so all of it can be tested and printed without a device.

pub mod layout;
pub mod names;
pub mod own;
pub mod pack;
pub mod source;

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{Hash, Hasher};

pub use own::{KernelFile, OwnKernel, OwnKernelUse};
pub use source::{KERNEL_MODULES, Module};

/// One way to run an operator: a WGSL file with the shared modules it is completed by.
///
/// Every kernel that can ever run is a `static` that its operator's `kernels()` lists.
#[derive(Debug)]
pub struct Kernel {
    /// Path under `shaders/`; error lines are lines of this file.
    pub file: &'static str,
    /// The text of that file.
    pub source: &'static str,
    /// The compute entry point.
    pub entry: &'static str,
    /// Shared files appended to it, in order: element types, weight formats, common loops.
    pub modules: &'static [&'static Module],
    /// Bindings of group 0, in order: whether each is written. Arena tensors are bound read-write all the same.
    pub bindings: &'static [Access],
    /// Bytes of the `Params` struct.
    pub params: usize,
    /// The `override` constants it understands, with the values that tests validate.
    pub constants: &'static [(&'static str, f64)],
    pub requires: Requires,
    /// Of a user's kernel, whose `source` is complete: the kernel of ours that it takes the place of.
    pub replaces: Option<&'static Kernel>,
}

impl Kernel {
    /// `linear/gemv+epilogue_plain+weight_q4_0`: unique, and what labels and the plan's text show. A user's kernel adds
    /// its file: `linear/gemv+epilogue_plain+weight_q4_0=mine.wgsl`.
    pub fn name(&self) -> String {
        if let Some(ours) = self.replaces {
            return format!("{}={}", ours.name(), self.file);
        }
        let mut name = self.file.trim_end_matches(".wgsl").to_string();
        if !name.ends_with(self.entry) {
            name = format!("{name}:{}", self.entry);
        }
        for module in self.modules.iter().filter(|module| module.variant) {
            name += &format!("+{}", module.name);
        }
        name
    }

    /// Whether its name has all the parts of `wanted`: the file with its entry point, and the variants of shared files.
    pub fn is_named(&self, wanted: &str) -> bool {
        let name = self.name();
        wanted.split('+').all(|part| name.split('+').any(|own| own == part))
    }
}

/// A reference to the static that describes a kernel. Two are equal if they are the same static.
#[derive(Clone, Copy)]
pub struct KernelRef(pub &'static Kernel);

impl PartialEq for KernelRef {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for KernelRef {}

impl Hash for KernelRef {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::ptr::from_ref(self.0).hash(state);
    }
}

impl fmt::Debug for KernelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.name())
    }
}

/// How a kernel uses a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Weights and tables: `var<storage, read>`.
    Read,
    /// Arena and state tensors: `var<storage, read_write>`, because one buffer may not be bound both ways at once.
    ReadWrite,
}

/// What a device must offer before a kernel may run there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requires {
    /// WGSL's `enable f16;`.
    pub f16: bool,
    pub subgroups: bool,
    /// Cooperative matrices of this size, f16 · f16 summed in f32: naga's `enable wgpu_cooperative_matrix;`.
    pub cooperative: Option<u32>,
}

impl Requires {
    pub const NOTHING: Requires = Requires { f16: false, subgroups: false, cooperative: None };
    pub const F16: Requires = Requires { f16: true, ..Self::NOTHING };
    pub const SUBGROUPS: Requires = Requires { subgroups: true, ..Self::NOTHING };
    pub const BOTH: Requires = Requires { f16: true, subgroups: true, cooperative: None };

    /// Matrices of f16 that a subgroup multiplies together.
    pub const fn cooperative(size: u32) -> Self {
        Requires { cooperative: Some(size), ..Self::BOTH }
    }
}

/// A value of the graph: its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// One execution of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Dispatch {
    pub kernel: KernelRef,
    /// Values of `override`s, by name.
    pub constants: Vec<(&'static str, f64)>,
    /// Group 0, in binding order.
    pub slots: Vec<Slot>,
    /// The `Params` struct, as bytes.
    pub params: Vec<u8>,
    pub groups: [u32; 3],
}

/// One way to do the work of an operator: a kernel with its tuning constants. An operator lists its ways best first, and
/// the plan takes the first that the device allows.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Of one kernel, each for a part of the work.
    pub dispatches: Vec<Dispatch>,
    /// What it is good for, in a few words.
    pub why: &'static str,
}

impl Candidate {
    /// The only way that there is.
    pub fn only(dispatch: Dispatch) -> Vec<Self> {
        vec![Self { dispatches: vec![dispatch], why: "the only kernel for it" }]
    }

    pub fn kernel(&self) -> KernelRef {
        self.dispatches[0].kernel
    }
}

/// What keeps a kernel from a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    Refused,
    NoF16,
    FullPrecision,
    NoSubgroups,
    SubgroupSizes,
    NoMatrices(u32),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::Refused => f.write_str("it is refused"),
            Obstacle::NoF16 => f.write_str("the device has no f16"),
            Obstacle::FullPrecision => f.write_str("full precision is asked for"),
            Obstacle::NoSubgroups => f.write_str("the device has no subgroups"),
            Obstacle::SubgroupSizes => f.write_str("the device's subgroups are not of 8 to 32 threads"),
            Obstacle::NoMatrices(size) => write!(f, "the device has no cooperative matrices of {size} × {size}"),
        }
    }
}

/// What a binding holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// A whole tensor.
    Value(ValueId),
    /// One plane of some rows of a packed weight matrix.
    Plane { value: ValueId, chunk: usize, plane: Plane },
}

/// The two aligned parts that a weight matrix is repacked into ([`pack`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Plane {
    Codes,
    Scales,
}

/// A row of a pass: where it stands, and how a token is chosen from its logits. The table of a pass's rows is all that
/// changes from one run of a plan to the next: the uniform `batch` of every kernel, 32 bytes a row.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Row {
    /// Where its sequence begins in the KV cache and in `tokens`: position p lies at slot + p.
    pub slot: u32,
    /// In its sequence.
    pub position: u32,
    pub seed: u32,
    pub temperature: f32,
    /// 0: all. The upper 8 bits are [`Row::stretch`].
    pub top_k: u32,
    pub top_p: f32,
    pub min_p: f32,
    pub repeat_penalty: f32,
}

/// Where [`Row::stretch`] begins in [`Row::top_k`].
const STRETCH: u32 = 24;

/// The largest top-k that a row can have. No vocabulary is that large.
pub const MOST_TOP_K: u32 = (1 << STRETCH) - 1;

/// Rows of the largest pass: as many as fit the 16 KiB of uniforms that every device has.
pub const MOST_ROWS: usize = 512;

/// How the rows of a pass belong together, and with it which kernels run them.
///
/// A row's sums are added in one order within a family, however many rows there are: what a sequence computes does not
/// depend on its neighbours, nor on the chunks that its prompt is fed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Family {
    /// Decoding: each row is the next token of a sequence of its own. A weight is read once for several rows.
    Few,
    /// A prompt or a picture: rows follow each other in one sequence. Products go by tiles.
    #[default]
    Many,
}

impl Row {
    /// A greedy row at `position` of the first sequence.
    pub fn at(position: usize) -> Self {
        Row {
            slot: 0,
            position: position as u32,
            seed: 0,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repeat_penalty: 1.0,
        }
    }

    /// `count` rows that follow each other from this one on.
    pub fn follow(self, count: usize) -> Vec<Self> {
        (0..count as u32).map(|r| Row { position: self.position + r, ..self }).collect()
    }

    /// The row with the angles that prompts of a certain length have: see `checkpoint::beyond`.
    pub fn stretched(self, stretch: usize) -> Self {
        Row { top_k: self.kept() | (stretch as u32) << STRETCH, ..self }
    }

    /// Which of a model's angles turn the row.
    pub fn stretch(&self) -> usize {
        (self.top_k >> STRETCH) as usize
    }

    /// How many of the most probable tokens are drawn from; 0 means all.
    pub fn kept(&self) -> u32 {
        self.top_k & MOST_TOP_K
    }

    /// Where the row's token, keys and values lie.
    pub fn place(&self) -> usize {
        self.slot as usize + self.position as usize
    }
}

/// Workgroups of a dispatch in one dimension: WebGPU's default limit.
pub const MOST_GROUPS: u32 = 65535;

/// What a device can do, as far as planning cares.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceProfile {
    pub name: String,
    /// `vulkan`, `metal`, `dx12`, `gl`.
    pub backend: &'static str,
    /// The PCI vendor, 0 where it is not told.
    pub vendor: u32,
    /// The driver with its version, as it calls itself.
    pub driver: String,
    /// Kernels that may not run, by name: see [`DeviceProfile::allows`].
    pub refused: BTreeSet<String>,
    /// Kernels of the user's own, which take the place of ours once ours are chosen.
    pub own: Vec<OwnKernel>,
    /// Bytes of the largest storage binding (and buffer).
    pub max_binding: u64,
    /// Offsets of bindings are multiples of this.
    pub offset_alignment: u64,
    /// Invocations of a workgroup.
    pub max_invocations: u32,
    /// Workgroups of a dispatch in its first dimension; kernels that need more take their items in turns.
    pub max_groups: u32,
    /// Bytes of workgroup memory.
    pub workgroup_memory: u32,
    pub f16: bool,
    /// (smallest, largest) subgroup, where WGSL's subgroup functions work.
    pub subgroups: Option<(u32, u32)>,
    /// Rows and columns of the cooperative matrices that a subgroup multiplies, f16 · f16 summed in f32: 16 or 8, and no
    /// more than the smallest subgroup has threads.
    pub cooperative: Option<u32>,
    /// A CPU that plays a GPU (lavapipe, llvmpipe, SwiftShader): what is cheap there differs.
    pub rasteriser: bool,
    /// Whether 16-bit storage of activations (KV cache, tiles) is allowed: `--precision auto`.
    pub reduced_precision: bool,
}

impl DeviceProfile {
    /// WebGPU's default limits: the least that any device offers.
    pub fn baseline() -> Self {
        DeviceProfile {
            name: "baseline".into(),
            backend: "none",
            vendor: 0,
            driver: String::new(),
            refused: BTreeSet::new(),
            own: Vec::new(),
            max_binding: 128 << 20,
            offset_alignment: 256,
            max_invocations: 256,
            max_groups: MOST_GROUPS,
            workgroup_memory: 16 << 10,
            f16: false,
            subgroups: None,
            cooperative: None,
            rasteriser: false,
            reduced_precision: false,
        }
    }

    /// Whether a kernel may run here, or what keeps it from that.
    ///
    /// A refused name is one or more parts of a kernel's name, joined by `+`, and refuses every kernel that has all of them:
    /// `linear/gemv` all of that file, `quads_subgroup` all that read by broadcasts, a whole name that kernel.
    pub fn allows(&self, kernel: &Kernel) -> Result<(), Obstacle> {
        let requires = &kernel.requires;
        // Kernels that broadcast deal a block's eight quads to eight neighbouring threads.
        let broadcasts = requires.subgroups && requires.cooperative.is_none();
        match self.subgroups {
            _ if self.refused.iter().any(|refused| kernel.is_named(refused)) => Err(Obstacle::Refused),
            _ if requires.f16 && !self.f16 => Err(Obstacle::NoF16),
            _ if requires.f16 && !self.reduced_precision => Err(Obstacle::FullPrecision),
            None if requires.subgroups => Err(Obstacle::NoSubgroups),
            Some((least, most)) if broadcasts && (least < 8 || most > 32) => Err(Obstacle::SubgroupSizes),
            _ => match requires.cooperative {
                Some(size) if self.cooperative != Some(size) => Err(Obstacle::NoMatrices(size)),
                _ => Ok(()),
            },
        }
    }

    /// What a kernel requires and the device does not have, whatever the precision.
    pub fn lacks(&self, requires: &Requires) -> Option<Obstacle> {
        match requires.cooperative {
            _ if requires.f16 && !self.f16 => Some(Obstacle::NoF16),
            _ if requires.subgroups && self.subgroups.is_none() => Some(Obstacle::NoSubgroups),
            Some(size) if self.cooperative != Some(size) => Some(Obstacle::NoMatrices(size)),
            _ => None,
        }
    }

    /// Whether the KV cache holds f16.
    pub fn kv_f16(&self) -> bool {
        self.f16 && self.reduced_precision
    }
}
