//! Passes over given ids, below the public interface: any step, any chunking.

use dunlin::backend::{Engine, Output, Sampling, Step, Want};

pub const GREEDY: Sampling =
    Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repeat_penalty: 1.0, seed: 0 };

fn step(position: usize, rows: usize, want: Want) -> Step {
    Step { position, rows, want, sampling: GREEDY, images: false }
}

/// The outputs of all positions, computed `chunk` rows at a time.
pub fn outputs(engine: &dyn Engine, ids: &[u32], want: Want, chunk: usize) -> Vec<(String, Output)> {
    let mut session = engine.session(ids.len()).expect("session");
    session.set_tokens(0, ids).expect("tokens");
    let mut all: Vec<(String, Output)> = Vec::new();
    for start in (0..ids.len()).step_by(chunk) {
        let rows = chunk.min(ids.len() - start);
        session.run(&step(start, rows, want)).expect("run");
        let part = session.outputs().expect("outputs");
        if all.is_empty() {
            all = part;
            continue;
        }
        for ((_, all), (_, part)) in all.iter_mut().zip(part) {
            all.rows += part.rows;
            all.data.extend(part.data);
        }
    }
    all
}

/// The logits of all positions.
pub fn logits(engine: &dyn Engine, ids: &[u32], chunk: usize) -> Output {
    outputs(engine, ids, Want::Logits, chunk).pop().expect("logits").1
}

/// Up to `count` greedy tokens, ending with one of `eos`; each with the logits it was chosen from.
pub fn greedy(engine: &dyn Engine, ids: &[u32], count: usize, eos: &[u32]) -> Vec<(u32, Vec<f32>)> {
    let mut session = engine.session(ids.len() + count).expect("session");
    session.set_tokens(0, ids).expect("tokens");
    let mut chosen = Vec::new();
    session.run(&step(0, ids.len(), Want::TokenAndLogits)).expect("prefill");
    loop {
        let sampled = session.sampled().expect("token");
        chosen.push((sampled.id, sampled.logits.expect("logits")));
        if chosen.len() == count || eos.contains(&sampled.id) {
            return chosen;
        }
        let position = ids.len() + chosen.len() - 1;
        session.run(&step(position, 1, Want::TokenAndLogits)).expect("decode");
    }
}
