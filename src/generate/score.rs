//! Measures how well a model predicts a text, and returns the hidden states of its layers.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::encode::Encoded;
use super::logits::log_sum_exp;
use super::model::{Inner, Model};
use super::prompt::Prompt;
use super::sampler::Sampling;
use crate::backend::{Output, Session, Step, Want};
use crate::error::{Error, Result};
use crate::work::Family;

/// The measured prediction of a text.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Score {
    /// The number of ids in the text.
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
    /// `embeddings`, `layers.0`, `layers.1`, …, `logits`: (tokens, features). Before them, where the prompt has a
    /// picture, `vision.pixels` (3, S, S), `vision.features` (patches, width) and `vision.projected` (image tokens,
    /// hidden); those of a second picture begin with `vision.1.`, and so on.
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

impl Model {
    /// Measures how well the model predicts ids, given directly or as a prompt: the negative log-likelihood of each id,
    /// given the ids before it. Pictures are inputs and are not predicted.
    ///
    /// Texts longer than the context are cut into windows of `window` ids, each scored alone; the default is the size
    /// of the context. The first id of a window is not predicted. A text with pictures must fit one window.
    pub fn score(&self, ids: impl Into<Prompt>, window: Option<usize>) -> Result<Score> {
        self.score_with(ids, window, |_, _| ())
    }

    /// [`Model::score`], which calls `progress` with the number of finished ids and of all ids.
    pub fn score_with(
        &self,
        ids: impl Into<Prompt>,
        window: Option<usize>,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Score> {
        score(&self.0, &self.0.encode(&ids.into())?, window, &mut progress)
    }

    /// Returns the values inside the model for ids, given directly or as a prompt: for pictures `vision.pixels`,
    /// `vision.features` and `vision.projected`; then embeddings, the hidden state after each executed block, and all
    /// logits.
    pub fn trace(&self, ids: impl Into<Prompt>) -> Result<Trace> {
        trace(&self.0, &self.0.encode(&ids.into())?)
    }
}

fn score(
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
    if !prompt.pictures.pixels.is_empty() && window < ids.len() {
        return Err(Error::prompt(format!(
            "a prompt with pictures is scored whole: its {} tokens, {} of them of images, do not fit a window of {window}; \
             shorten it or give a larger --window or --context",
            ids.len(),
            prompt.pictures.pixels.len() * model.image_tokens(),
        )));
    }
    let mut token_nll = Vec::with_capacity(ids.len());
    for (index, part) in ids.chunks(window).enumerate() {
        model.check(part, prompt.pictures.pixels.len())?;
        let mut session = open(model, part.len(), &prompt.pictures.pixels, None)?;
        // The last id predicts nothing.
        let rows = 0..part.len() - 1;
        let stretch = model.config.rope.beyond.stretch(part.len());
        pass(model, &mut *session, (part, stretch), rows, Want::Logits, &mut |start, outputs| {
            progress(index * window + start, ids.len());
            each_nll(model, outputs, &part[start + 1..], &mut |_, nll| token_nll.push(nll))
        })?;
    }
    progress(ids.len(), ids.len());
    let mean_nll = token_nll.iter().sum::<f64>() / token_nll.len() as f64;
    Ok(Score { tokens: ids.len(), mean_nll, perplexity: mean_nll.exp(), token_nll })
}

/// The log-likelihood of the last `count` ids of each of `texts`, (ids, `count`), in nats, given the ids before them.
/// The common beginning is computed once. `None` if `stop` was true.
#[cfg(feature = "cli")]
pub(super) fn endings(
    model: &Inner,
    images: &[Arc<Vec<f32>>],
    texts: &[(Vec<u32>, usize)],
    stop: &dyn Fn() -> bool,
) -> Result<Option<Vec<f64>>> {
    let Some(((first, _), others)) = texts.split_first() else { return Ok(Some(Vec::new())) };
    for (ids, _) in texts {
        model.check(ids, images.len())?;
    }
    let alike = |ids: &Vec<u32>| first.iter().zip(ids).take_while(|(a, b)| a == b).count();
    let alike = others.iter().map(|(ids, _)| alike(ids)).min().unwrap_or(first.len());
    // The row before an ending predicts the ending's first id.
    let begin = |(ids, count): &(Vec<u32>, usize)| ids.len() - count - 1;
    // Lengths with different angles have different keys, even for the same ids.
    let stretch = |ids: &[u32]| model.config.rope.beyond.stretch(ids.len());
    let alike = if texts.iter().all(|(ids, _)| stretch(ids) == stretch(first)) { alike } else { 0 };
    let shared = texts.iter().map(begin).min().unwrap_or(0).min(alike);

    let longest = texts.iter().map(|(ids, _)| ids.len()).max().unwrap_or(0);
    let mut session = open(model, longest, images, None)?;
    pass(model, &mut *session, (first, stretch(first)), 0..shared, Want::Nothing, &mut |_, _| Ok(()))?;
    let mut sums = Vec::with_capacity(texts.len());
    for text in texts {
        let ((ids, _), begin, mut sum) = (text, begin(text), 0.0);
        pass(model, &mut *session, (ids, stretch(ids)), shared..ids.len() - 1, Want::Logits, &mut |start, outputs| {
            each_nll(model, outputs, &ids[start + 1..], &mut |row, nll| {
                sum -= if start + row < begin { 0.0 } else { nll };
            })
        })?;
        sums.push(sum);
        if stop() {
            return Ok(None);
        }
    }
    Ok(Some(sums))
}

/// The negative log-likelihood of each of `targets`, except rows of pictures, by the row of logits that predicts it.
fn each_nll(
    model: &Inner,
    mut outputs: Vec<(String, Output)>,
    targets: &[u32],
    each: &mut dyn FnMut(usize, f64),
) -> Result<()> {
    let logits = outputs.pop().map(|(_, logits)| logits).unwrap_or_else(|| panic!("no logits came back"));
    for (index, (row, &target)) in logits.data.chunks_exact(logits.cols).zip(targets).enumerate() {
        if model.picture_ids().row(target).is_some() {
            continue;
        }
        let sum = log_sum_exp(row).ok_or_else(|| {
            Error::device(format!("{} computed logits that are not numbers", model.engine.device().name))
        })?;
        each(index, sum - f64::from(row[target as usize]));
    }
    Ok(())
}

fn trace(model: &Inner, prompt: &Encoded) -> Result<Trace> {
    model.check(&prompt.ids, prompt.pictures.pixels.len())?;
    let mut pictures: Vec<(String, Values)> = Vec::new();
    let mut tensors: Vec<(String, Values)> = Vec::new();
    let (ids, rows) = (&prompt.ids, 0..prompt.ids.len());
    let mut session = open(model, ids.len(), &prompt.pictures.pixels, Some(&mut pictures))?;
    let stretch = model.config.rope.beyond.stretch(ids.len());
    pass(model, &mut *session, (ids, stretch), rows, Want::Trace, &mut |start, outputs| {
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

/// A session that has read `images`. The values of the vision half go to `pictures`.
fn open(
    model: &Inner,
    tokens: usize,
    images: &[Arc<Vec<f32>>],
    mut pictures: Option<&mut Vec<(String, Values)>>,
) -> Result<Box<dyn Session>> {
    let mut session = model.engine.session(tokens)?;
    for (index, pixels) in images.iter().enumerate() {
        session.encode(pixels, index * model.image_tokens())?;
        loop {
            let (done, all) = session.encode_slice()?;
            if done == all {
                break;
            }
        }
        let Some(pictures) = &mut pictures else { continue };
        let outputs = session.encoded()?;
        let size = model.config.vision.as_ref().map_or(0, |vision| vision.image_size);
        let name =
            |name: &str| if index == 0 { name.into() } else { name.replace("vision", &format!("vision.{index}")) };
        pictures.push((name("vision.pixels"), Values { shape: vec![3, size, size], data: pixels.to_vec() }));
        let values = |part: Output| Values { shape: vec![part.rows, part.cols], data: part.data };
        pictures.extend(outputs.into_iter().map(|(part_name, part)| (name(&part_name), values(part))));
    }
    Ok(session)
}

/// Runs the ids of some `rows` with the angles of a stretch, and returns each chunk's outputs with the position of its
/// first row.
fn pass(
    model: &Inner,
    session: &mut dyn Session,
    (ids, stretch): (&[u32], usize),
    rows: Range<usize>,
    want: Want,
    each: &mut dyn FnMut(usize, Vec<(String, Output)>) -> Result<()>,
) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    // All logits are copied to the host, 32 MiB of them at a time.
    let chunk = ((32 << 20) / (4 * model.config.vocab)).clamp(1, model.engine.chunk());
    session.set_tokens(rows.start, &ids[rows.clone()])?;
    for position in rows.clone().step_by(chunk) {
        let part = position..rows.end.min(position + chunk);
        let images = ids[part.clone()].iter().any(|&id| model.picture_ids().row(id).is_some());
        let rows = Sampling::GREEDY.row(0, position).stretched(stretch).follow(part.len());
        session.run(&Step { rows: &rows, family: Family::Many, want, logits: false, images })?;
        each(position, if want == Want::Nothing { Vec::new() } else { session.outputs()? })?;
    }
    Ok(())
}

#[cfg(all(test, feature = "cli"))]
mod tests {
    use super::*;
    use crate::generate::Device;

    #[test]
    fn endings_share_only_what_is_alike() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/mobilellm_gqa");
        let model = Model::load(folder, &Device::cpu()).unwrap();
        let score = |texts: &[(Vec<u32>, usize)]| endings(&model.0, &[], texts, &|| false).unwrap().unwrap();
        // The texts differ long before the ending of the shortest begins, and two of them have the same ending.
        let texts =
            [(vec![1, 5, 9, 20, 33, 40], 1), (vec![1, 5, 77, 20, 33, 40], 1), (vec![1, 5, 9, 20, 41, 42, 43], 2)];
        let alone: Vec<f64> = texts.iter().map(|text| score(std::slice::from_ref(text))[0]).collect();
        assert!((alone[0] - alone[1]).abs() > 1e-3, "the third id does not matter: {alone:?}");
        let together = score(&texts);
        assert!(together.iter().zip(&alone).all(|(a, b)| (a - b).abs() < 1e-4), "{together:?}, alone {alone:?}");
    }
}
