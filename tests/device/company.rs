//! A row's result has the same bits whatever other rows are in its pass: alone, with others, in another order or chunk.

use crate::support::adapters;
use dunlin::backend::check::Prepared;
use dunlin::backend::wgpu::device::Gpu;
use dunlin::ops::activation::Kind;
use dunlin::ops::attention::Attention;
use dunlin::ops::linear::Linear;
use dunlin::ops::norm_matmul::NormMatmul;
use dunlin::ops::norm_qkv_rope::NormQkvRope;
use dunlin::ops::norm_swiglu::NormSwiglu;
use dunlin::ops::swiglu::Gate;
use dunlin::ops::{Case, Fill, Given, TensorType};
use dunlin::tensor::DType;
use dunlin::work::{DeviceProfile, Row};

/// A case with all its rows; each pass takes some of them.
struct Whole {
    case: Case,
    /// The indices of the inputs that have one row for each row of the pass.
    by_row: Vec<usize>,
    /// The number of elements that a row has in each state.
    width: usize,
}

impl Whole {
    fn new(case: Case, by_row: &[usize]) -> Self {
        Whole { case, by_row: by_row.to_vec(), width: 0 }
    }

    /// The case with these rows, in this order.
    fn of(&self, rows: &[usize]) -> Case {
        let mut case = self.case.clone();
        for &i in &self.by_row {
            let (cols, data) = (case.reads[i].ty.shape[1], case.reads[i].data(i as u64 + 1));
            let some = rows.iter().flat_map(|r| data[r * cols..(r + 1) * cols].to_vec()).collect();
            case.reads[i] = Given { ty: TensorType::f32([rows.len(), cols]), fill: Fill::Ids(some) };
        }
        case.rows(rows.iter().map(|&r| self.case.rows[r]).collect())
    }

    /// The bits that each row of a pass produces: its part of the result and its part of each state.
    fn bits(&self, rows: &[usize], gpu: &Gpu, profile: &DeviceProfile) -> Vec<Vec<u32>> {
        let case = self.of(rows);
        let found = Prepared::new(&case).on_device(&case, gpu, profile).expect("runs");
        let (states, result) = found.split_at(self.case.state.len());
        let cols = result[0].len() / rows.len();
        let row = |(i, &r): (usize, &usize)| {
            let at = self.case.rows[r].place() * self.width;
            let left = states.iter().flat_map(|state| state[at..at + self.width].to_vec());
            result[0][i * cols..(i + 1) * cols].iter().copied().chain(left).collect()
        };
        rows.iter().enumerate().map(row).collect()
    }

    /// Compares every pass in `passes` with the first one, on every adapter, with every variant of the kernels.
    fn hold(&self, passes: &[Vec<usize>]) {
        for adapter in adapters::all() {
            let gpu = Gpu::open(adapter.index).expect("adapter opens");
            for profile in variants(&gpu) {
                let all = self.bits(&passes[0], &gpu, &profile);
                for pass in &passes[1..] {
                    for (bits, r) in self.bits(pass, &gpu, &profile).iter().zip(pass) {
                        let among = passes[0].iter().position(|row| row == r).expect("a row of the first pass");
                        let differ = bits.iter().zip(&all[among]).position(|(a, b)| a != b);
                        let at = format!("{}, {}", adapter.label(), self.case.label());
                        assert_eq!(differ, None, "{at}: row {r} of {pass:?} differs from row {r} of {:?}", passes[0]);
                    }
                }
            }
        }
    }
}

/// The adapter's own kernels and, on a rasteriser, the kernels for hardware too; each in float32 and in float16.
fn variants(gpu: &Gpu) -> Vec<DeviceProfile> {
    let mut variants = vec![gpu.profile.clone()];
    if gpu.profile.rasteriser {
        variants.push(DeviceProfile { rasteriser: false, ..gpu.profile.clone() });
    }
    if gpu.profile.f16 {
        variants.push(DeviceProfile { reduced_precision: false, ..gpu.profile.clone() });
    }
    variants
}

/// Rows of sequences in no particular order; no two neighbouring rows have consecutive positions.
fn apart() -> Vec<Row> {
    let at = [(20, 3), (0, 7), (31, 0), (11, 5), (40, 1), (60, 6), (50, 9), (35, 2), (70, 4)];
    at.map(|(slot, position)| Row { slot, ..Row::at(position) }).into()
}

/// All nine rows in one pass; then passes of one, two, three, five and eight of them, in other orders.
fn few() -> Vec<Vec<usize>> {
    let all: Vec<usize> = (0..9).collect();
    vec![all, vec![0], vec![8], vec![4, 7], vec![2, 0, 8], vec![8, 6, 4, 2, 0], vec![7, 6, 5, 4, 3, 2, 1, 0]]
}

/// 40 consecutive rows in one pass; then passes of the first row, the first seven, and some from the middle.
fn many() -> Vec<Vec<usize>> {
    vec![(0..40).collect(), vec![0], (0..7).collect(), vec![33], (5..12).collect(), (16..40).collect()]
}

#[test]
fn a_product_of_few_rows() {
    // The vector has several stages, and its length is a multiple of none of them; one format stores a minimum.
    for (dtype, n, k) in [(DType::F16, 70, 1111), (DType::Q4_1, 70, 1184), (DType::Q6_K, 33, 768)] {
        let op = Linear { bias: true, activation: Some(Kind::Gelu), residual: true };
        let reads = vec![Given::f32([9, k]), Given::weight(dtype, n, k), Given::f32([n]), Given::f32([9, n])];
        Whole::new(Case::new(op, reads).few(), &[0, 3]).hold(&few());
    }
}

#[test]
fn a_product_behind_a_norm() {
    for (dtype, k) in [(DType::F16, 1111), (DType::Q8_0, 576)] {
        let reads = vec![Given::f32([9, k]), Given::f32([k]), Given::weight(dtype, 70, k)];
        Whole::new(Case::new(NormMatmul { eps: 1e-5 }, reads.clone()).few(), &[0]).hold(&few());
        Whole::new(Case::new(NormSwiglu { eps: 1e-5, gate: Gate::Silu }, reads).few(), &[0]).hold(&few());
    }
}

#[test]
fn what_feeds_attention() {
    let (d, kv_heads) = (16, 2);
    for (dtype, k) in [(DType::Q4_0, 160), (DType::Q4_K, 2304)] {
        let (q_rows, k_rows, v_rows) = (4 * d, kv_heads * d, kv_heads * d);
        let op = NormQkvRope {
            eps: 1e-5,
            bias: true,
            qk_norm: true,
            rope: true,
            q_rows,
            k_rows,
            v_rows,
            kv_heads,
            head_dim: d,
            interleaved: false,
            q_angles: Default::default(),
        };
        let rows = q_rows + k_rows + v_rows;
        let weight = Given::weight(dtype, rows, k);
        let reads = vec![Given::f32([9, k]), Given::f32([k + rows + 2 * d]), weight, Given::angles(10, d)];
        let cache = Given::kv(80, kv_heads, d);
        let case = Case::new(op, reads).state(vec![cache.clone(), cache]).rows(apart()).few();
        Whole { width: kv_heads * d, ..Whole::new(case, &[0]) }.hold(&few());
    }
}

#[test]
fn attention_of_sequences() {
    for head_dim in [20, 64] {
        let op = Attention { qk_norm: Some(1e-5), window: Some(6), ..Attention::new(4, 2, head_dim) };
        let cache = Given::kv(80, 2, head_dim);
        let reads = vec![Given::f32([9, 4 * head_dim]), cache.clone(), cache];
        Whole::new(Case::new(op, reads).rows(apart()).few(), &[0]).hold(&few());
    }
}

#[test]
fn a_product_of_a_prompt() {
    for dtype in [DType::F16, DType::Q4_1] {
        let reads = vec![Given::f32([40, 160]), Given::weight(dtype, 70, 160), Given::f32([40, 70])];
        let op = Linear { residual: true, ..Linear::default() };
        Whole::new(Case::new(op, reads), &[0, 2]).hold(&many());
    }
}

#[test]
fn attention_of_a_prompt() {
    for (head_dim, qk_norm, window) in [(20, None, None), (64, Some(1e-5), Some(37)), (136, None, Some(11))] {
        let op = Attention { qk_norm, window, ..Attention::new(4, 2, head_dim) };
        let cache = Given::kv(100, 2, head_dim);
        let reads = vec![Given::f32([40, 4 * head_dim]), cache.clone(), cache];
        let rows = Row { slot: 3, ..Row::at(50) }.follow(40);
        Whole::new(Case::new(op, reads).rows(rows), &[0]).hold(&many());
    }
}
