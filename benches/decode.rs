//! A whole model on every device: loading, prompts, decoding, memory, and the lower bounds of their times.
//!
//! cargo bench --bench decode                          SmolLM2-135M-Instruct, the CPU and every adapter
//! cargo bench --bench decode -- MODEL                 a GGUF file or a Hugging Face folder
//!   --device PART     devices whose label has this part; again for more (or DUNLIN_DEVICE=cpu,gl)
//!   --prompt N[,N]    prompts of so many tokens                             [128]
//!   --decode N        tokens to decode after the first of these prompts     [64]
//!   --sequences N     sequences that decode together                          [1]
//!   --repeat N        take the median of so many runs                       [3]
//!   --tokens IDS      the prompt, as 1,2,3; in place of --prompt
//!   --rates           print only `dunlin`, prompt rate and decode rate, with tabs between; for one device
//!
//! Prompts are arbitrary ids without repetition, because no rate depends on the ids. Loading is timed in a process of
//! its own that does nothing else, so that the peak of resident memory is that of loading.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Instant;

use dunlin::backend::wgpu::device::Gpu;
use dunlin::backend::wgpu::timing::copy_rate;
use dunlin::backend::{self, DeviceChoice, Engine, EngineOptions, Step, Want};
use dunlin::checkpoint::Checkpoint;
use dunlin::kernel::{Family, MOST_ROWS, Row};
use dunlin::measure::devices::{self, Device};
use dunlin::measure::{floors, host};
use dunlin::{Model, Prompt, Result, Sampler};

/// The error may come from files, devices or this program's child processes.
type Done<T = ()> = Result<T, Box<dyn std::error::Error>>;

const MODEL: &str = "models/SmolLM2-135M-Instruct.Q4_1.gguf";

struct Options {
    model: PathBuf,
    devices: Vec<String>,
    prompts: Vec<usize>,
    tokens: Option<Vec<u32>>,
    decode: usize,
    sequences: usize,
    repeat: usize,
    rates: bool,
    /// Load on the device of this index (`cpu`, `0`, …) and print the costs. The program passes this option to its
    /// child processes.
    cold: Option<String>,
}

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    if !options.model.exists() {
        eprintln!("{} is not there; scripts/fetch_models.sh fetches {MODEL}", options.model.display());
        return ExitCode::FAILURE;
    }
    let done = match &options.cold {
        Some(device) => cold(&options.model, device),
        None if options.rates => print_rates(&options),
        None => print_table(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut options = Options {
            model: root.join(MODEL),
            devices: devices::asked_for(),
            prompts: vec![128],
            tokens: None,
            decode: 64,
            sequences: 1,
            repeat: 3,
            rates: false,
            cold: None,
        };
        fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
            text.trim().parse().map_err(|_| format!("`{text}` is not a number"))
        }
        fn numbers<T: std::str::FromStr>(text: &str) -> Result<Vec<T>, String> {
            text.split(',').map(number).collect()
        }
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} wants a value"));
            match argument.as_str() {
                "--device" => options.devices.push(value()?),
                "--prompt" => options.prompts = numbers(&value()?)?,
                "--tokens" => options.tokens = Some(numbers(&value()?)?),
                "--decode" => options.decode = number(&value()?)?,
                "--sequences" => options.sequences = number::<usize>(&value()?)?.clamp(1, MOST_ROWS),
                "--repeat" => options.repeat = number::<usize>(&value()?)?.max(1),
                "--rates" => options.rates = true,
                "--cold" => options.cold = Some(value()?),
                // `cargo bench` passes this argument.
                "--bench" => {}
                other if other.starts_with('-') => return Err(format!("`{other}` is not an option of this bench")),
                path => options.model = PathBuf::from(path),
            }
        }
        if options.prompts.contains(&0) {
            return Err("a prompt has at least one token".into());
        }
        Ok(options)
    }

    /// The prompts to time.
    fn prompts(&self, vocab: usize) -> Vec<Vec<u32>> {
        match &self.tokens {
            Some(ids) => vec![ids.clone()],
            None => self.prompts.iter().map(|&tokens| ids(tokens, vocab)).collect(),
        }
    }
}

/// Different ids from all over the vocabulary.
fn ids(tokens: usize, vocab: usize) -> Vec<u32> {
    (0..tokens).map(|i| ((1000 + 7919 * i) % vocab) as u32).collect()
}

/// A model on a device, below the public interface: an end token does not end decoding, and ids are not decoded to
/// text.
fn engine(model: &Path, device: &Device) -> Result<(Arc<dyn Engine>, usize)> {
    let checkpoint = Checkpoint::open(model)?;
    let engine = backend::load(&checkpoint, &device.choice, &EngineOptions::default(), &|_, _| ())?;
    Ok((engine, checkpoint.config.vocab))
}

/// Seconds of a prompt in a new session until its first token is read, and seconds of decoding further tokens.
struct Times {
    prompt: f64,
    decode: f64,
}

/// The medians of several runs, after a warm-up run.
fn time(engine: &dyn Engine, ids: &[u32], decode: usize, options: &Options) -> Result<Times> {
    time_once(engine, ids, decode.min(4), options.sequences)?;
    let times =
        (0..options.repeat).map(|_| time_once(engine, ids, decode, options.sequences)).collect::<Result<Vec<_>>>()?;
    let median = |key: fn(&Times) -> f64| {
        let mut values: Vec<f64> = times.iter().map(key).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Ok(Times { prompt: median(|times| times.prompt), decode: median(|times| times.decode) })
}

/// Runs a prompt, then decodes tokens of several sequences together from it.
fn time_once(engine: &dyn Engine, ids: &[u32], decode: usize, sequences: usize) -> Result<Times> {
    let start = Instant::now();
    let size = ids.len() + decode + 1;
    let mut session = engine.session(size * sequences)?;
    session.set_tokens(0, ids)?;
    for position in (0..ids.len()).step_by(engine.chunk()) {
        let rows = engine.chunk().min(ids.len() - position);
        let want = if position + rows == ids.len() { Want::Token } else { Want::Nothing };
        let rows = Row::at(position).follow(rows);
        session.run(&Step { rows: &rows, family: Family::Many, want, logits: false, images: false })?;
    }
    let mut chosen = Vec::new();
    session.sampled(&mut chosen)?;
    let prompt = start.elapsed().as_secs_f64();

    for sequence in 1..sequences {
        session.copy(0, sequence * size, ids.len() + 1)?;
    }
    let start = Instant::now();
    let mut asked = 0;
    let mut rows = Vec::new();
    for taken in 0..decode {
        while asked < decode && asked - taken < session.depth().max(1) {
            rows.clear();
            rows.extend((0..sequences).map(|i| Row { slot: (i * size) as u32, ..Row::at(ids.len() + asked) }));
            session.run(&Step { rows: &rows, family: Family::Few, want: Want::Token, logits: false, images: false })?;
            asked += 1;
        }
        session.sampled(&mut chosen)?;
    }
    Ok(Times { prompt, decode: start.elapsed().as_secs_f64() })
}

fn print_rates(options: &Options) -> Done {
    let [device] = &devices::all(&options.devices)[..] else {
        return Err("--rates is for one device: name it with --device".into());
    };
    let (engine, vocab) = engine(&options.model, device)?;
    let ids = options.prompts(vocab).swap_remove(0);
    let times = time(&*engine, &ids, options.decode, options)?;
    println!(
        "dunlin\t{:.1}\t{:.1}",
        ids.len() as f64 / times.prompt,
        (options.sequences * options.decode) as f64 / times.decode
    );
    Ok(())
}

fn print_table(options: &Options) -> Done {
    let size = file_size(&options.model)?;
    let devices = devices::all(&options.devices);
    println!("dunlin {}, {} ({:.1} MB)", env!("CARGO_PKG_VERSION"), options.model.display(), megabytes(size));
    devices.iter().for_each(|device| println!("device: {device}"));

    let prompts: Vec<usize> = options.tokens.as_ref().map_or(options.prompts.clone(), |ids| vec![ids.len()]);
    let mut head = format!("\n{:<40} {:>7} {:>8}", "device", "load s", "first s");
    prompts.iter().for_each(|tokens| head += &format!(" {:>10}", format!("prompt {tokens}")));
    head += &format!(" {:>9} {:>10} {:>10}", format!("decode {}", options.decode), "weights MB", "dispatches");
    head += &format!(" {:>14} {:>14}", "load peak − MB", "first peak − MB");
    println!("{head}");
    let mut floors = String::new();
    for device in &devices {
        let (row, below) = measure(options, device, size)?;
        println!("{row}");
        floors += &below;
    }
    println!(
        "\nload and first token: seconds of a fresh process; peaks: its resident memory less the size of the files."
    );
    println!(
        "Rates: tokens a second, median of {} after one to warm up.\n\nfloors of a decoded token\n{floors}",
        options.repeat
    );
    Ok(())
}

/// The table line of a device, and its lower bounds.
fn measure(options: &Options, device: &Device, size: u64) -> Done<(String, String)> {
    let cold = ask_cold(&options.model, device)?;
    let (engine, vocab) = engine(&options.model, device)?;
    let mut row = format!("{:<40.40} {:>7.2} {:>8.2}", device.label, cold.load_s, cold.first_s);
    let mut decode_rate = None;
    for ids in options.prompts(vocab) {
        let decode = if decode_rate.is_none() { options.decode } else { 0 };
        let times = time(&*engine, &ids, decode, options)?;
        row += &format!(" {:>10.1}", ids.len() as f64 / times.prompt);
        decode_rate.get_or_insert((options.sequences * decode) as f64 / times.decode);
    }
    let (bytes, dispatches) = (engine.weight_bytes(), engine.dispatches_per_token());
    let peak =
        |peak: Option<u64>| peak.map_or("–".into(), |peak| format!("{:.0}", megabytes(peak) - megabytes(size)));
    row += &format!(" {:>9.1} {:>10.1} {dispatches:>10}", decode_rate.unwrap_or(f64::NAN), megabytes(bytes));
    row += &format!(" {:>14} {:>14}", peak(cold.load_peak), peak(cold.first_peak));

    let (rate, floor) = match device.choice {
        DeviceChoice::Cpu => (host::copy_rate(), None),
        DeviceChoice::Adapter(index) => {
            let gpu = Gpu::open(index)?;
            (copy_rate(&gpu)?, Some(floors::floor(&gpu)?))
        }
    };
    let line =
        |text: String, seconds: f64| format!("  {text}: {:.2} ms, {:.0} tokens/s\n", seconds * 1e3, 1.0 / seconds);
    let mut below = format!("{}\n", device.label);
    let bytes_text = format!("{:.1} MB of weights at the {:.1} GB/s of a copy", megabytes(bytes), rate / 1e9);
    below += &line(bytes_text, bytes as f64 / rate);
    if let Some(floor) = floor {
        let text = format!("{dispatches} dispatches of {:.2} µs", floor.dispatch.as_secs_f64() * 1e6);
        below += &line(text, dispatches as f64 * floor.dispatch.as_secs_f64());
        below += &format!("  {floor}\n");
    }
    Ok((row, below))
}

/// The costs of loading a model and of a first answer in a new process.
struct Cold {
    load_s: f64,
    /// Seconds from the loaded model to its first token, including the compilation of kernels.
    first_s: f64,
    /// Most resident memory in bytes, after loading and after the first token.
    load_peak: Option<u64>,
    first_peak: Option<u64>,
}

/// Loads a model in this process, and prints what [`Cold`] holds.
fn cold(model: &Path, device: &str) -> Done {
    let device = dunlin::Device::parse(device)?;
    let start = Instant::now();
    let model = Model::load(model, &device)?;
    let load_s = start.elapsed().as_secs_f64();
    let load_peak = host::peak_memory();
    let start = Instant::now();
    // The first token may be an end token, which counts too.
    model.generate(Prompt::tokens(ids(5, 1000)), &Sampler::greedy())?.max_tokens(1).next().transpose()?;
    let first_s = start.elapsed().as_secs_f64();
    println!("cold {load_s} {first_s} {} {}", load_peak.unwrap_or(0), host::peak_memory().unwrap_or(0));
    Ok(())
}

fn ask_cold(model: &Path, device: &Device) -> Done<Cold> {
    let name = match device.choice {
        DeviceChoice::Cpu => "cpu".into(),
        DeviceChoice::Adapter(index) => index.to_string(),
    };
    let output = Command::new(std::env::current_exe()?).arg(model).arg("--cold").arg(name).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let values: Vec<f64> = match text.lines().find_map(|line| line.strip_prefix("cold ")) {
        Some(line) => line.split(' ').map(str::parse).collect::<Result<_, _>>()?,
        None => return Err(String::from_utf8_lossy(&output.stderr).trim().into()),
    };
    let bytes = |value: f64| (value > 0.0).then_some(value as u64);
    match values[..] {
        [load_s, first_s, load, first] => {
            Ok(Cold { load_s, first_s, load_peak: bytes(load), first_peak: bytes(first) })
        }
        _ => Err(format!("not what a fresh process prints: {text}").into()),
    }
}

/// The bytes of a weight file, or of all weight files in a folder.
fn file_size(model: &Path) -> Done<u64> {
    if model.is_file() {
        return Ok(model.metadata()?.len());
    }
    let mut size = 0;
    for entry in model.read_dir()? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|extension| extension == "safetensors" || extension == "bin") {
            size += entry.path().metadata()?.len();
        }
    }
    Ok(size)
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
