//! Graph + device profile → a static, printable list of dispatches: group weights, fuse, choose kernels, place memory.
//!
//! The same input gives the same text. A plan touches no device; only token ids and the position change between runs.

mod cost;
mod fuse;
pub mod group;
mod memory;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub use cost::Cost;
pub use group::{Groups, StoredWeight};

use crate::error::{Error, Result};
use crate::graph::{Graph, ValueKind};
use crate::ops::Operand;
use crate::work::{Candidate, DeviceProfile, Dispatch, KernelRef, Obstacle, Slot, ValueId};
use memory::Lifetime;

/// A graph, ready to run on devices with one profile.
#[derive(Clone, Debug)]
pub struct Plan {
    /// After fusion.
    pub graph: Graph,
    pub steps: Vec<PlannedDispatch>,
    /// Bytes of the arena that temporaries and inputs share.
    pub arena: u64,
    /// Where each temporary and input lies: offset and bytes.
    pub places: BTreeMap<ValueId, (u64, u64)>,
    pub groups: Groups,
}

/// A dispatch, the operator that it does the work of, and why it runs this kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedDispatch {
    pub op: &'static str,
    /// That operator's place among the graph's nodes.
    pub node: usize,
    pub dispatch: Dispatch,
    pub choice: Arc<Choice>,
}

/// The kernel that an operator got, and those that it did not get.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    pub kernel: KernelRef,
    pub why: &'static str,
    /// In the operator's order, each with what keeps it from the device. `None`: the device allows it, but it comes later.
    pub others: Vec<(KernelRef, Option<Obstacle>)>,
}

/// Whether a plan fuses. Tests compare both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fusion {
    On,
    Off,
}

impl Plan {
    /// # Errors
    ///
    /// Where the device allows none of an operator's kernels: [`DeviceProfile::refused`] has them all.
    pub fn new(graph: Graph, profile: &DeviceProfile, fusion: Fusion) -> Result<Self> {
        let mut groups = Groups::new(&graph, profile);
        let mut graph = match fusion {
            Fusion::On => fuse::fuse(graph, &mut groups),
            Fusion::Off => graph,
        };
        graph.prune();
        graph.verify();
        let (places, arena) = place(&graph, profile);
        let steps = dispatches(&graph, &groups, profile)?;
        Ok(Plan { graph, steps, arena, places, groups })
    }

    /// An output, and the first node after the one that writes it: where to go on when the host has changed it.
    ///
    /// # Panics
    ///
    /// If the graph has no such output.
    pub fn after_output(&self, name: &str) -> (ValueId, usize) {
        let found = self.graph.outputs.iter().find(|(output, _)| output == name);
        let &(_, id) = found.unwrap_or_else(|| panic!("the graph has no output {name}"));
        let writer = self.graph.nodes.iter().rposition(|node| node.writes.contains(&id));
        (id, writer.expect("a node writes each output") + 1)
    }

    /// The stored matrix that a weight is a part of.
    pub fn stored(&self, weight: ValueId) -> &StoredWeight {
        &self.groups.stored[self.groups.places[&weight].0]
    }
}

fn dispatches(graph: &Graph, groups: &Groups, profile: &DeviceProfile) -> Result<Vec<PlannedDispatch>> {
    let operand =
        |&id: &ValueId| Operand { id, ty: graph.ty(id).clone(), stored: groups.places.get(&id).map(|place| place.1) };
    let mut steps = Vec::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        let reads: Vec<Operand> = node.reads.iter().map(operand).collect();
        let writes: Vec<Operand> = node.writes.iter().map(operand).collect();
        let op = node.op.name();
        let (choice, dispatches) = choose(op, node.op.candidates(&reads, &writes, node.family, profile), profile)?;
        let step = |dispatch| PlannedDispatch { op, node: i, dispatch, choice: choice.clone() };
        steps.extend(dispatches.into_iter().map(step));
    }
    Ok(steps)
}

/// The first of an operator's candidates that the device allows.
fn choose(op: &str, candidates: Vec<Candidate>, profile: &DeviceProfile) -> Result<(Arc<Choice>, Vec<Dispatch>)> {
    let mut others = Vec::new();
    let mut taken = None;
    for candidate in candidates {
        let (kernel, obstacle) = (candidate.kernel(), profile.allows(candidate.kernel().0).err());
        if taken.is_none() && obstacle.is_none() {
            taken = Some(candidate);
        } else {
            others.push((kernel, obstacle));
        }
    }
    let Some(taken) = taken else {
        let left_out = |(kernel, obstacle): &(KernelRef, Option<Obstacle>)| {
            let because = obstacle.map_or(String::new(), |obstacle| format!(" ({obstacle})"));
            format!("{}{because}", kernel.0.name())
        };
        let list: Vec<String> = others.iter().map(left_out).collect();
        return Err(Error::device(format!(
            "no kernel is left for `{op}` on {}: {}; refuse fewer, or take another device",
            profile.name,
            list.join(", ")
        )));
    };
    let Candidate { dispatches, why } = own(taken, profile)?;
    Ok((Arc::new(Choice { kernel: dispatches[0].kernel, why, others }), dispatches))
}

/// The candidate by the user's own kernel, if there is one for it.
fn own(candidate: Candidate, profile: &DeviceProfile) -> Result<Candidate> {
    let Some(own) = profile.own.iter().find(|own| own.replaces(candidate.kernel())) else { return Ok(candidate) };
    match profile.lacks(&own.kernel.0.requires) {
        None => Ok(own.take(candidate)),
        Some(obstacle) => {
            let name = own.kernel.0.name();
            Err(Error::device(format!("{name} cannot run on {}: {obstacle}; change the file", profile.name)))
        }
    }
}

/// Offsets of inputs and temporaries. Inputs and outputs are alive to the end: the host may write and read them.
fn place(graph: &Graph, profile: &DeviceProfile) -> (BTreeMap<ValueId, (u64, u64)>, u64) {
    let end = graph.nodes.len() + 1;
    let mut alive: BTreeMap<ValueId, std::ops::Range<usize>> = BTreeMap::new();
    for (i, value) in graph.values.iter().enumerate() {
        if matches!(value.kind, ValueKind::Input(_)) {
            alive.insert(ValueId(i as u32), 0..end);
        }
    }
    let temp = |id: &&ValueId| matches!(graph.value(**id).kind, ValueKind::Temp);
    for (i, node) in graph.nodes.iter().enumerate() {
        for id in node.reads.iter().chain(&node.writes).filter(temp) {
            let range = alive.entry(*id).or_insert(i..i + 1);
            range.end = range.end.max(i + 1);
        }
    }
    for (_, id) in &graph.outputs {
        if let Some(range) = alive.get_mut(id) {
            range.end = end;
        }
    }
    // Shaders read vectors of four elements, so a value has whole ones.
    let bytes = |id: ValueId| graph.ty(id).bytes(profile).next_multiple_of(16);
    let lifetimes: Vec<Lifetime> =
        alive.iter().map(|(&id, alive)| Lifetime { alive: alive.clone(), bytes: bytes(id) }).collect();
    let (offsets, size) = memory::place(&lifetimes, profile.offset_alignment.max(256));
    let places = alive.keys().zip(offsets).map(|(&id, offset)| (id, (offset, bytes(id)))).collect();
    (places, size)
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} dispatches, arena {} bytes", self.steps.len(), self.arena)?;
        for (i, step) in self.steps.iter().enumerate() {
            let d = &step.dispatch;
            write!(f, "{i:4}  {:<14} {:<40} {:?}", step.op, d.kernel.0.name(), d.groups)?;
            for (name, value) in &d.constants {
                write!(f, " {name}={value}")?;
            }
            for slot in &d.slots {
                match slot {
                    Slot::Value(id) => write!(f, " {}", self.place_name(*id))?,
                    Slot::Plane { value, chunk, plane } => {
                        let (index, stored) = self.groups.places[value];
                        write!(f, " weight{index}.{chunk}.{}+{}", format!("{plane:?}").to_lowercase(), stored.first)?;
                    }
                }
            }
            let words: Vec<u32> = d.params.as_chunks().0.iter().map(|&word| u32::from_le_bytes(word)).collect();
            writeln!(f, " params{words:?}")?;
        }
        for (i, stored) in self.groups.stored.iter().enumerate() {
            let format = stored.dtype.map_or("vector", |dtype| dtype.name());
            writeln!(f, "weight{i} {format} {:?}x{} {}", stored.rows, stored.cols, stored.names.join(" + "))?;
        }
        Ok(())
    }
}

impl Plan {
    /// The distinct choices of kernels as text: how many dispatches each has, why it was made, and what else there was.
    pub fn choices(&self) -> String {
        let mut found: Vec<(&str, &Choice, usize)> = Vec::new();
        for step in &self.steps {
            match found.iter_mut().find(|(op, choice, _)| *op == step.op && **choice == *step.choice) {
                Some((.., count)) => *count += 1,
                None => found.push((step.op, &step.choice, 1)),
            }
        }
        let mut text = String::new();
        for (op, choice, count) in found {
            text += &format!("{count:>4} × {op:<14} {}: {}\n", choice.kernel.0.name(), choice.why);
            for (kernel, obstacle) in &choice.others {
                let because = obstacle.map_or("it comes after".to_string(), |obstacle| obstacle.to_string());
                text += &format!("{:22}not {}: {because}\n", "", kernel.0.name());
            }
        }
        text
    }

    fn place_name(&self, id: ValueId) -> String {
        match &self.graph.value(id).kind {
            ValueKind::State(name) | ValueKind::Table(name, _) => name.clone(),
            ValueKind::Weight(_) => format!("weight{}", self.groups.places[&id].0),
            ValueKind::Temp | ValueKind::Input(_) => {
                let (offset, bytes) = self.places[&id];
                format!("@{offset}+{bytes}")
            }
        }
    }
}
