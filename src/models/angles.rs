//! The angles of rope, computed on the host once per model.

use std::sync::Arc;

use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::ops::rope::Angles;

/// cos and sin of position · θ_i, interleaved: (rows, head_dim), one row per position.
///
/// A table has `context` rows. Where queries are multiplied beyond the trained length (logn), a second table with the
/// factors applied follows it, for q. With dynamic NTK there is such a table, or pair, for each stretch, one after
/// another; each row of a pass stores its stretch, so sequences of different stretches share passes.
#[derive(Clone, Debug)]
pub struct AngleTable {
    pub data: Arc<Vec<f32>>,
    /// The table of layers with a window, where they have θ of their own: (context, head_dim).
    pub local: Option<Arc<Vec<f32>>>,
    pub context: usize,
    pub turns: Turns,
}

/// The position of the angles of q and of k in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    pub q: Angles,
    pub k: Angles,
}

/// The number of stretches in a context, and whether q has tables of its own.
fn tables(config: &Config, context: usize) -> (usize, bool) {
    let beyond = &config.rope.beyond;
    (beyond.stretch(context) + 1, beyond.logn && context > beyond.trained)
}

/// The position of the angles of q and of k in the table of a context.
fn turns(config: &Config, context: usize) -> Turns {
    let (stretches, own) = tables(config, context);
    let each = if stretches > 1 { stretch_rows(own, context) } else { 0 };
    let angles = |first| Angles { first, each };
    Turns { q: angles(if own { context } else { 0 }), k: angles(0) }
}

/// The rows of one stretch: a table for q and k, or one for each.
fn stretch_rows(own: bool, context: usize) -> usize {
    if own { 2 * context } else { context }
}

impl AngleTable {
    /// The table without its angles, for plans, which do not read them.
    pub fn blank(config: &Config, context: usize) -> Self {
        let (stretches, own) = tables(config, context);
        let data = Arc::new(vec![0.0; stretches * stretch_rows(own, context) * config.head_dim]);
        let local = config.rope.local.as_ref().map(|_| Arc::new(vec![0.0; context * config.head_dim]));
        AngleTable { data, local, context, turns: turns(config, context) }
    }
}

/// The angles of a model, for sequences of up to `context` tokens. Computed in f32 throughout, as in the reference.
pub fn angles(config: &Config, context: usize) -> Result<AngleTable> {
    let bytes = angle_bytes(config, context);
    if bytes > MOST_ANGLE_BYTES {
        return Err(Error::out_of_memory(format!(
            "a context of {context} tokens needs {} MB for the angles of its positions, at most {} MB are made; take a \
             shorter --context",
            bytes >> 20,
            MOST_ANGLE_BYTES >> 20
        )));
    }
    let (stretches, own) = tables(config, context);
    let beyond = &config.rope.beyond;
    let mut data = Vec::with_capacity(bytes as usize / 4);
    for stretch in 0..stretches {
        let mut inv_freq = config.rope.inv_freq.clone();
        // Dynamic NTK does not change the pairs that are not rotated.
        if let Some(others) = beyond.inv_freq(stretch) {
            inv_freq[..others.len()].copy_from_slice(&others);
        }
        let first = data.len();
        for position in 0..context {
            let angles = inv_freq.iter().map(|theta| position as f32 * theta);
            data.extend(angles.flat_map(|angle| [angle.cos(), angle.sin()]));
        }
        for position in 0..if own { context } else { 0 } {
            let (at, factor) = (first + position * config.head_dim, beyond.logn(position));
            data.extend_from_within(at..at + config.head_dim);
            let last = data.len() - config.head_dim;
            data[last..].iter_mut().for_each(|value| *value *= factor);
        }
    }
    let turned = |inv_freq: &Vec<f32>| {
        let angles = (0..context).flat_map(|position| inv_freq.iter().map(move |theta| position as f32 * theta));
        Arc::new(angles.flat_map(|angle| [angle.cos(), angle.sin()]).collect())
    };
    let local = config.rope.local.as_ref().map(turned);
    Ok(AngleTable { data: Arc::new(data), local, context, turns: turns(config, context) })
}

/// The size of [`angles`] in bytes.
pub fn angle_bytes(config: &Config, context: usize) -> u64 {
    let (stretches, own) = tables(config, context);
    let rows = (context as u64)
        .saturating_mul(stretches as u64 * if own { 2 } else { 1 } + u64::from(config.rope.local.is_some()));
    rows.saturating_mul(4 * config.head_dim as u64)
}

/// A context of 4 million tokens with heads of 64: more than any model has, and little enough for any machine.
const MOST_ANGLE_BYTES: u64 = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::checkpoint::beyond::{Beyond, Ntk};
    use crate::work::Row;

    /// Trained length, and the context, in which there are three stretches.
    const TRAINED: usize = 40;
    const CONTEXT: usize = 150;

    /// α for a prompt of n tokens, as the authors write it: max(2^ceil(log2(n / S) + 1) − 1, 1).
    fn alpha(n: usize) -> f64 {
        let doublings = (n as f64 / TRAINED as f64).ln() / 2f64.ln();
        ((doublings + 1.0).ceil().exp2() - 1.0).max(1.0)
    }

    /// Each switch changes its own part of the angles, also where rope rotates a part of each head: compared with
    /// factor · cos(p θ_i) and factor · sin(p θ_i) in f64.
    #[test]
    fn ntk_and_logn_are_switches_of_their_own() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/qwenvl_a");
        let mut config = Checkpoint::open(golden).unwrap().config;
        let d = config.head_dim;
        let base = 10_000f64;
        for (ntk, logn, rotated) in [
            (false, false, d),
            (true, false, d),
            (false, true, d),
            (true, true, d),
            (false, false, d / 4),
            (true, false, d / 4),
            (false, true, d / 4),
            (true, true, d / 4),
        ] {
            let theta = |base: f64, i: usize| match i {
                i if i < rotated / 2 => base.powf(-2.0 * i as f64 / rotated as f64),
                _ => 0.0,
            };
            config.rope.inv_freq = (0..d / 2).map(|i| theta(base, i) as f32).collect();
            config.rope.beyond = Beyond { trained: TRAINED, ntk: ntk.then_some(Ntk { base, rotated }), logn };
            let table = angles(&config, CONTEXT).unwrap();
            let blank = AngleTable::blank(&config, CONTEXT);
            assert_eq!((blank.data.len(), blank.turns), (table.data.len(), table.turns));
            for tokens in [1, TRAINED, TRAINED + 1, 2 * TRAINED, 2 * TRAINED + 1, CONTEXT] {
                let stretch = config.rope.beyond.stretch(tokens);
                let exponent = rotated as f64 / (rotated as f64 - 2.0);
                let base = if ntk { base * alpha(tokens).powf(exponent) } else { base };
                for position in [0, 1, TRAINED - 1, TRAINED, CONTEXT - 1] {
                    let row = Row::at(position).stretched(stretch);
                    let p = position as f64 + 1.0;
                    let factor = if logn && p > TRAINED as f64 { p.ln() / (TRAINED as f64).ln() } else { 1.0 };
                    for (part, turns, factor) in [("q", table.turns.q, factor), ("k", table.turns.k, 1.0)] {
                        let found = &table.data[turns.of(&row) * d..][..d];
                        for i in 0..d / 2 {
                            let angle = position as f64 * theta(base, i);
                            let wanted = [factor * angle.cos(), factor * angle.sin()];
                            for (found, wanted) in found[2 * i..2 * i + 2].iter().zip(wanted) {
                                // θ and an angle of up to 149 are each off by 2⁻²⁴ of themselves in f32: 1.8e-5
                                // together. The factor is at most 1.4.
                                assert!(
                                    (f64::from(*found) - wanted).abs() < 3e-5,
                                    "{part}, ntk {ntk}, logn {logn}, {rotated} of {d}: {found} for {wanted} in pair {i} at \
                                     {position} of {tokens}",
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}
