use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::backend::{DeviceInfo, Engine, Output};
use crate::checkpoint::{Config, RopeConfig};
use crate::error::ErrorKind;
use crate::generate::model::{Inner, Text};
use crate::generate::{Prompt, Sampler};

const VOCAB: usize = 512;
const CHUNK: usize = 256;

/// An engine whose model is arithmetic: the token after `id` at `position` is `id + position`, wrapped.
struct Fake {
    device: DeviceInfo,
    depth: usize,
    /// The token that is chosen from this position on instead.
    then: Option<(usize, u32)>,
    /// Log-probabilities and logits are NaN from this position on.
    broken: usize,
    sessions: Arc<AtomicUsize>,
}

struct FakeSession {
    depth: usize,
    then: Option<(usize, u32)>,
    broken: usize,
    tokens: Vec<Option<u32>>,
    /// The next position: passes are in order and leave no gap.
    next: usize,
    sampled: VecDeque<Sampled>,
    outputs: Vec<(String, Output)>,
    sessions: Arc<AtomicUsize>,
}

impl Fake {
    fn new() -> Self {
        let device = DeviceInfo { name: "fake".into(), backend: "none".into() };
        Self { device, depth: 3, then: None, broken: usize::MAX, sessions: Arc::default() }
    }

    fn model(self, context: usize) -> Model {
        let rope = RopeConfig { interleaved: false, inv_freq: vec![1.0], most_positions: None };
        let config = Config {
            architecture: "fake".into(),
            vocab: VOCAB,
            hidden: 2,
            layers: 1,
            heads: vec![1],
            kv_heads: vec![1],
            ffn: vec![2],
            head_dim: 2,
            norm_eps: 1e-5,
            rope,
            rope_layers: vec![true],
            qk_norm: false,
            layer_sharing: false,
            tied: true,
            context: 2048,
            bos: Some(1),
            eos: vec![2],
            vision: None,
        };
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/mobilellm_gqa");
        let text = Text::open(&folder).unwrap();
        Model(Arc::new(Inner { engine: Arc::new(self), config, context, text, load_s: 0.5 }))
    }
}

impl Engine for Fake {
    fn device(&self) -> &DeviceInfo {
        &self.device
    }

    fn weight_bytes(&self) -> u64 {
        12
    }

    fn vision_bytes(&self) -> u64 {
        0
    }

    fn release_vision(&self) {}

    fn dispatches_per_token(&self) -> usize {
        7
    }

    fn chunk(&self) -> usize {
        CHUNK
    }

    fn session(&self, capacity: usize) -> Result<Box<dyn Session>> {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(FakeSession {
            depth: self.depth,
            then: self.then,
            broken: self.broken,
            tokens: vec![None; capacity],
            next: 0,
            sampled: VecDeque::new(),
            outputs: Vec::new(),
            sessions: self.sessions.clone(),
        }))
    }
}

impl Drop for FakeSession {
    fn drop(&mut self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

impl FakeSession {
    fn logits(&self, position: usize) -> Vec<f32> {
        let id = self.tokens[position].expect("a token that was written") as usize;
        let mut logits: Vec<f32> = (0..VOCAB).map(|index| -((index % 5) as f32)).collect();
        logits[(id + position) % VOCAB] = if position >= self.broken { f32::NAN } else { 9.0 };
        logits
    }
}

impl Session for FakeSession {
    fn set_tokens(&mut self, position: usize, ids: &[u32]) -> Result<()> {
        for (slot, &id) in self.tokens[position..position + ids.len()].iter_mut().zip(ids) {
            *slot = Some(id);
        }
        Ok(())
    }

    fn run(&mut self, step: &Step) -> Result<()> {
        let first = step.rows[0].place();
        assert_eq!(first, self.next, "passes are in order");
        assert!(step.rows.len() <= CHUNK);
        self.next += step.rows.len();
        let last = self.next - 1;
        let token = |position: usize, id: u32| match self.then {
            Some((from, then)) if position >= from => then,
            _ => (id + position as u32) % VOCAB as u32,
        };
        match step.want {
            Want::Nothing => {}
            Want::Token => {
                assert!(self.sampled.len() < self.depth, "no more steps in flight than the device takes");
                let id = token(last, self.tokens[last].expect("a token that was written"));
                self.tokens[self.next] = Some(id);
                let logits = step.logits.then(|| self.logits(last));
                let logprob = if last >= self.broken { f32::NAN } else { -0.25 };
                self.sampled.push_back(Sampled { id, logprob, logits });
            }
            Want::Logits | Want::Trace => {
                let data = (first..self.next).flat_map(|position| self.logits(position)).collect();
                let hidden = Output { rows: step.rows.len(), cols: 2, data: vec![first as f32; 2 * step.rows.len()] };
                self.outputs = vec![("logits".into(), Output { rows: step.rows.len(), cols: VOCAB, data })];
                if step.want == Want::Trace {
                    self.outputs.insert(0, ("embeddings".into(), hidden));
                }
            }
        }
        Ok(())
    }

    fn sampled(&mut self) -> Result<Sampled> {
        Ok(self.sampled.pop_front().expect("a step that chose a token"))
    }

    fn outputs(&mut self) -> Result<Vec<(String, Output)>> {
        Ok(std::mem::take(&mut self.outputs))
    }

    fn encode(&mut self, _: &[f32], _: bool, _: crate::backend::Progress) -> Result<Vec<(String, Output)>> {
        unreachable!("the model reads no pictures")
    }

    fn reserve(&mut self, capacity: usize) -> Result<()> {
        self.tokens.resize(self.tokens.len().max(capacity), None);
        Ok(())
    }

    fn depth(&self) -> usize {
        self.depth
    }
}

/// What the arithmetic gives after `prompt`.
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
fn the_end_token_ends_it_and_is_not_emitted() {
    let model = Fake { then: Some((6, 2)), ..Fake::new() }.model(2048);
    let (ids, stats) = generate(&model, &[5, 6, 7], 50);
    // Positions 2 to 5 choose tokens, position 6 the end.
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
    // A character that the end cuts off is replaced, in the last piece.
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
