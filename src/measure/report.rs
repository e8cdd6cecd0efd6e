//! What `dunlin bench` measured, as it writes it to JSON and reads it again. Names carry their units.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::measure::runs::Runs;

/// The version of the names and meanings below. It grows with every change after which `--compare` would mislead.
pub const SCHEMA: u64 = 1;

/// A run of `dunlin bench`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u64,
    /// The version of dunlin.
    pub dunlin: String,
    pub machine: Machine,
    /// The model, or none if operators were timed.
    pub model: Option<ModelFile>,
    pub devices: Vec<DeviceReport>,
    /// What was not measured and why, and what spread over a tenth between runs.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub processor: String,
    pub threads: usize,
    /// For example `linux x86_64`.
    pub system: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelFile {
    pub name: String,
    pub architecture: String,
    pub parameters: u64,
    /// Bytes of all tensors, as they are stored.
    pub tensor_bytes: u64,
}

/// What was measured on one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceReport {
    /// `cpu`, or for example `vulkan:llvmpipe (LLVM 15.0.6, 256 bits)`.
    pub device: String,
    /// The driver with its version; of the CPU the processor and its threads.
    pub driver: String,
    pub floors: Floors,
    pub model: Option<ModelTimes>,
    pub operators: Vec<OperatorTime>,
}

/// What the device can do at best, measured in the same run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Floors {
    /// Bytes read and written by a copy.
    pub copy_bytes_per_s: f64,
    /// An almost empty dispatch in a pass of many, each of which waits for the one before; none on the CPU.
    pub dispatch_us: Option<f64>,
    /// The time of the host to record it.
    pub record_us: Option<f64>,
    /// From the submission of a single dispatch until the host knows that it is done.
    pub submission_us: Option<f64>,
    /// The clock of `dispatch_us`.
    pub clock: Option<String>,
    /// Multiply-adds in registers, each two operations.
    pub peak_flop_per_s: Peaks,
}

#[cfg(test)]
impl Floors {
    /// Round numbers: copies at 10 GB/s; 100 GFLOP/s in f32, 200 in f16, 1000 in matrices.
    pub fn example() -> Self {
        Floors {
            copy_bytes_per_s: 10e9,
            dispatch_us: None,
            record_us: None,
            submission_us: None,
            clock: None,
            peak_flop_per_s: Peaks { f32: Some(100e9), f16: Some(200e9), matrix: Some(1000e9) },
        }
    }
}

/// One number for each kind of arithmetic that the device has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Peaks {
    pub f32: Option<f64>,
    pub f16: Option<f64>,
    /// Cooperative matrices: f16 · f16 summed in f32.
    pub matrix: Option<f64>,
}

impl Peaks {
    /// The kinds that the device has, by their names for people.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let all = [("f32", self.f32), ("f16", self.f16), ("matrix units", self.matrix)];
        all.into_iter().filter_map(|(kind, peak)| Some((kind, peak?)))
    }

    /// A rate as a share of each peak.
    pub fn shares(&self, flop_per_s: f64) -> Peaks {
        let share = |peak: Option<f64>| peak.map(|peak| flop_per_s / peak);
        Peaks { f32: share(self.f32), f16: share(self.f16), matrix: share(self.matrix) }
    }
}

/// What a model took on one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelTimes {
    /// `f16` or `f32`: activations and KV cache.
    pub precision: String,
    /// Loading in fresh processes, until weights are on the device and kernels are compiled.
    pub load_s: Runs,
    /// From the loaded model to the first token of the first prompt: in fresh processes, and in a new session of a
    /// process that has computed such a prompt before.
    pub first_token_cold_ms: Runs,
    pub first_token_warm_ms: Runs,
    pub memory: Memory,
    pub prompts: Vec<PromptTimes>,
    pub decodes: Vec<DecodeTimes>,
    pub picture: Option<PictureTimes>,
}

/// Peaks of the host are those of the fresh processes, where the system tells; those of the device are of the session
/// with the most positions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    pub host_peak_loading_bytes: Option<u64>,
    pub host_peak_bytes: Option<u64>,
    pub device_weight_bytes: u64,
    /// Keys, values and ids of `device_positions` positions.
    pub device_cache_bytes: u64,
    pub device_positions: usize,
    /// Temporaries of the largest pass, and those of a picture if one was encoded, which lie beside them.
    pub device_arena_bytes: u64,
    /// What the allocator of the device had handed out at most, where it tells.
    pub device_allocated_bytes: Option<u64>,
}

/// A prompt in an empty cache, until its first token is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromptTimes {
    pub tokens: usize,
    pub tokens_per_s: Runs,
    /// Operations of products and attention in the plans that ran.
    pub flop: u64,
    pub flop_per_s: f64,
    pub share_of_peak: Peaks,
}

/// Decoding from a cache of `depth` tokens, `parallel` sequences together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecodeTimes {
    pub depth: usize,
    /// Tokens of each sequence.
    pub tokens: usize,
    pub parallel: usize,
    /// Of all sequences together.
    pub tokens_per_s: Runs,
    /// The time of the calls that enqueue steps and take tokens, less the time that they wait for the device. None on
    /// the CPU and on rasterisers, where the host does the work in these calls.
    pub host_us_per_token: Option<Runs>,
    pub submissions_per_token: f64,
    pub dispatches_per_token: f64,
    /// What the dispatches must move, each operand once a dispatch, in the middle of the run.
    pub bytes_per_token: f64,
    /// `bytes_per_token` at the rate of a copy, and its share of the measured time.
    pub copy_floor_us: f64,
    pub copy_floor_share: f64,
    /// `dispatches_per_token` empty dispatches, and their share of the measured time.
    pub dispatch_floor_us: Option<f64>,
    pub dispatch_floor_share: Option<f64>,
}

/// A picture, from its pixels to its tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PictureTimes {
    /// Pixels of a side.
    pub side: usize,
    /// Tokens that it becomes.
    pub tokens: usize,
    pub encode_ms: Runs,
    pub dispatches: usize,
    pub flop: u64,
    pub flop_per_s: f64,
    pub share_of_peak: Peaks,
}

/// A case of an operator, whose data may stay in the device's caches between runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperatorTime {
    /// The operator and the shapes of the case.
    pub case: String,
    /// The kernel, or none on the CPU.
    pub kernel: Option<String>,
    pub time_us: Runs,
    /// `timestamps` or `wall clock`.
    pub clock: String,
    /// What must move, each operand once.
    pub bytes: u64,
    pub flop: Option<u64>,
    pub gb_per_s: f64,
    pub gflop_per_s: Option<f64>,
    /// The larger of bytes at the rate of a copy and operations at the peak of the kernel's arithmetic, over the time.
    pub roofline_share: f64,
    /// `memory` or `arithmetic`: which of the two is the larger.
    pub bound: String,
}

impl Report {
    /// Reads what [`Report`] writes as JSON. `name` is the file's, for messages.
    pub fn read(name: &str, text: &str) -> Result<Self> {
        let damaged = |error: serde_json::Error| {
            let what = "is not what `dunlin bench --json` writes";
            Error::prompt(format!("{name} {what}: measure again")).caused_by(error)
        };
        let value: serde_json::Value = serde_json::from_str(text).map_err(damaged)?;
        if let Some(schema) = value.get("schema").and_then(serde_json::Value::as_u64)
            && schema != SCHEMA
        {
            return Err(Error::prompt(format!(
                "{name} has schema {schema}, and this dunlin compares schema {SCHEMA}: measure both with one dunlin"
            )));
        }
        let report: Report = serde_json::from_value(value).map_err(damaged)?;
        match report.empty() {
            Some(what) => Err(Error::prompt(format!(
                "{name}: {what} has no runs, or one that is not above zero or has no finite mean and deviation with the \
                 others: measure again"
            ))),
            None => Ok(report),
        }
    }

    /// The first measurement without a run, with one that is no number above zero, or with runs too large to be added up.
    fn empty(&self) -> Option<String> {
        let number = |run: &f64| run.is_finite() && *run > 0.0;
        let sums = |runs: &Runs| runs.mean.is_finite() && runs.deviation.is_none_or(f64::is_finite);
        let broken = |runs: &Runs| runs.runs.is_empty() || !runs.runs.iter().all(number) || !sums(runs);
        self.timings().into_iter().find(|timing| broken(&timing.runs)).map(|timing| timing.what)
    }

    /// Every measured time and rate.
    pub fn timings(&self) -> Vec<Timing> {
        self.devices.iter().flat_map(DeviceReport::timings).collect()
    }
}

/// A measured time or rate.
#[derive(Clone, Debug, PartialEq)]
pub struct Timing {
    pub device: String,
    pub what: String,
    pub unit: &'static str,
    /// Whether more is faster.
    pub rate: bool,
    pub runs: Runs,
}

impl DeviceReport {
    fn timings(&self) -> Vec<Timing> {
        let timing = |what: String, unit, rate, runs: &Runs| {
            // What a file says of mean and deviation is not relied on.
            let runs = Runs::new(runs.runs.clone());
            Timing { device: self.device.clone(), what, unit, rate, runs }
        };
        let mut all = Vec::new();
        if let Some(model) = &self.model {
            all.push(timing("load".into(), "s", false, &model.load_s));
            all.push(timing("first token, cold".into(), "ms", false, &model.first_token_cold_ms));
            all.push(timing("first token, warm".into(), "ms", false, &model.first_token_warm_ms));
            for prompt in &model.prompts {
                all.push(timing(prompt.name(), "tokens/s", true, &prompt.tokens_per_s));
            }
            for decode in &model.decodes {
                all.push(timing(decode.name(), "tokens/s", true, &decode.tokens_per_s));
            }
            if let Some(picture) = &model.picture {
                all.push(timing("picture".into(), "ms", false, &picture.encode_ms));
            }
        }
        all.extend(self.operators.iter().map(|case| timing(case.case.clone(), "µs", false, &case.time_us)));
        all
    }
}

impl PromptTimes {
    pub fn name(&self) -> String {
        format!("prompt {}", self.tokens)
    }
}

impl DecodeTimes {
    pub fn name(&self) -> String {
        let together = if self.parallel > 1 { format!(", {} together", self.parallel) } else { String::new() };
        format!("decode {} at {}{together}", self.tokens, self.depth)
    }
}
