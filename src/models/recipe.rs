//! What every graph of a model is built from: on the CPU, on a GPU, and for looking at.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::checkpoint::{Checkpoint, Config};
use crate::error::{Error, Result};
use crate::graph::{Graph, GraphBuilder, ValueKind};
use crate::models::{self, Pass};
use crate::tensor::DType;

/// Builds the graphs of one model, for any pass.
#[derive(Clone, Debug)]
pub struct Recipe {
    config: Config,
    /// The format of each tensor.
    formats: Arc<BTreeMap<String, DType>>,
    /// cos and sin of each position's angles: (context, head_dim).
    angles: Arc<Vec<f32>>,
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

/// cos and sin of position · θ_i: (context, head_dim), pairs side by side. In f32 throughout, as the reference has it.
pub fn angles(config: &Config, context: usize) -> Result<Arc<Vec<f32>>> {
    let bytes = angle_bytes(config, context);
    if bytes > MOST_ANGLE_BYTES {
        return Err(Error::out_of_memory(format!(
            "a context of {context} tokens needs {} MB for the angles of its positions, at most {} MB are made; take a \
             shorter --context",
            bytes >> 20,
            MOST_ANGLE_BYTES >> 20
        )));
    }
    let angle = |position: usize, theta: &f32| position as f32 * theta;
    let row = |position| config.rope.inv_freq.iter().map(move |theta| angle(position, theta));
    Ok(Arc::new((0..context).flat_map(row).flat_map(|angle| [angle.cos(), angle.sin()]).collect()))
}

/// Bytes of [`angles`].
pub fn angle_bytes(config: &Config, context: usize) -> u64 {
    (context as u64).saturating_mul(4 * config.head_dim as u64)
}

/// A context of 4 million tokens with heads of 64: far past any model, and short of hurting the machine.
const MOST_ANGLE_BYTES: u64 = 1 << 30;
