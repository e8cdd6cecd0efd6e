//! A device whose tokens can be told in advance.

use std::collections::{HashSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::*;
use crate::backend::measured::{Clock, Measured, Phase};
use crate::backend::{Change, DeviceInfo, Engine, Output, Sampled, Session, Step, Want};
use crate::checkpoint::vision::{Activation, Projector};
use crate::checkpoint::{Config, QkNorm, RopeConfig, VisionConfig};
use crate::error::Error;
use crate::generate::model::Inner;
use crate::generate::text::Text;
use crate::graph::GraphBuilder;
use crate::models::Pass;
use crate::plan::{Fusion, Plan};
use crate::tensor::DType;
use crate::work::{DeviceProfile, Family};

pub const VOCAB: usize = 512;
pub const CHUNK: usize = 256;

/// An engine with arithmetic as its model: the token after `id` at `position` is `id + position`, wrapped.
pub struct Fake {
    pub device: DeviceInfo,
    pub depth: usize,
    /// A token that is chosen instead from this position on.
    pub then: Option<(usize, u32)>,
    /// Log-probabilities and logits are NaN from this position on.
    pub broken: usize,
    /// The number of positions that it has memory for.
    pub memory: usize,
    /// The number of rows of a decoding step.
    pub rows: usize,
    /// The pictures that a session can hold; a model that holds none reads none.
    pub pictures: usize,
    pub sessions: Arc<AtomicUsize>,
}

pub struct FakeSession {
    memory: usize,
    rows: usize,
    depth: usize,
    then: Option<(usize, u32)>,
    broken: usize,
    tokens: Vec<Option<u32>>,
    /// Positions that were computed; passes must leave no gap.
    computed: HashSet<usize>,
    sampled: VecDeque<Vec<Sampled>>,
    outputs: Vec<(String, Output)>,
    /// While it measures: its clock, and what was measured.
    measuring: Option<(Clock, Vec<Measured>)>,
    pictures: usize,
    sessions: Arc<AtomicUsize>,
}

impl Fake {
    pub fn new() -> Self {
        let device = DeviceInfo { name: "fake".into(), backend: "none".into() };
        let (broken, memory, rows) = (usize::MAX, usize::MAX, CHUNK);
        Self { device, depth: 3, then: None, broken, memory, rows, pictures: 0, sessions: Arc::default() }
    }

    pub fn model(self, context: usize) -> Model {
        let rope = RopeConfig {
            interleaved: false,
            inv_freq: vec![1.0],
            local: None,
            most_positions: None,
            beyond: Default::default(),
        };
        let config = Config {
            architecture: "fake".into(),
            vocab: VOCAB,
            hidden: 2,
            layers: 1,
            heads: vec![1],
            kv_heads: vec![1],
            ffn: vec![2],
            head_dim: 2,
            norm_eps: 1e-5,
            rope,
            rope_layers: vec![true],
            windows: vec![None],
            qk_norm: QkNorm::None,
            attention_scale: 1.0,
            embedding_scale: 1.0,
            qkv_bias: false,
            layer_sharing: false,
            tied: true,
            context: 2048,
            bos: Some(1),
            eos: vec![2],
            vision: (self.pictures > 0).then(vision),
        };
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/mobilellm_gqa");
        let text = Text::open(&folder).unwrap();
        Model(Arc::new(Inner { engine: Arc::new(self), config, context, text, load_s: 0.5 }))
    }
}

/// A vision half that makes one token of a picture.
pub fn vision() -> VisionConfig {
    VisionConfig {
        image_size: 2,
        patch: 1,
        width: 1,
        heads: 1,
        ffn: 1,
        blocks: 1,
        norm_eps: 1e-5,
        activation: Activation::Gelu,
        projector: Projector::Ldp { squeeze: 1 },
        mean: [0.5; 3],
        std: [0.5; 3],
        image_start: None,
    }
}

impl Engine for Fake {
    fn device(&self) -> &DeviceInfo {
        &self.device
    }

    fn weight_bytes(&self) -> u64 {
        12
    }

    fn vision_bytes(&self) -> u64 {
        0
    }

    fn release_vision(&self) {}

    fn plan(&self, _pass: Pass) -> Result<Arc<Plan>> {
        Err(Error::unsupported("there are no plans"))
    }

    fn vision_plan(&self) -> Option<Arc<Plan>> {
        None
    }

    fn profile(&self) -> DeviceProfile {
        DeviceProfile::baseline()
    }

    fn allocated_bytes(&self) -> Option<u64> {
        None
    }

    fn dispatches_per_token(&self) -> usize {
        7
    }

    fn chunk(&self) -> usize {
        CHUNK
    }

    fn most_rows(&self) -> usize {
        self.rows
    }

    fn pictures(&self) -> usize {
        self.pictures
    }

    fn session(&self, capacity: usize) -> Result<Box<dyn Session>> {
        check_memory(capacity, self.memory)?;
        self.sessions.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(FakeSession {
            memory: self.memory,
            rows: self.rows,
            depth: self.depth,
            then: self.then,
            broken: self.broken,
            tokens: vec![None; capacity],
            computed: HashSet::new(),
            sampled: VecDeque::new(),
            outputs: Vec::new(),
            measuring: None,
            pictures: self.pictures,
            sessions: self.sessions.clone(),
        }))
    }
}

pub fn check_memory(capacity: usize, memory: usize) -> Result<()> {
    if capacity > memory {
        return Err(Error::out_of_memory(format!("{capacity} positions, memory for {memory}")));
    }
    Ok(())
}

impl Drop for FakeSession {
    fn drop(&mut self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

impl FakeSession {
    /// The logits of the row at `position` of the sequence at `slot`.
    fn logits(&self, slot: usize, position: usize) -> Vec<f32> {
        let id = self.tokens[slot + position].expect("a token that was written") as usize;
        let mut logits: Vec<f32> = (0..VOCAB).map(|index| -((index % 5) as f32)).collect();
        logits[(id + position) % VOCAB] = if position >= self.broken { f32::NAN } else { 9.0 };
        logits
    }

    /// Records a pass while it measures. Its driver offers timestamps and writes none, so the first pass is lost.
    fn time(&mut self, step: &Step) {
        match &mut self.measuring {
            Some((clock @ Clock::InPass, _)) => *clock = Clock::Submissions,
            Some((clock, measured)) => {
                let graph = GraphBuilder::new(&|_| DType::F32).finish();
                let plan = Arc::new(Plan::new(graph, &DeviceProfile::baseline(), Fusion::On).expect("an empty plan"));
                let phase = if step.family == Family::Many { Phase::Prompt } else { Phase::Decode };
                let (rows, clock) = (step.rows.to_vec(), *clock);
                measured.push(Measured { plan, rows, phase, clock, work: Vec::new(), host: Vec::new() });
            }
            None => {}
        }
    }
}

impl Session for FakeSession {
    fn set_tokens(&mut self, place: usize, ids: &[u32]) -> Result<()> {
        for (slot, &id) in self.tokens[place..place + ids.len()].iter_mut().zip(ids) {
            *slot = Some(id);
        }
        Ok(())
    }

    fn copy(&mut self, from: usize, to: usize, count: usize) -> Result<()> {
        for i in 0..count {
            assert!(self.computed.contains(&(from + i)), "position {} is copied before it is computed", from + i);
            self.tokens[to + i] = self.tokens[from + i];
            self.computed.insert(to + i);
        }
        Ok(())
    }

    fn run(&mut self, step: &Step) -> Result<()> {
        assert!(step.rows.len() <= if step.family == Family::Few { self.rows } else { CHUNK });
        if step.family == Family::Many {
            assert_eq!(step.rows, step.rows[0].follow(step.rows.len()), "a prompt's rows follow each other");
        }
        for row in step.rows {
            let before = row.position == 0 || self.computed.contains(&(row.place() - 1));
            assert!(before, "{row:?} is computed before the one in front of it");
            self.computed.insert(row.place());
        }
        self.time(step);
        let (slot, first) = (step.rows[0].slot as usize, step.rows[0].position as usize);
        match step.want {
            Want::Nothing => {}
            Want::Token => {
                assert!(self.sampled.len() < self.depth, "no more steps in flight than the device takes");
                let chosen = if step.family == Family::Few { step.rows } else { &step.rows[step.rows.len() - 1..] };
                let mut sampled = Vec::new();
                for row in chosen {
                    let (slot, position) = (row.slot as usize, row.position as usize);
                    let id = match self.then {
                        Some((from, then)) if position >= from => then,
                        _ => (self.tokens[row.place()].expect("a token") + row.position) % VOCAB as u32,
                    };
                    self.tokens[row.place() + 1] = Some(id);
                    let logits = step.logits.then(|| self.logits(slot, position));
                    let logprob = if position >= self.broken { f32::NAN } else { -0.25 };
                    sampled.push(Sampled { id, logprob, logits });
                }
                self.sampled.push_back(sampled);
            }
            Want::Logits | Want::Hidden | Want::Trace => {
                let rows = step.rows.len();
                let data = (first..first + rows).flat_map(|position| self.logits(slot, position)).collect();
                let hidden = Output { rows, cols: 2, data: vec![first as f32; 2 * rows] };
                self.outputs = vec![("logits".into(), Output { rows, cols: VOCAB, data })];
                if step.want == Want::Trace {
                    self.outputs.insert(0, ("embeddings".into(), hidden));
                }
            }
        }
        Ok(())
    }

    fn run_changed(&mut self, _: &Step, _: Change) -> Result<()> {
        unreachable!("no test here has a mask: tests/model/mask.rs")
    }

    fn sampled(&mut self, chosen: &mut Vec<Sampled>) -> Result<()> {
        *chosen = self.sampled.pop_front().expect("a step that chose a token");
        Ok(())
    }

    fn outputs(&mut self) -> Result<Vec<(String, Output)>> {
        Ok(std::mem::take(&mut self.outputs))
    }

    fn encode(&mut self, _: &[f32], first: usize) -> Result<()> {
        assert!(first < self.pictures, "row {first} of pictures, and {} fit", self.pictures);
        Ok(())
    }

    fn encode_slice(&mut self) -> Result<(usize, usize)> {
        Ok((1, 1))
    }

    fn encoded(&mut self) -> Result<Vec<(String, Output)>> {
        unreachable!("the model reads no pictures")
    }

    fn reserve(&mut self, capacity: usize) -> Result<()> {
        check_memory(capacity, self.memory)?;
        self.tokens.resize(self.tokens.len().max(capacity), None);
        Ok(())
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn measure(&mut self, clock: Option<Clock>) -> Result<()> {
        self.measuring = Some((clock.unwrap_or(Clock::InPass), Vec::new()));
        Ok(())
    }

    fn measured(&mut self) -> Vec<Measured> {
        self.measuring.take().map_or(Vec::new(), |(_, measured)| measured)
    }
}
