//! Masks: a caller changes logits before a token is chosen, and the sampler chooses from the changed logits.

use std::sync::{Arc, Mutex};

use crate::sampling::reference;
use crate::support::golden::Golden;
use crate::support::runtimes;
use dunlin::backend::wgpu::counters;
use dunlin::work::Row;
use dunlin::{ErrorKind, LoadOptions, Model, Piece, Prompt, Sampler};

/// A sampler with every filter at once, and the equivalent row of the table.
fn sampled() -> (Sampler, Row) {
    let row = Row { temperature: 1.2, top_k: 40, top_p: 0.9, min_p: 0.02, repeat_penalty: 1.1, seed: 99, ..Row::at(0) };
    let sampler = Sampler::greedy().temperature(row.temperature).top_k(row.top_k).top_p(row.top_p).min_p(row.min_p);
    (sampler.repeat_penalty(row.repeat_penalty).seed(99), row)
}

/// The continuation of a prompt by 12 tokens under a mask. Each piece has the best two tokens.
fn masked(
    model: &Model,
    prompt: &[u32],
    sampler: &Sampler,
    mask: impl FnMut(&[u32], &mut [f32]) + Send + 'static,
) -> Vec<Piece> {
    let generation = model.generate(Prompt::tokens(prompt), sampler).expect("a generation");
    generation.max_tokens(12).logprobs(2).mask(mask).map(|piece| piece.expect("a piece")).collect()
}

fn plain(model: &Model, prompt: &[u32], sampler: &Sampler) -> Vec<Piece> {
    let generation = model.generate(Prompt::tokens(prompt), sampler).expect("a generation");
    generation.max_tokens(12).logprobs(2).map(|piece| piece.expect("a piece")).collect()
}

fn forbid(logits: &mut [f32], forbidden: impl Fn(u32) -> bool) {
    (0..).zip(logits).filter(|(id, _)| forbidden(*id)).for_each(|(_, logit)| *logit = f32::NEG_INFINITY);
}

#[test]
fn a_mask_that_changes_nothing_changes_no_piece() {
    let golden = Golden::open("mobilellm_gqa");
    let prompt = golden.ids("p0.input_ids");
    for runtime in runtimes::all() {
        let model = runtime.model(&golden.folder, &LoadOptions::new());
        for sampler in [Sampler::greedy(), sampled().0] {
            let wanted = plain(&model, &prompt, &sampler);
            let seen: Arc<Mutex<Vec<Vec<u32>>>> = Arc::default();
            let sees = seen.clone();
            let found = masked(&model, &prompt, &sampler, move |ids, logits| {
                assert_eq!(logits.len(), 512);
                sees.lock().expect("no panic").push(ids.to_vec());
            });
            assert_eq!(found, wanted, "{}", runtime.label);
            // The mask is called once for each token, with all the ids before it.
            let ids: Vec<u32> = prompt.iter().copied().chain(found.iter().map(|piece| piece.id)).collect();
            let all: Vec<Vec<u32>> = (prompt.len()..ids.len()).map(|length| ids[..length].to_vec()).collect();
            assert_eq!(*seen.lock().expect("no panic"), all, "{}", runtime.label);
        }
    }
}

#[test]
fn without_the_best_token_the_second_best_comes() {
    let golden = Golden::open("mobilellm_gqa");
    let prompt = golden.ids("p0.input_ids");
    for runtime in runtimes::all() {
        let model = runtime.model(&golden.folder, &LoadOptions::new());
        let first = plain(&model, &prompt, &Sampler::greedy()).swap_remove(0);
        let (best, second) = (first.top[0], first.top[1]);
        assert_eq!(first.id, best.0, "{}", runtime.label);
        let found = masked(&model, &prompt, &Sampler::greedy(), move |_, logits| forbid(logits, |id| id == best.0));
        assert_eq!(found[0].id, second.0, "{}", runtime.label);
        assert!(found.iter().all(|piece| piece.id != best.0), "{}", runtime.label);
        // The other tokens share the probability of the forbidden one.
        let wanted = second.1 - (-best.1.exp()).ln_1p();
        assert!((found[0].logprob - wanted).abs() < 1e-4, "{}: {} and {wanted}", runtime.label, found[0].logprob);

        // Filters and draws use the changed logits, too.
        let few = [best.0, 7, 300];
        let found = masked(&model, &prompt, &sampled().0, move |_, logits| forbid(logits, |id| !few.contains(&id)));
        assert_eq!(found.len(), 12, "{}", runtime.label);
        assert!(found.iter().all(|piece| few.contains(&piece.id)), "{}: {found:?}", runtime.label);
    }
}

/// This runs on the CPU only, whose noise is the reference's.
#[test]
fn the_sampler_chooses_from_the_changed_logits() {
    let golden = Golden::open("mobilellm_gqa");
    let prompt = golden.ids("p0.input_ids");
    let model = runtimes::full().remove(0).model(&golden.folder, &LoadOptions::new());
    let (sampler, row) = sampled();
    // For each token, the ids before it and the logits after the mask.
    type Changed = Vec<(Vec<u32>, Vec<f32>)>;
    let changed: Arc<Mutex<Changed>> = Arc::default();
    let changes = changed.clone();
    let found = masked(&model, &prompt, &sampler, move |ids, logits| {
        (0..).zip(&mut *logits).for_each(|(id, logit)| *logit += (id % 7) as f32 - 3.0);
        changes.lock().expect("no panic").push((ids.to_vec(), logits.to_vec()));
    });
    assert_ne!(found, plain(&model, &prompt, &sampler), "the mask does nothing");
    let changed = changed.lock().expect("no panic");
    for (piece, (ids, logits)) in found.iter().zip(&*changed) {
        assert_eq!(piece.id, reference(logits, ids, &row), "after {} ids", ids.len());
    }
}

#[test]
fn a_masked_step_creates_nothing() {
    let golden = Golden::open("mobilellm_gqa");
    for runtime in runtimes::full().into_iter().filter(|runtime| runtime.is_gpu()) {
        let model = runtime.model(&golden.folder, &LoadOptions::new());
        let generation = model.generate(Prompt::tokens(golden.ids("p0.input_ids")), &Sampler::greedy());
        let mut generation = generation.expect("a generation").max_tokens(9).mask(|_, logits| logits[5] -= 1.0);
        assert_eq!(generation.by_ref().take(3).filter(Result::is_ok).count(), 3);
        let before = counters::created();
        assert_eq!(generation.filter(Result::is_ok).count(), 6);
        assert_eq!(counters::created(), before, "on {}", runtime.label);
    }
}

#[test]
fn a_mask_that_leaves_nothing_to_choose_is_an_error() {
    let golden = Golden::open("mobilellm_gqa");
    let model = runtimes::full().remove(0).model(&golden.folder, &LoadOptions::new());
    let fails = |mask: fn(&[u32], &mut [f32]), part: &str| {
        let generation = model.generate(Prompt::tokens([5, 6]), &Sampler::greedy()).expect("a generation");
        let mut generation = generation.mask(mask);
        assert!(generation.next().expect("a piece").is_ok(), "the third token is masked, not the first");
        let error = generation.next().expect("an error").expect_err("nothing to choose");
        assert_eq!(error.kind(), ErrorKind::Prompt);
        assert!(error.to_string().contains(part), "{error}");
        assert!(generation.next().is_none(), "it has ended");
    };
    fails(|ids, logits| forbid(logits, |_| ids.len() > 2), "forbids every token");
    fails(|ids, logits| logits[9] = if ids.len() > 2 { f32::NAN } else { logits[9] }, "token 9");
}
