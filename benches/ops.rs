//! Every case that is marked `.bench()`, on the CPU path and on every adapter: µs, GB/s, GFLOP/s.
//!
//! cargo bench --bench ops                             everything
//! cargo bench --bench ops -- linear                   what has this in its name: device/operator shapes
//! DUNLIN_DEVICE=cpu,gl cargo bench --bench ops        devices whose label has one of these parts
//!
//! Bytes are those that must move, each counted once, weights in their own format. The same case runs repeatedly, so
//! data that fit a device's cache are read from there. On a GPU many runs are recorded into one pass, and the time
//! comes from the device's timestamps if it has them, else from the host's clock, with a share of submission and wait.
//!
//! On a GPU each matrix product has a second line: the best of several rounds that time it and two yardsticks in turn.
//! The plain kernel computes one result per thread, with W in f32 and a convolution's patches already as rows; the
//! number in brackets is its time divided by ours. If it is slow, it runs only some rows, and the time is scaled to
//! all. The peak is the rate of a kernel of multiply-adds in registers, in f32, because sums are f32 whatever the
//! format of weights and tiles. On Linux the second line of a rasteriser counts processor time, which excludes other
//! programs.

use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode};
use dunlin::Result;
use dunlin::backend::DeviceChoice;
use dunlin::backend::check::Prepared;
use dunlin::backend::wgpu::device::Gpu;
use dunlin::backend::wgpu::timing::{Clock, Stopwatch};
use dunlin::kernel::DeviceProfile;
use dunlin::measure::yardsticks::Yardsticks;
use dunlin::measure::{devices, floors};
use dunlin::ops::{self, Case, TensorType};

fn main() -> Result<()> {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
        .configure_from_args();
    for device in devices::all(&devices::asked_for()) {
        println!("device: {device}");
        let gpu = match device.choice {
            DeviceChoice::Cpu => None,
            DeviceChoice::Adapter(index) => Some(Gpu::open(index)?),
        };
        if let Some(gpu) = &gpu {
            println!("floor: {}", floors::floor(gpu)?);
        }
        let mut yardsticks = gpu.as_deref().map(Yardsticks::new).transpose()?;
        if let Some(yardsticks) = &yardsticks {
            println!("peak: {yardsticks}");
        }
        let mut group = criterion.benchmark_group(&device.label);
        group.sampling_mode(SamplingMode::Flat);
        for (op, case) in ops::cases().into_iter().flat_map(|(op, cases)| cases.into_iter().map(move |case| (op, case)))
        {
            if !case.bench {
                continue;
            }
            let name = format!("{op} {}", shapes(&case));
            let measured = match &gpu {
                Some(gpu) => on_device(&mut group, &name, &case, gpu)?,
                None => on_host(&mut group, &name, &case),
            };
            if let Some((time, clock)) = measured {
                let profile = gpu.as_ref().map_or(DeviceProfile::baseline(), |gpu| gpu.profile.clone());
                println!("{}", line(&device.label, &name, &case, &profile, time, clock));
                if let Some(yardsticks) = &mut yardsticks
                    && let Some(beside) = yardsticks.beside(op, &case)?
                {
                    println!("{}  {name:<70} {beside}", device.label);
                }
            }
        }
        group.finish();
    }
    criterion.final_summary();
    Ok(())
}

/// The shapes that distinguish a case from the others of its operator.
fn shapes(case: &Case) -> String {
    let reads: Vec<&TensorType> = case.reads.iter().map(|given| &given.ty).collect();
    let mut shapes: Vec<String> = reads.iter().map(|ty| ty.to_string().replace(' ', "")).collect();
    // Pools and convolutions of one picture differ in the shape of their results.
    if let [result, ..] = &case.op.infer(&reads)[..]
        && result.shape[0] != reads[0].shape[0]
    {
        shapes.push(format!("to {result}").replace(", ", ","));
    }
    let sampled = if case.rows[0].temperature > 0.0 { " sampled" } else { "" };
    match case.rows[0].position {
        0 => shapes.join(" "),
        position => format!("{} at {position}{sampled}", shapes.join(" ")),
    }
}

fn line(device: &str, name: &str, case: &Case, profile: &DeviceProfile, time: f64, clock: Clock) -> String {
    let gigabytes = case.bytes(profile) as f64 / time / 1e9;
    let gigaflops = case.flops().map_or(String::new(), |flops| format!("{:.2} GFLOP/s", flops as f64 / time / 1e9));
    format!("{device}  {name:<70} {:>10.1} µs {gigabytes:>8.2} GB/s {gigaflops:>16}  {clock}", time * 1e6)
}

/// Seconds of one run, or `None` if criterion's filter excludes the case.
type Measured = Option<(f64, Clock)>;

fn on_host(group: &mut BenchmarkGroup<WallTime>, name: &str, case: &Case) -> Measured {
    let mut prepared = None;
    let mut samples = Vec::new();
    group.bench_function(name, |bencher| {
        let prepared = prepared.get_or_insert_with(|| Prepared::new(case));
        let mut host = prepared.on_host();
        bencher.iter_custom(|runs| {
            let mut total = Duration::ZERO;
            for _ in 0..runs {
                let runner = host.runner();
                let start = Instant::now();
                std::hint::black_box(runner.run(&case.rows));
                total += start.elapsed();
            }
            samples.push(total.as_secs_f64() / runs as f64);
            total
        });
    });
    median(samples).map(|time| (time, Clock::Wall))
}

fn on_device(group: &mut BenchmarkGroup<WallTime>, name: &str, case: &Case, gpu: &Gpu) -> Result<Measured> {
    /// Seconds of the longest pass: drivers stop passes that seem to hang.
    const LONGEST: f64 = 0.1;
    let mut runner = None;
    let mut stopwatch = Stopwatch::new(gpu);
    let mut most = 1;
    let mut samples = Vec::new();
    let mut clock = Clock::Timestamps;
    let mut failed = Ok(());
    group.bench_function(name, |bencher| {
        let mut measure = |runs: u64| -> Result<Duration> {
            if runner.is_none() {
                let made = Prepared::new(case).runner(gpu, &gpu.profile)?;
                made.run(&case.rows);
                // The first run warms up; the second tells how many runs make a pass.
                stopwatch.time(&made, 1)?;
                let one = stopwatch.time(&made, 1)?.work.as_secs_f64();
                most = ((LONGEST / one) as usize).clamp(1, 256);
                runner = Some(made);
            }
            let runner = runner.as_ref().expect("just made");
            let (mut left, mut total) = (runs as usize, Duration::ZERO);
            while left > 0 {
                let times = left.min(most);
                let time = stopwatch.time(runner, times)?;
                if time.clock == Clock::Wall {
                    clock = Clock::Wall;
                }
                total += time.work;
                left -= times;
            }
            samples.push(total.as_secs_f64() / runs as f64);
            Ok(total)
        };
        bencher.iter_custom(|runs| {
            measure(runs).unwrap_or_else(|error| {
                failed = Err(error);
                // criterion needs a time; the program ends with the error right after.
                Duration::from_nanos(runs)
            })
        });
    });
    failed?;
    Ok(median(samples).map(|time| (time, clock)))
}

/// The median of the last ten samples; the samples before them are warm-up.
fn median(samples: Vec<f64>) -> Option<f64> {
    let mut last = samples[samples.len().saturating_sub(10)..].to_vec();
    last.sort_by(f64::total_cmp);
    last.get(last.len() / 2).copied()
}
