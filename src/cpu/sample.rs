//! `sample`: members of the team take slices of the rows of logits; then one member for each row joins their results.

use std::ops::Range;

use crate::cpu::exp::exp;
use crate::cpu::simd::simd;
use crate::cpu::{Call, Scratch, piece};
use crate::work::Row;
use crate::ops::TensorType;
use crate::ops::sample::{Sample, TABLE_COLS, WINDOW, gumbel, penalise};
use crate::threads::Member;

/// The number of logits in a slice.
const SLICE: usize = 4096;

/// The result of a slice, in floats of the workspace: the largest logit, Σ exp(logit − largest), and of the ids that
/// may be chosen the best score and its id.
const FOUND: usize = 4;

/// For each row, the results of its slices, and the smallest logit that the filters keep.
pub fn workspace(_: &Sample, reads: &[&TensorType]) -> usize {
    let (m, vocab) = reads[0].matrix();
    m * (FOUND * vocab.div_ceil(SLICE) + 1)
}

pub fn run(op: &Sample, call: &Call, member: &Member, scratch: &mut Scratch) {
    let [tokens, table, sampled] = call.writes else { panic!("sample writes tokens, the table and the choices") };
    let (all, m) = (call.reads[0].f32(), call.m);
    let vocab = all.len() / m;
    let (slices, each) = (vocab.div_ceil(SLICE), FOUND * vocab.div_ceil(SLICE) + 1);
    let rows = &call.rows[op.rows - m..op.rows];
    // The ids that the repeat penalty applies to, as bits.
    let seen = |row: &Row| -> &[f32] {
        let end = row.place() + 1;
        let window = end.saturating_sub(WINDOW).max(row.slot as usize)..end;
        if row.repeat_penalty == 1.0 {
            return &[];
        }
        // SAFETY: tokens are written after the last barrier, and at other positions.
        &*unsafe { tokens.part(window) }
    };
    let logits = |r: usize| &all[r * vocab..(r + 1) * vocab];

    member.each(m * slices, |i| {
        let (row, range) = (&rows[i / slices], piece(i % slices, SLICE, vocab));
        let slice = &logits(i / slices)[range.clone()];
        let (largest, mass) = mass(slice);
        let at = i / slices * each + i % slices * FOUND;
        // SAFETY: each slice has its own floats.
        let found = unsafe { call.workspace.part(at..at + FOUND) };
        found[..2].copy_from_slice(&[largest, mass]);
        if row.temperature <= 0.0 {
            found[2..].copy_from_slice(&best(logits(i / slices), range, seen(row), row, f32::NEG_INFINITY));
        }
    });
    member.barrier();

    if rows.iter().any(|row| row.temperature > 0.0) {
        member.each(m, |r| {
            // SAFETY: each row has its own float.
            let threshold = unsafe { call.workspace.part((r + 1) * each - 1..(r + 1) * each) };
            threshold[0] = f32::NEG_INFINITY;
            let row = &rows[r];
            if row.temperature > 0.0 && (row.min_p > 0.0 || row.kept() > 0 || row.top_p < 1.0) {
                let [penalised] = scratch.take([vocab]);
                penalised.copy_from_slice(logits(r));
                let seen = distinct(seen(row), 0..vocab);
                for id in seen.ids() {
                    penalised[id] = penalise(penalised[id], row);
                }
                threshold[0] = kept(penalised, row);
            }
        });
        member.barrier();
        member.each(m * slices, |i| {
            let (r, range) = (i / slices, piece(i % slices, SLICE, vocab));
            if rows[r].temperature > 0.0 {
                let at = r * each + i % slices * FOUND;
                // SAFETY: each slice has its own floats, and the thresholds were written before the barrier.
                let (found, threshold) = unsafe {
                    (
                        call.workspace.part(at + 2..at + FOUND),
                        call.workspace.part((r + 1) * each - 1..(r + 1) * each)[0],
                    )
                };
                found.copy_from_slice(&best(logits(r), range, seen(&rows[r]), &rows[r], threshold));
            }
        });
        member.barrier();
    }

    member.each(m, |r| {
        // SAFETY: no member writes it any more.
        let found: &[f32] = unsafe { call.workspace.part(r * each..(r + 1) * each - 1) };
        let found = found.as_chunks::<FOUND>().0;
        let largest = found.iter().map(|found| found[0]).fold(f32::NEG_INFINITY, f32::max);
        let mass: f64 = found.iter().map(|found| f64::from(found[1]) * f64::from(found[0] - largest).exp()).sum();
        let mut chosen = found[0];
        for found in found {
            // Of equal scores the lowest id is chosen.
            if found[2] > chosen[2] {
                chosen = *found;
            }
        }
        let id = chosen[3].to_bits();
        let logprob = f64::from(logits(r)[id as usize] - largest) - mass.ln();
        let end = rows[r].place() + 1;
        // SAFETY: each row has its own elements of all three.
        unsafe {
            tokens.part(end..end + 1)[0] = f32::from_bits(id);
            table.part((op.rows - m + r) * TABLE_COLS + 1..(op.rows - m + r) * TABLE_COLS + 2)[0] =
                f32::from_bits(rows[r].position + 1);
            sampled.part(2 * r..2 * r + 2).copy_from_slice(&[f32::from_bits(id), logprob as f32]);
        }
    });
}

simd! {
    /// The largest of x, and Σ exp(x − largest).
    pub fn mass(x: &[f32]) -> (f32, f32) {
        let (x32, rest) = x.as_chunks::<32>();
        let mut lanes = [f32::NEG_INFINITY; 32];
        for x in x32 {
            for i in 0..32 {
                lanes[i] = if x[i] > lanes[i] { x[i] } else { lanes[i] };
            }
        }
        let largest = lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sums = [0.0; 32];
        for x in x32 {
            for i in 0..32 {
                sums[i] += exp::<FMA>(x[i] - largest);
            }
        }
        let mass = sums.iter().sum::<f32>() + rest.iter().map(|x| exp::<FMA>(x - largest)).sum::<f32>();
        (largest, mass)
    }

    /// The first position of the largest of x: (largest, index).
    pub fn largest(x: &[f32]) -> (f32, usize) {
        let mut lanes = [f32::NEG_INFINITY; 32];
        let (x32, rest) = x.as_chunks::<32>();
        for x in x32 {
            for i in 0..32 {
                lanes[i] = if x[i] > lanes[i] { x[i] } else { lanes[i] };
            }
        }
        let largest = lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
        (largest, x.iter().position(|&x| x == largest).unwrap_or(0))
    }
}

/// Ids of a range, sorted, each once.
struct Distinct {
    ids: [usize; WINDOW],
    count: usize,
}

impl Distinct {
    fn ids(&self) -> impl Iterator<Item = usize> {
        self.ids[..self.count].iter().copied()
    }
}

/// The ids of `seen` that lie in `range`; those past the vocabulary are rows of an image.
fn distinct(seen: &[f32], range: Range<usize>) -> Distinct {
    let (mut ids, mut count) = ([0; WINDOW], 0);
    for id in seen.iter().map(|id| id.to_bits() as usize).filter(|id| range.contains(id)) {
        ids[count] = id;
        count += 1;
    }
    ids[..count].sort_unstable();
    let mut kept = 0;
    for i in 0..count {
        if i == 0 || ids[i] != ids[i - 1] {
            ids[kept] = ids[i];
            kept += 1;
        }
    }
    Distinct { ids, count: kept }
}

/// The best score of the ids of `range` whose logit is not below `threshold`, and the id's bits; of equal scores the
/// lowest id.
fn best(logits: &[f32], range: Range<usize>, seen: &[f32], row: &Row, threshold: f32) -> [f32; 2] {
    let (mut best, mut id) = (f32::NEG_INFINITY, range.start);
    let mut consider = |at: usize, score: f32| {
        if score > best || score == best && at < id {
            (best, id) = (score, at);
        }
    };
    let seen = distinct(seen, range.clone());
    let mut start = range.start;
    for end in seen.ids().chain([range.end]) {
        let run = &logits[start..end];
        if row.temperature > 0.0 {
            noisy(run, start, row, threshold, &mut consider);
        } else if !run.is_empty() {
            let (score, at) = largest(run);
            consider(start + at, score);
        }
        if end < range.end {
            let l = penalise(logits[end], row);
            if row.temperature > 0.0 {
                noisy(&[l], end, row, threshold, &mut consider);
            } else {
                consider(end, l);
            }
        }
        start = end + 1;
    }
    [best, f32::from_bits(id as u32)]
}

/// Scores with Gumbel noise. Skips logits that cannot become the best with any noise.
fn noisy(logits: &[f32], first: usize, row: &Row, threshold: f32, consider: &mut impl FnMut(usize, f32)) {
    /// −ln(−ln u) of the largest u, 1 − 2⁻²⁴, rounded up.
    const MOST_NOISE: f32 = 16.7;
    let mut best = f32::NEG_INFINITY;
    for (i, &l) in logits.iter().enumerate() {
        let score = l / row.temperature;
        if l >= threshold && score + MOST_NOISE > best {
            let score = score + gumbel((first + i) as u32, row.position + 1, row.seed);
            best = best.max(score);
            consider(first + i, score);
        }
    }
}

/// The smallest logit that the filters keep. Changes the order of the logits.
fn kept(logits: &mut [f32], row: &Row) -> f32 {
    let falling = |a: &f32, b: &f32| b.total_cmp(a);
    let (largest, _) = largest(logits);
    let mut threshold = f32::NEG_INFINITY;
    if row.min_p > 0.0 {
        threshold = threshold.max(largest + row.temperature * row.min_p.ln());
    }
    if row.kept() > 0 && (row.kept() as usize) < logits.len() {
        let (_, &mut last, _) = logits.select_nth_unstable_by(row.kept() as usize - 1, falling);
        threshold = threshold.max(last);
    }
    if row.top_p < 1.0 {
        let mut count = 0;
        for i in 0..logits.len() {
            if logits[i] >= threshold {
                logits.swap(count, i);
                count += 1;
            }
        }
        let weight = |l: f32| f64::from((l - largest) / row.temperature).exp();
        let need = f64::from(row.top_p) * logits[..count].iter().map(|&l| weight(l)).sum::<f64>();
        // Usually a few logits reach the sum, so only the largest 64 are sorted at first, then four times as many each
        // time.
        let (mut mass, mut rest, mut some) = (0.0, &mut logits[..count], 64);
        while mass < need && !rest.is_empty() {
            if some < rest.len() {
                rest.select_nth_unstable_by(some, falling);
            }
            let end = some.min(rest.len());
            let (first, others) = std::mem::take(&mut rest).split_at_mut(end);
            first.sort_unstable_by(falling);
            for &l in &*first {
                mass += weight(l);
                threshold = l;
                if mass >= need {
                    break;
                }
            }
            (rest, some) = (others, 4 * some);
        }
    }
    threshold.min(largest)
}
