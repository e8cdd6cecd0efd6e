//! Prompts with pictures, and the models' answers to them.

use dunlin::{Generation, Model, Prompt, Sampler, Trace};

use super::golden::Golden;

/// The question of a golden prompt with its pictures.
pub fn prompt(golden: &Golden, name: &str) -> Prompt {
    let prompt = &golden.expected()["prompts"][name];
    let images = prompt["images"].as_array().expect("images").iter();
    let question = Prompt::user(prompt["question"].as_str().expect("a question"));
    images.fold(question, |prompt, image| prompt.image(golden.folder.join(image.as_str().expect("a name"))))
}

/// Greedy ids with the logprobs from which they were chosen. Differences of logprobs are differences of logits.
pub fn greedy(model: &Model, prompt: Prompt, count: usize, vocab: usize) -> Vec<(u32, Vec<f32>)> {
    let generation = model.generate(prompt, &Sampler::greedy()).expect("a generation");
    with_logprobs(generation.max_tokens(count), vocab)
}

/// The ids of a generation, each with the logprobs from which it was chosen, in the order of ids.
pub fn with_logprobs(generation: Generation, vocab: usize) -> Vec<(u32, Vec<f32>)> {
    let pieces = generation.logprobs(vocab).map(|piece| piece.expect("a token"));
    let by_id = |mut top: Vec<(u32, f32)>| {
        top.sort_by_key(|&(id, _)| id);
        top.into_iter().map(|(_, logprob)| logprob).collect()
    };
    pieces.map(|piece| (piece.id, by_id(piece.top))).collect()
}

pub fn log_softmax(logits: &[f32], vocab: usize) -> Vec<f32> {
    let row = |row: &[f32]| {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|&l| f64::from(l - most).exp()).sum();
        row.iter().map(|l| l - most - sum.ln() as f32).collect::<Vec<_>>()
    };
    logits.chunks_exact(vocab).flat_map(row).collect()
}

pub fn tensor<'a>(trace: &'a Trace, name: &str) -> &'a [f32] {
    let found = trace.tensors.iter().find(|(found, _)| found == name);
    &found.unwrap_or_else(|| panic!("no {name} in the trace")).1.data
}

/// Makes a model answer with `ids`.
pub fn saying(generation: Generation, ids: Vec<u32>) -> Generation {
    let (prompt, count) = (generation.stats().prompt_tokens, ids.len());
    generation.max_tokens(count).mask(move |before, logits| {
        let next = ids[before.len() - prompt] as usize;
        (0..).zip(logits).filter(|(id, _)| *id != next).for_each(|(_, logit)| *logit = f32::NEG_INFINITY);
    })
}
