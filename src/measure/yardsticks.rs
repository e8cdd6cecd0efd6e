//! Yardsticks of arithmetic: the rates at which a device multiplies and adds in registers.

use crate::backend::check::{Prepared, nmse};
use crate::backend::wgpu::device::Gpu;
use crate::backend::wgpu::session::Runner;
use crate::backend::wgpu::timing::Stopwatch;
use crate::error::Result;
use crate::measure::report::Peaks;
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType, params};
use crate::work::source::{COOPERATIVE_8, COOPERATIVE_16, TILE_F16, TILE_F32};
use crate::work::{Access, Candidate, DeviceProfile, Dispatch, Family, Kernel, KernelRef, Requires, Row};

/// Seconds of a pass that is long enough to be timed.
const PASS: f64 = 0.02;

/// The number of rounds. The best round counts, because other programs on the machine can only add time.
const ROUNDS: usize = 7;

/// The device's peak rates in each kind of arithmetic that it has. A kind that it computes wrongly has none, because a
/// wrong yardstick measures nothing.
pub fn peaks(gpu: &Gpu) -> Result<Peaks> {
    let rate = |arithmetic| if right(arithmetic, gpu)? { peak_rate(gpu, arithmetic).map(Some) } else { Ok(None) };
    Ok(Peaks {
        f32: rate(Arithmetic::F32)?,
        f16: if gpu.profile.f16 { rate(Arithmetic::F16)? } else { None },
        matrix: match gpu.profile.cooperative {
            Some(size) => rate(Arithmetic::Matrix(size))?,
            None => None,
        },
    })
}

/// Operations a second of a dispatch with enough threads for any device and enough rounds to be long.
fn peak_rate(gpu: &Gpu, arithmetic: Arithmetic) -> Result<f64> {
    let mut stopwatch = Stopwatch::new(gpu);
    let mut seconds = |runner: &Runner, times| Ok(stopwatch.time(runner, times)?.work.as_secs_f64() / times as f64);
    let mut work = Peak { groups: 2048, rounds: 8, arithmetic };
    loop {
        let case = case(work);
        let runner = Prepared::new(&case).runner(gpu, &gpu.profile)?;
        runner.run(&case.rows);
        // The first run warms up; the second tells how many runs make a pass.
        seconds(&runner, 1)?;
        let times = ((PASS / seconds(&runner, 1)?) as usize).clamp(1, 256);
        // With fewer than four runs in a pass, the cost of starting a dispatch is negligible.
        if times < 4 || work.rounds == 8192 {
            let mut best = f64::INFINITY;
            for _ in 0..ROUNDS {
                best = best.min(seconds(&runner, times)?);
            }
            return Ok(work.operations() / best);
        }
        work.rounds *= 4;
    }
}

/// Whether the device computes a yardstick as its reference does.
fn right(arithmetic: Arithmetic, gpu: &Gpu) -> Result<bool> {
    let case = case(Peak { groups: 2, rounds: 2, arithmetic });
    let prepared = Prepared::new(&case);
    let (found, wanted) = (prepared.on_device(&case, gpu, &gpu.profile)?, prepared.reference(&case));
    Ok(nmse(prepared.graph.ty(prepared.results[0].1), &found[0], &wanted[0]) <= case.nmse)
}

/// The arithmetic of a yardstick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arithmetic {
    F32,
    F16,
    /// Cooperative matrices with so many rows and columns.
    Matrix(u32),
}

/// Threads of a workgroup.
const THREADS: usize = 64;

/// The numbers of a thread, and the steps of each in a round.
const NUMBERS: usize = 12;
const STEPS: u32 = 8;

/// The pieces of work of a workgroup, and the sums of each, in `peak_matrix.wgsl`.
const TILES: u32 = 8;
const SUMS: u32 = 4;

/// Of numbers: y[t] = Σ of 12 numbers, each after 8 · rounds steps z ← z · a + b.
/// Of matrices: y[t] = products · Σ_k A[r, k] · B[c, k], (r, c) element t of the product.
/// x: (64, 4)   y: (threads)
#[derive(Clone, Copy, Debug)]
struct Peak {
    groups: u32,
    rounds: u32,
    arithmetic: Arithmetic,
}

impl Peak {
    /// Multiplications and additions of a dispatch.
    fn operations(&self) -> f64 {
        let steps = f64::from(self.groups) * f64::from(STEPS) * f64::from(self.rounds);
        match self.arithmetic {
            Arithmetic::F32 | Arithmetic::F16 => 2.0 * steps * (THREADS * NUMBERS) as f64,
            Arithmetic::Matrix(size) => 2.0 * steps * f64::from(TILES * SUMS) * f64::from(size).powi(3),
        }
    }
}

macro_rules! peak {
    ($entry:literal, $modules:expr, $requires:expr) => {
        Kernel {
            file: concat!($entry, ".wgsl"),
            source: include_str!(concat!($entry, ".wgsl")),
            entry: $entry,
            modules: $modules,
            bindings: &[Access::ReadWrite, Access::ReadWrite],
            params: size_of::<u32>(),
            constants: &[],
            requires: $requires,
            replaces: None,
        }
    };
}

static PEAK_F32: Kernel = peak!("peak", &[&TILE_F32], Requires::NOTHING);
static PEAK_F16: Kernel = peak!("peak", &[&TILE_F16], Requires::F16);
static PEAK_8: Kernel = peak!("peak_matrix", &[&COOPERATIVE_8], Requires::cooperative(8));
static PEAK_16: Kernel = peak!("peak_matrix", &[&COOPERATIVE_16], Requires::cooperative(16));

/// The kernels of the yardsticks, for tests.
pub fn kernels() -> [&'static Kernel; 4] {
    [&PEAK_F32, &PEAK_F16, &PEAK_8, &PEAK_16]
}

fn case(peak: Peak) -> Case {
    let case = Case::new(peak, vec![Given::f32([THREADS, 4])]);
    let nmse = match peak.arithmetic {
        Arithmetic::F32 => case.nmse,
        // float16 rounds a, b and each of the steps to 11 bits.
        Arithmetic::F16 => 1e-4,
        // float16 rounds A and B only: 2⁻¹² each, relative, which terms of both signs may enlarge.
        Arithmetic::Matrix(_) => 1e-5,
    };
    Case { nmse, ..case }
}

impl Operator for Peak {
    fn name(&self) -> &'static str {
        "peak"
    }

    fn infer(&self, _reads: &[&TensorType]) -> Vec<TensorType> {
        vec![TensorType::f32([THREADS * self.groups as usize])]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], _rows: &[Row]) {
        let x = reads[0].f32();
        for (t, y) in writes[0].iter_mut().enumerate() {
            *y = match self.arithmetic {
                Arithmetic::F32 | Arithmetic::F16 => {
                    let number = |i: usize| x[(4 * t + i) % x.len()];
                    let (a, b) = (number(NUMBERS), number(NUMBERS + 1));
                    let z = |i| (0..STEPS * self.rounds).fold(number(i), |z, _| z.mul_add(a, b));
                    (0..NUMBERS).map(z).sum()
                }
                Arithmetic::Matrix(size) => {
                    let size = size as usize;
                    let (row, column) = (t % THREADS / size, t % THREADS % size);
                    let element = |row: usize, k: usize, which: usize| x[4 * ((row * size + k) % THREADS) + which];
                    let product: f32 = (0..size).map(|k| element(row, k, 0) * element(column, k, 1)).sum();
                    (TILES * SUMS * STEPS * self.rounds) as f32 * product
                }
            };
        }
    }

    fn candidates(
        &self,
        reads: &[Operand],
        writes: &[Operand],
        _family: Family,
        _profile: &DeviceProfile,
    ) -> Vec<Candidate> {
        let kernel = match self.arithmetic {
            Arithmetic::F32 => &PEAK_F32,
            Arithmetic::F16 => &PEAK_F16,
            Arithmetic::Matrix(8) => &PEAK_8,
            Arithmetic::Matrix(_) => &PEAK_16,
        };
        Candidate::only(Dispatch {
            kernel: KernelRef(kernel),
            constants: vec![],
            slots: vec![reads[0].slot(), writes[0].slot()],
            params: params(&self.rounds),
            groups: [self.groups, 1, 1],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_counted() {
        let peak = |arithmetic| Peak { groups: 3, rounds: 5, arithmetic };
        // 3 · 64 threads, 12 numbers, 8 · 5 steps, each a product and a sum.
        assert_eq!(peak(Arithmetic::F32).operations(), 2.0 * 3.0 * 64.0 * 12.0 * 40.0);
        // 3 workgroups, 8 pieces of 4 sums, 8 · 5 products of 8 · 8 · 8.
        assert_eq!(peak(Arithmetic::Matrix(8)).operations(), 2.0 * 3.0 * 32.0 * 40.0 * 512.0);
    }
}
