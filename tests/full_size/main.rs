//! MobileVLM V2-1.7B at full size (`qwen.rs`: Qwen-VL) with random weights in q4_0, on lavapipe and on every real
//! Vulkan device: it reads a picture and answers as the CPU path does, within the device's limits and without a second
//! copy of any weight.
//!
//! The default run leaves these tests out because they are long: `scripts/test_full_size.sh` runs them.

mod qwen;
mod random_gguf;
mod random_qwen;
#[path = "../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::random_gguf::{BLOCKS, MOBILELLAMA};
use crate::support::adapters::{self, Adapter, say};
use crate::support::scratch::Scratch;
use crate::support::tolerance::{self, F16, Greedy, close, same_ids};
use crate::support::{bindings, golden};
use dunlin::backend;
use dunlin::backend::wgpu::device::Gpu;
use dunlin::checkpoint::{Checkpoint, VisionFiles};
use dunlin::models::{Pass, Recipe, Want};
use dunlin::plan::{Fusion, Plan};
use dunlin::{Device, Generation, LoadOptions, Model, Prompt, Sampler, Trace};

/// The context for both questions with their answers; the model was made for 2048.
const CONTEXT: usize = 512;

const ANSWER: usize = 4;

/// The memory that the process may use besides weights, KV cache and arenas: the program, the driver and compiled
/// kernels (100 MB with Mesa before a model is loaded), tensors in transfer, logits. Measured: 250 MB on lavapipe. A
/// second copy of the weights, or mapped files whose pages stay, would add 900 MB.
const REST: u64 = 512 << 20;

#[test]
#[ignore = "writes 1 GB and takes minutes: scripts/test_full_size.sh"]
fn mobilevlm_at_full_size() {
    let adapters = vulkan_adapters();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    check_disk(folder, 1000);
    let scratch = Scratch::within(folder);
    let files = Files::write(&scratch);

    // The CPU path comes last: it reads its weights in the mapped files, whose pages then count as memory in use.
    let found: Vec<_> = adapters.iter().map(|adapter| (adapter.label(), run_on(adapter, &files))).collect();
    let cpu = files.load(&Device::cpu());
    let wanted = talk(&cpu, "cpu", &files);
    let wanted_trace = trace(&cpu, "cpu", &files);
    for (label, (answers, trace)) in found {
        same_answers(&label, &answers, &wanted);
        same_values(&label, &trace, &wanted_trace);
    }
}

/// The Vulkan adapters; the machine must have at least one.
fn vulkan_adapters() -> Vec<Adapter> {
    let mut adapters = adapters::all();
    // SwiftShader and GL's llvmpipe are too slow for this.
    adapters.retain(|adapter| adapter.backend == "vulkan" && !adapter.name.to_lowercase().contains("swiftshader"));
    assert!(!adapters.is_empty(), "no Vulkan adapter: install lavapipe (Debian: apt-get install mesa-vulkan-drivers)");
    adapters
}

/// The two files of the model, and the file of a photograph.
struct Files {
    language: PathBuf,
    mmproj: PathBuf,
    photo: PathBuf,
    /// The bytes of the tensors in each file.
    language_bytes: u64,
    vision_bytes: u64,
}

impl Files {
    fn write(scratch: &Scratch) -> Self {
        let start = Instant::now();
        let golden = golden::root().join("mobilevlm_v2_grid24");
        let (language, mmproj) = (scratch.path("language.gguf"), scratch.path("mmproj.gguf"));
        let language_bytes = random_gguf::language(&language, &MOBILELLAMA, &golden);
        let vision_bytes = random_gguf::mmproj(&mmproj, BLOCKS);
        let (size, seconds) = ((language_bytes + vision_bytes) as f64 / 1e6, start.elapsed().as_secs_f64());
        say(&format!("{size:.0} MB of random weights, written in {seconds:.1} s"));
        Files { language, mmproj, photo: golden.join("image_1.png"), language_bytes, vision_bytes }
    }

    fn load(&self, device: &Device) -> Model {
        let options = LoadOptions::new().mmproj(&self.mmproj).context(CONTEXT);
        Model::load_with(&self.language, device, &options).unwrap_or_else(|error| panic!("{device:?}: {error}"))
    }
}

/// A conversation and a trace. Checks the device's limits and the memory that they may take.
fn run_on(adapter: &Adapter, files: &Files) -> ([Answer; 2], Trace) {
    let label = adapter.label();
    let arenas = check_bindings(adapter, files);
    let model = files.load(&Device::parse(&adapter.index.to_string()).expect("an index"));
    say(&format!("{label}: after loading, {}", memory()));
    let answers = talk(&model, &label, files);

    let (weights, positions) = (answers[1].weight_bytes, answers[1].positions as u64);
    near(&format!("{label}: weights"), weights, files.language_bytes + files.vision_bytes);
    // Keys and values of f16 or f32; making room for the second question copies them.
    let cache = 2 * MOBILELLAMA.layers as u64 * positions * MOBILELLAMA.hidden as u64 * if adapter.f16 { 2 } else { 4 };
    let most = weights + 2 * cache + arenas + REST;
    if let Some(peak) = peak() {
        say(&format!("{label}: peak of {} MB, at most {}", peak >> 20, most >> 20));
        assert!(peak <= most, "{label}: {peak} bytes were resident, at most {most} may be");
    }

    let trace = trace(&model, &label, files);
    model.release_vision();
    let refused = files.question(&model).next().expect("an error").expect_err("an error").to_string();
    assert!(refused.contains("released"), "{label}: {refused}");
    let text = model.generate(Prompt::tokens(vec![1]), &Sampler::greedy()).expect("a generation");
    near(&format!("{label}: weights without vision"), text.stats().weight_bytes, files.language_bytes);
    (answers, trace)
}

/// Checks that the bindings of the plans are within the device's limits. Returns the bytes of the arenas that live at
/// the same time.
fn check_bindings(adapter: &Adapter, files: &Files) -> u64 {
    let label = adapter.label();
    let limits = &backend::devices()[adapter.index].limits;
    let limit = |name: &str| limits.iter().find(|(found, _)| found == name).expect("a limit").1;
    let (most, largest_buffer) = (limit("max_storage_buffer_binding_size"), limit("max_buffer_size"));

    let vision = VisionFiles { mmproj: Some(files.mmproj.clone()), tower: None };
    let checkpoint = Checkpoint::open_with(&files.language, &vision).unwrap_or_else(|error| panic!("{error}"));
    let parameters = 1_364_297_728 + 290_909_184 + 6_316_032;
    assert_eq!(checkpoint.parameters(), parameters, "of language model, tower and projector");
    let gpu = Gpu::open(adapter.index).unwrap_or_else(|error| panic!("{label}: {error}"));
    let profile = &gpu.profile;
    let recipe = Recipe::new(&checkpoint, checkpoint.config.context).expect("a model");
    let graph = recipe.vision().expect("a vision half");
    // Plans for the whole context of the model, because tables and caches grow with it.
    let plan = |rows| {
        let prompt = Pass { images: true, ..Pass::prompt(rows, Want::Token) };
        let graph = recipe.graph(if rows == 1 { Pass::decode(1) } else { prompt }).expect("a graph");
        Plan::new(graph, profile, Fusion::On).expect("a plan")
    };
    let plans = [
        ("vision", Plan::new(graph, profile, Fusion::On).expect("a plan")),
        ("prefill of 256 tokens", plan(256)),
        ("decode", plan(1)),
    ];
    for (name, plan) in &plans {
        let slots = plan.steps.iter().flat_map(|step| &step.dispatch.slots);
        let (buffer, bytes) =
            slots.map(|slot| bindings::binding(plan, slot, profile)).max_by_key(|binding| binding.1).expect("slots");
        let (dispatches, arena) = (plan.steps.len(), plan.arena);
        say(&format!("{label}: {name}: {dispatches} dispatches, arena of {arena} bytes, largest binding {bytes}"));
        assert!(bytes <= most, "{label}: {name} binds {bytes} bytes of {buffer}, at most {most} may be");
        assert!(arena <= largest_buffer, "{label}: {name} has an arena of {arena} bytes");
    }
    plans[0].1.arena + plans[1].1.arena
}

/// An answer of the model, and the memory that it took.
struct Answer {
    /// Each token, with the log probabilities of all tokens by id.
    tokens: Vec<(u32, Vec<f32>)>,
    weight_bytes: u64,
    /// The number of positions of the whole conversation so far.
    positions: usize,
}

impl Files {
    fn question(&self, model: &Model) -> Generation {
        let prompt = Prompt::user("What is in this picture?").image(self.photo.clone());
        model.generate(prompt, &Sampler::greedy()).expect("a generation").max_tokens(ANSWER).logprobs(MOBILELLAMA.vocab)
    }
}

/// Asks a question about a picture, and a follow-up question.
fn talk(model: &Model, label: &str, files: &Files) -> [Answer; 2] {
    let mut first = files.question(model);
    let answer = answer(&mut first, label);
    let stats = first.stats();
    assert_eq!(stats.image_tokens, 144, "{label}");
    assert!(stats.vision_s > 0.0, "{label}: nothing read the picture");

    let second = first.follow_up("And what else?", &Sampler::greedy()).expect("a generation");
    let mut second = second.max_tokens(ANSWER).logprobs(MOBILELLAMA.vocab);
    let next = self::answer(&mut second, label);
    assert_eq!(second.stats().vision_s, 0.0, "{label}: the picture was read again");
    [answer, next]
}

/// Reads the tokens of an answer, and prints how long it took.
fn answer(generation: &mut Generation, label: &str) -> Answer {
    let mut tokens = Vec::new();
    for piece in &mut *generation {
        let mut piece = piece.unwrap_or_else(|error| panic!("{label}: {error}"));
        piece.top.sort_by_key(|&(id, _)| id);
        let logprobs: Vec<f32> = piece.top.into_iter().map(|(_, logprob)| logprob).collect();
        // The weights are drawn so that logits have a deviation of 3. If all logits were alike, any two answers would
        // agree.
        let deviation = deviation(&logprobs);
        assert!((1.0..10.0).contains(&deviation), "{label}: logits with a deviation of {deviation}");
        tokens.push((piece.id, logprobs));
    }
    assert_eq!(tokens.len(), ANSWER, "{label}");
    let s = generation.stats();
    say(&format!(
        "{label}: load {:.1} s, picture {:.3} s, vision {:.1} s, {} prompt tokens {:.1} s, {} more {:.1} s, {}",
        s.load_s,
        s.preprocess_s,
        s.vision_s,
        s.prompt_tokens,
        s.prefill_s,
        ANSWER - 1,
        s.decode_s,
        memory(),
    ));
    Answer { tokens, weight_bytes: s.weight_bytes, positions: s.prompt_tokens + ANSWER }
}

/// The values that a picture becomes, the tokens that the language model reads with it, and the values in its layers.
fn trace(model: &Model, label: &str, files: &Files) -> Trace {
    let start = Instant::now();
    let prompt = Prompt::tokens(vec![1, Prompt::IMAGE, 300]).image(files.photo.clone());
    let trace = model.trace(prompt).unwrap_or_else(|error| panic!("{label}: {error}"));
    say(&format!("{label}: trace in {:.1} s, {}", start.elapsed().as_secs_f64(), memory()));
    trace
}

/// Greedy ids must be equal up to the first one whose margin on the CPU path is too small to decide.
fn same_answers(label: &str, found: &[Answer], wanted: &[Answer]) {
    for (number, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let margin = |logprobs: &Vec<f32>| {
            let mut sorted = logprobs.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            sorted[0] - sorted[1]
        };
        let greedy = Greedy {
            ids: wanted.tokens.iter().map(|(id, _)| *id).collect(),
            margins: wanted.tokens.iter().map(|(_, logprobs)| margin(logprobs)).collect(),
            logits: wanted.tokens.iter().flat_map(|(_, logprobs)| logprobs.iter().copied()).collect(),
        };
        same_ids(&format!("{label}: answer {}", number + 1), &found.tokens, &greedy, F16);
        if found.tokens.iter().zip(&greedy.ids).any(|((found, _), wanted)| found != wanted) {
            // The answers differ from here on, so the follow-up questions do too.
            return;
        }
        let logprobs = &found.tokens[0].1;
        let first = &greedy.logits[..logprobs.len()];
        close(&format!("{label}: first token of answer {}", number + 1), logprobs, first, F16.logits, f32::INFINITY);
    }
}

/// Features, image tokens, hidden states and logits, with the tolerances of `tests/golden/README.md` for f16.
fn same_values(label: &str, found: &Trace, wanted: &Trace) {
    assert_eq!(found.tensors.len(), wanted.tensors.len(), "{label}");
    for ((name, found), (wanted_name, wanted)) in found.tensors.iter().zip(&wanted.tensors) {
        assert_eq!(name, wanted_name, "{label}");
        let absolute = if name == "logits" { F16.logits } else { F16.hidden_absolute };
        close(&format!("{label}: {name}"), &found.data, &wanted.data, absolute, F16.hidden_relative);
        if name == "vision.features" || name == "vision.projected" {
            // If all rows were alike, the test would not notice rows in the wrong order.
            let share = differing(&wanted.data, wanted.shape[1]);
            let error = tolerance::farthest(&found.data, &wanted.data);
            say(&format!("{label}: {name}: off by {error}; {:.0} % of the rows is their own", 100.0 * share));
            assert!(share > 0.1, "{name}: only {share} of the rows is their own");
        }
    }
}

/// The share of the rows' energy that remains when the mean row is subtracted.
fn differing(values: &[f32], cols: usize) -> f64 {
    let rows = values.len() / cols;
    let mean: Vec<f64> = (0..cols).map(|c| values[c..].iter().step_by(cols).map(|&v| f64::from(v)).sum()).collect();
    let mean: f64 = mean.iter().map(|sum| (sum / rows as f64).powi(2)).sum::<f64>() * rows as f64;
    1.0 - mean / values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>()
}

fn deviation(values: &[f32]) -> f64 {
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64;
    (values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
}

/// The bytes of weights on a device equal those in the file, except for padding and vectors, which become f32.
fn near(at: &str, found: u64, stored: u64) {
    assert!(found.abs_diff(stored) < stored / 50, "{at} of {found} bytes, {stored} in the file");
}

/// The peak of resident memory of this process, on systems that report it.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

fn memory() -> String {
    peak().map_or("peak unknown".into(), |peak| format!("peak {} MB", peak >> 20))
}

/// Fails before the files are written if the disk has no room for them. Without `df` the check is left out.
fn check_disk(folder: &Path, needed: u64) {
    let Ok(output) = Command::new("df").arg("-Pk").arg(folder).output() else { return };
    let text = String::from_utf8_lossy(&output.stdout);
    let free = text.lines().nth(1).and_then(|line| line.split_whitespace().nth(3)?.parse::<u64>().ok());
    if let Some(free) = free.map(|kib| kib >> 10) {
        let folder = folder.display();
        assert!(free >= needed, "{folder} has {free} MB free, the model's files need {needed}; make room there");
    }
}
