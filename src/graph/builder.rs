//! Builds graphs: one method for each operator, which infers the shapes.

use std::sync::Arc;

use crate::graph::{Graph, Node, Value, ValueKind};
use crate::ops::{self, Operator, TensorType};
use crate::tensor::DType;
use crate::work::{Family, ValueId};

/// Writes a [`Graph`], operator by operator.
pub struct GraphBuilder<'a> {
    graph: Graph,
    formats: &'a dyn Fn(&str) -> DType,
    /// The family of nodes that are added from now on.
    family: Family,
}

impl<'a> GraphBuilder<'a> {
    /// `formats` tells the format of a weight by its name: a property of the file, unknown to models.
    pub fn new(formats: &'a dyn Fn(&str) -> DType) -> Self {
        Self { graph: Graph::default(), formats, family: Family::default() }
    }

    /// The finished graph.
    pub fn finish(self) -> Graph {
        self.graph.verify();
        self.graph
    }

    /// How the rows of the operators that follow belong together.
    pub fn family(&mut self, family: Family) {
        self.family = family;
    }

    pub fn input(&mut self, name: impl Into<String>, ty: TensorType) -> ValueId {
        self.push(ty, ValueKind::Input(name.into()))
    }

    /// A matrix (rows, cols) of the checkpoint.
    pub fn weight(&mut self, name: impl Into<String>, rows: usize, cols: usize) -> ValueId {
        let name = name.into();
        self.push(TensorType::weight((self.formats)(&name), rows, cols), ValueKind::Weight(vec![name]))
    }

    /// A vector (cols) of the checkpoint, read as float32.
    pub fn vector(&mut self, name: impl Into<String>, cols: usize) -> ValueId {
        self.push(TensorType::f32([cols]), ValueKind::Weight(vec![name.into()]))
    }

    pub fn table(&mut self, name: impl Into<String>, ty: TensorType, data: Arc<Vec<f32>>) -> ValueId {
        self.push(ty, ValueKind::Table(name.into(), data))
    }

    pub fn state(&mut self, name: impl Into<String>, ty: TensorType) -> ValueId {
        self.push(ty, ValueKind::State(name.into()))
    }

    /// Lets the host read a value under a name.
    pub fn output(&mut self, name: impl Into<String>, value: ValueId) {
        self.graph.outputs.push((name.into(), value));
    }

    /// scale · W[tokens]: (rows, cols), the tokens of this pass.
    pub fn embedding(&mut self, tokens: ValueId, w: ValueId, rows: usize, scale: f32) -> ValueId {
        self.apply(ops::embedding::Embedding { rows, scale }, &[tokens, w])
    }

    /// x with the rows of pictures in place of tokens past `vocab`.
    pub fn splice_rows(&mut self, tokens: ValueId, x: ValueId, rows: ValueId, vocab: usize) -> ValueId {
        let (_, cols) = self.ty(x).matrix();
        self.apply(ops::splice_rows::SpliceRows { vocab, cols }, &[tokens, x, rows])
    }

    /// class, then patches, each with its row of `positions` added: one row more than patches.
    pub fn class_token(&mut self, patches: ValueId, class: ValueId, positions: ValueId) -> ValueId {
        self.apply(ops::class_token::ClassToken, &[patches, class, positions])
    }

    /// x / rms(x) · gain; each head by itself where the gain is as long as a head.
    pub fn rms_norm(&mut self, x: ValueId, gain: ValueId, eps: f32) -> ValueId {
        self.apply(ops::rms_norm::RmsNorm { eps }, &[x, gain])
    }

    /// (x − mean) / sqrt(variance + eps) · gain + bias, by rows.
    pub fn layer_norm(&mut self, x: ValueId, gain: ValueId, bias: ValueId, eps: f32) -> ValueId {
        self.apply(ops::layer_norm::LayerNorm { eps }, &[x, gain, bias])
    }

    /// x · Wᵀ, plus the bias where there is one.
    pub fn linear(&mut self, x: ValueId, w: ValueId, bias: Option<ValueId>) -> ValueId {
        let reads: Vec<ValueId> = [x, w].into_iter().chain(bias).collect();
        self.apply(ops::linear::Linear { bias: bias.is_some(), ..Default::default() }, &reads)
    }

    /// Each square of a picture times W: (patches, n).
    pub fn conv2d(&mut self, x: ValueId, w: ValueId, conv2d: ops::conv2d::Conv2d) -> ValueId {
        self.apply(conv2d, &[x, w])
    }

    /// x with its heads rotated to their positions.
    pub fn rope(&mut self, x: ValueId, angles: ValueId, rope: ops::rope::Rope) -> ValueId {
        self.apply(rope, &[x, angles])
    }

    /// Writes x to the cache that attention reads.
    pub fn cache_write(&mut self, x: ValueId, cache: ValueId) {
        let [_, heads, head_dim] = self.graph.ty(cache).shape[..] else { panic!("a cache has three dimensions") };
        self.apply_in_place(ops::cache_write::CacheWrite { heads, head_dim }, &[x], &[cache]);
    }

    /// softmax(q · Kᵀ · scale) · V for each query, over the keys and values up to its position.
    pub fn attention(
        &mut self,
        q: ValueId,
        keys: ValueId,
        values: ValueId,
        attention: ops::attention::Attention,
    ) -> ValueId {
        self.apply(attention, &[q, keys, values])
    }

    /// f(gate) · up
    pub fn swiglu(&mut self, gate: ValueId, up: ValueId, f: ops::swiglu::Gate) -> ValueId {
        self.apply(ops::swiglu::Swiglu { gate: f }, &[gate, up])
    }

    /// f(x), element by element.
    pub fn activation(&mut self, x: ValueId, kind: ops::activation::Kind) -> ValueId {
        self.apply(ops::activation::Activation { kind }, &[x])
    }

    /// a + b
    pub fn add(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.apply(ops::add::Add, &[a, b])
    }

    /// x · s, the columns by the factors in s: (1, cols).
    pub fn scale(&mut self, x: ValueId, s: ValueId) -> ValueId {
        self.apply(ops::scale::Scale, &[x, s])
    }

    /// x: (height · width, C), each channel convolved by its 9 elements of `kernel`: (C · 9).
    pub fn depthwise_conv2d(
        &mut self,
        x: ValueId,
        kernel: ValueId,
        bias: Option<ValueId>,
        conv: ops::depthwise_conv2d::DepthwiseConv2d,
    ) -> ValueId {
        let reads: Vec<ValueId> = [x, kernel].into_iter().chain(bias).collect();
        self.apply(conv, &reads)
    }

    /// x: (height · width, C), averaged over the cells of a coarser grid.
    pub fn avg_pool2d(&mut self, x: ValueId, pool: ops::avg_pool2d::AvgPool2d) -> ValueId {
        self.apply(pool, &[x])
    }

    /// c as (rows, cols), where operators read activations.
    pub fn constant_rows(&mut self, c: ValueId, rows: usize) -> ValueId {
        self.apply(ops::constant_rows::ConstantRows { rows }, &[c])
    }

    /// x without its first `first` rows.
    pub fn skip_rows(&mut self, x: ValueId, first: usize) -> ValueId {
        self.apply(ops::skip_rows::SkipRows { first }, &[x])
    }

    /// The last row of x.
    pub fn last_row(&mut self, x: ValueId) -> ValueId {
        self.apply(ops::last_row::LastRow, &[x])
    }

    /// Chooses a token for each row of logits, those of the last of `rows` rows; appends it to `tokens` and moves the row
    /// of the table on: (id, logprob) for each.
    pub fn sample(&mut self, logits: ValueId, tokens: ValueId, table: ValueId, rows: usize) -> ValueId {
        self.apply_in_place(ops::sample::Sample { rows }, &[logits], &[tokens, table])[0]
    }

    /// The type of a value.
    pub fn ty(&self, value: ValueId) -> &TensorType {
        self.graph.ty(value)
    }

    /// Any operator with one result.
    pub fn apply(&mut self, op: impl Operator + 'static, reads: &[ValueId]) -> ValueId {
        self.apply_in_place(op, reads, &[])[0]
    }

    /// Any operator; `state` is written in place.
    pub fn apply_in_place(
        &mut self,
        op: impl Operator + 'static,
        reads: &[ValueId],
        state: &[ValueId],
    ) -> Vec<ValueId> {
        self.apply_shared(Arc::new(op), reads, state)
    }

    pub(crate) fn apply_shared(&mut self, op: Arc<dyn Operator>, reads: &[ValueId], state: &[ValueId]) -> Vec<ValueId> {
        let types: Vec<&TensorType> = reads.iter().map(|&id| self.graph.ty(id)).collect();
        let results: Vec<ValueId> = op.infer(&types).into_iter().map(|ty| self.push(ty, ValueKind::Temp)).collect();
        let writes = state.iter().chain(&results).copied().collect();
        self.graph.nodes.push(Node { op, reads: reads.to_vec(), writes, family: self.family });
        results
    }

    fn push(&mut self, ty: TensorType, kind: ValueKind) -> ValueId {
        self.graph.values.push(Value { ty, kind });
        ValueId(self.graph.values.len() as u32 - 1)
    }
}
