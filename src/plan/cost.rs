//! Bytes and operations of a plan's dispatches, for the rows of one pass.

use crate::graph::ValueKind;
use crate::ops::cost::{Execution, Input};
use crate::plan::Plan;
use crate::work::{DeviceProfile, Row, ValueId};

/// Lower bounds of what a piece of work costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes that must be read and written, each once, weights in their own format.
    pub bytes: u64,
    /// Multiplications and additions of products, attention and convolutions; 0 for what mainly moves bytes.
    pub flops: u64,
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(costs: I) -> Cost {
        costs.fold(Cost::default(), |a, b| Cost { bytes: a.bytes + b.bytes, flops: a.flops + b.flops })
    }
}

impl Plan {
    /// The cost of a node of the graph in a pass with these rows.
    pub fn node_cost(&self, node: usize, rows: &[Row], profile: &DeviceProfile) -> Cost {
        let node = &self.graph.nodes[node];
        let input = |id: &ValueId| {
            let value = self.graph.value(*id);
            Input { ty: &value.ty, table: matches!(value.kind, ValueKind::Table(..)) }
        };
        let state = node.writes.iter().map(|&id| self.graph.value(id));
        let execution = Execution {
            op: &*node.op,
            reads: node.reads.iter().map(input).collect(),
            state: state.filter(|value| matches!(value.kind, ValueKind::State(_))).map(|value| &value.ty).collect(),
            rows,
            family: node.family,
        };
        Cost { bytes: execution.bytes(profile), flops: execution.flops().unwrap_or(0) }
    }

    /// The cost of each dispatch in a pass with these rows. The dispatches of one node, each of which computes a part of
    /// its result, share the node's cost as they share its workgroups.
    pub fn dispatch_costs(&self, rows: &[Row], profile: &DeviceProfile) -> Vec<Cost> {
        let groups = |i: usize| self.steps[i].dispatch.groups.iter().map(|&n| u64::from(n)).product::<u64>();
        let mut costs = Vec::with_capacity(self.steps.len());
        for steps in self.steps.chunk_by(|a, b| a.node == b.node) {
            let whole = self.node_cost(steps[0].node, rows, profile);
            let of_node = costs.len()..costs.len() + steps.len();
            let all: u64 = of_node.clone().map(groups).sum::<u64>().max(1);
            let share = |cost: u64, before: u64| (u128::from(cost) * u128::from(before) / u128::from(all)) as u64;
            let mut before = 0;
            for i in of_node {
                let after = before + groups(i);
                // The difference of two shares: the parts add up to the whole.
                let part = |cost| share(cost, after) - share(cost, before);
                costs.push(Cost { bytes: part(whole.bytes), flops: part(whole.flops) });
                before = after;
            }
        }
        costs
    }

    /// The cost of a whole pass with these rows.
    pub fn cost(&self, rows: &[Row], profile: &DeviceProfile) -> Cost {
        (0..self.graph.nodes.len()).map(|node| self.node_cost(node, rows, profile)).sum()
    }
}
