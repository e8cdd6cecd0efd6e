//! Layer importance: how much each layer changes the residual stream, on any device.
//!
//! ```text
//! cosine  v = −x·y / (max(|x|, 1e-8) · max(|y|, 1e-8))    euclidean  v = −‖x − y‖₂    manhattan  v = −‖x − y‖₁
//! c_ℓ = Σ over batches of the mean of v over the tokens of the batch
//! ```
//!
//! x and y are a token's residual stream before and after layer ℓ. A layer that is executed twice adds the values of
//! both passes.

use super::options::LayerImportance;
use crate::backend::{Output, Session, Step, Want};
use crate::error::Result;
use crate::work::{Family, Row};

/// Receives the number of a pass, or of its layer, and the hidden states before and after it.
pub type Each<'a> = dyn FnMut(usize, &[f32], &[f32]) + 'a;

/// The accumulators of c for each layer.
pub struct Streams {
    distance: LayerImportance,
    /// c of the previous batches.
    done: Vec<f64>,
    /// Sums of v over the tokens of this batch.
    batch: Vec<f64>,
}

impl Streams {
    pub fn new(distance: LayerImportance, layers: usize) -> Self {
        Streams { distance, done: vec![0.0; layers], batch: vec![0.0; layers] }
    }

    /// Adds the input and output of a layer, (rows, hidden).
    pub fn add(&mut self, layer: usize, x: &[f32], y: &[f32], hidden: usize) {
        let tokens = x.chunks_exact(hidden).zip(y.chunks_exact(hidden));
        self.batch[layer] += tokens.map(|(x, y)| value(self.distance, x, y)).sum::<f64>();
    }

    /// Ends a batch of `tokens` tokens: every batch has the same weight in c.
    pub fn end_batch(&mut self, tokens: usize) {
        for (done, sum) in self.done.iter_mut().zip(&mut self.batch) {
            *done += std::mem::take(sum) / tokens as f64;
        }
    }

    /// c of each layer.
    pub fn finish(self) -> Vec<f64> {
        self.done
    }
}

/// v: the negative distance, or the negative similarity, of a token's states before and after a layer.
fn value(distance: LayerImportance, x: &[f32], y: &[f32]) -> f64 {
    let sum = |term: fn(f64, f64) -> f64| x.iter().zip(y).map(|(&x, &y)| term(x.into(), y.into())).sum::<f64>();
    -match distance {
        LayerImportance::Cosine => {
            let size = |squares: f64| squares.sqrt().max(1e-8);
            sum(|x, y| x * y) / (size(sum(|x, _| x * x)) * size(sum(|_, y| y * y)))
        }
        LayerImportance::Euclidean => sum(|x, y| (x - y) * (x - y)).sqrt(),
        LayerImportance::Manhattan => sum(|x, y| (x - y).abs()),
        LayerImportance::Uniform => 0.0,
    }
}

/// Runs a window through a model, at most `chunk` rows at a time, and calls `each` with the hidden states before and
/// after every pass of a layer, (rows, hidden).
pub fn pass(session: &mut dyn Session, chunk: usize, window: &[u32], each: &mut Each) -> Result<()> {
    session.set_tokens(0, window)?;
    for position in (0..window.len()).step_by(chunk) {
        let rows = Row::at(position).follow(chunk.min(window.len() - position));
        session.run(&Step { rows: &rows, family: Family::Many, want: Want::Hidden, logits: false, images: false })?;
        let outputs: Vec<Output> = session.outputs()?.into_iter().map(|(_, output)| output).collect();
        for (pass, pair) in outputs.windows(2).enumerate() {
            each(pass, &pair[0].data, &pair[1].data);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_count_alike() {
        let mut streams = Streams::new(LayerImportance::Manhattan, 1);
        streams.add(0, &[0.0, 0.0, 0.0, 0.0], &[1.0, 1.0, 3.0, -1.0], 2);
        streams.end_batch(2);
        streams.add(0, &[5.0, 5.0], &[6.0, 5.0], 2);
        streams.end_batch(1);
        assert_eq!(streams.finish(), [-4.0]);
    }

    #[test]
    fn values_are_those_of_the_formulas() {
        let of = |distance| value(distance, &[3.0, 4.0], &[4.0, 3.0]);
        assert_eq!(of(LayerImportance::Cosine), -24.0 / 25.0);
        assert_eq!(of(LayerImportance::Euclidean), -2f64.sqrt());
        assert_eq!(of(LayerImportance::Manhattan), -2.0);
        assert_eq!(value(LayerImportance::Cosine, &[0.0], &[0.0]), 0.0);
    }
}
