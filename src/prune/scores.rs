//! Scores of key/value heads and feed-forward channels: sums over the elements that are removed together.
//!
//! ```text
//! attention  a[c] = rowsum(e(k))[c] + rowsum(e(v))[c] + Σ_j rowsum(e(q))[j·K·D + c] + Σ_j colsum(e(o))[j·K·D + c]
//!            score of head k = Σ_i a[k·D + i]
//! channel    f[c] = rowsum(e(gate))[c] + rowsum(e(up))[c] + colsum(e(down))[c]
//! ```
//!
//! e is |w·g|, w² or |w|. With w² and |w| both scores are means over the four and three members (the authors'
//! reduction). This changes no choice, because scores of different layers are never compared.

use super::gradient::Matrices;
use super::options::{Importance, QueryHeads};
use crate::checkpoint::Config;

/// The scores of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Scores of the key/value heads.
    pub attention: Vec<f64>,
    /// Scores of the channels.
    pub channels: Vec<f64>,
}

impl Scores {
    /// The scores of `layer`, from its current matrices. `gradients` are those of the loss, for [`Importance::Taylor`].
    pub fn of(
        config: &Config,
        layer: usize,
        weights: &Matrices,
        gradients: Option<&Matrices>,
        importance: Importance,
        query_heads: QueryHeads,
    ) -> Self {
        let (heads, kv_heads, ffn) = (config.heads[layer], config.kv_heads[layer], config.ffn[layer]);
        let (d, hidden, group) = (config.head_dim, config.hidden, config.heads[layer] / config.kv_heads[layer]);
        let none = Matrices::default();
        let gradients = match (importance, gradients) {
            (Importance::Taylor, None) => panic!("scores by gradients without gradients"),
            (_, gradients) => gradients.unwrap_or(&none),
        };
        let elements = |w: &[f32], g: &[f32]| elements(importance, w, g);
        let rows = |w: &[f32], g: &[f32]| -> Vec<f64> {
            elements(w, g).chunks_exact(hidden).map(|row| row.iter().map(|&e| f64::from(e)).sum()).collect()
        };
        let columns = |w: &[f32], g: &[f32], cols: usize| {
            let mut sums = vec![0.0; cols];
            for row in elements(w, g).chunks_exact(cols) {
                sums.iter_mut().zip(row).for_each(|(sum, &e)| *sum += f64::from(e));
            }
            sums
        };
        let (w, g) = (weights, gradients);
        let (members, channel_members) = if importance == Importance::Taylor { (1.0, 1.0) } else { (4.0, 3.0) };

        let mut attention = vec![0.0; kv_heads];
        for rows in [rows(&w.k, &g.k), rows(&w.v, &g.v)] {
            rows.iter().enumerate().for_each(|(c, sum)| attention[c / d] += sum);
        }
        for sums in [rows(&w.q, &g.q), columns(&w.o, &g.o, heads * d)] {
            for (c, sum) in sums.iter().enumerate() {
                let head = c / d;
                attention[match query_heads {
                    QueryHeads::Authors => head % kv_heads,
                    QueryHeads::Own => head / group,
                }] += sum;
            }
        }
        let mut channels = columns(&w.down, &g.down, ffn);
        for rows in [rows(&w.gate, &g.gate), rows(&w.up, &g.up)] {
            channels.iter_mut().zip(rows).for_each(|(sum, row)| *sum += row);
        }
        attention.iter_mut().for_each(|score| *score /= members);
        channels.iter_mut().for_each(|score| *score /= channel_members);
        Scores { attention, channels }
    }
}

/// The importance of each element.
fn elements(importance: Importance, w: &[f32], g: &[f32]) -> Vec<f32> {
    match importance {
        Importance::Taylor => {
            assert_eq!(w.len(), g.len(), "a gradient for each weight");
            w.iter().zip(g).map(|(w, g)| (w * g).abs()).collect()
        }
        Importance::L2 => w.iter().map(|w| w * w).collect(),
        Importance::L1 => w.iter().map(|w| w.abs()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The two ways to add up query heads, on a layer whose matrices have one significant element each.
    #[test]
    fn query_heads_are_the_authors_or_their_own() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/mobilellm_gqa");
        let mut config = crate::checkpoint::Checkpoint::open(folder).unwrap().config;
        (config.layers, config.head_dim, config.hidden) = (1, 2, 3);
        (config.heads, config.kv_heads, config.ffn) = (vec![4], vec![2], vec![1]);
        let mut w = Matrices {
            q: vec![0.0; 24],
            k: vec![0.0; 12],
            v: vec![0.0; 12],
            o: vec![0.0; 24],
            gate: vec![1.0; 3],
            up: vec![-2.0; 3],
            down: vec![3.0; 3],
        };
        // Query head 1 reads key/value head 0, and the authors add it to key/value head 1.
        w.q[2 * 3] = -8.0;
        let of = |importance, query_heads| Scores::of(&config, 0, &w, None, importance, query_heads);
        assert_eq!(of(Importance::L1, QueryHeads::Own).attention, [2.0, 0.0]);
        assert_eq!(of(Importance::L1, QueryHeads::Authors).attention, [0.0, 2.0]);
        assert_eq!(of(Importance::L2, QueryHeads::Own).attention, [16.0, 0.0]);
        assert_eq!(of(Importance::L1, QueryHeads::Own).channels, [6.0]);
        assert_eq!(of(Importance::L2, QueryHeads::Own).channels, [14.0]);
    }
}
