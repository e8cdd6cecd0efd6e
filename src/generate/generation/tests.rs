use std::collections::{HashSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::backend::measured::{Clock, Measured};
use crate::backend::{Change, DeviceInfo, Engine, Output, Sampled, Session, Step, Want};
use crate::checkpoint::vision::{Activation, Projector};
use crate::checkpoint::{Config, QkNorm, RopeConfig, VisionConfig};
use crate::error::{Error, ErrorKind};
use crate::generate::model::Inner;
use crate::generate::text::Text;
use crate::generate::{Ended, Generations, Image, Prompt, Sampler};
use crate::models::Pass;
use crate::plan::Plan;
use crate::work::{DeviceProfile, Family};

const VOCAB: usize = 512;
const CHUNK: usize = 256;

/// An engine with arithmetic as its model: the token after `id` at `position` is `id + position`, wrapped.
struct Fake {
    device: DeviceInfo,
    depth: usize,
    /// A token that is chosen instead from this position on.
    then: Option<(usize, u32)>,
    /// Log-probabilities and logits are NaN from this position on.
    broken: usize,
    /// The number of positions that it has memory for.
    memory: usize,
    /// The number of rows of a decoding step.
    rows: usize,
    /// The pictures that a session can hold; a model that holds none reads none.
    pictures: usize,
    sessions: Arc<AtomicUsize>,
}

struct FakeSession {
    memory: usize,
    rows: usize,
    depth: usize,
    then: Option<(usize, u32)>,
    broken: usize,
    tokens: Vec<Option<u32>>,
    /// Positions that were computed; passes must leave no gap.
    computed: HashSet<usize>,
    sampled: VecDeque<Vec<Sampled>>,
    outputs: Vec<(String, Output)>,
    pictures: usize,
    sessions: Arc<AtomicUsize>,
}

impl Fake {
    fn new() -> Self {
        let device = DeviceInfo { name: "fake".into(), backend: "none".into() };
        let (broken, memory, rows) = (usize::MAX, usize::MAX, CHUNK);
        Self { device, depth: 3, then: None, broken, memory, rows, pictures: 0, sessions: Arc::default() }
    }

    fn model(self, context: usize) -> Model {
        let rope = RopeConfig {
            interleaved: false,
            inv_freq: vec![1.0],
            local: None,
            most_positions: None,
            beyond: Default::default(),
        };
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
            windows: vec![None],
            qk_norm: QkNorm::None,
            attention_scale: 1.0,
            embedding_scale: 1.0,
            qkv_bias: false,
            layer_sharing: false,
            tied: true,
            context: 2048,
            bos: Some(1),
            eos: vec![2],
            vision: (self.pictures > 0).then(vision),
        };
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/mobilellm_gqa");
        let text = Text::open(&folder).unwrap();
        Model(Arc::new(Inner { engine: Arc::new(self), config, context, text, load_s: 0.5 }))
    }
}

/// A vision half that makes one token of a picture.
fn vision() -> VisionConfig {
    VisionConfig {
        image_size: 2,
        patch: 1,
        width: 1,
        heads: 1,
        ffn: 1,
        blocks: 1,
        norm_eps: 1e-5,
        activation: Activation::Gelu,
        projector: Projector::Ldp { squeeze: 1 },
        mean: [0.5; 3],
        std: [0.5; 3],
        image_start: None,
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

    fn plan(&self, _pass: Pass) -> Result<Arc<Plan>> {
        Err(Error::unsupported("there are no plans"))
    }

    fn vision_plan(&self) -> Option<Arc<Plan>> {
        None
    }

    fn profile(&self) -> DeviceProfile {
        DeviceProfile::baseline()
    }

    fn allocated_bytes(&self) -> Option<u64> {
        None
    }

    fn dispatches_per_token(&self) -> usize {
        7
    }

    fn chunk(&self) -> usize {
        CHUNK
    }

    fn most_rows(&self) -> usize {
        self.rows
    }

    fn pictures(&self) -> usize {
        self.pictures
    }

    fn session(&self, capacity: usize) -> Result<Box<dyn Session>> {
        check_memory(capacity, self.memory)?;
        self.sessions.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(FakeSession {
            memory: self.memory,
            rows: self.rows,
            depth: self.depth,
            then: self.then,
            broken: self.broken,
            tokens: vec![None; capacity],
            computed: HashSet::new(),
            sampled: VecDeque::new(),
            outputs: Vec::new(),
            pictures: self.pictures,
            sessions: self.sessions.clone(),
        }))
    }
}

fn check_memory(capacity: usize, memory: usize) -> Result<()> {
    if capacity > memory {
        return Err(Error::out_of_memory(format!("{capacity} positions, memory for {memory}")));
    }
    Ok(())
}

impl Drop for FakeSession {
    fn drop(&mut self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

impl FakeSession {
    /// The logits of the row at `position` of the sequence at `slot`.
    fn logits(&self, slot: usize, position: usize) -> Vec<f32> {
        let id = self.tokens[slot + position].expect("a token that was written") as usize;
        let mut logits: Vec<f32> = (0..VOCAB).map(|index| -((index % 5) as f32)).collect();
        logits[(id + position) % VOCAB] = if position >= self.broken { f32::NAN } else { 9.0 };
        logits
    }
}

impl Session for FakeSession {
    fn set_tokens(&mut self, place: usize, ids: &[u32]) -> Result<()> {
        for (slot, &id) in self.tokens[place..place + ids.len()].iter_mut().zip(ids) {
            *slot = Some(id);
        }
        Ok(())
    }

    fn copy(&mut self, from: usize, to: usize, count: usize) -> Result<()> {
        for i in 0..count {
            assert!(self.computed.contains(&(from + i)), "position {} is copied before it is computed", from + i);
            self.tokens[to + i] = self.tokens[from + i];
            self.computed.insert(to + i);
        }
        Ok(())
    }

    fn run(&mut self, step: &Step) -> Result<()> {
        assert!(step.rows.len() <= if step.family == Family::Few { self.rows } else { CHUNK });
        if step.family == Family::Many {
            assert_eq!(step.rows, step.rows[0].follow(step.rows.len()), "a prompt's rows follow each other");
        }
        for row in step.rows {
            let before = row.position == 0 || self.computed.contains(&(row.place() - 1));
            assert!(before, "{row:?} is computed before the one in front of it");
            self.computed.insert(row.place());
        }
        let (slot, first) = (step.rows[0].slot as usize, step.rows[0].position as usize);
        match step.want {
            Want::Nothing => {}
            Want::Token => {
                assert!(self.sampled.len() < self.depth, "no more steps in flight than the device takes");
                let chosen = if step.family == Family::Few { step.rows } else { &step.rows[step.rows.len() - 1..] };
                let mut sampled = Vec::new();
                for row in chosen {
                    let (slot, position) = (row.slot as usize, row.position as usize);
                    let id = match self.then {
                        Some((from, then)) if position >= from => then,
                        _ => (self.tokens[row.place()].expect("a token") + row.position) % VOCAB as u32,
                    };
                    self.tokens[row.place() + 1] = Some(id);
                    let logits = step.logits.then(|| self.logits(slot, position));
                    let logprob = if position >= self.broken { f32::NAN } else { -0.25 };
                    sampled.push(Sampled { id, logprob, logits });
                }
                self.sampled.push_back(sampled);
            }
            Want::Logits | Want::Hidden | Want::Trace => {
                let rows = step.rows.len();
                let data = (first..first + rows).flat_map(|position| self.logits(slot, position)).collect();
                let hidden = Output { rows, cols: 2, data: vec![first as f32; 2 * rows] };
                self.outputs = vec![("logits".into(), Output { rows, cols: VOCAB, data })];
                if step.want == Want::Trace {
                    self.outputs.insert(0, ("embeddings".into(), hidden));
                }
            }
        }
        Ok(())
    }

    fn run_changed(&mut self, _: &Step, _: Change) -> Result<()> {
        unreachable!("no test here has a mask: tests/model/mask.rs")
    }

    fn sampled(&mut self, chosen: &mut Vec<Sampled>) -> Result<()> {
        *chosen = self.sampled.pop_front().expect("a step that chose a token");
        Ok(())
    }

    fn outputs(&mut self) -> Result<Vec<(String, Output)>> {
        Ok(std::mem::take(&mut self.outputs))
    }

    fn encode(&mut self, _: &[f32], first: usize) -> Result<()> {
        assert!(first < self.pictures, "row {first} of pictures, and {} fit", self.pictures);
        Ok(())
    }

    fn encode_slice(&mut self) -> Result<(usize, usize)> {
        Ok((1, 1))
    }

    fn encoded(&mut self) -> Result<Vec<(String, Output)>> {
        unreachable!("the model reads no pictures")
    }

    fn reserve(&mut self, capacity: usize) -> Result<()> {
        check_memory(capacity, self.memory)?;
        self.tokens.resize(self.tokens.len().max(capacity), None);
        Ok(())
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn measure(&mut self, _: Option<Clock>) -> Result<()> {
        unreachable!("no test here measures: tests/device/profile.rs")
    }

    fn measured(&mut self) -> Vec<Measured> {
        unreachable!("no test here measures: tests/device/profile.rs")
    }
}

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
