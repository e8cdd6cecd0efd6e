//! Yardsticks for matrix products: the peak arithmetic rate of a device, and a product as the plainest loop.

use std::fmt;

use crate::backend::check::{Prepared, nmse};
use crate::backend::wgpu::device::Gpu;
use crate::backend::wgpu::session::Runner;
use crate::backend::wgpu::timing::{Clock, Stopwatch};
use crate::error::Result;
use crate::kernel::source::{TILE_F16, TILE_F32};
use crate::kernel::{Access, Candidate, DeviceProfile, Dispatch, Family, Kernel, KernelRef, Requires, Row};
use crate::measure::host::{processor_seconds, threads};
use crate::ops::{Case, Elem, Given, Operand, Operator, Read, TensorType, params};

/// The operators that mainly compute y[m, n] = Σ_k x[m, k] · W[n, k].
const PRODUCTS: [&str; 2] = ["linear", "conv2d"];

/// Seconds of a pass that is long enough to be timed.
const PASS: f64 = 0.02;

/// Seconds of the longest dispatch of the plain product: drivers stop dispatches that seem to hang.
const LONGEST: f64 = 0.1;

/// The number of rounds. The best round counts, because other programs on the machine can only add time.
const ROUNDS: usize = 7;

/// The yardsticks of one device.
pub struct Yardsticks<'a> {
    gpu: &'a Gpu,
    clock: YardClock<'a>,
    peak: Timed<'a>,
    /// Multiplications and additions of one dispatch of `peak`.
    peak_flops: f64,
    /// GFLOP/s in float32, and in float16 where the device has it.
    rates: (f64, Option<f64>),
}

/// A product and the yardsticks; the best of several rounds.
pub struct Beside {
    /// Multiplications and additions.
    flops: f64,
    /// Seconds of our kernel.
    ours: f64,
    /// Seconds of the plain kernel for `rows` rows of `m`, and for all rows at that rate.
    plain: f64,
    rows: usize,
    m: usize,
    /// GFLOP/s of the peak kernel in the same rounds.
    peak: f64,
    clock: String,
}

impl<'a> Yardsticks<'a> {
    /// Compares both kernels with their references, then measures the device's peak rates.
    pub fn new(gpu: &'a Gpu) -> Result<Self> {
        right(&plain(13, 17, 31), gpu)?;
        let mut clock = YardClock::new(gpu);
        let (peak, peak_flops) = peak_work(gpu, &mut clock, false)?;
        let f32 = peak_flops / best(&mut clock, &[&peak])?[0] / 1e9;
        let f16 = match gpu.profile.f16 {
            true => {
                let (f16, flops) = peak_work(gpu, &mut clock, true)?;
                Some(flops / best(&mut clock, &[&f16])?[0] / 1e9)
            }
            false => None,
        };
        Ok(Yardsticks { gpu, clock, peak, peak_flops, rates: (f32, f16) })
    }

    /// Times a case, the plain product of its shapes and the peak in turn. `None` if the case of `op` is not a matrix
    /// product.
    pub fn beside(&mut self, op: &str, case: &Case) -> Result<Option<Beside>> {
        let weight = case.reads.iter().find(|given| matches!(given.ty.elem, Elem::Weight(_)));
        let (true, Some(weight), Some(flops)) = (PRODUCTS.contains(&op), weight, case.flops()) else { return Ok(None) };
        let (n, k) = weight.ty.matrix();
        let m = flops as usize / (2 * n * k);
        if m == 1 {
            return Ok(None);
        }
        let clock = &mut self.clock;
        let ours = Timed::new(self.gpu, clock, case)?;
        let few = Timed::new(self.gpu, clock, &plain(m.min(8), n, k))?;
        let eight = clock.seconds(&few.runner, 1)?;
        let rows = m.min((LONGEST / eight) as usize * 8).max(8.min(m));
        let plain = Timed::new(self.gpu, clock, &plain(rows, n, k))?;
        let times = best(clock, &[&ours, &plain, &self.peak])?;
        Ok(Some(Beside {
            flops: flops as f64,
            ours: times[0],
            plain: times[1] * m as f64 / rows as f64,
            rows,
            m,
            peak: self.peak_flops / times[2] / 1e9,
            clock: clock.name(),
        }))
    }
}

impl fmt::Display for Yardsticks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} GFLOP/s of multiply-adds in f32", self.rates.0)?;
        if let Some(f16) = self.rates.1 {
            write!(f, ", {f16:.1} in f16")?;
        }
        write!(f, " ({})", self.clock.name())
    }
}

impl fmt::Display for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = |seconds: f64| seconds * 1e6;
        let rate = |seconds: f64| self.flops / seconds / 1e9;
        write!(
            f,
            "{:>10.1} µs {:>8.2} GFLOP/s  plain {:>10.1} µs {:>8.2} GFLOP/s ({:.1}×)  {:.0} % of peak {:.1}  {}",
            us(self.ours),
            rate(self.ours),
            us(self.plain),
            rate(self.plain),
            self.plain / self.ours,
            100.0 * rate(self.ours) / self.peak,
            self.peak,
            self.clock
        )?;
        if self.rows < self.m {
            write!(f, ", plain from {} of {} rows", self.rows, self.m)?;
        }
        Ok(())
    }
}

/// A case on a device, and how many runs of it make a pass.
struct Timed<'a> {
    runner: Runner<'a>,
    times: usize,
}

impl<'a> Timed<'a> {
    fn new(gpu: &'a Gpu, clock: &mut YardClock, case: &Case) -> Result<Self> {
        let runner = Prepared::new(case).runner(gpu, &gpu.profile)?;
        runner.run(&case.rows);
        // The first run warms up; the second tells how many runs make a pass.
        clock.seconds(&runner, 1)?;
        let one = clock.seconds(&runner, 1)?;
        Ok(Timed { runner, times: ((PASS / one) as usize).clamp(1, 256) })
    }
}

/// Seconds of one run of each, the best of several rounds.
fn best(clock: &mut YardClock, work: &[&Timed]) -> Result<Vec<f64>> {
    let mut best = vec![f64::INFINITY; work.len()];
    for _ in 0..ROUNDS {
        for (best, Timed { runner, times }) in best.iter_mut().zip(work) {
            *best = best.min(clock.seconds(runner, *times)?);
        }
    }
    Ok(best)
}

/// The device's time or, for a rasteriser on systems that report it, the processor's time divided by the cores. Wall
/// times of rasterisers do not compare: a long dispatch shares the cores with other programs, a short one may not.
struct YardClock<'a> {
    stopwatch: Stopwatch<'a>,
    /// The clock of the stopwatch's last measurement.
    last: Clock,
    /// The number of cores by which the processor's time is divided.
    cores: Option<usize>,
}

impl<'a> YardClock<'a> {
    fn new(gpu: &'a Gpu) -> Self {
        let told = gpu.profile.rasteriser && processor_seconds().is_some();
        let cores = told.then(threads);
        YardClock { stopwatch: Stopwatch::new(gpu), last: Clock::Wall, cores }
    }

    /// Seconds of one of `times` runs in a pass.
    fn seconds(&mut self, runner: &Runner, times: usize) -> Result<f64> {
        let before = processor_seconds();
        let time = self.stopwatch.time(runner, times)?;
        self.last = time.clock;
        let pass = match (self.cores, before, processor_seconds()) {
            (Some(cores), Some(before), Some(after)) => (after - before) / cores as f64,
            _ => time.work.as_secs_f64(),
        };
        Ok(pass / times as f64)
    }

    fn name(&self) -> String {
        self.cores.map_or(self.last.to_string(), |cores| format!("processor time / {cores} cores"))
    }
}

/// Checks a yardstick against its reference, because a wrong one measures nothing.
fn right(case: &Case, gpu: &Gpu) -> Result<()> {
    let prepared = Prepared::new(case);
    let (found, wanted) = (prepared.on_device(case, gpu, &gpu.profile)?, prepared.reference(case));
    let error = nmse(prepared.graph.ty(prepared.results[0].1), &found[0], &wanted[0]);
    assert!(error <= case.nmse, "{} is wrong on {}: {error:e} past {:e}", case.label(), gpu.profile.name, case.nmse);
    Ok(())
}

// ---- the plain product ----

/// y[m, n] = Σ_k x[m, k] · W[n, k]   x: (m, k)   W: (n, k) in float32, as it is   y: (m, n)
#[derive(Debug)]
struct Plain;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct PlainParams {
    m: u32,
    n: u32,
    k: u32,
}

static PLAIN: Kernel = Kernel {
    file: "plain.wgsl",
    source: include_str!("plain.wgsl"),
    entry: "plain",
    modules: &[],
    bindings: &[Access::ReadWrite, Access::ReadWrite, Access::ReadWrite],
    params: size_of::<PlainParams>(),
    constants: &[],
    requires: Requires::NOTHING,
    replaces: None,
};

fn plain(m: usize, n: usize, k: usize) -> Case {
    Case::new(Plain, vec![Given::f32([m, k]), Given::f32([n, k])])
}

impl Operator for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        vec![TensorType::f32([reads[0].shape[0], reads[1].shape[0]])]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], _rows: &[Row]) {
        let (x, w) = (reads[0].f32(), reads[1].f32());
        // y has one number for each pair of rows: (m·k) · (n·k) = (m·n) · k².
        let k = (x.len() * w.len() / writes[0].len()).isqrt();
        let n = w.len() / k;
        for (i, y) in writes[0].iter_mut().enumerate() {
            *y = x[i / n * k..].iter().zip(&w[i % n * k..]).take(k).map(|(x, w)| x * w).sum();
        }
    }

    fn candidates(
        &self,
        reads: &[Operand],
        writes: &[Operand],
        _family: Family,
        _profile: &DeviceProfile,
    ) -> Vec<Candidate> {
        let ((m, k), (n, _)) = (reads[0].ty.matrix(), reads[1].ty.matrix());
        let [m, n, k] = [m, n, k].map(|v| v as u32);
        Candidate::only(Dispatch {
            kernel: KernelRef(&PLAIN),
            constants: vec![],
            slots: vec![reads[0].slot(), reads[1].slot(), writes[0].slot()],
            params: params(&PlainParams { m, n, k }),
            groups: [n.div_ceil(8), m.div_ceil(8), 1],
        })
    }
}

// ---- the peak ----

/// y[t] = Σ of 12 numbers, each after 8 · rounds steps z ← z · a + b   x: (64, 4)   y: (threads)
#[derive(Debug)]
struct Peak {
    groups: u32,
    rounds: u32,
    f16: bool,
}

/// The numbers of a thread, and the steps of each in a round.
const NUMBERS: usize = 12;
const STEPS: u32 = 8;

static PEAK: [Kernel; 2] = [
    Kernel {
        file: "peak.wgsl",
        source: include_str!("peak.wgsl"),
        entry: "peak",
        modules: &[&TILE_F32],
        bindings: &[Access::ReadWrite, Access::ReadWrite],
        params: size_of::<u32>(),
        constants: &[],
        requires: Requires::NOTHING,
        replaces: None,
    },
    Kernel {
        file: "peak.wgsl",
        source: include_str!("peak.wgsl"),
        entry: "peak",
        modules: &[&TILE_F16],
        bindings: &[Access::ReadWrite, Access::ReadWrite],
        params: size_of::<u32>(),
        constants: &[],
        requires: Requires::F16,
        replaces: None,
    },
];

fn peak(groups: u32, rounds: u32, f16: bool) -> Case {
    let case = Case::new(Peak { groups, rounds, f16 }, vec![Given::f32([64, 4])]);
    // float16 rounds a, b and each of the steps to 11 bits.
    Case { nmse: if f16 { 1e-4 } else { case.nmse }, ..case }
}

/// A dispatch with enough threads for any device and enough rounds to be long; and its number of operations.
fn peak_work<'a>(gpu: &'a Gpu, clock: &mut YardClock, f16: bool) -> Result<(Timed<'a>, f64)> {
    const GROUPS: u32 = 2048;
    right(&peak(2, 2, f16), gpu)?;
    let mut rounds = 64;
    loop {
        let work = Timed::new(gpu, clock, &peak(GROUPS, rounds, f16))?;
        // With fewer than four runs in a pass, the cost of starting a dispatch is negligible.
        if work.times < 4 || rounds == 4096 {
            let flops = 2.0 * f64::from(64 * GROUPS) * f64::from(STEPS * rounds) * NUMBERS as f64;
            return Ok((work, flops));
        }
        rounds *= 4;
    }
}

impl Operator for Peak {
    fn name(&self) -> &'static str {
        "peak"
    }

    fn infer(&self, _reads: &[&TensorType]) -> Vec<TensorType> {
        vec![TensorType::f32([64 * self.groups as usize])]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], _rows: &[Row]) {
        let x = reads[0].f32();
        for (t, y) in writes[0].iter_mut().enumerate() {
            let number = |i: usize| x[(4 * t + i) % x.len()];
            let (a, b) = (number(NUMBERS), number(NUMBERS + 1));
            let z = |i| (0..STEPS * self.rounds).fold(number(i), |z, _| z.mul_add(a, b));
            *y = (0..NUMBERS).map(z).sum();
        }
    }

    fn candidates(
        &self,
        reads: &[Operand],
        writes: &[Operand],
        _family: Family,
        _profile: &DeviceProfile,
    ) -> Vec<Candidate> {
        Candidate::only(Dispatch {
            kernel: KernelRef(&PEAK[usize::from(self.f16)]),
            constants: vec![],
            slots: vec![reads[0].slot(), writes[0].slot()],
            params: params(&self.rounds),
            groups: [self.groups, 1, 1],
        })
    }
}
