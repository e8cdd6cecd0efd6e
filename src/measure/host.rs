//! What this machine's processor and its system say: name, cores, times, memory, and the rate of a copy.

use std::sync::Mutex;

use crate::clock::Instant;
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

/// Processor time of this program's threads so far; Linux reports it in nanoseconds.
pub fn processor_seconds() -> Option<f64> {
    let nanoseconds = |task: std::io::Result<std::fs::DirEntry>| {
        let told = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        told.split(' ').next()?.parse::<u64>().ok()
    };
    let sum = std::fs::read_dir("/proc/self/task").ok()?.map(nanoseconds).sum::<Option<u64>>()?;
    Some(sum as f64 / 1e9)
}

/// The peak of resident memory of this process in bytes, on systems that report it.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

/// Bytes a second that all threads together read and write while they copy.
pub fn copy_rate() -> f64 {
    const BYTES: usize = 64 << 20;
    const ROUNDS: usize = 5;
    let team = Team::of_cores();
    let buffers: Vec<_> = (0..team.count()).map(|_| Mutex::new((vec![1_u8; BYTES], vec![2_u8; BYTES]))).collect();
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        team.run(|member| {
            let mut buffers = buffers[member.index].lock().expect("no member panics");
            let (from, to) = &mut *buffers;
            to.copy_from_slice(std::hint::black_box(from));
        });
        best = best.min(start.elapsed().as_secs_f64());
    }
    (2 * team.count() * BYTES) as f64 / best
}
