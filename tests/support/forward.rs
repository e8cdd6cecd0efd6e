//! Passes over given ids, below the public interface, in any chunks.

use dunlin::backend::{Engine, Output, Sampled, Session, Step, Want};
use dunlin::work::{Family, Row};

/// Runs `count` rows of a prompt from `row` on.
pub fn prompt(session: &mut dyn Session, row: Row, count: usize, want: Want) {
    run_prompt(session, row, count, want, false);
}

/// [`prompt`] that also reads the logits from which the token is chosen.
pub fn prompt_with_logits(session: &mut dyn Session, row: Row, count: usize) {
    run_prompt(session, row, count, Want::Token, true);
}

fn run_prompt(session: &mut dyn Session, row: Row, count: usize, want: Want, logits: bool) {
    let rows = row.follow(count);
    session.run(&Step { rows: &rows, family: Family::Many, want, logits, images: false }).expect("prompt");
}

/// Runs a decoding step of some sequences, without logits.
pub fn decode(session: &mut dyn Session, rows: &[Row]) {
    session.run(&Step { rows, family: Family::Few, want: Want::Token, logits: false, images: false }).expect("decode");
}

/// Waits for the oldest tokens that were requested.
pub fn sampled(session: &mut dyn Session) -> Vec<Sampled> {
    let mut chosen = Vec::new();
    session.sampled(&mut chosen).expect("tokens");
    chosen
}

/// The outputs of all positions, computed `chunk` rows at a time.
pub fn outputs(engine: &dyn Engine, ids: &[u32], want: Want, chunk: usize) -> Vec<(String, Output)> {
    let mut session = engine.session(ids.len()).expect("session");
    session.set_tokens(0, ids).expect("tokens");
    let mut all: Vec<(String, Output)> = Vec::new();
    for start in (0..ids.len()).step_by(chunk) {
        prompt(&mut *session, Row::at(start), chunk.min(ids.len() - start), want);
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
    draw(engine, ids, count, eos, Row::at(0))
}

/// Up to `count` tokens chosen as `row` says, ending with one of `eos`; each with the logits it was chosen from.
pub fn draw(engine: &dyn Engine, ids: &[u32], count: usize, eos: &[u32], row: Row) -> Vec<(u32, Vec<f32>)> {
    let mut session = engine.session(ids.len() + count).expect("session");
    session.set_tokens(0, ids).expect("tokens");
    prompt_with_logits(&mut *session, Row { position: 0, ..row }, ids.len());
    let mut drawn = Vec::new();
    loop {
        let Sampled { id, logits, .. } = sampled(&mut *session).pop().expect("a token");
        drawn.push((id, logits.expect("logits")));
        if drawn.len() == count || eos.contains(&id) {
            return drawn;
        }
        let rows = [Row { position: (ids.len() + drawn.len() - 1) as u32, ..row }];
        let step = Step { rows: &rows, family: Family::Few, want: Want::Token, logits: true, images: false };
        session.run(&step).expect("decode");
    }
}
