//! Drawing tokens: the same seed gives the same text, all devices choose the same tokens, and the distribution follows
//! from the model and the filters.

use crate::support::golden::Golden;
use crate::support::runtimes::{self, worst};
use crate::support::{adapters, forward};
use dunlin::backend::check::Prepared;
use dunlin::backend::wgpu::device::Gpu;
use dunlin::checkpoint::Checkpoint;
use dunlin::ops::sample::Sample;
use dunlin::ops::{Case, Fill, Given, TensorType};
use dunlin::work::Row;
use dunlin::{LoadOptions, Prompt, Sampler};

/// The tolerance of adapters' logits against the CPU's: the float32 column of `tests/golden/README.md`.
const LOGITS: f32 = 2e-3;

/// Every sampling option, alone and combined.
fn samplings() -> Vec<(&'static str, Row)> {
    let plain = Row { temperature: 1.0, seed: 0x1234_5678, ..Row::at(0) };
    vec![
        ("temperature", Row { temperature: 0.8, ..plain }),
        ("high temperature", Row { temperature: 3.0, seed: 5, ..plain }),
        ("top-k", Row { top_k: 7, ..plain }),
        ("top-p", Row { top_p: 0.8, ..plain }),
        ("min-p", Row { min_p: 0.05, ..plain }),
        ("penalty", Row { repeat_penalty: 1.3, ..plain }),
        ("greedy with penalty", Row { repeat_penalty: 1.5, ..Row::at(0) }),
        (
            "all",
            Row { temperature: 1.2, top_k: 40, top_p: 0.9, min_p: 0.02, repeat_penalty: 1.1, seed: 99, ..Row::at(0) },
        ),
    ]
}

/// The case of the operator for one row of logits after `tokens`.
fn case(logits: &[f32], tokens: &[u32], sampling: &Row) -> Case {
    let row = Fill::Ids(logits.iter().map(|logit| logit.to_bits()).collect());
    let given = Given { ty: TensorType::f32([1, logits.len()]), fill: row };
    let capacity = [tokens, &[0]].concat();
    let state = Given { ty: TensorType::u32([capacity.len()]), fill: Fill::Ids(capacity) };
    let row = Row { slot: 0, position: tokens.len() as u32 - 1, ..*sampling };
    Case::new(Sample { rows: 1 }, vec![given]).state(vec![state, Given::table()]).rows(vec![row])
}

/// The choice of the operator's reference.
pub fn reference(logits: &[f32], tokens: &[u32], sampling: &Row) -> u32 {
    let case = case(logits, tokens, sampling);
    let prepared = Prepared::new(&case);
    let result = prepared.results.iter().position(|(name, _)| name == "result0").expect("a result");
    prepared.reference(&case)[result][0]
}

/// Devices may differ only where the choice is nearly a tie: where a change of the two logits within the tolerance of
/// adapters makes the reference choose as the adapter did.
#[test]
fn devices_draw_the_tokens_that_the_cpu_draws() {
    let mut parted = 0;
    let mut compared = 0;
    for golden in ["mobilellm_gqa", "mobilellm_r1"].map(Golden::open) {
        let checkpoint = Checkpoint::open(&golden.folder).expect("a golden folder");
        let prompt = golden.ids("p0.input_ids");
        let mut runtimes = runtimes::full();
        let cpu = runtimes.remove(0).load(&checkpoint);
        let engines: Vec<_> = runtimes.iter().map(|runtime| (&runtime.label, runtime.load(&checkpoint))).collect();
        for (what, sampling) in samplings() {
            let wanted = forward::draw(&*cpu, &prompt, 32, &[], sampling);
            for (label, engine) in &engines {
                let at = format!("{}: {what} on {label}", golden.name);
                let mut tokens = prompt.clone();
                for (step, ((id, logits), (wanted, row))) in
                    forward::draw(&**engine, &prompt, 32, &[], sampling).into_iter().zip(&wanted).enumerate()
                {
                    compared += 1;
                    let error = worst(&logits, row);
                    assert!(error <= LOGITS, "{at}: logits of step {step} off by {error}");
                    if id != *wanted {
                        let mut moved = row.clone();
                        moved[id as usize] += 2.0 * LOGITS;
                        moved[*wanted as usize] -= 2.0 * LOGITS;
                        let near = reference(&moved, &tokens, &sampling);
                        assert_eq!(near, id, "{at}: step {step} drew {id}, the CPU {wanted}, and that is no near tie");
                        println!("{at}: parts from the CPU at step {step}, in a near tie");
                        parted += 1;
                        break;
                    }
                    tokens.push(id);
                }
            }
        }
    }
    let adapters = adapters::all().len();
    assert!(compared >= adapters * 16 * 16, "{compared} tokens compared on {adapters} adapters");
    assert!(parted <= adapters, "{parted} of {} texts parted", 16 * adapters);
}

#[test]
fn a_seed_gives_a_text_and_another_seed_another() {
    let golden = Golden::open("mobilellm_gqa");
    for runtime in runtimes::all() {
        let model = runtime.model(&golden.folder, &LoadOptions::new());
        let text = |sampler: &Sampler| -> (Vec<u32>, String) {
            let prompt = Prompt::tokens(golden.ids("p0.input_ids"));
            let pieces = model.generate(prompt, sampler).expect("a generation").max_tokens(24);
            pieces.map(|piece| piece.expect("a piece")).map(|piece| (piece.id, piece.text)).unzip()
        };
        let sampler = Sampler::greedy().temperature(1.5).top_k(100);
        let first = text(&sampler.clone().seed(11));
        assert_eq!(first, text(&sampler.clone().seed(11)), "{}", runtime.label);
        // Every bit of the seed counts.
        let others = [12, 13 << 32, 1 << 31, 11 + (1 << 32)].map(|seed| text(&sampler.clone().seed(seed)));
        assert!(others.iter().all(|other| *other != first), "{}: the seed does nothing", runtime.label);
        assert!(others[0] != others[1] && others[1] != others[2], "{}", runtime.label);
        // Without a seed, each text is different.
        assert_ne!(text(&sampler), text(&sampler), "{}", runtime.label);
    }
}

/// One draw for each row, by the reference or by an adapter.
fn draws(gpu: Option<&Gpu>, case: &Case, rows: impl Iterator<Item = Row>) -> Vec<u32> {
    let prepared = Prepared::new(case);
    let (index, (_, result)) =
        prepared.results.iter().enumerate().find(|(_, (name, _))| name == "result0").expect("a result");
    let Some(gpu) = gpu else {
        return rows
            .map(|row| {
                let case = Case {
                    op: case.op.clone(),
                    reads: vec![],
                    state: vec![],
                    rows: vec![row],
                    family: case.family,
                    nmse: 0.0,
                    bench: false,
                    max_binding: None,
                };
                prepared.reference(&case)[index][0]
            })
            .collect();
    };
    let runner = prepared.runner(gpu, &gpu.profile).expect("prepares");
    rows.map(|row| {
        runner.run(&[row]);
        u32::from_le_bytes(*runner.read(*result).expect("reads").first_chunk().expect("an id"))
    })
    .collect()
}

/// softmax(logits / T) over the ids that are kept; 0 for the others.
fn softmax(logits: &[f32], temperature: f32, keep: impl Fn(usize) -> bool) -> Vec<f64> {
    let weight = |(id, &l): (usize, &f32)| if keep(id) { f64::from(l / temperature).exp() } else { 0.0 };
    let weights: Vec<f64> = logits.iter().enumerate().map(weight).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

/// Pearson's Σ (found − expected)² / expected over the ids that are kept, and the degrees of freedom.
fn chi_square(drawn: &[u32], expected: &[f64]) -> (f64, usize) {
    let mut counts = vec![0usize; expected.len()];
    drawn.iter().for_each(|&id| counts[id as usize] += 1);
    let (mut sum, mut kept) = (0.0, 0);
    for (id, (&count, &p)) in counts.iter().zip(expected).enumerate() {
        let wanted = p * drawn.len() as f64;
        if p == 0.0 {
            assert_eq!(count, 0, "id {id} is filtered out");
            continue;
        }
        assert!(wanted >= 5.0, "id {id} is expected {wanted} times, too few for the test");
        kept += 1;
        sum += (count as f64 - wanted).powi(2) / wanted;
    }
    (sum, kept - 1)
}

/// The seeds are fixed, so the result is always the same. A correct sampler passes with 999 of 1000 sets of seeds.
#[test]
fn draws_are_distributed_as_the_filters_say() {
    // The ids are in an order that every sort changes; probabilities go down to 1 in 37.
    let logits: Vec<f32> = (0..13).map(|id| ((id * 5) % 13) as f32 * 0.15 - 1.0).collect();
    let rank = |id: usize| 12 - (id * 5) % 13;
    let plain = Row { temperature: 1.0, ..Row::at(0) };
    type Keep<'a> = Box<dyn Fn(usize) -> bool + 'a>;
    let all: Keep = Box::new(|_| true);
    // By rank, probabilities are 0.16 · 0.86ⁿ, which sum to 0.16, 0.30, 0.42, 0.53, 0.62 …
    let cases: Vec<(&str, Row, Keep)> = vec![
        ("temperature 1", plain, all),
        ("temperature 0.7", Row { temperature: 0.7, ..plain }, Box::new(|_| true)),
        ("top-k 5", Row { top_k: 5, ..plain }, Box::new(|id| rank(id) < 5)),
        ("top-p 0.6", Row { top_p: 0.6, ..plain }, Box::new(|id| rank(id) < 5)),
        // exp(−0.15 n) ≥ 0.3 up to n = 8.
        ("min-p 0.3", Row { min_p: 0.3, ..plain }, Box::new(|id| rank(id) < 9)),
    ];
    // The 0.999 quantile of χ² with 1 … 12 degrees of freedom.
    const MOST: [f64; 12] = [10.83, 13.82, 16.27, 18.47, 20.52, 22.46, 24.32, 26.12, 27.88, 29.59, 31.26, 32.91];
    let gpus = adapters::all().into_iter().map(|adapter| {
        (adapter.label(), Some(Gpu::open(adapter.index).unwrap_or_else(|e| panic!("{}: {e}", adapter.label()))))
    });
    for (label, gpu) in [("cpu".to_string(), None)].into_iter().chain(gpus) {
        for (what, sampling, keep) in &cases {
            let tokens: Vec<u32> = vec![0; 600];
            let case = case(&logits, &tokens, sampling);
            let expected = softmax(&logits, sampling.temperature, keep);
            let seeds = (0..600).map(|seed| Row { seed, position: 3, ..case.rows[0] });
            let positions = (0..599).map(|position| Row { position, seed: 7, ..case.rows[0] });
            for (over, runs) in [("seeds", seeds.collect::<Vec<_>>()), ("positions", positions.collect())] {
                let drawn = draws(gpu.as_deref(), &case, runs.into_iter());
                let (sum, free) = chi_square(&drawn, &expected);
                assert!(sum <= MOST[free - 1], "{what} over {over} on {label}: χ² of {sum} with {free} free");
            }
        }
    }
}
