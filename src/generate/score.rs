//! Looking inside: how well a text is predicted, and what passes through the layers.

use std::path::Path;

use super::conversation::Encoded;
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
    /// `embeddings`, `layers.0`, `layers.1`, …, `logits`: (tokens, features). Before them, where the prompt has a picture,
    /// `vision.pixels` (3, S, S), `vision.features` (patches, width) and `vision.projected` (image tokens, hidden); those
    /// of a second picture begin with `vision.1.`, and so on.
    pub tensors: Vec<(String, Values)>,
}

/// Float32 numbers of some shape, the last dimension fastest.
#[derive(Clone, Debug, PartialEq)]
pub struct Values {
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

impl Trace {
    /// Writes all tensors to a safetensors file, as f32.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        use safetensors::tensor::{Dtype, TensorView};
        let path = path.as_ref();
        let failed = |error: safetensors::SafeTensorError| {
            Error::checkpoint(format!("{} cannot be written", path.display())).caused_by(error)
        };
        let bytes: Vec<Vec<u8>> = self
            .tensors
            .iter()
            .map(|(_, values)| values.data.iter().flat_map(|value| value.to_le_bytes()).collect())
            .collect();
        let views = self.tensors.iter().zip(&bytes).map(|((name, values), bytes)| {
            Ok((name.as_str(), TensorView::new(Dtype::F32, values.shape.clone(), bytes).map_err(failed)?))
        });
        safetensors::serialize_to_file(views.collect::<Result<Vec<_>>>()?, None, path).map_err(failed)
    }
}

pub(super) fn score(
    model: &Inner,
    prompt: &Encoded,
    window: Option<usize>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Score> {
    let ids = &prompt.ids;
    let window = window.unwrap_or_else(|| ids.len().min(model.context)).max(1);
    if ids.len() < 2 || window < 2 {
        return Err(Error::prompt(format!(
            "there is nothing to predict in {} tokens with windows of {window}: both must be at least 2",
            ids.len()
        )));
    }
    if !prompt.images.is_empty() && window < ids.len() {
        return Err(Error::prompt(format!(
            "a prompt with pictures is scored whole: its {} tokens, {} of them of images, do not fit a window of {window}; \
             shorten it or give a larger --window or --context",
            ids.len(),
            prompt.images.len() * model.image_tokens(),
        )));
    }
    let mut token_nll = Vec::with_capacity(ids.len());
    for (index, part) in ids.chunks(window).enumerate() {
        model.check(part, prompt.images.len())?;
        // The last id predicts nothing.
        run(model, &part[..part.len() - 1], &prompt.images, Want::Logits, None, &mut |start, mut outputs| {
            progress(index * window + start, ids.len());
            let logits = outputs.pop().map(|(_, logits)| logits).unwrap_or_else(|| panic!("no logits came back"));
            let rows = logits.data.chunks_exact(logits.cols).zip(&part[start + 1..]);
            for (row, &target) in rows.filter(|(_, target)| (**target as usize) < model.config.vocab) {
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

pub(super) fn trace(model: &Inner, prompt: &Encoded) -> Result<Trace> {
    model.check(&prompt.ids, prompt.images.len())?;
    let mut pictures: Vec<(String, Values)> = Vec::new();
    let mut tensors: Vec<(String, Values)> = Vec::new();
    run(model, &prompt.ids, &prompt.images, Want::Trace, Some(&mut pictures), &mut |start, outputs| {
        if start == 0 {
            let empty = |cols| Values { shape: vec![0, cols], data: Vec::new() };
            tensors = outputs.iter().map(|(name, part)| (name.clone(), empty(part.cols))).collect();
        }
        for ((name, whole), (part_name, part)) in tensors.iter_mut().zip(outputs) {
            assert_eq!(*name, part_name, "outputs of a later chunk");
            whole.shape[0] += part.rows;
            whole.data.extend(part.data);
        }
        Ok(())
    })?;
    pictures.extend(tensors);
    Ok(Trace { tensors: pictures })
}

/// Runs `ids` in a session of their own, and hands on each chunk's outputs with the position of its first row.
/// What passes through the vision half goes to `pictures`.
fn run(
    model: &Inner,
    ids: &[u32],
    images: &[Vec<f32>],
    want: Want,
    mut pictures: Option<&mut Vec<(String, Values)>>,
    each: &mut dyn FnMut(usize, Vec<(String, Output)>) -> Result<()>,
) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    // All logits come back to the host: 32 MiB of them at a time.
    let chunk = ((32 << 20) / (4 * model.config.vocab)).clamp(1, model.engine.chunk());
    let sampling = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repeat_penalty: 1.0, seed: 0 };
    let mut session = model.engine.session(ids.len())?;
    for (index, pixels) in images.iter().enumerate() {
        let outputs = session.encode(pixels, pictures.is_some(), &|_, _| ())?;
        let Some(pictures) = &mut pictures else { continue };
        let size = model.config.vision.as_ref().map_or(0, |vision| vision.image_size);
        let name =
            |name: &str| if index == 0 { name.into() } else { name.replace("vision", &format!("vision.{index}")) };
        pictures.push((name("vision.pixels"), Values { shape: vec![3, size, size], data: pixels.clone() }));
        let values = |part: Output| Values { shape: vec![part.rows, part.cols], data: part.data };
        pictures.extend(outputs.into_iter().map(|(part_name, part)| (name(&part_name), values(part))));
    }
    session.set_tokens(0, ids)?;
    for position in (0..ids.len()).step_by(chunk) {
        let rows = chunk.min(ids.len() - position);
        let images = ids[position..position + rows].iter().any(|&id| id as usize >= model.config.vocab);
        session.run(&Step { position, rows, want, sampling: sampling.clone(), images })?;
        each(position, session.outputs()?)?;
    }
    Ok(())
}
