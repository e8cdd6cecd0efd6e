//! Sequences that run together compute the same as alone, bit for bit, whatever their neighbours are.

use dunlin::{LoadOptions, Model, Piece, Prompt, Sampler};

use crate::support::golden::Golden;
use crate::support::parallel;
use crate::support::runtimes::{self, Runtime};

/// The size of the vocabulary of the golden models.
const VOCAB: usize = 512;

/// Continues all prompts together. Pieces have the log probability of every token at each step.
fn together(model: &Model, prompts: &[Prompt], sampler: &Sampler, parallel: usize, limit: usize) -> Vec<Vec<Piece>> {
    let generations = model.generate_all(prompts.to_vec(), sampler).expect("generations");
    let mut all = vec![Vec::new(); prompts.len()];
    for (index, piece) in generations.parallel(parallel).max_tokens(limit).logprobs(VOCAB) {
        all[index].push(piece.expect("a token"));
    }
    all
}

/// Continues the prompts one after the other, each in a session of its own.
fn alone(model: &Model, prompts: &[Prompt], sampler: &Sampler, limit: usize) -> Vec<Vec<Piece>> {
    let one = |prompt: &Prompt| {
        let generation = model.generate(prompt.clone(), sampler).expect("a generation");
        generation.max_tokens(limit).logprobs(VOCAB).map(|piece| piece.expect("a token")).collect()
    };
    prompts.iter().map(one).collect()
}

/// Compares pieces. They hold floats; equal floats have equal bits except for the sign of zero, and no logarithm is
/// zero here.
#[track_caller]
fn same(at: &str, together: &[Vec<Piece>], alone: &[Vec<Piece>]) {
    for (index, (found, wanted)) in together.iter().zip(alone).enumerate() {
        assert_eq!(found.len(), wanted.len(), "{at}: prompt {index}");
        for (step, (found, wanted)) in found.iter().zip(wanted).enumerate() {
            assert!(found == wanted, "{at}: prompt {index} differs at step {step}: {} for {}", found.id, wanted.id);
        }
    }
}

/// Prompts of many lengths, so that neighbours begin and end at different steps. Some have the same beginning.
fn prompts() -> Vec<Prompt> {
    let ids = |seed: usize, count: usize| (0..count).map(move |i| 3 + ((i * 31 + seed * 17) % 500) as u32);
    let lengths = [(0, 1), (1, 37), (2, 5), (3, 70), (4, 2), (5, 300), (6, 16), (7, 33), (8, 9)];
    let mut prompts: Vec<Vec<u32>> = lengths.iter().map(|&(seed, count)| ids(seed, count).collect()).collect();
    // A prompt that begins with the second one, and a copy of the fourth.
    prompts.push(ids(1, 37).chain(ids(9, 4)).collect());
    prompts.push(ids(3, 70).collect());
    prompts.into_iter().map(Prompt::from).collect()
}

/// Calls `check` with each of the golden cases and each runtime.
fn each(names: &[&str], check: impl Fn(&str, &Golden, &Runtime) + Sync) {
    let (cases, runtimes) = (names.iter().map(|name| Golden::open(name)).collect::<Vec<_>>(), runtimes::all());
    let pairs: Vec<_> = cases.iter().flat_map(|golden| runtimes.iter().map(move |runtime| (golden, runtime))).collect();
    parallel::each(&pairs, |(golden, runtime)| {
        check(&format!("{} on {}", golden.name, runtime.label), golden, runtime)
    });
}

/// Windows and post-norms, biases, layers without rope.
#[test]
fn sequences_of_the_newer_families_are_each_as_alone_bit_for_bit() {
    let prompts = [1, 3, 6, 9].map(|index| prompts()[index].clone());
    each(&["gemma3", "qwen2", "smollm3"], |at, golden, runtime| {
        let model = runtime.model(&golden.folder, &LoadOptions::new());
        let wanted = alone(&model, &prompts, &Sampler::greedy(), 5);
        same(at, &together(&model, &prompts, &Sampler::greedy(), 4, 5), &wanted);
    });
}

#[test]
fn sequences_together_are_each_as_alone_bit_for_bit() {
    each(&["mobilellm_gqa", "mobilellm_r1", "mobilellm_ls", "efficientllm"], |at, golden, runtime| {
        let model = runtime.model(&golden.folder, &LoadOptions::new());
        let greedy = Sampler::greedy();
        let drawn = Sampler::greedy().temperature(1.3).top_p(0.9).repeat_penalty(1.2).seed(5);
        for (what, sampler) in [("greedy", greedy), ("drawn", drawn)] {
            let wanted = alone(&model, &prompts(), &sampler, 11);
            for parallel in [2, 5, 11] {
                let at = format!("{at}, {what}, {parallel} together");
                same(&at, &together(&model, &prompts(), &sampler, parallel, 11), &wanted);
            }
        }
    });
}

/// Positions are copied whole, whatever a buffer's size is rounded up to: 6 positions of ids are 24 bytes of 32.
#[test]
fn a_common_beginning_is_copied_from_memory_of_any_size() {
    let golden = Golden::open("mobilellm_gqa");
    for runtime in runtimes::full() {
        let model = runtime.model(&golden.folder, &LoadOptions::new());
        for limit in [1, 2] {
            let prompts = [vec![5, 6], vec![5, 7], vec![5, 8, 9]].map(Prompt::tokens);
            let at = format!("{limit} tokens on {}", runtime.label);
            let wanted = alone(&model, &prompts, &Sampler::greedy(), limit);
            same(&at, &together(&model, &prompts[..2], &Sampler::greedy(), 8, limit), &wanted[..2]);
            same(&at, &together(&model, &prompts, &Sampler::greedy(), 8, limit), &wanted);
        }
    }
}

#[test]
fn sequences_of_quantised_weights_are_each_as_alone_bit_for_bit() {
    let golden = Golden::open("mobilellm_fp16_bin");
    for runtime in runtimes::all() {
        for weights in [dunlin::Weights::Q4_0, dunlin::Weights::Q8_0] {
            let model = runtime.model(&golden.folder, &LoadOptions::new().weights(weights));
            let wanted = alone(&model, &prompts(), &Sampler::greedy(), 9);
            let at = format!("{weights:?} on {}", runtime.label);
            same(&at, &together(&model, &prompts(), &Sampler::greedy(), 9, 9), &wanted);
        }
    }
}

#[test]
fn questions_about_pictures_together_are_each_as_alone_bit_for_bit() {
    let golden = Golden::open("mobilevlm_v2_grid16");
    let about = |text: &str, images: &[usize]| {
        let path = |image: &usize| golden.folder.join(format!("image_{image}.png"));
        images.iter().fold(Prompt::user(text), |prompt, image| prompt.image(path(image)))
    };
    let prompts = [
        about("What is it?", &[0]),
        about("What colour is it?", &[0]),
        about("And this?", &[1]),
        about("Nothing to see", &[]),
        about("<image> or <image>?", &[1, 0]),
        about("What is it?", &[1]),
    ];
    for runtime in runtimes::all() {
        let model = runtime.model(&golden.folder, &LoadOptions::new());
        let wanted = alone(&model, &prompts, &Sampler::greedy(), 8);
        for parallel in [1, 3, 6] {
            let at = format!("pictures on {}, {parallel} together", runtime.label);
            same(&at, &together(&model, &prompts, &Sampler::greedy(), parallel, 8), &wanted);
        }
    }
}

/// A pass has at most 512 rows: if there are more sequences, the rest wait.
#[test]
fn more_sequences_than_a_pass_has_rows_take_turns() {
    let golden = Golden::open("mobilellm_gqa");
    let model = Model::load(&golden.folder, &dunlin::Device::cpu()).expect("a model");
    let prompts: Vec<Prompt> = (0..520).map(|i| Prompt::tokens(vec![i % 500, i / 500, 7])).collect();
    let generations = model.generate_all(prompts.clone(), &Sampler::greedy()).expect("generations");
    let mut all = vec![Vec::new(); prompts.len()];
    for (index, piece) in generations.parallel(1000).max_tokens(3) {
        all[index].push(piece.expect("a token"));
    }
    for index in [0, 511, 519] {
        let generation = model.generate(prompts[index].clone(), &Sampler::greedy()).expect("a generation");
        let alone: Vec<Piece> = generation.max_tokens(3).map(|piece| piece.expect("a token")).collect();
        assert_eq!(all[index], alone, "prompt {index}");
        assert!(!alone.is_empty());
    }
}
