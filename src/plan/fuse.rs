//! Graph → graph: operators that can be one dispatch become one operator.
//!
//! Decoding, a layer becomes five, whatever the number of rows:
//!
//! ```text
//! rms_norm, linear ×3, rope ×2, cache_write ×2   →  norm_qkv_rope; biases, norms of q and k, no rope: all the same
//! attention                                          attention
//! linear, add                                    →  linear
//! rms_norm, linear ×2, swiglu                    →  norm_swiglu
//! linear, add                                    →  linear
//! ```
//!
//! Seven, where what is added has a norm of its own: rms_norm, add  →  norm_add, twice.
//!
//! In decoding and in prompts, `linear` takes over the activation and the residual that follow it.

use std::any::Any;
use std::sync::Arc;

use crate::graph::{Graph, Node, Value, ValueKind};
use crate::ops::activation::Activation;
use crate::ops::linear::Linear;
use crate::ops::norm_add::NormAdd;
use crate::ops::norm_matmul::NormMatmul;
use crate::ops::norm_qkv_rope::{NormQkvRope, lanes_of_heads};
use crate::ops::norm_swiglu::NormSwiglu;
use crate::ops::rms_norm::RmsNorm;
use crate::ops::rope::{Angles, Rope};
use crate::ops::swiglu::Swiglu;
use crate::ops::{Operator, Stored, TensorType};
use crate::plan::group::Groups;
use crate::work::{Family, ValueId};

/// All rules, in order. What they leave unused is dropped.
pub fn fuse(graph: Graph, groups: &mut Groups) -> Graph {
    let mut fuser = Fuser::new(graph, groups);
    for i in 0..fuser.graph.nodes.len() {
        fuser.norm_qkv_rope(i);
        fuser.norm_swiglu(i);
        fuser.linear_activation(i);
        fuser.linear_residual(i);
        fuser.norm_add(i);
    }
    for i in 0..fuser.graph.nodes.len() {
        fuser.norm_matmul(i);
    }
    let mut graph = fuser.finish();
    graph.prune();
    graph.verify();
    graph
}

/// The nodes that make the heads of q or of k.
struct Heads {
    linear: usize,
    norm: Option<usize>,
    rope: Option<usize>,
    /// All of them.
    nodes: Vec<usize>,
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

    /// add(residual, rms_norm(x, g))  →  norm_add(x, g, residual)
    fn norm_add(&mut self, i: usize) {
        let node = &self.graph.nodes[i];
        if self.replaced[i].is_some() || node.op.name() != "add" {
            return;
        }
        let [a, b] = node.reads[..] else { return };
        let found = [(a, b), (b, a)].into_iter().find_map(|(x, sum)| Some((x, self.whole_norm_of(sum)?)));
        let Some((residual, norm)) = found else { return };
        let Some(eps) = self.op::<RmsNorm>(norm).map(|norm| norm.eps) else { return };
        let reads = self.graph.nodes[norm].reads.iter().copied().chain([residual]).collect();
        self.replaced[norm] = Some(Vec::new());
        let node = &mut self.graph.nodes[i];
        (node.op, node.reads) = (Arc::new(NormAdd { eps }), reads);
    }

    /// The node that writes `value`, if it is the norm of rows and its result has one reader.
    fn whole_norm_of(&self, value: ValueId) -> Option<usize> {
        let node = self.used_once::<RmsNorm>(value)?;
        self.normalises_rows(node).then_some(node)
    }

    /// Whether a norm is one of rows, not of their heads.
    fn normalises_rows(&self, norm: usize) -> bool {
        let reads = &self.graph.nodes[norm].reads;
        self.graph.ty(reads[0]).matrix().1 == self.graph.ty(reads[1]).count()
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

    /// The linear node that writes `value`, if it is x · Wᵀ, perhaps with a bias, and its result has one reader.
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
        let Some(&Swiglu { gate: f }) = self.op::<Swiglu>(i) else { return };
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
            vec![Node { op: Arc::new(NormSwiglu { eps, gate: f }), reads: vec![x, gain, w], writes, family }],
        );
    }

    /// The operators before attention: n = rms_norm(x, g); q, k, v = linear(n, ·), all with a bias or none; norms of the
    /// heads of q and k, or none; rope of q and k, or none; cache writes of k and v
    ///   →  one norm_qkv_rope for each stored matrix that q, k and v lie in, in decoding
    fn norm_qkv_rope(&mut self, i: usize) {
        let node = &self.graph.nodes[i];
        let family = node.family;
        if node.op.name() != "attention" {
            return;
        }
        let (q, keys, values) = (node.reads[0], node.reads[1], node.reads[2]);
        let Some(q_heads) = self.heads_of(q) else { return };
        let Some(k_write) = self.write_before(i, keys) else { return };
        let Some(v_write) = self.write_before(i, values) else { return };
        let Some(k_heads) = self.heads_of(self.graph.nodes[k_write].reads[0]) else { return };
        let Some(v_linear) = self.affine_of(self.graph.nodes[v_write].reads[0]) else { return };
        let linears = [q_heads.linear, k_heads.linear, v_linear];
        let n = self.graph.nodes[q_heads.linear].reads[0];
        if linears.iter().any(|&m| self.graph.nodes[m].reads[0] != n) {
            return;
        }
        let biases: Vec<ValueId> = linears.iter().filter_map(|&m| self.graph.nodes[m].reads.get(2).copied()).collect();
        if !matches!(biases.len(), 0 | 3) {
            return;
        }
        let Some((x, gain, eps)) = self.norm_of(n) else { return };
        let (kv_heads, head_dim) = (self.graph.ty(keys).shape[1], self.graph.ty(keys).shape[2]);
        let rope = q_heads.rope.and_then(|rope| self.op::<Rope>(rope).cloned());
        let angles_of = |heads: &Heads| heads.rope.map(|rope| self.graph.nodes[rope].reads[1]);
        // The tables of k come first: see `NormQkvRope::k_angles`.
        let k_rope = k_heads.rope.and_then(|rope| self.op::<Rope>(rope));
        let turned = |rope: Option<&Rope>| rope.map_or(Angles::default(), |rope| rope.angles);
        if angles_of(&q_heads) != angles_of(&k_heads)
            || turned(k_rope) != (Angles { first: 0, ..turned(rope.as_ref()) })
        {
            return;
        }
        // Where nothing rotates, the kernel still has a table to bind.
        let Some(angles) = angles_of(&q_heads).or_else(|| self.table(head_dim)) else { return };
        let gain_of = |heads: &Heads| heads.norm.map(|norm| self.graph.nodes[norm].reads[1]);
        let norms: Vec<ValueId> = [gain_of(&q_heads), gain_of(&k_heads)].into_iter().flatten().collect();
        let eps_of = |norm: usize| self.op::<RmsNorm>(norm).map(|norm| norm.eps);
        let alike = [q_heads.norm, k_heads.norm].into_iter().flatten().all(|norm| eps_of(norm) == Some(eps));
        let fits =
            norms.is_empty() || norms.len() == 2 && lanes_of_heads(head_dim, self.groups.max_invocations).is_some();
        if !alike || !fits {
            return;
        }
        let weights = linears.map(|m| self.graph.nodes[m].reads[1]);
        if !weights.iter().all(|&weight| self.groups.whole(weight)) {
            return;
        }

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
            let own_norms = if part.iter().any(|&which| which < 2) { &norms[..] } else { &[] };
            let vectors = match (own.is_empty(), own_norms.is_empty()) {
                (true, true) => gain,
                _ => self.joined_vectors(&[&[gain], &own[..], own_norms].concat()),
            };
            let rows = |which: usize| if part.contains(&which) { self.graph.ty(weights[which]).matrix().0 } else { 0 };
            let op = NormQkvRope {
                eps,
                bias: !own.is_empty(),
                qk_norm: !own_norms.is_empty(),
                rope: rope.is_some(),
                q_rows: rows(0),
                k_rows: rows(1),
                v_rows: rows(2),
                kv_heads,
                head_dim,
                interleaved: rope.as_ref().is_some_and(|rope| rope.interleaved),
                q_angles: turned(rope.as_ref()),
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
        let gone = q_heads.nodes.iter().chain(&k_heads.nodes).copied().chain([v_linear, k_write, v_write]);
        self.replace(i, &gone.collect::<Vec<_>>(), nodes);
    }

    /// (x, gain, eps) where `value` is the norm of decoded rows. In a fused kernel each workgroup computes the norms again, which
    /// costs too much where there are many rows.
    fn norm_of(&self, value: ValueId) -> Option<(ValueId, ValueId, f32)> {
        let node = self.producer[value.0 as usize]?;
        let norm = self.op::<RmsNorm>(node).filter(|_| self.normalises_rows(node))?;
        let Node { reads, family, .. } = &self.graph.nodes[node];
        (*family == Family::Few).then_some((reads[0], reads[1], norm.eps))
    }

    /// What makes heads of q or k from a norm, if each result has one reader: linear, then a norm of the heads, then
    /// rope; the last two may be missing.
    fn heads_of(&self, mut value: ValueId) -> Option<Heads> {
        let rope = self.used_once::<Rope>(value);
        if let Some(rope) = rope {
            value = self.graph.nodes[rope].reads[0];
        }
        let norm = self.used_once::<RmsNorm>(value);
        if let Some(norm) = norm {
            value = self.graph.nodes[norm].reads[0];
        }
        let linear = self.affine_of(value)?;
        Some(Heads { linear, norm, rope, nodes: [Some(linear), norm, rope].into_iter().flatten().collect() })
    }

    /// A table of angles of heads of this size.
    fn table(&self, head_dim: usize) -> Option<ValueId> {
        let fits =
            |value: &Value| matches!(value.kind, ValueKind::Table(..)) && value.ty.shape.last() == Some(&head_dim);
        Some(ValueId(self.graph.values.iter().position(fits)? as u32))
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
