//! The test cases of operators. Tests, benches and the check on a user's device use the same descriptions.

use std::sync::Arc;

use crate::formats::random_row;
use crate::ops::{Elem, Operand, Operator, TensorType};
use crate::tensor::{Bytes, DType, RowOrder, Tensor};
use crate::work::{Candidate, DeviceProfile, Family, MOST_ROWS, Row, ValueId};

/// One operator with inputs of given shapes and contents.
#[derive(Clone, Debug)]
pub struct Case {
    pub op: Arc<dyn Operator>,
    pub reads: Vec<Given>,
    /// State that the operator writes in place, with its initial content.
    pub state: Vec<Given>,
    /// The table of the pass. The pass of a case has no more rows than the table.
    pub rows: Vec<Row>,
    pub family: Family,
    /// Largest normalised mean squared error, Σ(y − ref)² / Σref², against the reference.
    pub nmse: f64,
    /// Limits the size of a binding to this many bytes, so that the rows of weights are split into chunks.
    pub max_binding: Option<u64>,
    /// Whether benches time it.
    pub bench: bool,
}

/// A value of a case: its type and content.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    pub ty: TensorType,
    pub fill: Fill,
}

/// Contents that are reproducible from a seed.
#[derive(Clone, Debug, PartialEq)]
pub enum Fill {
    /// Uniform in −scale .. scale.
    Random(f32),
    /// Ids below this.
    Below(u32),
    /// cos and sin of angles, alternating.
    Angles,
    /// These ids, or the bits of these floats.
    Ids(Vec<u32>),
    Zero,
}

impl Case {
    /// Tolerance for float32 arithmetic in another order: 1e-10 allows sums over some thousands of terms and a few ulp
    /// of `exp` and `inverseSqrt`, but not a single wrong element.
    pub fn new(op: impl Operator + 'static, reads: Vec<Given>) -> Self {
        Case {
            op: Arc::new(op),
            reads,
            state: Vec::new(),
            rows: Row::at(0).follow(MOST_ROWS),
            family: Family::Many,
            nmse: 1e-10,
            max_binding: None,
            bench: false,
        }
    }

    pub fn state(mut self, state: Vec<Given>) -> Self {
        self.state = state;
        self
    }

    /// Sets the table of the pass, from which [`Given::table`] takes its content.
    pub fn rows(mut self, rows: Vec<Row>) -> Self {
        for given in self.state.iter_mut().filter(|given| given.is_table()) {
            given.fill = Fill::Ids(table_words(&rows));
        }
        self.rows = rows;
        self
    }

    /// Selects the kernels of decoding.
    pub fn few(mut self) -> Self {
        self.family = Family::Few;
        self
    }

    pub fn at(self, position: usize) -> Self {
        let rows = self.reads.first().map_or(0, |given| given.ty.shape[0]).max(MOST_ROWS);
        self.rows(Row::at(position).follow(rows))
    }

    pub fn in_bindings_of(mut self, bytes: u64) -> Self {
        self.max_binding = Some(bytes);
        self
    }

    /// The case with its weights in another format. `None` if it has none, or if their rows are not whole blocks of it.
    pub fn in_format(&self, dtype: DType) -> Option<Case> {
        let mut case = self.clone();
        let mut any = false;
        for given in &mut case.reads {
            if let Elem::Weight(format) = &mut given.ty.elem {
                if !given.ty.shape[1].is_multiple_of(dtype.block().0) {
                    return None;
                }
                (*format, any) = (dtype, true);
            }
        }
        // The size of split bindings is made for the format.
        (any && self.max_binding.is_none()).then_some(case)
    }

    /// The device profile with the limits of this case.
    pub fn profile(&self, profile: &DeviceProfile) -> DeviceProfile {
        let max_binding = self.max_binding.map_or(profile.max_binding, |bytes| bytes.min(profile.max_binding));
        DeviceProfile { max_binding, ..profile.clone() }
    }

    /// Every way to run the case, best first for the device, those that the device does not allow among them.
    pub fn candidates(&self, profile: &DeviceProfile) -> Vec<Candidate> {
        let reads = self.reads.iter().map(|given| given.ty.clone());
        let writes = self
            .state
            .iter()
            .map(|given| given.ty.clone())
            .chain(self.op.infer(&self.reads.iter().map(|given| &given.ty).collect::<Vec<_>>()));
        let operands = (0..).map(ValueId).zip(reads.chain(writes));
        let mut reads: Vec<Operand> = operands.map(|(id, ty)| Operand { id, ty, stored: None }).collect();
        let writes = reads.split_off(self.reads.len());
        self.op.candidates(&reads, &writes, self.family, &self.profile(profile))
    }

    pub fn bench(mut self) -> Self {
        self.bench = true;
        self
    }

    /// The label in reports: the operator, its attributes and shapes, and how its rows belong together and are sampled.
    pub fn label(&self) -> String {
        let shapes: Vec<String> = self.reads.iter().chain(&self.state).map(|given| given.ty.to_string()).collect();
        let family = if self.family == Family::Few { "few" } else { "many" };
        let mut label = format!("{:?} ({}) at {}, {family}", self.op, shapes.join(", "), self.rows[0].position);
        self.settings().iter().for_each(|setting| label += &format!(", {setting}"));
        self.max_binding.map_or(label.clone(), |bytes| format!("{label}, in bindings of {bytes}"))
    }

    /// In what its first row differs from [`Row::at`], such as `temperature 0.8`.
    pub fn settings(&self) -> Vec<String> {
        let settings = |row: &Row| {
            [
                ("slot", row.slot.to_string()),
                ("stretch", row.stretch().to_string()),
                ("seed", row.seed.to_string()),
                ("temperature", row.temperature.to_string()),
                ("top_k", row.kept().to_string()),
                ("top_p", row.top_p.to_string()),
                ("min_p", row.min_p.to_string()),
                ("repeat_penalty", row.repeat_penalty.to_string()),
            ]
        };
        let pairs = settings(&self.rows[0]).into_iter().zip(settings(&Row::at(0)));
        pairs.filter(|(own, plain)| own != plain).map(|((name, value), _)| format!("{name} {value}")).collect()
    }
}

/// Operators are compared by their attributes.
impl PartialEq for Case {
    fn eq(&self, other: &Self) -> bool {
        let Case { op, reads, state, rows, family, nmse, max_binding, bench } = other;
        format!("{:?}", self.op) == format!("{op:?}")
            && (&self.reads, &self.state, &self.rows) == (reads, state, rows)
            && (self.family, self.nmse, self.max_binding, self.bench) == (*family, *nmse, *max_binding, *bench)
    }
}

impl Given {
    pub fn f32(shape: impl Into<Vec<usize>>) -> Self {
        Given { ty: TensorType::f32(shape), fill: Fill::Random(1.0) }
    }

    /// A value with these elements.
    pub fn floats(shape: impl Into<Vec<usize>>, values: &[f32]) -> Self {
        let given = Given { fill: Fill::Ids(values.iter().map(|v| v.to_bits()).collect()), ..Given::f32(shape) };
        assert_eq!(given.ty.count(), values.len(), "{}", given.ty);
        given
    }

    /// A weight (rows, cols), scaled so that products with unit vectors stay near 1.
    pub fn weight(dtype: DType, rows: usize, cols: usize) -> Self {
        Given { ty: TensorType::weight(dtype, rows, cols), fill: Fill::Random((3.0 / cols as f32).sqrt()) }
    }

    /// Token ids (count), below `vocab`.
    pub fn tokens(count: usize, vocab: u32) -> Self {
        Given { ty: TensorType::u32([count]), fill: Fill::Below(vocab) }
    }

    /// A table of angles (context, head_dim).
    pub fn angles(context: usize, head_dim: usize) -> Self {
        Given { ty: TensorType::f32([context, head_dim]), fill: Fill::Angles }
    }

    pub fn kv(capacity: usize, heads: usize, head_dim: usize) -> Self {
        Given { ty: TensorType::kv(capacity, heads, head_dim), fill: Fill::Random(1.0) }
    }

    /// The table of a pass, which [`Case::rows`] fills.
    pub fn table() -> Self {
        Given { ty: TensorType::u32([MOST_ROWS, TABLE_COLS]), fill: Fill::Ids(table_words(&[])) }
    }

    fn is_table(&self) -> bool {
        self.ty == TensorType::u32([MOST_ROWS, TABLE_COLS])
    }

    pub fn zero(mut self) -> Self {
        self.fill = Fill::Zero;
        self
    }

    /// The content as the bits of floats, or as ids.
    pub fn data(&self, seed: u64) -> Vec<u32> {
        let count = self.ty.count();
        let mut next = random(seed);
        match &self.fill {
            Fill::Random(scale) => {
                (0..count).map(|_| (scale * (next() as f32 / 2f32.powi(31) - 1.0)).to_bits()).collect()
            }
            Fill::Below(n) => (0..count).map(|_| next() % n).collect(),
            Fill::Angles => (0..count / 2)
                .flat_map(|_| {
                    let angle = next() as f32 / 2f32.powi(32) * std::f32::consts::TAU;
                    [angle.cos().to_bits(), angle.sin().to_bits()]
                })
                .collect(),
            Fill::Ids(ids) => ids.clone(),
            Fill::Zero => vec![0; count],
        }
    }

    /// The content of a weight in its format. Blocks have random codes and scales that bound the values as the fill
    /// does.
    pub fn tensor(&self, seed: u64) -> Tensor {
        let (dtype, (rows, cols)) = (self.ty.dtype(), self.ty.matrix());
        let scale = if let Fill::Random(scale) = self.fill { scale } else { 1.0 };
        let mut next = random(seed);
        let bytes: Vec<u8> = (0..rows).flat_map(|_| random_row(dtype, cols, scale, &mut next)).collect();
        Tensor { dtype, shape: vec![rows, cols], bytes: Bytes::new(bytes), order: RowOrder::Stored }
    }
}

/// Words per row of the table.
const TABLE_COLS: usize = size_of::<Row>() / 4;

/// The words of a table with these rows; the others are zero.
fn table_words(rows: &[Row]) -> Vec<u32> {
    let mut words: Vec<u32> = bytemuck::cast_slice(rows).to_vec();
    words.resize(MOST_ROWS * TABLE_COLS, 0);
    words
}

/// xorshift64*: the same numbers on every machine.
fn random(seed: u64) -> impl FnMut() -> u32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }
}
