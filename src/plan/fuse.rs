//! Graph → graph: operators that can be one dispatch become one operator.
//!
//! Decoding, a layer becomes five, whatever the number of rows:
//!
//! ```text
//! rms_norm, linear ×3, rope ×2, cache_write ×2   →  norm_qkv_rope, biases or not
//! attention                                          attention
//! linear, add                                    →  linear
//! rms_norm, linear ×2, swiglu                    →  norm_swiglu
//! linear, add                                    →  linear
//! ```
//!
//! In decoding and in prompts, `linear` takes over the activation and the residual that follow it.

use std::any::Any;
use std::sync::Arc;

use crate::graph::{Graph, Node, Value, ValueKind};
use crate::kernel::{Family, ValueId};
use crate::ops::activation::Activation;
use crate::ops::linear::Linear;
use crate::ops::norm_matmul::NormMatmul;
use crate::ops::norm_qkv_rope::NormQkvRope;
use crate::ops::norm_swiglu::NormSwiglu;
use crate::ops::rms_norm::RmsNorm;
use crate::ops::rope::{Angles, Rope};
use crate::ops::{Operator, Stored, TensorType};
use crate::plan::group::Groups;

/// All rules, in order. What they leave unused is dropped.
pub fn fuse(graph: Graph, groups: &mut Groups) -> Graph {
    let mut fuser = Fuser::new(graph, groups);
    for i in 0..fuser.graph.nodes.len() {
        fuser.norm_qkv_rope(i);
        fuser.norm_swiglu(i);
        fuser.linear_activation(i);
        fuser.linear_residual(i);
    }
    for i in 0..fuser.graph.nodes.len() {
        fuser.norm_matmul(i);
    }
    let mut graph = fuser.finish();
    graph.prune();
    graph.verify();
    graph
}

struct Fuser<'a> {
    graph: Graph,
    groups: &'a mut Groups,
    /// Which node writes a value.
    producer: Vec<Option<usize>>,
    /// How many nodes and outputs read a value.
    uses: Vec<usize>,
    /// What node i becomes; `None` leaves it.
    replaced: Vec<Option<Vec<Node>>>,
}

impl<'a> Fuser<'a> {
    fn new(graph: Graph, groups: &'a mut Groups) -> Self {
        let mut producer = vec![None; graph.values.len()];
        let mut uses = vec![0; graph.values.len()];
        for (i, node) in graph.nodes.iter().enumerate() {
            node.reads.iter().for_each(|id| uses[id.0 as usize] += 1);
            for id in node.writes.iter().filter(|id| matches!(graph.value(**id).kind, ValueKind::Temp)) {
                producer[id.0 as usize] = Some(i);
            }
        }
        graph.outputs.iter().for_each(|(_, id)| uses[id.0 as usize] += 1);
        let replaced = vec![None; graph.nodes.len()];
        Fuser { graph, groups, producer, uses, replaced }
    }

    fn finish(self) -> Graph {
        let Graph { values, nodes, outputs } = self.graph;
        let nodes = nodes.into_iter().zip(self.replaced).flat_map(|(node, new)| new.unwrap_or_else(|| vec![node]));
        Graph { values, nodes: nodes.collect(), outputs }
    }

    /// f(linear(…))  →  linear(…) with f
    fn linear_activation(&mut self, i: usize) {
        let Some(&Activation { kind }) = self.op::<Activation>(i) else { return };
        let Some(linear) = self.linear_of(self.graph.nodes[i].reads[0]) else { return };
        let Some(op @ Linear { activation: None, .. }) = self.op::<Linear>(linear).cloned() else { return };
        self.take_into(linear, i, Linear { activation: Some(kind), ..op }, None);
    }

    /// add(x, linear(…))  →  linear(…, x)
    fn linear_residual(&mut self, i: usize) {
        let node = &self.graph.nodes[i];
        if node.op.name() != "add" {
            return;
        }
        let [a, b] = node.reads[..] else { return };
        let found = [(a, b), (b, a)].into_iter().find_map(|(x, sum)| Some((x, self.linear_of(sum)?)));
        let Some((residual, linear)) = found else { return };
        let Some(op) = self.op::<Linear>(linear).cloned() else { return };
        self.take_into(linear, i, Linear { residual: true, ..op }, Some(residual));
    }

    /// The linear node that writes `value`, if it adds no residual yet and its result has one reader.
    fn linear_of(&self, value: ValueId) -> Option<usize> {
        let node = self.used_once::<Linear>(value)?;
        self.op::<Linear>(node)?.residual.eq(&false).then_some(node)
    }

    /// Node `i` becomes `op` with what `linear` reads, and `more`. Later rules see it.
    fn take_into(&mut self, linear: usize, i: usize, op: Linear, more: Option<ValueId>) {
        let reads = self.graph.nodes[linear].reads.iter().copied().chain(more).collect();
        self.replaced[linear] = Some(Vec::new());
        let node = &mut self.graph.nodes[i];
        (node.op, node.reads) = (Arc::new(op), reads);
    }

    /// The linear node that writes `value`, if it is x · Wᵀ alone and its result has one reader.
    fn product_of(&self, value: ValueId) -> Option<usize> {
        let node = self.linear_of(value)?;
        self.op::<Linear>(node)?.is_product().then_some(node)
    }

    /// The linear node that writes `value`, if it is x · Wᵀ, perhaps with a bias, and nobody else reads its result.
    fn affine_of(&self, value: ValueId) -> Option<usize> {
        let node = self.linear_of(value)?;
        self.op::<Linear>(node)?.is_affine().then_some(node)
    }

    /// linear(rms_norm(x, g), W)  →  norm_matmul(x, g, W), in decoding
    fn norm_matmul(&mut self, i: usize) {
        if self.replaced[i].is_some() || !self.op::<Linear>(i).is_some_and(Linear::is_product) {
            return;
        }
        let Some((x, gain, eps)) = self.norm_of(self.graph.nodes[i].reads[0]) else { return };
        let node = &self.graph.nodes[i];
        let family = node.family;
        let reads = vec![x, gain, node.reads[1]];
        let writes = node.writes.clone();
        self.replace(i, &[], vec![Node { op: Arc::new(NormMatmul { eps }), reads, writes, family }]);
    }

    /// swiglu(linear(n, Wgate), linear(n, Wup)), n = rms_norm(x, g)  →  norm_swiglu(x, g, W), in decoding
    fn norm_swiglu(&mut self, i: usize) {
        let node = &self.graph.nodes[i];
        let family = node.family;
        if node.op.name() != "swiglu" {
            return;
        }
        let parts: Option<Vec<usize>> = node.reads.iter().map(|&id| self.product_of(id)).collect();
        let Some([gate, up]) = parts.as_deref().and_then(|parts| <[usize; 2]>::try_from(parts).ok()) else { return };
        let (gate_reads, up_reads) = (&self.graph.nodes[gate].reads, &self.graph.nodes[up].reads);
        let members = self.groups.members(gate_reads[1]).to_vec();
        if gate_reads[0] != up_reads[0] || members != [gate_reads[1], up_reads[1]] {
            return;
        }
        let Some((x, gain, eps)) = self.norm_of(gate_reads[0]) else { return };
        let writes = node.writes.clone();
        let w = self.joined(&members);
        self.replace(
            i,
            &[gate, up],
            vec![Node { op: Arc::new(NormSwiglu { eps }), reads: vec![x, gain, w], writes, family }],
        );
    }

    /// The operators before attention: n = rms_norm(x, g); q, k, v = linear(n, ·), all with a bias or none; rope of q and k;
    /// cache writes of k and v
    ///   →  one norm_qkv_rope for each stored matrix that q, k and v lie in, in decoding
    fn norm_qkv_rope(&mut self, i: usize) {
        let node = &self.graph.nodes[i];
        let family = node.family;
        if node.op.name() != "attention" {
            return;
        }
        let (q, keys, values) = (node.reads[0], node.reads[1], node.reads[2]);
        let Some((q_rope, q_linear)) = self.rope_of(q) else { return };
        let Some(k_write) = self.write_before(i, keys) else { return };
        let Some(v_write) = self.write_before(i, values) else { return };
        let Some((k_rope, k_linear)) = self.rope_of(self.graph.nodes[k_write].reads[0]) else { return };
        let Some(v_linear) = self.affine_of(self.graph.nodes[v_write].reads[0]) else { return };
        let linears = [q_linear, k_linear, v_linear];
        let n = self.graph.nodes[q_linear].reads[0];
        if linears.iter().any(|&m| self.graph.nodes[m].reads[0] != n) {
            return;
        }
        let biases: Vec<ValueId> = linears.iter().filter_map(|&m| self.graph.nodes[m].reads.get(2).copied()).collect();
        if !matches!(biases.len(), 0 | 3) {
            return;
        }
        let Some((x, gain, eps)) = self.norm_of(n) else { return };
        let (Some(rope), Some(k_angles)) =
            (self.op::<Rope>(q_rope).cloned(), self.op::<Rope>(k_rope).map(|k| k.angles))
        else {
            return;
        };
        if k_angles != (Angles { first: 0, ..rope.angles }) {
            return;
        }
        let angles = self.graph.nodes[q_rope].reads[1];
        let weights = linears.map(|m| self.graph.nodes[m].reads[1]);
        if !weights.iter().all(|&weight| self.groups.whole(weight)) {
            return;
        }
        let kv_heads = self.graph.ty(keys).shape[1];

        // Parts: weights that are stored together, in order q, k, v.
        let mut parts: Vec<Vec<usize>> = Vec::new();
        for (which, weight) in weights.iter().enumerate() {
            match parts.last_mut() {
                Some(part) if self.groups.places[&weights[part[0]]].0 == self.groups.places[weight].0 => {
                    part.push(which)
                }
                _ => parts.push(vec![which]),
            }
        }
        let (m, _) = self.graph.ty(x).matrix();
        let mut nodes = Vec::new();
        for part in parts {
            let members: Vec<ValueId> = part.iter().map(|&which| weights[which]).collect();
            let own: Vec<ValueId> = part.iter().filter_map(|&which| biases.get(which).copied()).collect();
            let vectors = if own.is_empty() { gain } else { self.joined_vectors(&[&[gain], &own[..]].concat()) };
            let rows = |which: usize| if part.contains(&which) { self.graph.ty(weights[which]).matrix().0 } else { 0 };
            let op = NormQkvRope {
                eps,
                bias: !own.is_empty(),
                q_rows: rows(0),
                k_rows: rows(1),
                v_rows: rows(2),
                kv_heads,
                head_dim: rope.head_dim,
                interleaved: rope.interleaved,
                q_angles: rope.angles,
            };
            let w = if members.len() == 1 { members[0] } else { self.joined(&members) };
            let out = if op.q_rows > 0 { q } else { self.temp(TensorType::f32([m, 1])) };
            nodes.push(Node {
                op: Arc::new(op),
                reads: vec![x, vectors, w, angles],
                writes: vec![keys, values, out],
                family,
            });
        }
        nodes.push(self.graph.nodes[i].clone());
        self.replace(i, &[q_linear, k_linear, v_linear, q_rope, k_rope, k_write, v_write], nodes);
    }

    /// (x, gain, eps) where `value` is the norm of decoded rows. In a fused kernel each workgroup computes the norms again, which
    /// costs too much where there are many rows.
    fn norm_of(&self, value: ValueId) -> Option<(ValueId, ValueId, f32)> {
        let node = self.producer[value.0 as usize]?;
        let norm = self.op::<RmsNorm>(node)?;
        let Node { reads, family, .. } = &self.graph.nodes[node];
        (*family == Family::Few).then_some((reads[0], reads[1], norm.eps))
    }

    /// (rope, linear) where `value` is a rotated product with one reader.
    fn rope_of(&self, value: ValueId) -> Option<(usize, usize)> {
        let rope = self.used_once::<Rope>(value)?;
        let linear = self.affine_of(self.graph.nodes[rope].reads[0])?;
        Some((rope, linear))
    }

    /// The last node before `i` that writes a cache.
    fn write_before(&self, i: usize, cache: ValueId) -> Option<usize> {
        (0..i)
            .rev()
            .find(|&n| self.graph.nodes[n].writes.contains(&cache) && self.graph.nodes[n].op.name() == "cache_write")
    }

    /// The node of type `T` that writes `value`, if it is read once.
    fn used_once<T: Operator>(&self, value: ValueId) -> Option<usize> {
        let node = self.producer[value.0 as usize]?;
        (self.uses[value.0 as usize] == 1 && self.replaced[node].is_none() && self.op::<T>(node).is_some())
            .then_some(node)
    }

    fn op<T: Operator>(&self, node: usize) -> Option<&T> {
        (self.graph.nodes[node].op.as_ref() as &dyn Any).downcast_ref::<T>()
    }

    /// Weights that follow each other in one stored matrix, as one weight.
    fn joined(&mut self, members: &[ValueId]) -> ValueId {
        let (index, place) = self.groups.places[&members[0]];
        let rows = members.iter().map(|&id| self.graph.ty(id).matrix().0).sum();
        let ty = self.graph.ty(members[0]);
        let ty = TensorType::weight(ty.dtype(), rows, ty.matrix().1);
        let id = self.push(ty, ValueKind::Weight(self.names(members)));
        self.groups.places.insert(id, (index, Stored { rows: place.rows, first: place.first }));
        id
    }

    /// Vectors end to end, as one.
    fn joined_vectors(&mut self, vectors: &[ValueId]) -> ValueId {
        let count: usize = vectors.iter().map(|&id| self.graph.ty(id).count()).sum();
        let id = self.push(TensorType::f32([count]), ValueKind::Weight(self.names(vectors)));
        self.groups.join_vectors(&self.graph, vectors, id);
        id
    }

    /// The tensors that weights are.
    fn names(&self, weights: &[ValueId]) -> Vec<String> {
        let kinds = weights.iter().map(|&id| self.graph.value(id).kind.clone());
        kinds.flat_map(|kind| if let ValueKind::Weight(names) = kind { names } else { Vec::new() }).collect()
    }

    fn temp(&mut self, ty: TensorType) -> ValueId {
        self.push(ty, ValueKind::Temp)
    }

    fn push(&mut self, ty: TensorType, kind: ValueKind) -> ValueId {
        self.graph.values.push(Value { ty, kind });
        self.producer.push(None);
        self.uses.push(0);
        ValueId(self.graph.values.len() as u32 - 1)
    }

    /// Node `i` becomes `new`, the nodes `gone` nothing.
    fn replace(&mut self, i: usize, gone: &[usize], new: Vec<Node>) {
        for &node in gone {
            self.replaced[node] = Some(Vec::new());
        }
        self.replaced[i] = Some(new);
    }
}
