use dunlin::backend::check::Prepared;
use dunlin::backend::wgpu::device::Gpu;
use dunlin::ops;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let gpu = Gpu::open(args[1].parse().unwrap()).unwrap();
    let mut profile = gpu.profile.clone();
    profile.reduced_precision = args.get(3).is_none();
    for (op, cases) in ops::cases() {
        if !op.contains(args[2].as_str()) {
            continue;
        }
        for case in cases.into_iter().filter(|c| c.bench) {
            let p = Prepared::new(&case);
            let r = p.runner(&gpu, &profile).unwrap();
            r.run(&case.run);
            gpu.wait(None).unwrap();
            let mut best = f64::MAX;
            for _ in 0..5 {
                let n = 10;
                let t = cpu();
                for _ in 0..n {
                    r.run(&case.run);
                }
                gpu.wait(None).unwrap();
                best = best.min((cpu() - t) / 2.0 / n as f64);
            }
            println!("{:9.1} us  {}", best * 1e6, case.label());
        }
    }
}

fn cpu() -> f64 {
    let s = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    let _ = s;
    let mut total = 0.0;
    for e in std::fs::read_dir("/proc/self/task").unwrap() {
        if let Ok(s) = std::fs::read_to_string(e.unwrap().path().join("schedstat")) {
            total += s.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9;
        }
    }
    total
}
