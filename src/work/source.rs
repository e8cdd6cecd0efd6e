//! Kernel file + shared modules → one WGSL text.
//!
//! Assembly is concatenation, the shared files after the kernel, so that error lines are those of the file on disk.
//! WGSL declarations may stand in any order; directives (`enable f16;`) go in front, on line 1.

use super::Kernel;
use crate::formats::{DType, formats};

/// A file of `shaders/shared/`. A `variant` is one of several that define the same names.
#[derive(Debug)]
pub struct Module {
    pub name: &'static str,
    pub source: &'static str,
    pub variant: bool,
}

macro_rules! module {
    ($name:expr, $variant:literal) => {
        Module {
            name: $name,
            source: include_str!(concat!("../../shaders/shared/", $name, ".wgsl")),
            variant: $variant,
        }
    };
}

macro_rules! modules {
    ([$($id:ident $name:literal $variant:literal)*] $($format:ident $format_name:ident)*) => {
        $(pub static $id: Module = module!($name, $variant);)*

        /// How each weight format is read, in the order of [`DType::ALL`].
        pub static WEIGHTS: [Module; DType::ALL.len()] =
            [$(module!(concat!("weight_", stringify!($format_name)), true)),*];

        /// Every shared file.
        pub static KERNEL_MODULES: &[&Module] = &[$(&$id,)* $(&WEIGHTS[DType::$format as usize]),*];
    };
}

formats!([modules]
    ACTIVATION "activation" false
    GATE "gate" false
    GEMV "gemv" false
    GEMM "gemm" true
    GEMM_SUBGROUP "gemm_subgroup" true
    QUADS_SHARED "quads_shared" true
    QUADS_SUBGROUP "quads_subgroup" true
    GEMM_COOPERATIVE "gemm_cooperative" true
    COOPERATIVE_8 "cooperative_8" true
    COOPERATIVE_16 "cooperative_16" true
    GEMM_EDGES "gemm_edges" false
    EPILOGUE_PLAIN "epilogue_plain" true
    EPILOGUE_BIAS "epilogue_bias" true
    EPILOGUE_RESIDUAL "epilogue_residual" true
    EPILOGUE_BIAS_RESIDUAL "epilogue_bias_residual" true
    X_ROWS "x_rows" false
    NORM "norm" false
    PLAIN "plain" false
    ROWS "rows" false
    REDUCE "reduce" false
    RMS "rms" false
    WINDOW "window" false
    KV_F32 "kv_f32" true
    KV_F16 "kv_f16" true
    TILE_F32 "tile_f32" true
    TILE_F16 "tile_f16" true
    WEIGHT "weight" false
);

/// The complete WGSL of a kernel.
pub fn assemble(kernel: &Kernel) -> String {
    if kernel.replaces.is_some() {
        return kernel.source.to_string();
    }
    let mut text = String::new();
    if kernel.requires.f16 {
        text += "enable f16; ";
    }
    if kernel.requires.cooperative.is_some() {
        text += "enable wgpu_cooperative_matrix; ";
    }
    text += kernel.source;
    for module in kernel.modules {
        text += &format!("\n// shared/{}.wgsl\n", module.name);
        text += module.source;
    }
    text
}
