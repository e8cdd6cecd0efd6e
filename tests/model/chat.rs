//! Conversations through the public interface with the model that ships with the program, whose replies are words: a
//! follow-up question gives the same result as the whole conversation. Also the statistics of generations.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::support::pictures::with_logprobs;
use crate::support::runtimes;
use crate::support::tolerance::close;
use dunlin::{LoadOptions, Message, Prompt, Sampler};

/// The tolerance of logprobs whose sums are in another order: twice the float32 noise of `tests/golden/README.md`.
const SAME: f32 = 4e-3;
/// The vocabulary of the model that ships with the program.
const VOCAB: usize = 576;

fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn picture() -> PathBuf {
    folder("examples/pictures/circle.png")
}

fn chat(turns: &[(&str, &str)]) -> Prompt {
    Prompt::chat(turns.iter().map(|(role, text)| Message::new(*role, *text))).image(picture())
}

const FIRST: &str = "What shape does the image contain?";
const NEXT: &str = "What color is the shape?";

/// Of a reply, the cache holds all tokens but the last, whose keys and values are not computed yet.
#[test]
fn a_question_that_follows_is_computed_as_the_whole_conversation() {
    for runtime in runtimes::full() {
        let model = runtime.model(&folder("examples/demo-model"), &LoadOptions::new());
        let asked = || Prompt::user(FIRST).image(picture());
        let mut compared = Vec::new();
        // Replies that are cut short, and one that reaches the end token.
        for tokens in [1, 2, 3, 4, 48] {
            let mut first = model.generate(asked(), &Sampler::greedy()).expect("a generation").max_tokens(tokens);
            let pieces: Vec<_> = first.by_ref().map(|piece| piece.expect("a token")).collect();
            let reply: String = pieces.iter().map(|piece| piece.text.as_str()).collect();
            let turns = [("user", FIRST), ("assistant", reply.trim()), ("user", NEXT)];
            let known = model.encode(&asked()).expect("ids").into_iter().chain(pieces.iter().map(|piece| piece.id));
            if !model.encode(&chat(&turns)).expect("ids").starts_with(&known.collect::<Vec<_>>()) {
                // The text of this reply encodes to other tokens than were generated.
                continue;
            }
            compared.push(tokens);
            let at = format!("{}, after `{reply}`", runtime.label);
            let next = first.follow_up(NEXT, &Sampler::greedy()).expect("a generation").max_tokens(4);
            let whole = model.generate(chat(&turns), &Sampler::greedy()).expect("a generation").max_tokens(4);
            let (next, whole) = (with_logprobs(next, VOCAB), with_logprobs(whole, VOCAB));
            let ids = |drawn: &[(u32, Vec<f32>)]| drawn.iter().map(|(id, _)| *id).collect::<Vec<_>>();
            assert_eq!(ids(&next), ids(&whole), "{at}");
            for (step, ((_, found), (_, wanted))) in next.iter().zip(&whole).enumerate() {
                close(&format!("{at}: step {step}"), found, wanted, SAME, f32::INFINITY);
            }
        }
        let cut = compared.iter().filter(|&&tokens| tokens < 48).count();
        assert!(cut > 0 && compared.contains(&48), "{}: only {compared:?} could be compared", runtime.label);
    }
}

/// The template puts a space in front of a reply; if the reply kept its own, there would be two.
#[test]
fn a_reply_is_trimmed_before_a_question_follows() {
    let model =
        dunlin::Model::load(folder("tests/golden/mobilevlm_v1_grid4"), &dunlin::Device::cpu()).expect("a model");
    let mut seen = 0;
    for question in ["What is it?", "Who?", "A", "Why is that so?", "Tell me more of it."] {
        for tokens in 1..8 {
            let mut first = model.generate(question, &Sampler::greedy()).expect("a generation").max_tokens(tokens);
            let reply: String = first.by_ref().map(|piece| piece.expect("a token").text).collect();
            let ids = |reply: &str| {
                let turns = [("user", question), ("assistant", reply), ("user", NEXT)];
                model.encode(&Prompt::chat(turns.map(|(role, text)| Message::new(role, text)))).expect("ids")
            };
            let trimmed = ids(reply.trim());
            if ids(&reply).len() == trimmed.len() {
                continue;
            }
            seen += 1;
            let next = first.follow_up(NEXT, &Sampler::greedy()).expect("a generation");
            assert_eq!(next.stats().prompt_tokens, trimmed.len(), "{question} `{reply}`");
        }
    }
    assert!(seen > 0, "no reply has a space around it");
}

/// The prompts take much longer than a step. If their time were counted again as decoding time, the sum would exceed
/// the time that passed.
#[test]
fn times_are_parts_of_what_passed() {
    let about_a_picture = Prompt::user("Is this a circle? ".repeat(20)).image(picture());
    let of_ids = Prompt::tokens((0..400).map(|i| 100 + i % 97).collect::<Vec<u32>>());
    for runtime in runtimes::full() {
        for (path, prompt) in [("examples/demo-model", &about_a_picture), ("tests/golden/mobilellm_gqa", &of_ids)] {
            let model = runtime.model(&folder(path), &LoadOptions::new());
            let at = format!("{path} on {}", runtime.label);
            let start = Instant::now();
            let mut generation =
                model.generate(prompt.clone(), &Sampler::greedy()).expect("a generation").max_tokens(2);
            let pieces: Vec<_> = generation.by_ref().collect::<Result<_, _>>().expect("tokens");
            let elapsed = start.elapsed().as_secs_f64();
            let stats = generation.stats();
            assert_eq!(pieces.len(), 2, "{at}");
            let parts = [stats.preprocess_s, stats.vision_s, stats.prefill_s, stats.decode_s];
            assert!(parts.iter().sum::<f64>() <= elapsed, "{at}: {parts:?} in {elapsed} s");
            assert!(stats.prefill_s > 0.0 && stats.decode_s > 0.0, "{at}: {parts:?}");
        }
    }
}
