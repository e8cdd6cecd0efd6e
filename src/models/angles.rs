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

impl AngleTable {
    /// The table without its angles, for plans, which do not read them.
    pub fn blank(config: &Config, context: usize) -> Self {
        let (stretches, own) = tables(config, context);
        let each = if own { 2 * context } else { context };
        let data = Arc::new(vec![0.0; stretches * each * config.head_dim]);
        let local = config.rope.local.as_ref().map(|_| Arc::new(vec![0.0; context * config.head_dim]));
        let angles = |first| Angles { first, each: if stretches > 1 { each } else { 0 } };
        AngleTable { data, local, context, turns: Turns { q: angles(if own { context } else { 0 }), k: angles(0) } }
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
    Ok(AngleTable { data: Arc::new(data), local, ..AngleTable::blank(config, context) })
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
