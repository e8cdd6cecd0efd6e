//! Looking inside: how well a text is predicted, and what passes through the layers.

use std::path::Path;

use super::generation::log_sum_exp;
use super::model::Inner;
use crate::backend::{Output, Sampling, Step, Want};
use crate::error::{Error, Result};

/// How well a text is predicted.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Score {
    /// Ids in the text.
    pub tokens: usize,
    /// Mean of `token_nll`, in nats.
    pub mean_nll: f64,
    /// exp(`mean_nll`).
    pub perplexity: f64,
    /// The negative log-likelihood, in nats, of every id but the first of each window.
    pub token_nll: Vec<f64>,
}

/// Hidden states and logits of a text, in the order of execution.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// `embeddings`, `layers.0`, `layers.1`, …, `logits`.
    pub tensors: Vec<(String, Matrix)>,
}

/// A matrix of float32, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// Tokens.
    pub rows: usize,
    /// Features.
    pub cols: usize,
    pub data: Vec<f32>,
}

impl Trace {
    /// Writes all tensors to a safetensors file, as f32 of shape (tokens, features).
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        use safetensors::tensor::{Dtype, TensorView};
        let path = path.as_ref();
        let failed = |error: safetensors::SafeTensorError| {
            Error::checkpoint(format!("{} cannot be written", path.display())).caused_by(error)
        };
        let bytes: Vec<Vec<u8>> = self
            .tensors
            .iter()
            .map(|(_, matrix)| matrix.data.iter().flat_map(|value| value.to_le_bytes()).collect())
            .collect();
        let views = self.tensors.iter().zip(&bytes).map(|((name, matrix), bytes)| {
            Ok((name.as_str(), TensorView::new(Dtype::F32, vec![matrix.rows, matrix.cols], bytes).map_err(failed)?))
        });
        safetensors::serialize_to_file(views.collect::<Result<Vec<_>>>()?, None, path).map_err(failed)
    }
}

pub(super) fn score(
    model: &Inner,
    ids: &[u32],
    window: Option<usize>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Score> {
    let window = window.unwrap_or_else(|| ids.len().min(model.context)).max(1);
    if ids.len() < 2 || window < 2 {
        return Err(Error::prompt(format!(
            "there is nothing to predict in {} tokens with windows of {window}: both must be at least 2",
            ids.len()
        )));
    }
    let mut token_nll = Vec::with_capacity(ids.len());
    for (index, part) in ids.chunks(window).enumerate() {
        model.check(part)?;
        // The last id predicts nothing.
        run(model, &part[..part.len() - 1], Want::Logits, &mut |start, mut outputs| {
            progress(index * window + start, ids.len());
            let logits = outputs.pop().map(|(_, logits)| logits).unwrap_or_else(|| panic!("no logits came back"));
            for (row, &target) in logits.data.chunks_exact(logits.cols).zip(&part[start + 1..]) {
                let sum = log_sum_exp(row).ok_or_else(|| {
                    Error::device(format!("{} computed logits that are not numbers", model.engine.device().name))
                })?;
                token_nll.push(sum - f64::from(row[target as usize]));
            }
            Ok(())
        })?;
    }
    progress(ids.len(), ids.len());
    let mean_nll = token_nll.iter().sum::<f64>() / token_nll.len() as f64;
    Ok(Score { tokens: ids.len(), mean_nll, perplexity: mean_nll.exp(), token_nll })
}

pub(super) fn trace(model: &Inner, ids: &[u32]) -> Result<Trace> {
    model.check(ids)?;
    let mut tensors: Vec<(String, Matrix)> = Vec::new();
    run(model, ids, Want::Trace, &mut |start, outputs| {
        if start == 0 {
            tensors = outputs
                .iter()
                .map(|(name, part)| (name.clone(), Matrix { rows: 0, cols: part.cols, data: Vec::new() }))
                .collect();
        }
        for ((name, whole), (part_name, part)) in tensors.iter_mut().zip(outputs) {
            assert_eq!(*name, part_name, "outputs of a later chunk");
            whole.rows += part.rows;
            whole.data.extend(part.data);
        }
        Ok(())
    })?;
    Ok(Trace { tensors })
}

/// Runs `ids` in a session of their own, and hands on each chunk's outputs with the position of its first row.
fn run(
    model: &Inner,
    ids: &[u32],
    want: Want,
    each: &mut dyn FnMut(usize, Vec<(String, Output)>) -> Result<()>,
) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    // All logits come back to the host: 32 MiB of them at a time.
    let chunk = ((32 << 20) / (4 * model.config.vocab)).clamp(1, model.engine.chunk());
    let sampling = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repeat_penalty: 1.0, seed: 0 };
    let mut session = model.engine.session(ids.len())?;
    session.set_tokens(0, ids)?;
    for position in (0..ids.len()).step_by(chunk) {
        let rows = chunk.min(ids.len() - position);
        session.run(&Step { position, rows, want, sampling: sampling.clone() })?;
        each(position, session.outputs()?)?;
    }
    Ok(())
}
