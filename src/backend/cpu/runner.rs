//! Runs one graph with memory from the host, with the references, which define what is right, or with the kernels.

use std::collections::HashMap;
use std::sync::Arc;

use crate::backend::Progress;
use crate::backend::cpu::memory::{Bound, Memory};
use crate::backend::cpu::profile;
use crate::backend::cpu::weights::Weights;
use crate::graph::{Graph, ValueKind};
use crate::ops::{Elem, Read};
use crate::plan::{Fusion, Plan};
use crate::threads::Team;
use crate::work::{Row, ValueId};

/// Runs one graph on the CPU.
pub struct Runner<'a> {
    pub graph: &'a Graph,
    pub weights: &'a Weights,
    /// State by name; it is written in place.
    pub state: &'a mut HashMap<String, Vec<f32>>,
    /// Inputs by name.
    pub inputs: HashMap<String, Vec<f32>>,
}

impl Runner<'_> {
    /// Executes every node with its reference. Returns the outputs in order.
    pub fn run(self, rows: &[Row]) -> Vec<(String, Vec<f32>)> {
        self.run_with(rows, &|_, _| {})
    }

    /// [`Runner::run`], which reports to `progress` how many nodes are done.
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

    /// Executes the graph with the CPU's kernels, as a session does. `rounds`: see [`crate::cpu::Call::rounds`]. Returns
    /// the outputs in order.
    pub fn run_kernels(self, rows: &[Row], rounds: bool, team: &Team) -> Vec<(String, Vec<f32>)> {
        let mut ready = self.bind(rounds, team);
        ready.run(rows, team);
        for (name, data) in self.state {
            let held = ready.memory.state_mut(name);
            data.copy_from_slice(held);
        }
        let outputs = self.graph.outputs.iter();
        outputs.map(|(name, id)| (name.clone(), ready.memory.read(&ready.bound.plan, *id).to_vec())).collect()
    }

    /// The graph bound to memory of its own, with inputs and state written: it can run repeatedly.
    pub fn bind(&self, rounds: bool, team: &Team) -> Ready {
        let Runner { graph, weights, state, inputs } = self;
        let plan = Plan::new((*graph).clone(), &profile(), Fusion::Off).expect("the CPU refuses no kernel");
        let mut memory = Memory::new(team);
        for value in &graph.values {
            if let ValueKind::State(name) = &value.kind {
                let data = &state[name];
                memory.reserve_state(name, 1, data.len());
                memory.state_mut(name)[..data.len()].copy_from_slice(data);
            }
        }
        let bound = Bound::new(Arc::new(plan), weights, rounds, &mut memory);
        for (id, value) in graph.values.iter().enumerate() {
            if let ValueKind::Input(name) = &value.kind {
                memory.write(&bound.plan, ValueId(id as u32), &inputs[name]);
            }
        }
        Ready { bound, memory }
    }
}

/// A graph that can run repeatedly with the CPU's kernels, on the team that it was bound for.
pub struct Ready {
    bound: Bound,
    memory: Memory,
}

impl Ready {
    pub fn run(&mut self, rows: &[Row], team: &Team) {
        self.bound.run(&mut self.memory, team, rows, 0..self.bound.len());
    }
}
