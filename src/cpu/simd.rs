//! Compiles one loop for several instruction sets.

use std::sync::atomic::{AtomicU8, Ordering};

/// Instruction sets that kernels are compiled for, from the plainest to the widest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// The instructions that the target always has.
    Target = 0,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2 = 1,
    /// AVX-512 F, BW, VL and DQ.
    #[cfg(target_arch = "x86_64")]
    Avx512 = 2,
}

/// The number of the level that kernels use; [`UNKNOWN`] before the first use.
static LEVEL: AtomicU8 = AtomicU8::new(UNKNOWN);

const UNKNOWN: u8 = u8::MAX;

/// The level that kernels use: the widest that this processor has, unless [`limit`] sets a lower one.
#[cfg(target_arch = "x86_64")]
#[inline]
pub fn level() -> Level {
    let known = LEVEL.load(Ordering::Relaxed);
    // A limit that another thread sets meanwhile is kept.
    let known =
        if known == UNKNOWN { LEVEL.fetch_min(widest() as u8, Ordering::Relaxed).min(widest() as u8) } else { known };
    match known {
        2 => Level::Avx512,
        1 => Level::Avx2,
        _ => Level::Target,
    }
}

/// Limits kernels to this level from now on. It applies to the whole process, so kernels that run meanwhile may give
/// other bits than before. For tests, which use it to run every form of a kernel on one machine.
pub fn limit(most: Level) {
    LEVEL.store(most.min(widest()) as u8, Ordering::Relaxed);
}

/// The levels that this processor has, from the plainest to the widest.
pub fn levels() -> Vec<Level> {
    let all = [
        Level::Target,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512,
    ];
    all.into_iter().filter(|level| *level <= widest()).collect()
}

/// The widest level of this processor.
fn widest() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq");
        match (avx2, avx512) {
            (true, true) => Level::Avx512,
            (true, false) => Level::Avx2,
            _ => Level::Target,
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    Level::Target
}

/// Whether `mul_add` is one instruction on the plain target.
pub const TARGET_FMA: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));

/// `a · b + c`, in one instruction if the target has one.
#[inline(always)]
pub fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Declares functions whose loops are compiled for each [`Level`]; the constant `FMA` says whether `mul_add` is one
/// instruction.
macro_rules! simd {
    ($($(#[$doc:meta])* pub fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {
        $(
            $(#[$doc])*
            pub fn $name($($arg: $ty),*) $(-> $ret)? {
                #[inline(always)]
                #[allow(clippy::extra_unused_type_parameters, reason = "some loops multiply and add nothing")]
                fn body<const FMA: bool>($($arg: $ty),*) $(-> $ret)? $body

                #[cfg(target_arch = "x86_64")]
                {
                    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
                    fn avx512($($arg: $ty),*) $(-> $ret)? {
                        body::<true>($($arg),*)
                    }

                    #[target_feature(enable = "avx2,fma,f16c")]
                    fn avx2($($arg: $ty),*) $(-> $ret)? {
                        body::<true>($($arg),*)
                    }

                    match $crate::cpu::simd::level() {
                        // SAFETY of both: the processor has the instructions.
                        $crate::cpu::simd::Level::Avx512 => return unsafe { avx512($($arg),*) },
                        $crate::cpu::simd::Level::Avx2 => return unsafe { avx2($($arg),*) },
                        $crate::cpu::simd::Level::Target => {}
                    }
                }
                body::<{ $crate::cpu::simd::TARGET_FMA }>($($arg),*)
            }
        )*
    };
}
pub(super) use simd;
