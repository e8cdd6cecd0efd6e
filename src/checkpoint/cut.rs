//! A model with fewer heads and feed-forward channels: selects rows and columns of its matrices in their stored form.

use super::config::layer_tensor;
use super::stored::{Element, Stored};
use super::{Checkpoint, Source};
use crate::error::{Error, Result};
use crate::tensor::{Bytes, RowOrder};

/// The parts of a layer that are kept: indices in ascending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Key/value heads. Key/value head k keeps its query heads k·r … k·r + r − 1, r = query heads / key/value heads.
    pub kv_heads: Vec<usize>,
    /// Channels of the feed-forward block.
    pub channels: Vec<usize>,
}

/// The unit in which a dimension of a tensor is counted.
#[derive(Clone, Copy)]
enum Unit {
    QueryHead,
    KvHead,
    Channel,
}

/// The tensors of a layer that depend on its heads and channels: (name, dimension, unit of the dimension).
const CUT: [(&str, usize, Unit); 12] = [
    ("self_attn.q_proj.weight", 0, Unit::QueryHead), // (heads · D, hidden)
    ("self_attn.q_proj.bias", 0, Unit::QueryHead),   // (heads · D)
    ("self_attn.k_proj.weight", 0, Unit::KvHead),    // (kv heads · D, hidden)
    ("self_attn.k_proj.bias", 0, Unit::KvHead),      // (kv heads · D)
    ("self_attn.v_proj.weight", 0, Unit::KvHead),    // (kv heads · D, hidden)
    ("self_attn.v_proj.bias", 0, Unit::KvHead),      // (kv heads · D)
    ("self_attn.o_proj.weight", 1, Unit::QueryHead), // (hidden, heads · D)
    ("mlp.gate_proj.weight", 0, Unit::Channel),      // (ffn, hidden)
    ("mlp.gate_proj.bias", 0, Unit::Channel),        // (ffn)
    ("mlp.up_proj.weight", 0, Unit::Channel),        // (ffn, hidden)
    ("mlp.up_proj.bias", 0, Unit::Channel),          // (ffn)
    ("mlp.down_proj.weight", 1, Unit::Channel),      // (hidden, ffn)
];

impl Checkpoint {
    /// The same model with only some heads and channels. The kept elements are copied byte for byte.
    ///
    /// Errors: the model is a GGUF file, a tensor has another shape than the configuration says, or its elements share
    /// blocks of bytes and cannot be separated.
    pub fn cut(&self, kept: &[Kept]) -> Result<Self> {
        let Source::Folder(files) = &self.source else {
            return Err(Error::unsupported(format!(
                "{} is a GGUF file, whose blocks of weights cannot be cut by columns; prune a Hugging Face folder of \
                 floats and convert what comes out",
                self.path.display(),
            )));
        };
        assert_eq!(kept.len(), self.config.layers, "what stays, layer by layer");
        assert!(kept.iter().all(|kept| !kept.kv_heads.is_empty() && !kept.channels.is_empty()), "a layer keeps a part");
        let (mut config, mut tensors) = (self.config.clone(), self.tensors.clone());
        for (layer, kept) in kept.iter().enumerate() {
            let (d, kv_heads) = (config.head_dim, config.kv_heads[layer]);
            let group = config.heads[layer] / kv_heads;
            let query_heads: Vec<usize> = kept.kv_heads.iter().flat_map(|k| k * group..(k + 1) * group).collect();
            for (name, dimension, unit) in CUT {
                let name = layer_tensor(layer, name);
                let Some(stored) = tensors.get_mut(&name) else { continue };
                let (units, size, all) = match unit {
                    Unit::QueryHead => (&query_heads, d, config.heads[layer]),
                    Unit::KvHead => (&kept.kv_heads, d, kv_heads),
                    Unit::Channel => (&kept.channels, 1, config.ffn[layer]),
                };
                stored.check_units(&name, dimension, size * all)?;
                if units.len() < all {
                    *stored = stored.kept(&name, dimension, size, units)?;
                }
            }
            (config.heads[layer], config.kv_heads[layer]) = (query_heads.len(), kept.kv_heads.len());
            config.ffn[layer] = kept.channels.len();
        }
        Ok(Self { config, path: self.path.clone(), source: Source::Folder(files.clone()), tensors, weights: None })
    }
}

impl Stored {
    /// Checks that a dimension of a matrix, or of a bias, has `size` indices, and that no other is empty.
    fn check_units(&self, name: &str, dimension: usize, size: usize) -> Result<()> {
        let rank = if name.ends_with("bias") { 1 } else { 2 };
        if self.shape.len() == rank && self.shape[dimension] == size && !self.shape.contains(&0) {
            return Ok(());
        }
        Err(Error::checkpoint(format!(
            "{}: tensor `{name}` has shape {:?}, expected {rank} dimensions with {size} in dimension {dimension}; config.json \
             may be that of another model",
            self.file.display(),
            self.shape,
        )))
    }

    /// The elements that belong to `units` of a dimension; each unit has `size` indices.
    fn kept(&self, name: &str, dimension: usize, size: usize, units: &[usize]) -> Result<Self> {
        let bytes = self.element_bytes().ok_or_else(|| {
            Error::unsupported(format!(
                "{}: tensor `{name}` holds {} elements, which cannot be cut; pruning takes f32, f16 and bf16",
                self.file.display(),
                self.element.name(),
            ))
        })?;
        let whole = self.contiguous(bytes);
        // Dimensions are (before, dimension, after): a unit is `run` bytes in each of the `before` rows.
        let run = size * bytes * self.shape[dimension + 1..].iter().product::<usize>();
        let row = run / size * self.shape[dimension];
        let mut shape = self.shape.clone();
        shape[dimension] = size * units.len();
        let mut kept = Vec::with_capacity(whole.len() / self.shape[dimension].max(1) * shape[dimension]);
        for row in whole.chunks_exact(row) {
            for unit in units {
                kept.extend_from_slice(&row[unit * run..(unit + 1) * run]);
            }
        }
        let (file, element) = (self.file.clone(), self.element.clone());
        Ok(Stored {
            file,
            element,
            shape,
            view: None,
            bytes: Bytes::new(kept),
            order: RowOrder::Stored,
            less_1: self.less_1,
        })
    }

    /// Bytes of an element, or `None` where elements share blocks of bytes or the type cannot be run.
    pub(super) fn element_bytes(&self) -> Option<usize> {
        match self.element {
            Element::Run(dtype) if dtype.block().0 == 1 => Some(dtype.block().1),
            Element::F64 => Some(8),
            _ => None,
        }
    }
}
