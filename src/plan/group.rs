//! Matrices that read the same vector are stored as one: q, k and v; gate and up.
//!
//! A fused operator then reads them as one matrix, and an unfused one its rows of it: every plan of a model shares one
//! copy of the matrices. Grouping looks at the whole graph, before anything is dropped or fused. Vectors that one binding
//! of a fused operator holds (gain and biases) are small: they are stored together once more.

use std::any::Any;
use std::collections::BTreeMap;

use crate::graph::{Graph, ValueKind};
use crate::ops::linear::Linear;
use crate::ops::{Elem, Operator, Stored};
use crate::tensor::DType;
use crate::work::layout::WeightLayout;
use crate::work::{DeviceProfile, ValueId};

/// A matrix as it is stored: tensors of one format, one below the other. Or a vector of float32, or several end to end.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredWeight {
    pub names: Vec<String>,
    /// Rows of each tensor; a vector by itself is one row, the elements of several are a row each.
    pub rows: Vec<usize>,
    pub cols: usize,
    /// `None`: float32, as vectors are.
    pub dtype: Option<DType>,
}

impl StoredWeight {
    /// The tensors and their shapes.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, Vec<usize>)> {
        self.names.iter().zip(&self.rows).map(|(name, &rows)| match self.dtype {
            Some(_) => (name.as_str(), vec![rows, self.cols]),
            None => (name.as_str(), vec![rows * self.cols]),
        })
    }
}

/// Which stored matrix a weight is a part of, and where.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    pub stored: Vec<StoredWeight>,
    /// Weight → (index in `stored`, place in it).
    pub places: BTreeMap<ValueId, (usize, Stored)>,
    /// The weights of each stored matrix, in order; not those that fusion joins from them.
    members: Vec<Vec<ValueId>>,
    /// The device's largest binding: a stored matrix that is larger lies in several chunks.
    max_binding: u64,
    /// The most threads of a workgroup on the device.
    pub max_invocations: u32,
}

impl Groups {
    pub fn new(graph: &Graph, profile: &DeviceProfile) -> Self {
        let mut groups =
            Groups { max_binding: profile.max_binding, max_invocations: profile.max_invocations, ..Groups::default() };
        let mut siblings: BTreeMap<ValueId, Vec<ValueId>> = BTreeMap::new();
        for node in graph.nodes.iter().filter(|node| is_affine(node.op.as_ref())) {
            siblings.entry(node.reads[0]).or_default().push(node.reads[1]);
        }
        for weights in siblings.values() {
            let mut group: Vec<ValueId> = Vec::new();
            for &weight in weights {
                if groups.places.contains_key(&weight) || group.contains(&weight) {
                    continue; // a shared layer's second execution, or a head that is the embedding
                }
                let fits = group.first().is_none_or(|&first| joinable(graph, &group, first, weight, profile));
                if !fits {
                    groups.push(graph, &group);
                    group.clear();
                }
                group.push(weight);
            }
            groups.push(graph, &group);
        }
        // Everything else is stored by itself.
        for (i, value) in graph.values.iter().enumerate() {
            let id = ValueId(i as u32);
            if matches!(value.kind, ValueKind::Weight(_)) && !groups.places.contains_key(&id) {
                groups.push(graph, &[id]);
            }
        }
        groups
    }

    /// The weights that share a stored matrix with `weight`, in its order.
    pub fn members(&self, weight: ValueId) -> &[ValueId] {
        &self.members[self.places[&weight].0]
    }

    /// Whether the matrix that `weight` is stored in is one chunk: operators that fuse several products want that.
    pub fn whole(&self, weight: ValueId) -> bool {
        let stored = &self.stored[self.places[&weight].0];
        let dtype = stored.dtype.expect("a matrix has a format");
        WeightLayout::new(dtype, stored.rows.iter().sum(), stored.cols, self.max_binding).whole()
    }

    /// Vectors, end to end as the new value `joined`.
    pub fn join_vectors(&mut self, graph: &Graph, vectors: &[ValueId], joined: ValueId) {
        let rows: Vec<usize> = vectors.iter().map(|&id| graph.ty(id).count()).collect();
        let names: Vec<String> = vectors.iter().flat_map(|&id| names(graph, id).iter().cloned()).collect();
        let known = self.stored.iter().position(|stored| stored.names == names);
        let index = known.unwrap_or(self.stored.len());
        self.places.insert(joined, (index, Stored { rows: rows.iter().sum(), first: 0 }));
        if known.is_none() {
            self.members.push(vec![joined]);
            self.stored.push(StoredWeight { names, rows, cols: 1, dtype: None });
        }
    }

    fn push(&mut self, graph: &Graph, group: &[ValueId]) {
        let Some(&first) = group.first() else { return };
        let ty = graph.ty(first);
        let rows: Vec<usize> = group
            .iter()
            .map(|&id| graph.ty(id).shape[..].split_last().map_or(1, |(_, r)| r.iter().product()))
            .collect();
        let total = rows.iter().sum();
        let mut at = 0;
        for (&id, &rows) in group.iter().zip(&rows) {
            self.places.insert(id, (self.stored.len(), Stored { rows: total, first: at }));
            at += rows;
        }
        self.members.push(group.to_vec());
        self.stored.push(StoredWeight {
            names: group.iter().flat_map(|&id| names(graph, id).iter().cloned()).collect(),
            rows,
            cols: *ty.shape.last().expect("a weight has a shape"),
            dtype: match ty.elem {
                Elem::Weight(dtype) => Some(dtype),
                _ => None,
            },
        });
    }
}

/// Whether an operator is x · Wᵀ, perhaps with a bias. Operators with several weights are fused from such products.
fn is_affine(op: &dyn Operator) -> bool {
    (op as &dyn Any).downcast_ref::<Linear>().is_some_and(Linear::is_affine)
}

/// Whether `weight` may join the group: it has the same format and width, and together they fit one binding.
fn joinable(graph: &Graph, group: &[ValueId], first: ValueId, weight: ValueId, profile: &DeviceProfile) -> bool {
    let (a, b) = (graph.ty(first), graph.ty(weight));
    let rows: usize = group.iter().chain([&weight]).map(|&id| graph.ty(id).matrix().0).sum();
    let cols = a.matrix().1;
    a.elem == b.elem && cols == b.matrix().1 && WeightLayout::new(a.dtype(), rows, cols, profile.max_binding).whole()
}

fn names(graph: &Graph, id: ValueId) -> &[String] {
    match &graph.value(id).kind {
        ValueKind::Weight(names) => names,
        other => panic!("expected a weight, found {other:?}"),
    }
}
