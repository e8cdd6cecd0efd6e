//! A fused plan computes the same as the unfused one: by the references on the CPU, and on every adapter.
//!
//! The models are golden ones, and random ones of any widths, formats and bindings that allow only some of the fusions.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::support::configs::{self, Random};
use crate::support::{adapters, golden, parallel};
use dunlin::backend::cpu::{self, Weights};
use dunlin::backend::wgpu::device::Gpu;
use dunlin::backend::wgpu::session::Runner;
use dunlin::backend::wgpu::upload::Uploads;
use dunlin::checkpoint::{Checkpoint, Config};
use dunlin::graph::{Graph, GraphBuilder, ValueKind};
use dunlin::models::{self, Pass, Want};
use dunlin::ops::{Elem, Given, Matrix};
use dunlin::plan::{Fusion, Plan};
use dunlin::tensor::{DType, Tensor};
use dunlin::work::{DeviceProfile, Family, Row};

/// Fusion changes the order of sums: a few ulp of float32 in each layer.
const CLOSE: f64 = 1e-5;
/// With a KV cache of float16, a difference of one float32 ulp may round to a difference of 2⁻¹¹.
const CLOSE_HALF: f64 = 2e-3;

/// The number of tokens that each test runs: some at once, then one by one.
const PROMPT: usize = 5;
const STEPS: usize = 9;

/// The pass for a prompt, or for a decoding step.
fn pass(rows: usize) -> Pass {
    Pass { family: if rows == 1 { Family::Few } else { Family::Many }, ..Pass::prompt(rows, Want::Trace) }
}

/// A model in memory.
struct Toy {
    name: String,
    config: Config,
    formats: BTreeMap<String, DType>,
    tensors: BTreeMap<String, Tensor>,
    vectors: BTreeMap<String, Vec<f32>>,
}

/// Outputs read back: the name of step and output, and the values.
type Outputs = Vec<(String, Vec<f32>)>;

impl Toy {
    fn golden() -> Vec<Toy> {
        let toy = |case: golden::Golden| {
            let checkpoint = Checkpoint::open(&case.folder).unwrap_or_else(|error| panic!("{}: {error}", case.name));
            let config = Config { context: 16, ..checkpoint.config.clone() };
            let take = |name: &str, shape: &[usize]| checkpoint.take(name, shape).expect("a tensor of the model");
            let matrices = configs::matrices(&config).into_iter();
            let tensors: BTreeMap<String, Tensor> =
                matrices.map(|(name, rows, cols)| (name.clone(), take(&name, &[rows, cols]))).collect();
            let vectors = configs::vectors(&config).into_iter();
            let vectors = vectors.map(|(name, cols)| (name.clone(), take(&name, &[cols]).to_f32())).collect();
            let formats = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.dtype)).collect();
            Toy { name: case.name, config, formats, tensors, vectors }
        };
        golden::text_cases().into_iter().map(toy).collect()
    }

    fn random(seed: u64) -> Toy {
        let mut random = Random::new(seed);
        let mut config = configs::random_config(&mut random);
        config.context = 16;
        let formats = configs::random_formats(&config, &mut random);
        let tensor = |(i, (name, rows, cols)): (usize, (String, usize, usize))| {
            let tensor = Given::weight(formats[&name], rows, cols).tensor(1000 * seed + i as u64);
            (name, tensor)
        };
        let tensors = configs::matrices(&config).into_iter().enumerate().map(tensor).collect();
        let vectors = configs::vectors(&config).into_iter();
        let gain = |random: &mut Random| 0.5 + random.below(1000) as f32 / 1000.0;
        let vectors = vectors.map(|(name, cols)| (name, (0..cols).map(|_| gain(&mut random)).collect())).collect();
        Toy { name: format!("random model {seed}: {config:?}, {formats:?}"), config, formats, tensors, vectors }
    }

    fn graph(&self, pass: Pass) -> Graph {
        let angles = models::angles(&self.config, self.config.context).expect("a small table");
        models::build(&self.config, GraphBuilder::new(&|name| self.formats[name]), &angles, pass)
            .expect("a known architecture")
    }

    fn plan(&self, rows: usize, profile: &DeviceProfile, fusion: Fusion) -> Plan {
        Plan::new(self.graph(pass(rows)), profile, fusion).expect("a plan")
    }

    fn ids(&self) -> Vec<u32> {
        (0..STEPS).map(|i| (i * 7 % self.config.vocab) as u32).collect()
    }

    /// Runs a prompt and then single tokens, with the references.
    fn on_cpu(&self, profile: &DeviceProfile, fusion: Fusion) -> Outputs {
        let (prompt, decode) = (self.plan(PROMPT, profile, fusion), self.plan(1, profile, fusion));
        let mut state = HashMap::new();
        for value in &decode.graph.values {
            if let ValueKind::State(name) = &value.kind {
                state.insert(name.clone(), vec![0.0; value.ty.count()]);
            }
        }
        let tokens = state.get_mut("tokens").expect("every model reads tokens");
        tokens.iter_mut().zip(self.ids()).for_each(|(token, id)| *token = f32::from_bits(id));
        let mut outputs = Vec::new();
        for (plan, position) in [(&prompt, 0)].into_iter().chain((PROMPT..STEPS).map(|p| (&decode, p))) {
            let weights = self.weights(&plan.graph);
            let runner =
                cpu::Runner { graph: &plan.graph, weights: &weights, state: &mut state, inputs: HashMap::new() };
            let found = runner.run(&Row::at(position).follow(PROMPT));
            outputs.extend(found.into_iter().map(|(name, data)| (format!("{name} at {position}"), data)));
        }
        outputs
    }

    /// The weights of a graph. Weights that fusion joined are matrices of several tensors.
    fn weights(&self, graph: &Graph) -> Weights {
        let mut weights = Weights::default();
        for value in &graph.values {
            match (&value.kind, value.ty.elem) {
                (ValueKind::Weight(names), Elem::Weight(_)) => {
                    let parts = names.iter().map(|name| self.tensors[name].clone()).collect();
                    weights.matrices.insert(names.clone(), Matrix::new(parts));
                }
                (ValueKind::Weight(names), _) => {
                    let parts = names.iter().flat_map(|name| self.vectors[name].clone());
                    weights.vectors.insert(names.clone(), parts.collect());
                }
                _ => {}
            }
        }
        weights
    }

    /// Runs a prompt, and in another session the same tokens one by one.
    fn on_adapter(&self, gpu: &Gpu, profile: &DeviceProfile, fusion: Fusion) -> Outputs {
        let mut outputs = Vec::new();
        for (rows, positions) in [(PROMPT, 0..1), (1, 0..PROMPT + 1)] {
            let plan = self.plan(rows, profile, fusion);
            let runner = self.runner(gpu, profile, plan);
            for position in positions {
                runner.run(&Row::at(position).follow(PROMPT));
                for (name, id) in &runner.bound.plan.graph.outputs {
                    let bytes = runner.read(*id).expect("an output");
                    outputs
                        .push((format!("{name} of {rows} rows at {position}"), bytemuck::pod_collect_to_vec(&bytes)));
                }
            }
        }
        outputs
    }

    fn runner<'a>(&self, gpu: &'a Gpu, profile: &'a DeviceProfile, plan: Plan) -> Runner<'a> {
        let mut uploads = Uploads::default();
        for stored in &plan.groups.stored {
            let take = |name: &str, _: &[usize]| match self.vectors.get(name) {
                Some(values) => Ok(vector(values)),
                None => Ok(self.tensors[name].clone()),
            };
            gpu.block_on(uploads.weight(gpu, stored, profile.max_binding, take)).expect("a weight is uploaded");
        }
        let mut tokens = None;
        for (i, value) in plan.graph.values.iter().enumerate() {
            match &value.kind {
                ValueKind::Table(name, data) => {
                    gpu.block_on(uploads.table(gpu, name, data)).expect("a table is uploaded")
                }
                ValueKind::State(name) if name == "tokens" => tokens = Some(dunlin::work::ValueId(i as u32)),
                _ => {}
            }
        }
        let runner = Runner::new(gpu, profile, plan, &uploads).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        runner.write(tokens.expect("every model reads tokens"), bytemuck::cast_slice(&self.ids()));
        runner
    }
}

fn vector(values: &[f32]) -> Tensor {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor {
        dtype: DType::F32,
        shape: vec![values.len()],
        bytes: dunlin::tensor::Bytes::new(bytes),
        order: dunlin::tensor::RowOrder::Stored,
    }
}

/// √(Σ(found − wanted)² / Σ wanted²) of every output stays below `limit`.
fn same(at: &str, found: &Outputs, wanted: &Outputs, limit: f64) {
    assert_eq!(found.len(), wanted.len(), "{at}");
    for ((name, found), (_, wanted)) in found.iter().zip(wanted) {
        assert_eq!(found.len(), wanted.len(), "{at}: {name}");
        let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
        let error = square(&mut found.iter().zip(wanted).map(|(f, w)| f64::from(f - w)));
        let ratio = (error / square(&mut wanted.iter().map(|&w| f64::from(w)))).sqrt();
        assert!(
            error == 0.0 || ratio <= limit,
            "{at}: {name} fused is off by {ratio:.1e} of the unfused, at most {limit:.0e}"
        );
    }
}

#[test]
fn fused_is_unfused_by_the_references() {
    let profile = DeviceProfile::baseline();
    for toy in Toy::golden() {
        let nodes = |fusion| toy.plan(1, &profile, fusion).graph.nodes.len();
        assert!(nodes(Fusion::On) < nodes(Fusion::Off) / 2, "{}: fusion does its part", toy.name);
        same(&toy.name, &toy.on_cpu(&profile, Fusion::On), &toy.on_cpu(&profile, Fusion::Off), CLOSE);
    }
    for seed in 0..30 {
        let toy = Toy::random(seed);
        for profile in [profile.clone(), narrow(&toy, &profile)] {
            let at = format!("{}, bindings of {}", toy.name, profile.max_binding);
            same(&at, &toy.on_cpu(&profile, Fusion::On), &toy.on_cpu(&profile, Fusion::Off), CLOSE);
        }
    }
}

#[test]
fn fused_is_unfused_on_every_adapter() {
    let adapters = adapters::all();
    let open = |adapter: &adapters::Adapter| Gpu::open(adapter.index).expect("adapter opens");
    let gpus: Vec<(String, Arc<Gpu>)> = adapters.iter().map(|adapter| (adapter.label(), open(adapter))).collect();
    let full = |gpu: &Gpu| DeviceProfile { reduced_precision: false, ..gpu.profile.clone() };
    let check = |toy: &Toy, (label, gpu): &(String, Arc<Gpu>), profile: &DeviceProfile, limit| {
        let at = format!("{label}: {}, bindings of {}", toy.name, profile.max_binding);
        let on = |fusion| toy.on_adapter(gpu, profile, fusion);
        let (fused, plain) = (on(Fusion::On), on(Fusion::Off));
        same(&at, &fused, &plain, limit);
    };
    let golden: Vec<Toy> = Toy::golden();
    let pairs: Vec<_> = golden.iter().flat_map(|toy| gpus.iter().map(move |gpu| (toy, gpu))).collect();
    parallel::each(&pairs, |(toy, gpu)| check(toy, gpu, &full(&gpu.1), CLOSE));
    let random: Vec<Toy> = (0..8).map(Toy::random).collect();
    let pairs: Vec<_> = random.iter().flat_map(|toy| gpus.iter().map(move |gpu| (toy, gpu))).collect();
    parallel::each(&pairs, |(toy, gpu)| {
        let full = full(&gpu.1);
        check(toy, gpu, &full, CLOSE);
        check(toy, gpu, &narrow(toy, &full), CLOSE);
        if gpu.1.profile.f16 {
            check(toy, gpu, &gpu.1.profile, CLOSE_HALF);
        }
    });
}

/// A profile with bindings so small that the larger weights are split.
fn narrow(toy: &Toy, profile: &DeviceProfile) -> DeviceProfile {
    let graph = toy.graph(pass(PROMPT));
    DeviceProfile { max_binding: configs::least_binding(&graph, profile).max(16 << 10), ..profile.clone() }
}
