//! WGSL → SPIR-V as wgpu does it → what the driver's compiler says of it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use naga::ShaderStage;
use naga::back::{pipeline_constants, spv};
use naga::valid::{Capabilities, SubgroupOperationSet, ValidationFlags, Validator};
use serde_json::{Map, Value};

use crate::devices::{Device, Features};

/// A driver that says nothing for this long hangs: the slowest kernel takes four seconds in qemu on a quiet core.
const PATIENCE: Duration = Duration::from_secs(180);

/// A compute shader on its way to a driver.
pub struct Shader {
    pub label: String,
    pub wgsl: String,
    pub entry: String,
    pub constants: Vec<(String, f64)>,
    /// Storage buffers of group 0.
    pub buffers: usize,
}

/// What became of a shader.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The driver's statistics under its own names, and the size of subgroups.
    Compiled { subgroup: u64, statistics: Map<String, Value> },
    /// The driver refused it.
    Refused(String),
    /// The driver's process ended.
    Crashed(String),
    /// The driver did not answer any more.
    Hung,
}

impl Features {
    /// # Errors
    ///
    /// The driver does not start, or finds no device.
    pub fn of(device: &Device, folder: &Path) -> Result<Self, String> {
        let output = device
            .vkstats(folder, &["features"])
            .output()
            .map_err(|error| format!("{}: vkstats does not start ({error}); run scripts/phones.sh", device.name))?;
        let text = String::from_utf8_lossy(&output.stdout);
        // Drivers that are not conformant say so on their own line.
        let line = text.lines().rfind(|line| line.starts_with('{')).unwrap_or_default();
        serde_json::from_str(line).map_err(|error| {
            let said = String::from_utf8_lossy(&output.stderr);
            format!("{}: the driver gives no features ({error}): {}", device.name, said.trim())
        })
    }
}

/// # Errors
///
/// naga's complaint.
pub fn spirv(shader: &Shader, options: &spv::Options) -> Result<Vec<u8>, String> {
    let at = |message: String| format!("{}: {message}", shader.label);
    let module = naga::front::wgsl::parse_str(&shader.wgsl).map_err(|error| at(error.emit_to_string(&shader.wgsl)))?;
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::all());
    validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE);
    validator.subgroup_operations(SubgroupOperationSet::all());
    let info = validator.validate(&module).map_err(|error| at(error.emit_to_string(&shader.wgsl)))?;
    let constants = shader.constants.iter().cloned().collect();
    let entry = Some((ShaderStage::Compute, shader.entry.as_str()));
    let (module, info) = pipeline_constants::process_overrides(&module, &info, entry, &constants)
        .map_err(|error| at(error.to_string()))?;
    let which = spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: shader.entry.clone() };
    let words = spv::write_vec(&module, &info, options, Some(&which)).map_err(|error| at(error.to_string()))?;
    Ok(words.into_iter().flat_map(u32::to_le_bytes).collect())
}

/// Compiles shaders, or takes what the same driver made of the same SPIR-V before, unless `fresh`. Where a driver dies,
/// another process goes on behind the shader that it died of.
///
/// # Errors
///
/// A shader is not valid, a file cannot be written, or the driver does not start.
pub fn compile(
    device: &Device,
    features: &Features,
    shaders: &[&Shader],
    folder: &Path,
    fresh: bool,
) -> Result<Vec<Outcome>, String> {
    let options = features.spirv_options();
    let varying = if features.subgroups().is_some() { "1" } else { "0" };
    let kept = folder.join("kept").join(device.id.replace(':', "-"));
    std::fs::create_dir_all(&kept).map_err(|error| format!("{}: {error}", kept.display()))?;
    let mut jobs = Vec::new();
    for shader in shaders {
        let spirv = spirv(shader, &options)?;
        // The folder is of one version of the driver. SipHash with fixed keys: the same in every run.
        let mut hasher = DefaultHasher::new();
        (&spirv, &shader.entry, shader.buffers, varying).hash(&mut hasher);
        let answer = kept.join(format!("{:016x}.json", hasher.finish()));
        jobs.push(Job { spirv, pipeline: format!("{} {}", shader.buffers, shader.entry), answer });
    }
    let mut outcomes = Vec::new();
    while let Some(job) = jobs.get(outcomes.len()) {
        match std::fs::read_to_string(&job.answer) {
            Ok(answer) if !fresh => outcomes.push(outcome(&answer)?),
            _ => {
                let answered = |job: &Job| !fresh && job.answer.exists();
                let rest = &jobs[outcomes.len()..];
                // At least this one, whose answer may be there and not readable.
                let count = rest.iter().skip(1).position(answered).map_or(rest.len(), |more| 1 + more);
                let command = device.vkstats(folder, &["compile", varying]);
                one_process(device, command, &rest[..count], &Scratch::new(folder)?, &mut outcomes)?;
            }
        }
    }
    Ok(outcomes)
}

/// A shader for a driver.
struct Job {
    spirv: Vec<u8>,
    /// What `vkstats` is told of it: its storage buffers and its entry point.
    pipeline: String,
    /// Where the driver's answer is kept.
    answer: PathBuf,
}

/// A process that ends with its owner, which an error may end early.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if the process has ended and was waited for.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Adds outcomes until all are there or the process ends, the last of them with the reason.
fn one_process(
    device: &Device,
    mut command: Command,
    jobs: &[Job],
    scratch: &Scratch,
    outcomes: &mut Vec<Outcome>,
) -> Result<(), String> {
    let failed = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    let mut list = String::new();
    for (i, job) in jobs.iter().enumerate() {
        let path = scratch.0.join(format!("{i}.spv"));
        std::fs::write(&path, &job.spirv).map_err(|error| failed(&path, error))?;
        list += &format!("{} {i}.spv\n", job.pipeline);
    }
    command.current_dir(&scratch.0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|error| format!("{}: vkstats does not start: {error}", device.name))?;
    let mut child = Running(child);
    let mut stdin = child.0.stdin.take().expect("it is piped");
    let (stdout, stderr) = (child.0.stdout.take().expect("it is piped"), child.0.stderr.take().expect("it is piped"));
    // A process that ends early closes its end: what it did not read is for the next one.
    let writer = std::thread::spawn(move || drop(stdin.write_all(list.as_bytes())));
    let (sender, answers) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok).filter(|line| line.starts_with('{')) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    // The last words of a driver that dies. What one that prints for ever prints is read and forgotten.
    let last_words = std::thread::spawn(move || {
        let mut last = String::new();
        BufReader::new(stderr).lines().map_while(Result::ok).for_each(|line| last = line);
        last
    });

    let mut end = None;
    for (i, job) in jobs.iter().enumerate() {
        match answers.recv_timeout(PATIENCE) {
            Ok(line) => {
                outcomes.push(outcome(&line)?);
                // Only a whole file has the name.
                let part = scratch.0.join(format!("{i}.json"));
                std::fs::write(&part, line).map_err(|error| failed(&part, error))?;
                std::fs::rename(&part, &job.answer).map_err(|error| failed(&job.answer, error))?;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                end = Some(Outcome::Hung);
                break;
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                end = Some(Outcome::Crashed(String::new()));
                break;
            }
        }
    }
    if end == Some(Outcome::Hung) {
        // It fails only if the process has ended by itself.
        drop(child.0.kill());
    }
    let status = child.0.wait().map_err(|error| format!("{}: {error}", device.name))?;
    let joined = "the thread only reads or writes";
    writer.join().expect(joined);
    reader.join().expect(joined);
    let said = last_words.join().expect(joined);
    if let Some(end) = end {
        outcomes.push(match end {
            Outcome::Crashed(_) => Outcome::Crashed(format!("{status}: {said}")),
            other => other,
        });
    }
    Ok(())
}

fn outcome(line: &str) -> Result<Outcome, String> {
    let value: Value = serde_json::from_str(line).map_err(|error| format!("vkstats prints {line}: {error}"))?;
    if let Some(error) = value["error"].as_str() {
        return Ok(Outcome::Refused(error.into()));
    }
    match (value["subgroup"].as_u64(), value["statistics"].as_object()) {
        (Some(subgroup), Some(statistics)) => Ok(Outcome::Compiled { subgroup, statistics: statistics.clone() }),
        _ => Err(format!("vkstats prints {line}, which has no statistics")),
    }
}

/// A folder that is removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(folder: &Path) -> Result<Self, String> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("scratch-{}-{next}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left lies in an ignored folder, and harms nothing.
        drop(std::fs::remove_dir_all(&self.0));
    }
}
