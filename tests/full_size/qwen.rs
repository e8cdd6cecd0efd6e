//! Qwen-VL at full size, 9.66 billion random parameters that are quantised to q4_0 while they are loaded, on lavapipe
//! and on every real Vulkan device.
//!
//! `DUNLIN_FULL_SIZE_LAYERS` sets a smaller number of layers and blocks, with the widths of the whole model, for a
//! quick run.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::random_qwen::{self, Depth, HIDDEN, VOCAB, WHOLE};
use crate::support::adapters::say;
use crate::support::golden;
use crate::support::scratch::Scratch;
use crate::{Answer, answer, check_disk, memory, near, peak, same_answers, same_values, vulkan_adapters};
use dunlin::{Device, LoadOptions, Model, Prompt, Sampler, Trace, Weights};

const CONTEXT: usize = 512;

/// The number of elements of the position tables of tower and resampler, both for a grid of 32 × 32, and of the
/// queries.
const CONSTANTS: u64 = 1024 * (1664 + HIDDEN as u64) + 256 * HIDDEN as u64;

/// The memory that the process may use besides weights and cache: the program, the driver, arenas, and the largest
/// matrix in bf16 and in q4_0 while it is quantised.
const REST: u64 = 3 << 30;

#[test]
#[ignore = "writes 1.5 GB, takes 8 GB of memory and half an hour: scripts/test_full_size.sh qwen_vl"]
fn qwen_vl_at_full_size() {
    let adapters = vulkan_adapters();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    check_disk(folder, 1600);
    let scratch = Scratch::within(folder);
    let files = Files::write(&scratch);
    // The CPU path runs last, because its memory counts as memory of the process.
    let found: Vec<_> = adapters
        .iter()
        .map(|adapter| {
            let label = adapter.label();
            let device = Device::parse(&adapter.index.to_string()).expect("an index");
            (label.clone(), files.run_on(&device, &label, if adapter.f16 { 2 } else { 4 }))
        })
        .collect();
    let (wanted, wanted_trace) = files.run_on(&Device::cpu(), "cpu", 4);
    for (label, (found, trace)) in found {
        same_answers(&label, std::slice::from_ref(&found), std::slice::from_ref(&wanted));
        same_values(&label, &trace, &wanted_trace);
    }
}

/// The folder of the model, and a photograph.
struct Files {
    folder: PathBuf,
    photo: PathBuf,
    parameters: u64,
    depth: Depth,
}

impl Files {
    fn write(scratch: &Scratch) -> Self {
        let start = Instant::now();
        let depth = match std::env::var("DUNLIN_FULL_SIZE_LAYERS").ok().and_then(|layers| layers.parse().ok()) {
            Some(layers) => Depth { layers, blocks: layers },
            None => WHOLE,
        };
        let folder = scratch.path("qwen-vl");
        let parameters = random_qwen::write(&folder, depth);
        if depth.layers == WHOLE.layers {
            assert_eq!(parameters, 9_656_935_168, "of Qwen-VL");
        }
        say(&format!("{parameters} random parameters, written in {:.1} s", start.elapsed().as_secs_f64()));
        Files { folder, photo: golden::root().join("qwenvl_a/image_1.png"), parameters, depth }
    }

    /// An answer about a picture and the values inside the model, within the memory that they may take.
    fn run_on(&self, device: &Device, label: &str, cache_bytes: u64) -> (Answer, Trace) {
        let options = LoadOptions::new().context(CONTEXT).weights(Weights::Q4_0);
        let model = Model::load_with(&self.folder, device, &options).unwrap_or_else(|error| panic!("{label}: {error}"));
        say(&format!("{label}: after loading, {}", memory()));
        // <|im_start|>user\n<img>…</img>\nWhat is this?<|im_end|>\n<|im_start|>assistant\n
        let ids = [
            151_644,
            872,
            198,
            151_857,
            Prompt::IMAGE,
            151_858,
            198,
            3838,
            374,
            419,
            30,
            151_645,
            198,
            151_644,
            77_091,
            198,
        ];
        let prompt = Prompt::tokens(ids).image(self.photo.clone());
        let mut generation = model.generate(prompt, &Sampler::greedy()).expect("a generation");
        generation = generation.max_tokens(crate::ANSWER).logprobs(VOCAB);
        let answer = answer(&mut generation, label);
        assert_eq!(generation.stats().image_tokens, 256, "{label}");
        // A scale of 2 bytes for 32 weights of 4 bits. The position tables and the queries are f32.
        near(&format!("{label}: weights"), answer.weight_bytes, self.parameters / 32 * 18 + 4 * CONSTANTS);
        let cache = 2 * (self.depth.layers * answer.positions * HIDDEN) as u64 * cache_bytes;
        let most = answer.weight_bytes + 2 * cache + REST;
        if let Some(peak) = peak().filter(|_| label != "cpu") {
            say(&format!("{label}: peak of {} MB, at most {}", peak >> 20, most >> 20));
            assert!(peak <= most, "{label}: {peak} bytes were resident, at most {most} may be");
        }
        let start = Instant::now();
        let prompt = Prompt::tokens([151_857, Prompt::IMAGE, 151_858, 300]).image(self.photo.clone());
        let trace = model.trace(prompt).unwrap_or_else(|error| panic!("{label}: {error}"));
        say(&format!("{label}: trace in {:.1} s, {}", start.elapsed().as_secs_f64(), memory()));
        (answer, trace)
    }
}
