//! Chooses the next token from each row of logits and writes it where the next step reads it: the token to
//! tokens[slot + position + 1], and position + 1 to the row of the table.
//!
//! ```text
//! l'      = logits, those of the last 64 tokens divided by the repeat penalty (multiplied where negative)
//! greedy  : argmax l', the lowest id among equals
//! else    : among tokens kept by top-k, top-p and min-p: argmax l' / T − ln(−ln u(seed, position + 1, id))
//! logprob = logits[id] − ln Σ exp logits
//! ```
//!
//! logits: (m, vocab), those of the last m rows of the pass   sampled: (m, 2) = id, bits of logprob
//! tokens: (capacity) u32, table: (512, 8) u32, the rows of the pass; both written in place
//!
//! The Gumbel maximum draws from softmax(l' / T). Filters also keep logits equal to the last one kept. min-p and top-p
//! are applied at temperature T, top-p to the tokens that top-k and min-p keep.

use crate::work::source::{REDUCE, ROWS};
use crate::work::{Candidate, DeviceProfile, Dispatch, Family, Kernel, KernelRef, Row};
use crate::ops::{Case, Fill, Given, Operand, Operator, Read, TensorType, kernel, params};

#[derive(Clone, Debug)]
pub struct Sample {
    /// Rows of the pass.
    pub rows: usize,
}

/// Number of previous tokens that the repeat penalty considers.
pub const WINDOW: usize = 64;

/// Words per row of the table.
pub const TABLE_COLS: usize = size_of::<Row>() / 4;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    vocab: u32,
    first: u32,
}

static KERNEL: Kernel = kernel!("sample.wgsl", "sample", [ROWS, REDUCE], [ReadWrite ReadWrite ReadWrite ReadWrite], Params);

pub fn kernels() -> Vec<&'static Kernel> {
    vec![&KERNEL]
}

impl Operator for Sample {
    fn name(&self) -> &'static str {
        "sample"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        let (m, _) = reads[0].matrix();
        assert!(m <= self.rows, "sample of {m} rows of logits in a pass of {} rows", self.rows);
        vec![TensorType::u32([m, 2])]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], rows: &[Row]) {
        let [tokens, table, sampled] = writes else { panic!("sample writes tokens, the table and the choices") };
        let first = self.rows - sampled.len() / 2;
        let vocab = reads[0].f32().len() / (sampled.len() / 2);
        for (i, (logits, sampled)) in reads[0].f32().chunks_exact(vocab).zip(sampled.chunks_exact_mut(2)).enumerate() {
            let row = &rows[first + i];
            let end = row.place() + 1;
            let (id, logprob) = choose(logits, row, &tokens[end.saturating_sub(WINDOW).max(row.slot as usize)..end]);
            tokens[end] = f32::from_bits(id);
            table[(first + i) * TABLE_COLS + 1] = f32::from_bits(row.position + 1);
            sampled.copy_from_slice(&[f32::from_bits(id), logprob]);
        }
    }

    fn candidates(&self, reads: &[Operand], writes: &[Operand], _family: Family, _profile: &DeviceProfile) -> Vec<Candidate> {
        let (m, vocab) = reads[0].ty.matrix();
        Candidate::only(Dispatch {
            kernel: KernelRef(&KERNEL),
            constants: vec![],
            slots: vec![reads[0].slot(), writes[0].slot(), writes[1].slot(), writes[2].slot()],
            params: params(&Params { vocab: vocab as u32, first: (self.rows - m) as u32 }),
            groups: [m as u32, 1, 1],
        })
    }
}

/// The chosen id and its log-probability; `seen` are the ids that the repeat penalty considers, as bits.
fn choose(logits: &[f32], row: &Row, seen: &[f32]) -> (u32, f32) {
    let mut penalised = logits.to_vec();
    if row.repeat_penalty != 1.0 {
        let mut seen: Vec<usize> = seen.iter().map(|id| id.to_bits() as usize).collect();
        seen.sort_unstable();
        seen.dedup();
        // Ids past the vocabulary refer to rows of an image.
        for id in seen.into_iter().filter(|&id| id < logits.len()) {
            penalised[id] = penalise(penalised[id], row);
        }
    }
    let id = if row.temperature > 0.0 {
        let threshold = kept(&penalised, row);
        let noise = |id: usize| gumbel(id as u32, row.position + 1, row.seed);
        argmax(&penalised, |id, l| (l >= threshold).then(|| l / row.temperature + noise(id)))
    } else {
        argmax(&penalised, |_, l| Some(l))
    };
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mass: f64 = logits.iter().map(|&l| f64::from(l - largest).exp()).sum();
    (id as u32, (f64::from(logits[id] - largest) - mass.ln()) as f32)
}

/// The logit of a token within the window of the repeat penalty.
pub fn penalise(logit: f32, row: &Row) -> f32 {
    if logit > 0.0 { logit / row.repeat_penalty } else { logit * row.repeat_penalty }
}

/// The smallest logit that the filters keep.
fn kept(logits: &[f32], row: &Row) -> f32 {
    let mut sorted = logits.to_vec();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    let largest = sorted[0];
    let mut threshold = f32::NEG_INFINITY;
    if row.min_p > 0.0 {
        threshold = threshold.max(largest + row.temperature * row.min_p.ln());
    }
    if row.kept() > 0 && (row.kept() as usize) < sorted.len() {
        threshold = threshold.max(sorted[row.kept() as usize - 1]);
    }
    if row.top_p < 1.0 {
        sorted.retain(|&l| l >= threshold);
        let weight = |l: f32| f64::from((l - largest) / row.temperature).exp();
        let need = f64::from(row.top_p) * sorted.iter().map(|&l| weight(l)).sum::<f64>();
        let mut mass = 0.0;
        for &l in &sorted {
            mass += weight(l);
            threshold = l;
            if mass >= need {
                break;
            }
        }
    }
    threshold.min(largest)
}

/// The first id with the largest score.
fn argmax(logits: &[f32], score: impl Fn(usize, f32) -> Option<f32>) -> usize {
    let mut best: Option<(usize, f32)> = None;
    for (id, &l) in logits.iter().enumerate() {
        if let Some(score) = score(id, l)
            && best.is_none_or(|(_, most)| score > most)
        {
            best = Some((id, score));
        }
    }
    best.map_or(0, |(id, _)| id)
}

/// −ln(−ln u), u in (0, 1) from a hash of seed, position and id.
pub fn gumbel(id: u32, position: u32, seed: u32) -> f32 {
    let bits = hash(id ^ hash(position ^ hash(seed)));
    let u = ((bits >> 9) as f32 + 0.5) / 8_388_608.0;
    -(-u.ln()).ln()
}

/// Wellons' lowbias32.
fn hash(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

pub fn cases() -> Vec<Case> {
    let case = |vocab: usize, row: Row| {
        let mut logits = Given::f32([1, vocab]);
        logits.fill = Fill::Random(8.0);
        let tokens = Given::tokens(row.position as usize + 3, vocab as u32);
        Case::new(Sample { rows: 1 }, vec![logits]).state(vec![tokens, Given::table()]).rows(vec![row])
    };
    // The given logits, and the previous tokens as (position, token); all others are 0.
    let given = |logits: &[f32], seen: &[(usize, u32)], rows: usize, row: Row| {
        let mut ids = vec![0; row.place() + rows + 2];
        seen.iter().for_each(|&(at, token)| ids[at] = token);
        let reads = Given::floats([1, logits.len()], logits);
        let mut tokens = Given::tokens(ids.len(), 1);
        tokens.fill = Fill::Ids(ids);
        Case::new(Sample { rows }, vec![reads]).state(vec![tokens, Given::table()]).rows(row.follow(rows))
    };
    let penalty = Row { repeat_penalty: 1.3, ..Row::at(70) };
    let mut equals = [0.0; 300];
    [5, 130, 261].into_iter().for_each(|id| equals[id] = 2.0);
    let warm = Row { temperature: 0.8, seed: 7, ..Row::at(5) };
    vec![
        given(&equals, &[], 1, Row::at(0)),                           // the lowest id among equals
        given(&[1.0, 2.0, 1.9], &[(7, 1)], 1, penalty),               // the oldest token of the window: 2 / 1.3 < 1.9
        given(&[1.0, 2.0, 1.9], &[(6, 1)], 1, penalty),               // one before it: no penalty
        given(&[1.0, 2.0, 1.5], &[(9, 1), (70, 1)], 1, penalty),      // seen twice, divided once
        given(&[-2.0, -1.0, -1.1], &[(70, 1)], 1, penalty),           // negative: multiplied
        given(&[1.0, 2.0, 1.9], &[(8, 1), (9, 2)], 3, penalty),       // three rows: the window ends after them
        given(&[1.0, 1.9, 2.0], &[(9, 3), (70, u32::MAX)], 1, penalty), // ids of image rows: they have no logits
        case(1, Row::at(0)),
        case(31, Row::at(3)),
        case(257, Row { repeat_penalty: 1.3, ..Row::at(70) }),
        case(257, warm),
        case(512, Row { top_k: 1, ..warm }),
        case(512, Row { top_k: 5, ..warm }),
        case(512, Row { top_p: 0.7, ..warm }),
        case(512, Row { min_p: 0.1, ..warm }),
        case(1757, Row { top_k: 40, top_p: 0.9, min_p: 0.02, repeat_penalty: 1.1, seed: 11, ..warm }),
        case(262_144, Row { top_k: 40, ..warm }), // Gemma 3
        case(49152, Row::at(9)).bench(),
        case(49152, Row { top_k: 40, top_p: 0.95, ..warm }).bench(),
    ]
}
