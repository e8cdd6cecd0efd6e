//! A graph as text, one line a node: what snapshots and bug reports show.

use std::fmt;

use crate::graph::{Graph, ValueKind};
use crate::work::ValueId;

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |id: &ValueId| match &self.value(*id).kind {
            ValueKind::Input(name) | ValueKind::Table(name, _) | ValueKind::State(name) => name.clone(),
            ValueKind::Weight(names) => names.join(" + "),
            ValueKind::Temp => format!("%{}", id.0),
        };
        let list = |ids: &[ValueId]| ids.iter().map(|id| format!("{} {}", name(id), self.ty(*id))).collect::<Vec<_>>();
        for node in &self.nodes {
            writeln!(f, "{} = {}({})", list(&node.writes).join(", "), node.op.name(), list(&node.reads).join(", "))?;
        }
        for (output, id) in &self.outputs {
            writeln!(f, "output {output}: {}", name(id))?;
        }
        Ok(())
    }
}
