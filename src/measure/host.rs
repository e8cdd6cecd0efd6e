//! What this machine's processor and its system say: name, cores, times, memory, and the rate of a copy.

use std::hint::black_box;
use std::sync::Mutex;

use crate::clock::Instant;
use crate::cpu::peak;
use crate::threads::Team;

/// Threads that the CPU path uses.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The processor's name, where the system tells it.
pub fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or(std::env::consts::ARCH, |(_, name)| name.trim()).to_owned()
}

/// The peak of resident memory of this process in bytes, on systems that report it.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

/// Bytes of which each thread copies its share: more than caches hold, and no more on a machine with many cores.
const COPIED: usize = 256 << 20;

/// Bytes a second that all threads together read and write while they copy.
pub fn copy_rate() -> f64 {
    const ROUNDS: usize = 5;
    let team = Team::of_cores();
    let each = COPIED / team.count();
    let buffers: Vec<_> = (0..team.count()).map(|_| Mutex::new((vec![1_u8; each], vec![2_u8; each]))).collect();
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        team.run(|member| {
            let mut buffers = buffers[member.index].lock().expect("no member panics");
            let (from, to) = &mut *buffers;
            to.copy_from_slice(black_box(from));
        });
        best = best.min(start.elapsed().as_secs_f64());
    }
    (2 * team.count() * each) as f64 / best
}

/// Operations a second of multiply-adds in registers, on all threads together; a multiply-add is two.
pub fn peak_rate() -> f64 {
    const ROUNDS: usize = 1 << 13;
    const TIMES: usize = 20;
    let team = Team::of_cores();
    let operations = (2 * team.count() * peak::LANES * peak::STEPS * ROUNDS) as f64;
    let rate = |sums: usize, work: fn()| {
        let mut best = f64::INFINITY;
        for _ in 0..TIMES {
            let start = Instant::now();
            team.run(|_| work());
            best = best.min(start.elapsed().as_secs_f64());
        }
        operations * sums as f64 / best
    };
    // The numbers keep the sums finite; the compiler may not know them.
    let few = || {
        let (mut sums, b) = black_box(([[1.0; peak::LANES]; 3], [[1.0; peak::LANES]; peak::STEPS]));
        peak::of_3(&mut sums, black_box(0.5), &b, ROUNDS);
        black_box(sums);
    };
    let many = || {
        let (mut sums, b) = black_box(([[1.0; peak::LANES]; 6], [[1.0; peak::LANES]; peak::STEPS]));
        peak::of_6(&mut sums, black_box(0.5), &b, ROUNDS);
        black_box(sums);
    };
    rate(3, few).max(rate(6, many))
}

/// For example `linux x86_64`.
pub fn system() -> String {
    format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)
}
