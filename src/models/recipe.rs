//! Everything from which the graphs of a model are built: for the CPU, for a GPU, and for inspection.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::checkpoint::{Checkpoint, Config};
use crate::error::Result;
use crate::graph::{Graph, GraphBuilder, ValueKind};
use crate::models::angles::{AngleTable, angles};
use crate::models::{self, Pass};
use crate::tensor::DType;

/// Builds the graphs of one model, for any pass.
#[derive(Clone, Debug)]
pub struct Recipe {
    config: Config,
    /// The storage format of each tensor.
    formats: Arc<BTreeMap<String, DType>>,
    angles: AngleTable,
}

impl Recipe {
    /// Makes a recipe for sequences of up to `context` tokens.
    ///
    /// Errors: the names or shapes of the checkpoint's tensors differ from those that the model reads; the context is
    /// too long for a table of angles; the architecture cannot be run.
    pub fn new(checkpoint: &Checkpoint, context: usize) -> Result<Self> {
        let format = |name: &str| Some((name.to_string(), checkpoint.dtype(name)?));
        let formats = checkpoint.tensors().filter_map(|tensor| format(tensor.name)).collect();
        let angles = angles(&checkpoint.config, context.max(1))?;
        let recipe = Recipe { config: checkpoint.config.clone(), formats: Arc::new(formats), angles };
        checkpoint.check(&recipe.tensors()?)?;
        Ok(recipe)
    }

    /// The graph of a pass.
    pub fn graph(&self, pass: Pass) -> Result<Graph> {
        models::build(&self.config, GraphBuilder::new(&|name| self.format(name)), &self.angles, pass)
    }

    /// The graph that converts a picture into tokens, where the model has a vision half.
    pub fn vision(&self) -> Option<Graph> {
        models::build_vision(&self.config, GraphBuilder::new(&|name| self.format(name)))
    }

    /// The names and shapes of the tensors that the model's graphs read.
    fn tensors(&self) -> Result<BTreeMap<String, Vec<usize>>> {
        let mut tensors = BTreeMap::new();
        for graph in [self.graph(Pass::decode(1))?].iter().chain(&self.vision()) {
            for value in &graph.values {
                if let ValueKind::Weight(names) = &value.kind {
                    tensors.extend(names.iter().map(|name| (name.clone(), value.ty.shape.clone())));
                }
            }
        }
        Ok(tensors)
    }

    /// The format of a tensor. For a missing tensor any format will do, because building the graph reports the tensor.
    fn format(&self, name: &str) -> DType {
        self.formats.get(name).copied().unwrap_or(DType::F32)
    }
}
