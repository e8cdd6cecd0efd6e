//! `dunlin bench`: how fast a model or each operator is, beside what the device can do; and two such measurements side
//! by side.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::progress::Bar;
use super::{Failure, How, output};
use crate::checkpoint::Checkpoint;
use crate::clock::Instant;
use crate::error::{Error, Result};
use crate::generate::Model;
use crate::measure::compare::{Comparison, Line};
use crate::measure::devices::{self, Measured};
use crate::measure::model::{self, Cold, Workload};
use crate::measure::print::{self, Form};
use crate::measure::report::{DeviceReport, Floors, Machine, ModelFile, ModelTimes, Report, SCHEMA, Timing};
use crate::measure::runs::QUIET;
use crate::measure::{floors, host, operators};
use crate::work::MOST_ROWS;

#[derive(Args)]
pub struct Bench {
    /// A Hugging Face folder, a .gguf file, or demo
    #[arg(required_unless_present_any = ["ops", "compare"], conflicts_with_all = ["ops", "compare"])]
    model: Option<PathBuf>,
    /// all, auto, cpu, gpu, a backend, an index of `dunlin info`, or [BACKEND:]NAME-PART
    #[arg(long, value_name = "D", default_value = "auto")]
    device: String,
    /// Tokens of each prompt
    #[arg(short, value_name = "N,...", value_delimiter = ',', default_value = "512", value_parser = whole(1))]
    prompt: Vec<u64>,
    /// Tokens to decode; 0 for none
    #[arg(short = 'n', value_name = "N", default_value = "128", value_parser = whole(0))]
    decode: u64,
    /// Tokens in the cache when decoding begins
    #[arg(short, value_name = "N,...", value_delimiter = ',', default_value = "0", value_parser = whole(0))]
    depth: Vec<u64>,
    /// Runs of each measurement, after one to warm up
    #[arg(short, value_name = "N", default_value = "5", value_parser = whole(1))]
    runs: u64,
    /// Sequences that decode together
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1", value_parser = together())]
    parallel: Vec<u64>,
    /// Also time how long a picture takes
    #[arg(long)]
    image: bool,
    /// Time operators, or those that have FILTER in their name or shapes
    #[arg(long, value_name = "FILTER", num_args = 0..=1, default_missing_value = "", conflicts_with = "compare")]
    ops: Option<String>,
    /// Compare two files that --json or --out wrote; exit code 3 if something is slower than allowed, and not by noise
    #[arg(long, num_args = 2, value_names = ["BEFORE.json", "AFTER.json"])]
    compare: Option<Vec<PathBuf>>,
    /// How much slower a measurement may be with --compare
    #[arg(long, value_name = "SHARE", default_value = "5%", value_parser = share)]
    slower: f64,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print Markdown
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
    /// Also write JSON to a file, or Markdown if its name ends in .md
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    how: How,
    /// Load the model on this device, compute its first token, and print what that cost: what a bench runs in new
    /// processes
    #[arg(long, value_name = "D", hide = true)]
    cold: Option<String>,
}

fn whole(least: u64) -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(least..=1 << 20)
}

fn together() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=MOST_ROWS as u64)
}

/// A share such as `5%` or `0.05`.
fn share(text: &str) -> Result<f64, String> {
    let (number, per) = text.trim().strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
    match number.trim().parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number / per),
        _ => Err("give a share such as 5% or 0.05".to_owned()),
    }
}

/// New processes that load the model.
const MOST_COLD: u64 = 3;

/// What a new process prints with `--cold`.
#[derive(Serialize, Deserialize)]
struct ColdStart {
    load_s: f64,
    first_token_ms: f64,
    peak_loading_bytes: Option<u64>,
    peak_bytes: Option<u64>,
}

impl Bench {
    pub fn run(self) -> Result<(), Failure> {
        if let Some(device) = &self.cold {
            return self.cold_start(device);
        }
        if let Some(path) = &self.out {
            output::can_be_written(path)?;
        }
        if let Some(files) = &self.compare {
            return self.compare(&files[0], &files[1]);
        }
        let (devices, mut warnings) = match self.device.trim() {
            "all" => devices::all()?,
            wanted => (vec![devices::one(wanted)?], Vec::new()),
        };
        let bar = Bar::items("measuring");
        let measured = match &self.model {
            Some(path) => self.models(path, &devices, &bar),
            None => self.operators(&devices, &bar).map(|devices| (None, devices)),
        };
        bar.clear();
        let (model, devices) = measured?;
        let machine = Machine { processor: host::processor(), threads: host::threads(), system: host::system() };
        let mut report = Report {
            schema: SCHEMA,
            dunlin: env!("CARGO_PKG_VERSION").to_owned(),
            machine,
            model,
            devices,
            warnings: Vec::new(),
        };
        warnings.extend(loud(&report));
        // The other forms say them to people.
        if self.json {
            warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
        }
        report.warnings = warnings;
        self.print(&print_json(&report)?, &|form| print::report(&report, form))
    }

    /// Writes a result to the file, and prints it in the form that was asked for.
    fn print(&self, json: &str, text: &dyn Fn(Form) -> String) -> Result<(), Failure> {
        if let Some(path) = &self.out {
            let markdown = path.extension().is_some_and(|extension| extension == "md");
            output::write(path, if markdown { text(Form::Markdown) } else { json.to_owned() })?;
        }
        let printed = match (self.json, self.markdown) {
            (true, _) => json.to_owned(),
            (_, true) => text(Form::Markdown),
            _ => text(Form::Terminal),
        };
        let mut out = std::io::stdout().lock();
        out.write_all(printed.as_bytes())?;
        Ok(out.flush()?)
    }

    fn workload(&self) -> Workload {
        let counts = |counts: &[u64]| counts.iter().map(|&count| count as usize).collect();
        Workload {
            prompts: counts(&self.prompt),
            decode: self.decode as usize,
            depths: counts(&self.depth),
            parallel: counts(&self.parallel),
            runs: self.runs as usize,
            picture: self.image,
        }
    }

    /// What the report says of the model, if it can do the work at all.
    fn describe(&self, path: &Path, work: &Workload) -> Result<ModelFile> {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let checkpoint = Checkpoint::open_with(path, &self.how.vision.files())?;
        model::check(&checkpoint.config, self.how.context.unwrap_or(checkpoint.config.context), work)?;
        Ok(ModelFile {
            name,
            architecture: checkpoint.config.architecture.clone(),
            parameters: checkpoint.parameters() as u64,
            tensor_bytes: checkpoint.tensors().map(|tensor| tensor.bytes as u64).sum(),
        })
    }

    /// Measures a model on each device.
    fn models(&self, path: &Path, all: &[Measured], bar: &Bar) -> Result<(Option<ModelFile>, Vec<DeviceReport>)> {
        let work = self.workload();
        let colds = self.runs.min(MOST_COLD) as usize;
        let each = colds + 2 + work.count();
        let file = self.describe(path, &work)?;
        let mut reports = Vec::new();
        for (i, measured) in all.iter().enumerate() {
            let mut next = steps(bar, i * each, all.len() * each);
            let mut cold = Cold::default();
            for _ in 0..colds {
                next("a new process");
                let start = self.ask_cold_start(path, measured)?;
                cold.load_s.push(start.load_s);
                cold.first_token_ms.push(start.first_token_ms);
                cold.peak_loading_bytes = cold.peak_loading_bytes.max(start.peak_loading_bytes);
                cold.peak_bytes = cold.peak_bytes.max(start.peak_bytes);
            }
            next("floors");
            let floors = floors::floors(&measured.choice)?;
            next("loading");
            let model = Model::load_with(path, &measured.device, &self.how.options()?)?;
            let times = model::measure(&model, &work, &cold, &floors, &mut next)?;
            reports.push(of_device(measured, floors, Some(times)));
        }
        Ok((Some(file), reports))
    }

    fn operators(&self, all: &[Measured], bar: &Bar) -> Result<Vec<DeviceReport>> {
        let filter = self.ops.as_deref().unwrap_or_default();
        let cases = operators::cases(filter);
        if cases.is_empty() {
            let names: Vec<String> = operators::cases("").into_iter().map(|(name, _)| name).collect();
            let list = names.iter().map(|name| format!("\n  {name}")).collect::<String>();
            return Err(Error::prompt(format!("no operator is timed with `{filter}` in its name:{list}")));
        }
        let each = cases.len() + 1;
        let mut reports = Vec::new();
        for (i, measured) in all.iter().enumerate() {
            let mut next = steps(bar, i * each, all.len() * each);
            next("floors");
            let floors = floors::floors(&measured.choice)?;
            let times = operators::measure(&measured.choice, &cases, self.runs as usize, &floors, &mut next)?;
            reports.push(DeviceReport { operators: times, ..of_device(measured, floors, None) });
        }
        Ok(reports)
    }

    /// Loads the model and computes its first token in this process, which did nothing before.
    fn cold_start(&self, device: &str) -> Result<(), Failure> {
        let Some(path) = &self.model else {
            return Err(Error::prompt("--cold wants a model").into());
        };
        let device = devices::one(device)?.device;
        let start = Instant::now();
        let model = Model::load_with(path, &device, &self.how.options()?)?;
        let (load_s, peak_loading_bytes) = (start.elapsed().as_secs_f64(), host::peak_memory());
        let first_token_ms = 1e3 * model::first_token(&model, self.workload().prompts[0])?;
        let cold = ColdStart { load_s, first_token_ms, peak_loading_bytes, peak_bytes: host::peak_memory() };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", serde_json::to_string(&cold).map_err(std::io::Error::from)?)?;
        Ok(out.flush()?)
    }

    /// Has a new process load the model, and reads what that cost.
    fn ask_cold_start(&self, path: &Path, measured: &Measured) -> Result<ColdStart> {
        let failed = |what: String| {
            Error::device(format!("the new process that loads {} on {} {what}", path.display(), measured.label))
        };
        let program = std::env::current_exe().map_err(|error| failed("does not start".into()).caused_by(error))?;
        // The same arguments, so that the model is loaded in the same way. Behind `--` an option would be a file.
        let arguments = std::env::args_os().skip(2);
        let output = Command::new(program).args(["bench", "--cold", &measured.argument]).args(arguments).output();
        let output = output.map_err(|error| failed("does not start".into()).caused_by(error))?;
        let text = String::from_utf8_lossy(&output.stdout);
        match serde_json::from_str(&text) {
            Ok(start) if output.status.success() => Ok(start),
            _ => Err(failed(format!("failed: {}", String::from_utf8_lossy(&output.stderr).trim()))),
        }
    }

    fn compare(&self, before: &Path, after: &Path) -> Result<(), Failure> {
        let compared = Comparison::new(&read(before)?, &read(after)?)?;
        let allowed = self.slower;
        self.print(&comparison_json(&compared, allowed)?, &|form| print::comparison(&compared, allowed, form))?;
        match compared.slower(allowed).len() {
            0 => Ok(()),
            count => Err(Failure::No(format!(
                "{count} of {} measurements are slower than allowed ({:.1} %), and not by noise",
                compared.lines.len(),
                100.0 * allowed
            ))),
        }
    }
}

/// Shows the name of each step as it begins; `done` of `all` are over.
fn steps(bar: &Bar, mut done: usize, all: usize) -> impl FnMut(&str) {
    move |what| {
        bar.set(done, all);
        bar.note(what.to_owned());
        done += 1;
    }
}

fn read(path: &Path) -> Result<Report> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::prompt(format!("{name} cannot be read")).caused_by(error))?;
    Report::read(&name, &text)
}

fn of_device(measured: &Measured, floors: Floors, model: Option<ModelTimes>) -> DeviceReport {
    DeviceReport {
        device: measured.label.clone(),
        driver: measured.driver.clone(),
        floors,
        model,
        operators: Vec::new(),
    }
}

/// A sentence for each measurement whose runs spread over more than a tenth.
fn loud(report: &Report) -> Vec<String> {
    let timings = report.timings().into_iter().filter(|timing| timing.runs.spread() > QUIET);
    let sentence = |timing: Timing| {
        let spread = 100.0 * timing.runs.spread();
        format!(
            "the machine is not quiet: {}: {} has a spread of {spread:.0} % between runs; end other programs, or take \
             more runs (-r)",
            timing.device, timing.what
        )
    };
    timings.map(sentence).collect()
}

fn print_json(value: &impl Serialize) -> Result<String, Failure> {
    Ok(serde_json::to_string_pretty(value).map_err(std::io::Error::from)? + "\n")
}

/// A comparison as JSON: `speedup` is above 1 where it is faster now. `noise` is a share of the mean before: means that
/// differ by no more say nothing.
fn comparison_json(compared: &Comparison, allowed: f64) -> Result<String, Failure> {
    let line = |line: &Line| {
        serde_json::json!({
            "device": line.before.device,
            "what": line.before.what,
            "unit": line.before.unit,
            "before": line.before.runs,
            "after": line.after.runs,
            "speedup": line.speedup,
            "noise": line.noise,
            "differs": line.differs(),
            "slower_than_allowed": line.slower(allowed),
        })
    };
    print_json(&serde_json::json!({
        "schema": SCHEMA,
        "allowed": allowed,
        "lines": compared.lines.iter().map(line).collect::<Vec<_>>(),
        "changes": compared.changes,
        "alone": compared.alone,
    }))
}
