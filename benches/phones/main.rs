//! What the kernels become in the compilers of GPUs that are not here (Mesa's, for Adreno, Mali, RDNA, NVIDIA and Apple):
//! every pipeline that a plan of known models chooses, with instructions, registers, occupancy, cycles and spills.
//!
//! scripts/phones.sh                                 sets the compilers up in target/phones
//! cargo bench --bench phones                        compiles everything; writes benches/PHONES.md and benches/phones.json
//! cargo bench --bench phones -- --check             compiles everything, and fails where the files say something else
//! cargo bench --bench phones -- --check --few       the same of two models on three GPUs, which takes seconds
//!
//! A driver's answer is kept in that folder, and asked for again only if the SPIR-V changed; --fresh asks for all, which
//! takes ten minutes on two cores. A full run also replays tests/driver_cases. DUNLIN_PHONES=DIR names another folder of scripts/phones.sh.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use dunlin::work::source;

#[path = "../../tests/support/configs.rs"]
#[allow(dead_code, reason = "the tests share this file, and use all of it")]
mod configs;

mod cases;
mod check;
mod compile;
mod devices;
mod figures;
mod kernels;
mod report;

use check::Committed;
use compile::{Outcome, Shader};
use devices::{DEVICES, Device, Features};
use kernels::{Choice, Pipeline};
use report::Report;

/// GPUs of `--few`: two makers, whose compilers differ most.
const FEW: [&str; 3] = ["Adreno 740", "Mali G610", "Mali G720"];

/// Pipelines of one process: as many as start a driver rarely, and few enough to share all among cores.
const BATCH: usize = 40;

fn main() -> ExitCode {
    let (mut check, mut fresh, mut choice) = (false, false, Choice::All);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--check" => check = true,
            "--fresh" => fresh = true,
            "--few" => choice = Choice::Few,
            "--bench" => {} // Cargo adds it.
            other => {
                eprintln!("phones: unknown argument `{other}`; there are --check, --few and --fresh");
                return ExitCode::from(2);
            }
        }
    }
    if choice == Choice::Few && !check {
        eprintln!("phones: --few is for --check: a part of the figures cannot be written");
        return ExitCode::from(2);
    }
    match run(check, choice, fresh) {
        Ok(complaints) if complaints.is_empty() => ExitCode::SUCCESS,
        Ok(complaints) => {
            const SHOWN: usize = 40;
            complaints.iter().take(SHOWN).for_each(|complaint| eprintln!("{complaint}"));
            if complaints.len() > SHOWN {
                eprintln!("and {} more", complaints.len() - SHOWN);
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("phones: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What is wrong, a sentence each.
fn run(check: bool, choice: Choice, fresh: bool) -> Result<Vec<String>, String> {
    let started = Instant::now();
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = std::env::var_os("DUNLIN_PHONES").map_or_else(|| repository.join("target/phones"), PathBuf::from);
    let folder =
        folder.canonicalize().map_err(|error| format!("{}: {error}; run scripts/phones.sh first", folder.display()))?;
    let mesa = read(&folder.join("mesa"))?.trim().to_string();
    let wanted: Vec<&'static Device> =
        DEVICES.iter().filter(|device| choice == Choice::All || FEW.contains(&device.name)).collect();

    let report = compile_all(&wanted, choice, fresh, mesa, &folder)?;
    let pipelines = report.figures().count();
    println!("{pipelines} pipelines on {} GPUs in {:.0?}", wanted.len(), started.elapsed());

    let (json, markdown) = (repository.join("benches/phones.json"), repository.join("benches/PHONES.md"));
    let mut complaints = Vec::new();
    if check {
        let committed = Committed::parse(&read(&json)?)?;
        complaints = committed.differences(&report, choice == Choice::All);
        if choice == Choice::All && complaints.is_empty() && read(&markdown)? != report.markdown() {
            complaints.push("benches/PHONES.md is not of the same run as benches/phones.json".into());
        }
        if !complaints.is_empty() {
            complaints.push(format!("if that is meant, {}", check::AGAIN));
        }
    } else {
        for (path, text) in [(&json, report.json()), (&markdown, report.markdown())] {
            std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
            println!("{}", path.display());
        }
    }
    if choice == Choice::All {
        complaints.extend(cases::replay(&repository.join("tests/driver_cases"), &folder)?);
    }
    Ok(complaints)
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// A share of the work: some pipelines of one device.
struct Batch {
    device: usize,
    shaders: Vec<Shader>,
}

fn compile_all(
    wanted: &[&'static Device],
    choice: Choice,
    fresh: bool,
    mesa: String,
    folder: &Path,
) -> Result<Report, String> {
    let models = kernels::models(choice).map_err(|error| error.to_string())?;
    let mut report = Report { mesa, devices: Vec::new(), kernels: BTreeMap::new() };
    let mut batches = Vec::new();
    for (at, &device) in wanted.iter().enumerate() {
        let features = Features::of(device, folder)?;
        let pipelines = kernels::pipelines(&models, &features.profile()).map_err(|error| error.to_string())?;
        println!("{}: {} pipelines", device.name, pipelines.len());
        report.devices.push((device, features));
        for (label, pipeline) in &pipelines {
            let row = report.kernels.entry(label.clone()).or_default();
            row.operator = pipeline.operator.into();
            row.models.extend(pipeline.models.iter().cloned());
            row.passes.extend(&pipeline.passes);
        }
        let shaders: Vec<(&String, &Pipeline)> = pipelines.iter().collect();
        let batch = |part: &[(&String, &Pipeline)]| Batch { device: at, shaders: part.iter().map(shader).collect() };
        batches.extend(shaders.chunks(BATCH).map(batch));
    }
    // Mali's compiler runs in an emulator and takes longest: it begins.
    batches.sort_by_key(|batch| wanted[batch.device].maker != devices::Maker::Mali);

    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, String, Outcome)>> = Mutex::default();
    let work = || -> Result<(), String> {
        while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (device, features) = &report.devices[batch.device];
            let shaders: Vec<&Shader> = batch.shaders.iter().collect();
            let outcomes = compile::compile(device, features, &shaders, folder, fresh)?;
            let labels = batch.shaders.iter().map(|shader| shader.label.clone());
            let results = labels.zip(outcomes).map(|(label, outcome)| (batch.device, label, outcome));
            done.lock().expect("no thread panics with it").extend(results);
        }
        Ok(())
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a thread does not panic"))
    })?;
    for (at, label, outcome) in done.into_inner().expect("no thread panics with it") {
        let device = wanted[at];
        let figures = figures::figures(device.maker, &outcome).map_err(|error| format!("{}: {error}", device.name))?;
        let row = report.kernels.get_mut(&label).expect("every pipeline has a row");
        row.figures.insert(device.name, figures);
    }
    Ok(report)
}

fn shader((label, pipeline): &(&String, &Pipeline)) -> Shader {
    Shader {
        label: (*label).clone(),
        wgsl: source::assemble(pipeline.kernel),
        entry: pipeline.kernel.entry.into(),
        constants: pipeline.constants.iter().map(|(name, value)| (name.to_string(), *value)).collect(),
        buffers: pipeline.kernel.bindings.len(),
    }
}
