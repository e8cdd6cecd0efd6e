//! The CPU path: walks a graph's nodes and calls each operator's reference. It defines what is right.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use crate::backend::{DeviceInfo, Engine, EngineOptions, Output, Progress, Sampled, Session, Step, no_vision};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::graph::{Graph, GraphBuilder, ValueKind};
use crate::kernel::{MOST_ROWS, Row, ValueId};
use crate::models::{self, Pass, TABLE, Want};
use crate::ops::{Elem, Matrix, Read};

/// Temporaries of a graph and what they hold: runs one graph on the CPU.
pub struct Runner<'a> {
    pub graph: &'a Graph,
    pub weights: &'a Weights,
    /// State by name; [`Runner::run`] writes it in place.
    pub state: &'a mut HashMap<String, Vec<f32>>,
    /// Inputs by name.
    pub inputs: HashMap<String, Vec<f32>>,
}

/// The weights of a model as the CPU reads them, by the names of their tensors.
#[derive(Debug, Default)]
pub struct Weights {
    pub matrices: HashMap<Vec<String>, Matrix>,
    pub vectors: HashMap<Vec<String>, Vec<f32>>,
}

impl Runner<'_> {
    /// Executes every node; the outputs, in order.
    pub fn run(self, rows: &[Row]) -> Vec<(String, Vec<f32>)> {
        self.run_with(rows, &|_, _| {})
    }

    /// [`Runner::run`], telling `progress` how many nodes are done.
    pub fn run_with(self, rows: &[Row], progress: Progress) -> Vec<(String, Vec<f32>)> {
        let Runner { graph, weights, state, mut inputs } = self;
        let mut last_use = vec![0; graph.values.len()];
        for (i, node) in graph.nodes.iter().enumerate() {
            node.reads.iter().chain(&node.writes).for_each(|id| last_use[id.0 as usize] = i);
        }
        graph.outputs.iter().for_each(|(_, id)| last_use[id.0 as usize] = usize::MAX);

        let mut temps: HashMap<ValueId, Vec<f32>> = HashMap::new();
        for (i, node) in graph.nodes.iter().enumerate() {
            let mut writes: Vec<Vec<f32>> = node
                .writes
                .iter()
                .map(|id| match &graph.value(*id).kind {
                    ValueKind::State(name) => std::mem::take(state.get_mut(name).expect("state exists")),
                    _ => vec![0.0; graph.ty(*id).count()],
                })
                .collect();
            let reads: Vec<Read> = node
                .reads
                .iter()
                .map(|id| {
                    let value = graph.value(*id);
                    let data: &[f32] = match &value.kind {
                        ValueKind::Weight(names) => match value.ty.elem {
                            Elem::Weight(_) => return Read::Weight(&weights.matrices[names]),
                            _ => &weights.vectors[names],
                        },
                        ValueKind::Input(name) => &inputs[name],
                        ValueKind::Table(_, data) => data,
                        ValueKind::State(name) => &state[name],
                        ValueKind::Temp => &temps[id],
                    };
                    if value.ty.elem == Elem::U32 { Read::U32(bytemuck::cast_slice(data)) } else { Read::F32(data) }
                })
                .collect();
            let mut slices: Vec<&mut [f32]> = writes.iter_mut().map(Vec::as_mut_slice).collect();
            node.op.reference(&reads, &mut slices, rows);
            for (id, data) in node.writes.iter().zip(writes) {
                match &graph.value(*id).kind {
                    ValueKind::State(name) => *state.get_mut(name).expect("state exists") = data,
                    _ => drop(temps.insert(*id, data)),
                }
            }
            temps.retain(|id, _| last_use[id.0 as usize] > i);
            progress(i + 1, graph.nodes.len());
        }
        let outputs = graph.outputs.iter().map(|(name, id)| {
            let data = match &graph.value(*id).kind {
                ValueKind::Input(name) => inputs.remove(name).unwrap_or_default(),
                ValueKind::State(name) => state[name].clone(),
                _ => temps.get(id).cloned().unwrap_or_default(),
            };
            (name.clone(), data)
        });
        outputs.collect()
    }
}

/// A model on the CPU.
pub struct CpuEngine {
    shared: Arc<Shared>,
    info: DeviceInfo,
    weight_bytes: u64,
}

/// What an engine and its sessions have in common.
struct Shared {
    weights: Weights,
    /// Builds the graph of a pass.
    build: Box<dyn Fn(Pass) -> Result<Graph> + Send + Sync>,
    graphs: Mutex<HashMap<Pass, Arc<Graph>>>,
    vision: Mutex<Option<Arc<Vision>>>,
}

/// The vision half of a model.
struct Vision {
    graph: Graph,
    weights: Weights,
    weight_bytes: u64,
}

impl CpuEngine {
    pub fn load(checkpoint: &Checkpoint, options: &EngineOptions, progress: Progress) -> Result<Self> {
        let context = options.context.unwrap_or(checkpoint.config.context).max(1);
        let angles = models::angles(&checkpoint.config, context)?;
        let formats: BTreeMap<_, _> = checkpoint
            .tensors()
            .filter_map(|tensor| Some((tensor.name.to_string(), checkpoint.dtype(tensor.name)?)))
            .collect();
        let config = checkpoint.config.clone();
        let format = |name: &str| formats.get(name).copied().unwrap_or(crate::tensor::DType::F32);
        let vision = models::build_vision(&config, GraphBuilder::new(&format));
        let build = move |pass| {
            let format = |name: &str| formats.get(name).copied().unwrap_or(crate::tensor::DType::F32);
            let mut graph = models::build(&config, GraphBuilder::new(&format), &angles, pass)?;
            graph.prune();
            Ok(graph)
        };

        let graph = build(Pass::decode(1))?;
        let all = graph.values.len() + vision.as_ref().map_or(0, |graph| graph.values.len());
        let (weights, weight_bytes) = load_weights(&graph, checkpoint, &|done, _| progress(done, all))?;
        let vision = match vision {
            Some(vision) => {
                let before = graph.values.len();
                let (weights, weight_bytes) =
                    load_weights(&vision, checkpoint, &|done, _| progress(before + done, all))?;
                Some(Arc::new(Vision { graph: vision, weights, weight_bytes }))
            }
            None => None,
        };
        let info = DeviceInfo { name: "cpu".into(), backend: "cpu".into() };
        let shared = Shared { weights, build: Box::new(build), graphs: Mutex::default(), vision: Mutex::new(vision) };
        Ok(CpuEngine { shared: Arc::new(shared), info, weight_bytes })
    }
}

/// The weights of a graph, and their bytes.
fn load_weights(graph: &Graph, checkpoint: &Checkpoint, progress: Progress) -> Result<(Weights, u64)> {
    let mut weights = Weights::default();
    let mut bytes = 0;
    for (i, value) in graph.values.iter().enumerate() {
        let ValueKind::Weight(names) = &value.kind else { continue };
        let tensor = checkpoint.take(&names[0], &value.ty.shape)?;
        bytes += tensor.bytes.len() as u64;
        match value.ty.elem {
            Elem::Weight(_) => drop(weights.matrices.insert(names.clone(), Matrix::new(vec![tensor]))),
            _ => drop(weights.vectors.insert(names.clone(), tensor.to_f32())),
        }
        progress(i + 1, graph.values.len());
    }
    Ok((weights, bytes))
}

impl Shared {
    fn vision(&self) -> Option<Arc<Vision>> {
        self.vision.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn graph(&self, pass: Pass) -> Result<Arc<Graph>> {
        let mut graphs = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(graph) = graphs.get(&pass) {
            return Ok(graph.clone());
        }
        let graph = Arc::new((self.build)(pass)?);
        graphs.insert(pass, graph.clone());
        Ok(graph)
    }
}

impl Engine for CpuEngine {
    fn device(&self) -> &DeviceInfo {
        &self.info
    }

    fn weight_bytes(&self) -> u64 {
        self.weight_bytes + self.vision_bytes()
    }

    fn vision_bytes(&self) -> u64 {
        self.shared.vision().map_or(0, |vision| vision.weight_bytes)
    }

    fn release_vision(&self) {
        *self.shared.vision.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn dispatches_per_token(&self) -> usize {
        0
    }

    fn chunk(&self) -> usize {
        256
    }

    fn session(&self, capacity: usize) -> Result<Box<dyn Session>> {
        let graph = self.shared.graph(Pass::decode(1))?;
        let bytes: usize = (graph.values.iter().filter(|value| matches!(value.kind, ValueKind::State(_))))
            .map(|value| value.ty.shape[1..].iter().product::<usize>().saturating_mul(4 * (capacity + 1)))
            .fold(0, usize::saturating_add);
        // Asked for once and given back: zeroed memory that is not there would end the process.
        Vec::<u8>::new().try_reserve_exact(bytes).map_err(|error| {
            let message = format!("{capacity} tokens need {} MB of KV cache; take a shorter --context", bytes >> 20);
            Error::out_of_memory(message).caused_by(error)
        })?;
        let mut session = CpuSession {
            shared: self.shared.clone(),
            state: HashMap::new(),
            capacity: 0,
            sampled: VecDeque::new(),
            outputs: Vec::new(),
            encoding: None,
            encoded: Vec::new(),
        };
        session.reserve(capacity)?;
        Ok(Box::new(session))
    }
}

struct CpuSession {
    shared: Arc<Shared>,
    state: HashMap<String, Vec<f32>>,
    /// Positions that there is room for.
    capacity: usize,
    sampled: VecDeque<Vec<Sampled>>,
    outputs: Vec<(String, Output)>,
    /// A picture that was given, and where its rows go.
    encoding: Option<(Vec<f32>, usize)>,
    encoded: Vec<(String, Output)>,
}

impl Session for CpuSession {
    fn set_tokens(&mut self, place: usize, ids: &[u32]) -> Result<()> {
        let tokens = self.state.get_mut(models::TOKENS).expect("every model reads tokens");
        for (token, id) in tokens[place..].iter_mut().zip(ids) {
            *token = f32::from_bits(*id);
        }
        Ok(())
    }

    fn copy(&mut self, from: usize, to: usize, count: usize) -> Result<()> {
        for (name, data) in &mut self.state {
            if name != models::IMAGES && name != TABLE {
                let each = data.len() / self.capacity;
                data.copy_within(from * each..(from + count) * each, to * each);
            }
        }
        Ok(())
    }

    fn run(&mut self, step: &Step) -> Result<()> {
        let graph = self.shared.graph(step.pass())?;
        let runner =
            Runner { graph: &graph, weights: &self.shared.weights, state: &mut self.state, inputs: HashMap::new() };
        let outputs = runner.run(step.rows);
        match step.want {
            Want::Nothing => {}
            Want::Token => {
                let find = |name| outputs.iter().find(|(n, _)| n == name).map(|(_, data)| data);
                let (sampled, logits) = (find("sampled").expect("tokens"), find("logits").expect("logits"));
                let vocab = logits.len() / (sampled.len() / 2);
                let chosen = sampled.chunks_exact(2).zip(logits.chunks_exact(vocab)).map(|(sampled, logits)| {
                    let logits = step.logits.then(|| logits.to_vec());
                    Sampled { id: sampled[0].to_bits(), logprob: sampled[1], logits }
                });
                self.sampled.push_back(chosen.collect());
            }
            Want::Logits | Want::Trace => {
                self.outputs = named(&graph, outputs);
            }
        }
        Ok(())
    }

    fn sampled(&mut self, chosen: &mut Vec<Sampled>) -> Result<()> {
        chosen.clear();
        chosen.append(&mut self.sampled.pop_front().expect("a token was asked for"));
        Ok(())
    }

    fn outputs(&mut self) -> Result<Vec<(String, Output)>> {
        Ok(std::mem::take(&mut self.outputs))
    }

    fn encode(&mut self, pixels: &[f32], first: usize) -> Result<()> {
        self.shared.vision().ok_or_else(no_vision)?;
        self.encoding = Some((pixels.to_vec(), first));
        Ok(())
    }

    fn encode_slice(&mut self) -> Result<(usize, usize)> {
        let vision = self.shared.vision().ok_or_else(no_vision)?;
        let (pixels, first) = self.encoding.take().expect("a picture was given");
        let graph = &vision.graph;
        let mut state = HashMap::new();
        for value in &graph.values {
            if let ValueKind::State(name) = &value.kind {
                state.insert(name.clone(), vec![0.0; value.ty.count()]);
            }
        }
        let inputs = HashMap::from([(models::PIXELS.to_string(), pixels)]);
        let runner = Runner { graph, weights: &vision.weights, state: &mut state, inputs };
        let rows = graph.values.iter().map(|value| value.ty.shape[0]).max().unwrap_or(1);
        let outputs = runner.run(&Row::at(0).follow(rows));
        self.encoded = named(graph, outputs);
        let rows = self.encoded.iter().find(|(name, _)| name == models::PROJECTED).expect("a vision half has tokens");
        let images = self.state.entry(models::IMAGES.into()).or_default();
        let at = first * rows.1.cols;
        images.resize(images.len().max(at + rows.1.data.len()), 0.0);
        images[at..at + rows.1.data.len()].copy_from_slice(&rows.1.data);
        Ok((1, 1))
    }

    fn encoded(&mut self) -> Result<Vec<(String, Output)>> {
        Ok(std::mem::take(&mut self.encoded))
    }

    fn reserve(&mut self, capacity: usize) -> Result<()> {
        for value in &self.shared.graph(Pass::decode(1))?.values {
            if let ValueKind::State(name) = &value.kind {
                let positions = if name == TABLE { MOST_ROWS } else { capacity };
                let each: usize = value.ty.shape[1..].iter().product();
                let data = self.state.entry(name.clone()).or_default();
                data.resize(data.len().max(positions * each), 0.0);
            }
        }
        self.capacity = self.capacity.max(capacity);
        Ok(())
    }

    fn depth(&self) -> usize {
        1
    }
}

/// The outputs of a graph with their shapes.
fn named(graph: &Graph, outputs: Vec<(String, Vec<f32>)>) -> Vec<(String, Output)> {
    let named = outputs.into_iter().zip(&graph.outputs).map(|((name, data), (_, id))| {
        let (rows, cols) = graph.ty(*id).matrix();
        (name, Output { rows, cols, data })
    });
    named.collect()
}
