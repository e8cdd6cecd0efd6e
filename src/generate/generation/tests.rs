mod fake;

use std::sync::atomic::Ordering;

use fake::{Fake, VOCAB};

use super::*;
use crate::backend::measured::Clock;
use crate::error::ErrorKind;
use crate::generate::workload::Workload;
use crate::generate::{Ended, Generations, Image, Prompt, Sampler};

/// The arithmetic's continuation of `prompt`.
fn expected(prompt: &[u32], count: usize) -> Vec<u32> {
    let mut ids = prompt.to_vec();
    for position in prompt.len() - 1..prompt.len() - 1 + count {
        ids.push((ids[position] + position as u32) % VOCAB as u32);
    }
    ids.split_off(prompt.len())
}

fn generate(model: &Model, prompt: &[u32], count: usize) -> (Vec<u32>, Stats) {
    let mut generation = model.generate(Prompt::tokens(prompt), &Sampler::greedy()).unwrap().max_tokens(count);
    let ids = generation.by_ref().map(|piece| piece.unwrap().id).collect();
    (ids, generation.stats())
}

#[test]
fn any_depth_and_any_prompt_length_give_the_same_tokens() {
    for depth in [0, 1, 2, 5, 100] {
        for length in [1, 2, 255, 256, 257, 513] {
            let fake = Fake { depth: depth.max(1), ..Fake::new() };
            let prompt: Vec<u32> = (0..length).map(|index| 3 + (index * 31 % 500) as u32).collect();
            let (ids, stats) = generate(&fake.model(2048), &prompt, 13);
            let all = expected(&prompt, 13);
            let until_eos = all.iter().position(|&id| id == 2).unwrap_or(13);
            assert_eq!(ids, all[..until_eos], "depth {depth}, prompt of {length}");
            assert_eq!((stats.prompt_tokens, stats.generated_tokens), (length, until_eos));
        }
    }
}

#[test]
fn every_pass_of_a_workload_is_measured_though_the_driver_writes_no_timestamps() {
    for (prompt, tokens) in [(1, 0), (256, 0), (257, 0), (3, 1), (3, 7)] {
        let prompt: Vec<u32> = (0..prompt).map(|index| 3 + index).collect();
        let model = Fake::new().model(prompt.len() + tokens);
        let workload = Workload::new(&model, Prompt::tokens(prompt.as_slice()), tokens).unwrap();
        let runs = workload.run(None, &|_, _| ()).unwrap();
        let at = format!("{} and {tokens} tokens", prompt.len());
        assert_eq!(runs.measured.len(), prompt.len().div_ceil(256) + tokens, "{at}");
        assert!(runs.measured.iter().all(|measured| measured.clock == Clock::Submissions), "{at}");
        assert_eq!(runs.ids, expected(&prompt, tokens + 1), "{at}");
    }
}

/// The continuation of each prompt, and its stop.
fn generate_all(generations: &mut Generations, count: usize) -> Vec<(Vec<u32>, Option<Stop>)> {
    let mut all = vec![(Vec::new(), None); count];
    for (index, piece) in generations.by_ref() {
        all[index].0.push(piece.unwrap().id);
    }
    while let Some(Ended { index, stats, boxes }) = generations.ended() {
        assert!(boxes.is_empty());
        assert_eq!(stats.generated_tokens, all[index].0.len());
        all[index].1 = stats.stop;
    }
    all
}

#[test]
fn prompts_together_are_continued_as_each_alone() {
    let prompts: Vec<Vec<u32>> = [1, 40, 3, 600, 2, 7, 257, 1, 30]
        .into_iter()
        .enumerate()
        .map(|(i, length)| (0..length).map(|index| 3 + ((i / 2 + index) * 31 % 500) as u32).collect())
        .collect();
    for (depth, parallel, limit) in [(1, 1, 9), (3, 2, 9), (3, 4, 1), (2, 8, 20), (4, 100, 13)] {
        let fake = Fake { depth, then: Some((44, 2)), ..Fake::new() };
        let sessions = fake.sessions.clone();
        let model = fake.model(2048);
        let generations = model.generate_all(prompts.clone(), &Sampler::greedy()).unwrap();
        let mut generations = generations.parallel(parallel).max_tokens(limit);
        let found = generate_all(&mut generations, prompts.len());
        for (prompt, found) in prompts.iter().zip(&found) {
            let (ids, stats) = generate(&model, prompt, limit);
            assert_eq!(found, &(ids, stats.stop), "{} tokens, {parallel} together", prompt.len());
        }
        assert_eq!(sessions.load(Ordering::Relaxed), 1);
    }
}

#[test]
fn prompts_wait_for_memory_and_for_rows() {
    // Some begin alike, so that places are taken over and copied.
    let prompts: Vec<Vec<u32>> =
        (0..9).map(|i| (0..10 + i % 4).map(|index| 3 + ((i / 3 + index) * 31 % 500) as u32).collect()).collect();
    let alone = |model: &Model| -> Vec<_> { prompts.iter().map(|prompt| generate(model, prompt, 7).0).collect() };
    let wanted = alone(&Fake::new().model(64));
    // Memory for the longest alone, for some, for all; rows for one, for some, for all.
    for (memory, rows) in [(20, 9), (21, 9), (45, 9), (100, 4), (180, 9), (180, 1), (45, 2)] {
        let model = Fake { memory, rows, ..Fake::new() }.model(64);
        let generations = model.generate_all(prompts.clone(), &Sampler::greedy()).unwrap();
        let mut generations = generations.parallel(100).max_tokens(7);
        let found: Vec<_> = generate_all(&mut generations, prompts.len()).into_iter().map(|(ids, _)| ids).collect();
        assert_eq!(found, wanted, "memory for {memory} positions, {rows} rows");
    }
    // Without memory for one prompt there is an error, and no panic after it.
    let model = Fake { memory: 16, ..Fake::new() }.model(64);
    let mut generations = model.generate_all(prompts.clone(), &Sampler::greedy()).unwrap().max_tokens(7);
    let error = generations.next().unwrap().1.unwrap_err();
    assert_eq!((error.kind(), generations.next().is_none()), (ErrorKind::OutOfMemory, true));
}

#[test]
fn a_generation_ends_with_an_error_of_its_prompt() {
    let model = Fake { memory: 16, ..Fake::new() }.model(64);
    let generation = || model.generate(Prompt::tokens([7; 20]), &Sampler::greedy()).unwrap();
    let mut one = generation();
    assert_eq!(one.encode_images(|_, _| ()).unwrap_err().kind(), ErrorKind::OutOfMemory);
    assert!(one.next().is_none() && one.encode_images(|_, _| ()).is_ok());
    let mut two = generation();
    assert_eq!(two.prefill(|_, _| ()).unwrap_err().kind(), ErrorKind::OutOfMemory);
    assert!(two.next().is_none() && two.prefill(|_, _| ()).is_ok());
    assert_eq!(two.stats().stop, None);
}

#[test]
fn a_prompt_that_is_wrong_is_an_error_with_its_index_and_the_others_go_on() {
    let model = Fake::new().model(64);
    let prompts = [vec![5, 6], vec![], vec![512], vec![7; 65], vec![8; 64], vec![9]];
    let mut generations = model.generate_all(prompts, &Sampler::greedy()).unwrap().max_tokens(4);
    let (mut right, mut wrong) = (std::collections::BTreeMap::<usize, usize>::new(), Vec::new());
    for (index, piece) in generations.by_ref() {
        match piece {
            Ok(_) => *right.entry(index).or_default() += 1,
            Err(error) => wrong.push((index, error.kind())),
        }
    }
    assert_eq!(wrong, [(1, ErrorKind::Prompt), (2, ErrorKind::Prompt), (3, ErrorKind::Prompt)]);
    assert_eq!(right, [(0, 4), (5, 4)].into());
    let mut ended: Vec<usize> = std::iter::from_fn(|| generations.ended()).map(|ended| ended.index).collect();
    ended.sort_unstable();
    assert_eq!(ended, [0, 4, 5], "a prompt that fills the context ends at once");
    assert!(model.generate_all(["a"], &Sampler::greedy().top_p(7.0)).is_err());
}

/// A device holds fewer pictures than the sequences that run together have: those that were read make room.
#[test]
fn pictures_fit_the_device_however_many_prompts_run() {
    let model = Fake { pictures: 5, ..Fake::new() }.model(64);
    let image = |number: u8| Image::from_rgb(1, 1, &[number; 3]).unwrap();
    let prompt = |images: std::ops::Range<u8>| {
        let ids: Vec<u32> = [7, 8].into_iter().chain(images.clone().map(|_| Prompt::IMAGE)).chain([9]).collect();
        images.fold(Prompt::tokens(ids), |prompt, number| prompt.image(image(number)))
    };
    // Of one picture each, of five, and of more than the device holds.
    let mut prompts: Vec<Prompt> = (0..40).map(|number| prompt(number..number + 1)).collect();
    prompts.extend([prompt(38..43), prompt(0..6), prompt(39..40)]);
    let mut generations = model.generate_all(prompts, &Sampler::greedy()).unwrap().parallel(17).max_tokens(4);
    let errors: Vec<(usize, String)> =
        generations.by_ref().filter_map(|(index, piece)| piece.err().map(|error| (index, error.to_string()))).collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].0 == 41 && errors[0].1.contains("6 pictures") && errors[0].1.contains("of 5"), "{errors:?}");
    assert_eq!(std::iter::from_fn(|| generations.ended()).count(), 42);
}

#[test]
fn a_sequence_that_computes_nonsense_ends_alone() {
    let model = Fake { broken: 10, ..Fake::new() }.model(64);
    let prompts = [vec![5; 3], vec![6; 9]];
    let mut generations = model.generate_all(prompts, &Sampler::greedy()).unwrap().max_tokens(5);
    let errors: Vec<usize> = generations.by_ref().filter(|(_, piece)| piece.is_err()).map(|(index, _)| index).collect();
    assert_eq!(errors, [1]);
    assert_eq!(generations.ended().map(|ended| (ended.index, ended.stats.generated_tokens)), Some((0, 5)));
}

#[test]
fn the_end_token_ends_it_and_is_not_emitted() {
    let model = Fake { then: Some((6, 2)), ..Fake::new() }.model(2048);
    let (ids, stats) = generate(&model, &[5, 6, 7], 50);
    // Positions 2 to 5 choose tokens, position 6 chooses the end token.
    assert_eq!(ids, expected(&[5, 6, 7], 4));
    assert_eq!((stats.stop, stats.generated_tokens), (Some(Stop::Eos), 4));
    assert_eq!((stats.load_s, stats.dispatches_per_token, stats.weight_bytes), (0.5, 7, 12));
    assert_eq!(serde_json::to_value(stats.stop).unwrap(), "eos");
}

#[test]
fn a_full_context_ends_it() {
    let (ids, stats) = generate(&Fake::new().model(10), &[5, 6, 7], 50);
    assert_eq!((ids.len(), stats.stop), (7, Some(Stop::Length)));
    let (ids, stats) = generate(&Fake::new().model(3), &[5, 6, 7], 50);
    assert_eq!((ids.len(), stats.stop), (0, Some(Stop::Length)));
    let (ids, stats) = generate(&Fake::new().model(10), &[5], 0);
    assert_eq!((ids.len(), stats.stop), (0, Some(Stop::Length)));
}

#[test]
fn what_cannot_run_is_refused_before_it_runs() {
    let model = Fake::new().model(10);
    let check = |prompt: Prompt, sampler: &Sampler, parts: &[&str]| {
        let error = model.generate(prompt, sampler).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Prompt);
        assert!(parts.iter().all(|part| error.to_string().contains(part)), "{error}");
    };
    let greedy = Sampler::greedy();
    check(Prompt::tokens(vec![7; 11]), &greedy, &["11 tokens", "context of 10", "--context"]);
    check(Prompt::tokens(vec![1, 512]), &greedy, &["token 512", "512 ids"]);
    check(Prompt::tokens(vec![]), &greedy, &["empty"]);
    check(Prompt::tokens(vec![1]), &greedy.clone().temperature(-1.0), &["temperature is -1"]);
    check(Prompt::tokens(vec![1]), &greedy.clone().top_p(f32::NAN), &["top-p is NaN"]);
    check(Prompt::chat([crate::generate::Message::new("user", "hi")]), &greedy, &["no chat template"]);
}

#[test]
fn a_device_that_computes_nonsense_is_an_error_and_the_end() {
    let prompt = Prompt::tokens(vec![5, 6, 7]);
    let cases = [Fake { broken: 4, ..Fake::new() }, Fake { then: Some((4, 70_000)), ..Fake::new() }];
    for (fake, logprobs) in cases.into_iter().zip([0, 0]) {
        let model = fake.model(64);
        let mut generation =
            model.generate(prompt.clone(), &Sampler::greedy()).unwrap().max_tokens(20).logprobs(logprobs);
        assert!(generation.next().unwrap().is_ok() && generation.next().unwrap().is_ok());
        let error = generation.next().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Device);
        assert!(error.to_string().contains("fake"), "{error}");
        assert!(generation.next().is_none());
        assert_eq!(generation.stats().stop, None);
    }
}

#[test]
fn dropping_cancels_and_each_generation_has_its_own_session() {
    let fake = Fake::new();
    let sessions = fake.sessions.clone();
    let model = fake.model(64);
    let mut one = model.generate(Prompt::tokens(vec![5]), &Sampler::greedy()).unwrap();
    let mut two = model.clone().generate(Prompt::tokens(vec![6]), &Sampler::greedy()).unwrap();
    assert_eq!(sessions.load(Ordering::Relaxed), 0);
    let ids = (one.next().unwrap().unwrap().id, two.next().unwrap().unwrap().id, one.next().unwrap().unwrap().id);
    assert_eq!(ids, (5, 6, 6));
    assert_eq!(sessions.load(Ordering::Relaxed), 2);
    drop(one);
    assert_eq!(sessions.load(Ordering::Relaxed), 1);
}

#[test]
fn logprobs_are_the_best_of_the_row() {
    let model = Fake::new().model(64);
    let mut generation = model.generate(Prompt::tokens(vec![5, 6]), &Sampler::greedy()).unwrap().logprobs(3);
    let piece = generation.next().unwrap().unwrap();
    // One logit of 9, then zeros at multiples of five.
    assert_eq!(piece.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [7, 0, 5]);
    assert_eq!(piece.top[0], (7, piece.logprob));
    assert!((piece.top[0].1 - piece.top[1].1 - 9.0).abs() < 1e-5);
    let plain = model.generate(Prompt::tokens(vec![5, 6]), &Sampler::greedy()).unwrap().next().unwrap().unwrap();
    assert!(plain.top.is_empty() && plain.logprob == -0.25);
}

#[test]
fn characters_wait_for_their_last_token() {
    // Ids 3.. are bytes: position p gives id + p. From 0xe2 on, three tokens make a character.
    let model = Fake { then: Some((1, 3 + 0xac)), ..Fake::new() }.model(64);
    let mut generation = model.generate(Prompt::tokens(vec![3 + 0x20]), &Sampler::greedy()).unwrap().max_tokens(1);
    assert_eq!(generation.next().unwrap().unwrap().text, " ");
    // An incomplete character at the end is replaced, in the last piece.
    let model = Fake { then: Some((0, 3 + 0xe2)), ..Fake::new() }.model(64);
    let pieces: Vec<Piece> = model
        .generate(Prompt::tokens(vec![7]), &Sampler::greedy())
        .unwrap()
        .max_tokens(3)
        .map(|piece| piece.unwrap())
        .collect();
    let text: Vec<&str> = pieces.iter().map(|piece| piece.text.as_str()).collect();
    assert_eq!(text, ["", "\u{fffd}", "\u{fffd}\u{fffd}"]);
}

#[test]
fn scores_cut_into_windows_and_predict_nothing_for_the_first() {
    let model = Fake::new().model(64);
    let ids: Vec<u32> = (0..300).map(|index| (index * 7 % 500) as u32).collect();
    let whole = model.score(&ids[..64], None).unwrap();
    assert_eq!((whole.tokens, whole.token_nll.len()), (64, 63));
    let mut last = 0;
    let windows = model.score_with(&ids, None, |done, all| {
        assert!(done >= last && all == 300);
        last = done;
    });
    // Four windows of 64 and one of 44.
    let windows = windows.unwrap();
    assert_eq!((windows.tokens, windows.token_nll.len(), last), (300, 295, 300));
    assert_eq!(windows.token_nll[..63], whole.token_nll);
    assert_eq!(windows.perplexity, windows.mean_nll.exp());
    let token = |index: usize| model.score(&ids[index..index + 2], None).unwrap().token_nll[0];
    assert_eq!(model.score(&ids[..5], Some(2)).unwrap().token_nll, [token(0), token(2)]);

    let error = model.score(&ids, Some(65)).unwrap_err().to_string();
    assert!(error.contains("65") && error.contains("64"), "{error}");
    assert!(model.score(&ids[..1], None).is_err() && model.score(&ids, Some(1)).is_err());
    let broken = Fake { broken: 3, ..Fake::new() }.model(64).score(&ids[..8], None).unwrap_err();
    assert_eq!(broken.kind(), ErrorKind::Device);
}

#[test]
fn traces_join_their_chunks() {
    let model = Fake::new().model(1024);
    let ids: Vec<u32> = (0..300).map(|index| index as u32).collect();
    let trace = model.trace(&ids).unwrap();
    let shapes: Vec<_> =
        trace.tensors.iter().map(|(name, values)| (name.as_str(), values.shape[0], values.shape[1])).collect();
    assert_eq!(shapes, [("embeddings", 300, 2), ("logits", 300, VOCAB)]);
    assert_eq!((trace.tensors[0].1.data[511], trace.tensors[0].1.data[512]), (0.0, 256.0));

    let path = std::env::temp_dir().join(format!("dunlin-trace-{}.safetensors", std::process::id()));
    trace.save(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("embeddings").unwrap().shape(), [300, 2]);
    let error = trace.save("/nowhere/at/all.safetensors").unwrap_err().to_string();
    assert!(error.contains("/nowhere/at/all.safetensors"), "{error}");
}

#[test]
fn models_are_shared_between_threads() {
    fn shared<T: Send + Sync + Clone>() {}
    fn sent<T: Send>() {}
    shared::<Model>();
    sent::<Generation>();
}
