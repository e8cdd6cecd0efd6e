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
    /// AVX-512 VNNI too: products of bytes.
    #[cfg(target_arch = "x86_64")]
    Vnni = 3,
}

/// The number of the level that kernels use; [`UNKNOWN`] before the first use.
static LEVEL: AtomicU8 = AtomicU8::new(UNKNOWN);

const UNKNOWN: u8 = u8::MAX;

/// The level that kernels use: the widest that this processor has, unless [`limit`] sets a lower one.
#[inline]
pub fn level() -> Level {
    let known = LEVEL.load(Ordering::Relaxed);
    // A limit that another thread sets meanwhile is kept.
    let known =
        if known == UNKNOWN { LEVEL.fetch_min(widest() as u8, Ordering::Relaxed).min(widest() as u8) } else { known };
    match known {
        #[cfg(target_arch = "x86_64")]
        3 => Level::Vnni,
        #[cfg(target_arch = "x86_64")]
        2 => Level::Avx512,
        #[cfg(target_arch = "x86_64")]
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
        #[cfg(target_arch = "x86_64")]
        Level::Vnni,
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
        match (avx2, avx512, is_x86_feature_detected!("avx512vnni")) {
            (true, true, true) => Level::Vnni,
            (true, true, false) => Level::Avx512,
            (true, false, _) => Level::Avx2,
            _ => Level::Target,
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    Level::Target
}

/// Asks for the `count` bytes that lie 8 KiB behind byte `at` of a row, which are read soon if rows lie together. Processors
/// fetch ahead by themselves, but ask for too little at once: one core of a Xeon reads 13.8 GB/s without this and 20 GB/s
/// with it.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn prefetch(row: &[u8], at: usize, count: usize) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    for line in (0..count).step_by(64) {
        // SAFETY: a prefetch of any address is allowed.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(row.as_ptr().wrapping_add(at + line + 8192).cast()) };
    }
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
                        $crate::cpu::simd::Level::Avx512 | $crate::cpu::simd::Level::Vnni => return unsafe { avx512($($arg),*) },
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
