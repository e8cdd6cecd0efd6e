//! Graphs: append-only lists of nodes and values. Building one computes nothing.

mod builder;
mod print;

pub use builder::GraphBuilder;

use std::sync::Arc;

use crate::ops::{Operator, TensorType};
use crate::work::{Family, ValueId};

/// Nodes in an order that may be executed.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    pub values: Vec<Value>,
    pub nodes: Vec<Node>,
    /// Values that the host reads afterwards, by name.
    pub outputs: Vec<(String, ValueId)>,
}

/// Something that nodes read or write.
#[derive(Clone, Debug)]
pub struct Value {
    pub ty: TensorType,
    pub kind: ValueKind,
}

/// Where a value comes from and how long it lasts.
#[derive(Clone, Debug)]
pub enum ValueKind {
    /// Given by the host before a run.
    Input(String),
    /// A tensor of the checkpoint, by name; several are one below the other.
    Weight(Vec<String>),
    /// Computed on the host once (angles of rope).
    Table(String, Arc<Vec<f32>>),
    /// Lasts from run to run, one for each sequence, and is written in place (KV cache, tokens).
    State(String),
    /// Written by one node, read by later ones.
    Temp,
}

/// One application of an operator.
#[derive(Clone, Debug)]
pub struct Node {
    pub op: Arc<dyn Operator>,
    pub reads: Vec<ValueId>,
    /// State written in place, then the results.
    pub writes: Vec<ValueId>,
    pub family: Family,
}

impl Graph {
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    pub fn ty(&self, id: ValueId) -> &TensorType {
        &self.value(id).ty
    }

    /// Panics where a node reads a temporary before it is written, or a temporary is written twice.
    pub fn verify(&self) {
        let mut written = vec![false; self.values.len()];
        let temp = |id: ValueId| matches!(self.value(id).kind, ValueKind::Temp);
        for node in &self.nodes {
            for &id in node.reads.iter().filter(|&&id| temp(id)) {
                assert!(written[id.0 as usize], "{} reads {id:?} before it is written", node.op.name());
            }
            for &id in node.writes.iter().filter(|&&id| temp(id)) {
                assert!(!written[id.0 as usize], "{} writes {id:?} again", node.op.name());
                written[id.0 as usize] = true;
            }
        }
        for (name, id) in self.outputs.iter().filter(|(_, id)| temp(*id)) {
            assert!(written[id.0 as usize], "output {name} is never written");
        }
    }

    /// Drops nodes whose results nobody uses.
    pub fn prune(&mut self) {
        let mut used = vec![false; self.values.len()];
        for (_, id) in &self.outputs {
            used[id.0 as usize] = true;
        }
        let mut keep = vec![false; self.nodes.len()];
        for (i, node) in self.nodes.iter().enumerate().rev() {
            let state = |id: &ValueId| matches!(self.value(*id).kind, ValueKind::State(_));
            keep[i] = node.writes.iter().any(|id| used[id.0 as usize] || state(id));
            if keep[i] {
                node.reads.iter().for_each(|id| used[id.0 as usize] = true);
            }
        }
        let mut keep = keep.into_iter();
        self.nodes.retain(|_| keep.next() == Some(true));
    }
}
