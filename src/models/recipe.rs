//! What every graph of a model is built from: on the CPU, on a GPU, and for looking at.

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
    /// The format of each tensor.
    formats: Arc<BTreeMap<String, DType>>,
    angles: AngleTable,
}

impl Recipe {
    /// For sequences of up to `context` tokens.
    ///
    /// Errors: the checkpoint does not hold just the tensors that the model reads, in their shapes; the context is too
    /// long for the angles of its positions; the architecture is not one that can be run.
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

    /// The graph that turns a picture into tokens, where the model has one.
    pub fn vision(&self) -> Option<Graph> {
        models::build_vision(&self.config, GraphBuilder::new(&|name| self.format(name)))
    }

    /// The tensors that the model reads, where its graphs name them: names and shapes.
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

    /// Of a tensor that is missing, any: the graph that asks for it tells that it is missing.
    fn format(&self, name: &str) -> DType {
        self.formats.get(name).copied().unwrap_or(DType::F32)
    }
}
