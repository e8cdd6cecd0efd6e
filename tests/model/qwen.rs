//! Golden Qwen-VL checkpoints on the CPU and on every adapter: pixels, features, image tokens, hidden states, logits,
//! greedy ids, prompts beyond the trained length; sequences of several lengths together; conversations with follow-up
//! questions.

use crate::support::forward;
use crate::support::golden::{self, Golden};
use crate::support::parallel;
use crate::support::pictures::{greedy, log_softmax, saying, tensor};
use crate::support::runtimes::{self, Runtime};
use crate::support::tolerance::{F16, F32, Greedy, Tolerance, close, same_ids};
use dunlin::backend::{self, EngineOptions};
use dunlin::checkpoint::Checkpoint;
use dunlin::{Device, ErrorKind, Files, LoadOptions, Message, Model, Outline, Prompt, Sampler, Stop, Trace};

/// The tolerance of values after normalisation, where one step of a colour is 0.015.
const PIXELS: f32 = 1e-5;
/// The tolerance of the tower's features and of image tokens on the CPU: a GELU by tanh is off by 7e-4, an eps of 1e-5
/// by 7e-5.
const TOWER: f32 = 5e-5;
/// The tolerance of the same on a GPU, which adds sums in the order of its tiles and whose `exp` is off by some ulp.
const TOWER_GPU: f32 = 5e-4;
/// The factor of the tolerance of logits far beyond the trained length, which have twice the error of others.
const LONG: f32 = 2.0;

/// The tolerances of `tests/golden/README.md`.
fn tolerance(runtime: &Runtime) -> Tolerance {
    if runtime.auto { F16 } else { Tolerance { hidden_absolute: 5e-4, logits: 1e-3, ..F32 } }
}

/// A golden prompt: a question with its pictures, or a conversation.
fn prompt(golden: &Golden, name: &str) -> Prompt {
    let expected = &golden.expected()["prompts"][name];
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    let turns = expected["history"].as_array().into_iter().flatten();
    let turns = turns.flat_map(|turn| [("user", text(&turn[0])), ("assistant", text(&turn[1]))]);
    let messages = turns.chain([("user", text(&expected["question"]))]).map(|(role, text)| Message::new(role, text));
    let images = expected["images"].as_array().expect("images").iter();
    images.fold(Prompt::chat(messages), |prompt, image| prompt.image(golden.folder.join(text(image))))
}

/// The rows of the reference's logits, without the last ids, which have no text and are not in the vocabulary here.
fn logits(golden: &Golden, name: &str, vocab: usize) -> Vec<f32> {
    let all = golden.f32(name);
    let padded = golden.expected()["vocabulary"]["V"].as_u64().expect("a number") as usize;
    all.chunks_exact(padded).flat_map(|row| row[..vocab].to_vec()).collect()
}

/// Some rows of a tensor of a trace.
fn rows(trace: &Trace, name: &str, positions: &[u32]) -> Vec<f32> {
    let (_, values) = trace.tensors.iter().find(|(found, _)| found == name).expect(name);
    let cols = values.shape[1];
    positions.iter().flat_map(|&p| values.data[p as usize * cols..][..cols].to_vec()).collect()
}

#[test]
fn golden_qwen_cases() {
    let (cases, runtimes) = (golden::qwen_cases(), runtimes::all());
    let pairs: Vec<_> = cases.iter().flat_map(|golden| runtimes.iter().map(move |runtime| (golden, runtime))).collect();
    parallel::each(&pairs, |(golden, runtime)| {
        let model = runtime.model(&golden.folder, &LoadOptions::new());
        check(golden, &model, runtime);
    });
}

fn check(golden: &Golden, model: &Model, runtime: &Runtime) {
    let at = |what: &str| format!("{} on {}: {what}", golden.name, runtime.label);
    let tolerance = tolerance(runtime);
    let tower = if runtime.is_gpu() { TOWER_GPU } else { TOWER };
    let (absolute, relative) = (tolerance.hidden_absolute, tolerance.hidden_relative);
    let vocab = golden.expected()["vocabulary"]["n_vocab"].as_u64().expect("a number") as usize;
    let seen = |what: &str, found: &[f32], wanted: &str| {
        let absolute = if runtime.auto { absolute } else { tower };
        close(&at(what), found, &golden.f32(wanted), absolute, relative);
    };

    let trace = model.trace(prompt(golden, "p0")).expect("a trace");
    close(&at("pixels"), tensor(&trace, "vision.pixels"), &golden.f32("img0.pixel_values"), PIXELS, f32::INFINITY);
    seen("features", tensor(&trace, "vision.features"), "img0.vision_features");
    seen("image tokens", tensor(&trace, "vision.projected"), "img0.projector_out");
    let positions = golden.ids("p0.logit_positions");
    let hidden = golden.f32("p0.hidden_states");
    let names: Vec<&str> = trace.tensors.iter().map(|(name, _)| name.as_str()).collect();
    let layers = names.iter().filter(|name| name.starts_with("layers.")).count();
    let each = hidden.len() / (layers + 1);
    for (i, wanted) in hidden.chunks_exact(each).enumerate() {
        let name = if i == 0 { "embeddings".to_string() } else { format!("layers.{}", i - 1) };
        close(&at(&name), &rows(&trace, &name, &positions), wanted, absolute, relative);
    }
    close(
        &at("embeddings"),
        &rows(&trace, "embeddings", &positions),
        &golden.f32("p0.inputs_embeds"),
        absolute,
        relative,
    );
    let found = rows(&trace, "logits", &positions);
    close(&at("logits"), &found, &logits(golden, "p0.logits", vocab), tolerance.logits, f32::INFINITY);

    let (tower_rows, token_rows) = (golden.ids("vision_rows"), golden.ids("image_token_rows"));
    let trace = model.trace(prompt(golden, "two")).expect("a trace");
    seen("features of the first", &rows(&trace, "vision.features", &tower_rows), "img1.vision_features_rows");
    seen("tokens of the first", &rows(&trace, "vision.projected", &token_rows), "img1.projector_out_rows");
    seen("tokens of the second", tensor(&trace, "vision.1.projected"), "img0.projector_out");
    let trace = model.trace(prompt(golden, "p2")).expect("a trace");
    seen("tokens of image_2", &rows(&trace, "vision.projected", &token_rows), "img2.projector_out_rows");

    for name in ["p0", "p1", "p2", "two", "text", "turns", "eos"] {
        let prompt = prompt(golden, name);
        let ids = golden.ids(&format!("{name}.input_ids"));
        let encoded = model.encode(&prompt).expect("ids");
        assert_eq!(encoded, with_rows(golden, &ids, vocab), "{}", at(&format!("{name} ids")));
        check_greedy(golden, model, prompt, name, tolerance, &at(name), vocab);
    }
    for name in ["long", "double", "double_1", "cross"] {
        if !golden.has(&format!("{name}.input_ids")) {
            continue;
        }
        let ids = golden.ids(&format!("{name}.input_ids"));
        if golden.has(&format!("{name}.positions")) {
            let trace = model.trace(ids.as_slice()).expect("a trace");
            let found = rows(&trace, "logits", &golden.ids(&format!("{name}.positions")));
            let wanted = logits(golden, &format!("{name}.logits"), vocab);
            close(&at(&format!("{name} logits")), &found, &wanted, LONG * tolerance.logits, f32::INFINITY);
        }
        check_greedy(golden, model, Prompt::tokens(ids), name, tolerance, &at(name), vocab);
    }
}

/// Compares the ids of a greedy answer, and the logits that they were chosen from.
fn check_greedy(
    golden: &Golden,
    model: &Model,
    prompt: Prompt,
    name: &str,
    tolerance: Tolerance,
    at: &str,
    vocab: usize,
) {
    let (mut ids, mut margins) = (golden.ids(&format!("{name}.greedy_ids")), golden.margins(name));
    let stops = golden.expected()["prompts"][name]["stopped_by"].is_string();
    if stops && tolerance.exact_ids {
        let mut generation = model.generate(prompt.clone(), &Sampler::greedy()).expect("a generation");
        let text: String = generation.by_ref().map(|piece| piece.expect("a token").text).collect();
        assert_eq!(generation.stats().stop, Some(Stop::Eos), "{at}");
        let response = &golden.expected()["prompts"][name]["chat_response"];
        assert_eq!(text.trim(), response.as_str().expect("a text").trim(), "{at}");
    }
    if stops {
        // The expected ids end with the end token, which a generation does not return.
        ids.pop();
        margins.pop();
    }
    let all = format!("{name}.greedy_logits");
    let steps = golden.expected()["prompts"][name]["greedy_logits_steps"].clone();
    let consecutive = golden.has(&all) && steps.is_null();
    let wanted = Greedy {
        ids,
        margins,
        logits: if consecutive { log_softmax(&logits(golden, &all, vocab), vocab) } else { Vec::new() },
    };
    let found = greedy(model, prompt, wanted.ids.len(), vocab);
    if golden.has(&format!("{name}.last_logits")) {
        let wanted = log_softmax(&logits(golden, &format!("{name}.last_logits"), vocab), vocab);
        close(&format!("{at} first step"), &found[0].1, &wanted, 2.0 * tolerance.logits, f32::INFINITY);
    }
    if let (Some(steps), true) = (steps.as_array(), tolerance.exact_ids) {
        let wanted = log_softmax(&logits(golden, &all, vocab), vocab);
        for (step, wanted) in steps.iter().zip(wanted.chunks_exact(vocab)) {
            let step = step.as_u64().expect("a number") as usize;
            let within = 2.0 * LONG * tolerance.logits;
            close(&format!("{at} step {step}"), &found[step].1, wanted, within, f32::INFINITY);
        }
    }
    same_ids(at, &found, &wanted, tolerance);
}

/// The reference's ids, with the rows of the pictures in place of the ids between `<img>` and `</img>`.
fn with_rows(golden: &Golden, ids: &[u32], vocab: usize) -> Vec<u32> {
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(golden.folder.join("config.json")).expect("a file")).expect("JSON");
    let image = config["visual"]["image_start_id"].as_u64().expect("an id") as u32;
    let (mut row, mut inside) = (vocab as u32, false);
    let mut out = Vec::new();
    for &id in ids {
        inside &= id != image + 1;
        out.push(if inside { row } else { id });
        row += u32::from(inside);
        inside |= id == image;
    }
    out
}

/// Neither the path bytes inside `<img>` and `</img>` nor who fills in the picture's ids changes a prompt.
#[test]
fn ids_with_spans_are_prompts_with_pictures() {
    let golden = Golden::open("qwenvl_b");
    let model = Model::load(&golden.folder, &Device::cpu()).expect("a model");
    let wanted = model.encode(&prompt(&golden, "p0")).expect("ids");
    for name in ["p0.input_ids", "p0.input_ids_padded"] {
        let prompt = Prompt::tokens(golden.ids(name)).image(golden.folder.join("image_0.png"));
        assert_eq!(model.encode(&prompt).expect("ids"), wanted, "{name}");
    }
    // The other spelling of the tag, and a picture in the middle of the words.
    let tight = LoadOptions::new().tight_pictures();
    let tight = Model::load_with(&golden.folder, &Device::cpu(), &tight).expect("a model");
    let image = golden.folder.join("image_0.png");
    let tokenizer = tight.tokenizer().expect("a tokenizer");
    let text = |model: &Model, prompt: Prompt| {
        let ids = model.encode(&prompt.image(image.clone())).expect("ids");
        let shown: Vec<u32> = ids.into_iter().filter(|&id| tokenizer.token(id).is_some()).collect();
        tokenizer.decode_with_special(&shown)
    };
    assert!(text(&tight, Prompt::user("a")).contains("user\nPicture 1:<img></img>\na<|im_end|>"));
    assert!(text(&model, Prompt::user("图片：<image>a")).contains("user\n图片：Picture 1: <img></img>\na<|im_end|>"));
    assert_eq!(text(&model, Prompt::raw("<img>x</img> a")), "<img></img> a");
    let refused = |prompt: Prompt| model.encode(&prompt).expect_err("an error").to_string();
    assert!(refused(Prompt::user("a <img> b")).contains("<img> without </img>"));
    assert!(refused(Prompt::user("a </img> b")).contains("0 <img> and 1 </img>"));
    assert!(refused(Prompt::user("<image>")).contains("1 places for pictures"));
}

/// Prompts of three lengths, which have three different α, run in one session: each computes the same as alone, bit for
/// bit.
#[test]
fn lengths_with_other_angles_share_passes() {
    let golden = Golden::open("qwenvl_a");
    let ids = |name: &str| golden.ids(&format!("{name}.input_ids"));
    let prompts = [ids("text"), ids("double"), ids("double_1"), ids("text")[..40].to_vec()];
    for runtime in runtimes::full() {
        let model = runtime.model(&golden.folder, &LoadOptions::new());
        let alone: Vec<Vec<(u32, f32)>> = prompts
            .iter()
            .map(|ids| {
                let generation = model.generate(ids, &Sampler::greedy()).expect("a generation").max_tokens(6);
                generation.map(|piece| piece.expect("a token")).map(|piece| (piece.id, piece.logprob)).collect()
            })
            .collect();
        let together = model.generate_all(prompts.to_vec(), &Sampler::greedy()).expect("generations").max_tokens(6);
        let mut found = vec![Vec::new(); prompts.len()];
        for (index, piece) in together.parallel(4) {
            let piece = piece.expect("a token");
            found[index].push((piece.id, piece.logprob));
        }
        assert_eq!(found, alone, "{}", runtime.label);
    }
}

/// A follow-up question exceeds the trained length: the whole conversation is computed again with the new angles.
#[test]
fn a_question_that_follows_computes_anew_where_angles_change() {
    let golden = Golden::open("qwenvl_a");
    for runtime in runtimes::full() {
        let model = runtime.model(&golden.folder, &LoadOptions::new());
        let image = golden.folder.join("image_2.png");
        let ask = |text: &str| Prompt::user(text).image(image.clone());
        let start = |tokens| model.generate(ask("a"), &Sampler::greedy()).expect("a generation").max_tokens(tokens);
        let mut first = start(3);
        let reply: String = first.by_ref().map(|piece| piece.expect("a token").text).collect();
        assert!(first.stats().prompt_tokens <= 320, "the first prompt fits what was trained");
        let turns = [("user", "a"), ("assistant", reply.trim()), ("user", "Is it day?")];
        let whole = Prompt::chat(turns.map(|(role, text)| Message::new(role, text))).image(image.clone());
        let mut next = first.follow_up("Is it day?", &Sampler::greedy()).expect("a generation").max_tokens(6);
        let mut alone = model.generate(whole, &Sampler::greedy()).expect("a generation").max_tokens(6);
        let ids = |generation: &mut dunlin::Generation| -> Vec<(u32, f32)> {
            generation.map(|piece| piece.expect("a token")).map(|piece| (piece.id, piece.logprob)).collect()
        };
        assert_eq!(ids(&mut next), ids(&mut alone), "{}", runtime.label);
        assert!(next.stats().prompt_tokens > 320, "the second does not");
        assert_eq!(next.stats().vision_s, 0.0, "{}: the picture was read again", runtime.label);
    }
}

/// Bindings are too small for the large matrices: q, k and v are separate, and the head is split.
#[test]
fn weights_larger_than_a_binding_lie_in_parts() {
    let golden = Golden::open("qwenvl_b");
    let checkpoint = Checkpoint::open(&golden.folder).expect("a golden folder");
    let ids = golden.ids("text.input_ids");
    let wanted = logits(&golden, "text.last_logits", checkpoint.config.vocab);
    // The head has 612 rows of 512 bytes; angles of 128 positions, keys and values of 64 are smaller.
    let options = EngineOptions {
        full_precision: true,
        max_binding: Some(200_000),
        context: Some(128),
        ..EngineOptions::default()
    };
    for runtime in runtimes::full().iter().filter(|runtime| runtime.is_gpu()) {
        let engine = backend::load(&checkpoint, &runtime.choice, &options, &|_, _| ()).expect("a model");
        let found = forward::greedy(&*engine, &ids, 4, &[]);
        let chosen: Vec<u32> = found.iter().map(|(id, _)| *id).collect();
        assert_eq!(chosen, golden.ids("text.greedy_ids")[..4], "{}", runtime.label);
        close(&runtime.label, &found[0].1, &wanted, 1e-3, f32::INFINITY);
    }
}

/// A golden folder in memory, without some of its files, and with others in their place.
fn edited(golden: &Golden, without: &[&str], with: Vec<(&str, String)>) -> Model {
    let entries = std::fs::read_dir(&golden.folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let named = entries.map(|path| (path.file_name().expect("a name").to_string_lossy().into_owned(), path));
    let own = named.filter(|(name, _)| !without.contains(&name.as_str()));
    let own = own.map(|(name, path)| (name, std::fs::read(path).expect("a file")));
    let with = with.into_iter().map(|(name, text)| (name.to_owned(), text.into_bytes()));
    Model::load(Files::memory(own.chain(with)), &Device::cpu()).expect("a model")
}

/// Ids with spans are pictures by the configuration alone.
#[test]
fn spans_need_no_tokenizer() {
    let golden = Golden::open("qwenvl_b");
    let wanted = Model::load(&golden.folder, &Device::cpu()).expect("a model").encode(&prompt(&golden, "p0"));
    let model = edited(&golden, &["qwen.tiktoken"], vec![]);
    assert!(model.tokenizer().is_err());
    let ids = Prompt::tokens(golden.ids("p0.input_ids")).image(golden.folder.join("image_0.png"));
    assert_eq!(model.encode(&ids).expect("ids"), wanted.expect("ids"));
}

/// A turn that the window leaves out takes its picture with it: the model does not read it, statistics do not count it,
/// and the other pictures keep their places.
#[test]
fn pictures_of_turns_that_were_left_out_are_not_read() {
    let golden = Golden::open("qwenvl_b");
    let window = r#"{"chat_format": "chatml", "max_window_size": 300}"#;
    let model = edited(&golden, &[], vec![("generation_config.json", window.into())]);
    let vocab = model.tokenizer().expect("a tokenizer").encode("<imgpad>").expect("an id")[0] + 1;
    let images = [0, 1].map(|i| golden.folder.join(format!("image_{i}.png")));
    let pixels = |prompt: Prompt| {
        let trace = model.trace(prompt).expect("a trace");
        assert!(trace.tensors.iter().all(|(name, _)| !name.starts_with("vision.1")), "a second picture was read");
        tensor(&trace, "vision.pixels").to_vec()
    };
    let [first, second] = images.clone().map(|image| pixels(Prompt::user("a").image(image)));
    assert_ne!(first, second);
    let chat = |turns: &[(&str, &str)]| {
        let chat = Prompt::chat(turns.iter().map(|(role, text)| Message::new(*role, *text)));
        images.iter().fold(chat, |chat, image| chat.image(image.clone()))
    };
    // The first turn is too long for the window; a picture of the system part stays.
    let turns = chat(&[("user", "<image>a"), ("assistant", "b"), ("user", "<image>c")]);
    let system = chat(&[("system", "<image>"), ("user", "<image>a"), ("assistant", "b"), ("user", "c")]);
    for (prompt, kept) in [(turns, &second), (system, &first)] {
        let ids = model.encode(&prompt).expect("ids");
        let rows: Vec<u32> = ids.iter().copied().filter(|&id| id >= vocab).collect();
        assert_eq!(rows, (vocab..vocab + 256).collect::<Vec<u32>>());
        assert!(pixels(prompt.clone()) == *kept, "the other picture was read");
        let generation = model.generate(prompt, &Sampler::greedy()).expect("a generation");
        assert_eq!(generation.stats().image_tokens, 256);
    }

    // A conversation goes on after its picture was left out, also with another picture.
    let ask = |text: &str| Prompt::user(text);
    let mut generation = model.generate(ask("a").image(&*images[0]), &Sampler::greedy()).expect("a generation");
    for (question, tokens) in [(ask("b"), 0), (ask("c").image(&*images[1]), 256), (ask("d"), 0)] {
        generation = saying(generation, vec![64, 65]);
        assert_eq!(generation.by_ref().map(|piece| piece.expect("a token").id).collect::<Vec<_>>(), [64, 65]);
        generation = generation.follow_up(question, &Sampler::greedy()).expect("a generation");
        assert_eq!(generation.stats().image_tokens, tokens);
    }
}

/// What an answer points at is parsed, whether or not its control tokens are shown.
#[test]
fn answers_point_at_places() {
    let golden = Golden::open("qwenvl_b");
    let model = Model::load(&golden.folder, &Device::cpu()).expect("a model");
    let answer = "<ref>a</ref><box>(100,200),(300,400)</box>";
    let ids = model.tokenizer().expect("a tokenizer").encode(&format!("{answer}<|im_end|>")).expect("ids");
    for (special, shown) in [(false, "a(100,200),(300,400)"), (true, answer)] {
        let ask = Prompt::user("Where?").image(golden.folder.join("image_0.png"));
        let generation = model.generate(ask, &Sampler::greedy()).expect("a generation");
        let generation = if special { generation.special() } else { generation };
        let mut generation = saying(generation, ids.clone());
        assert!(generation.boxes().is_empty());
        let text: String = generation.by_ref().map(|piece| piece.expect("a token").text).collect();
        assert_eq!((text.as_str(), generation.stats().stop), (shown, Some(Stop::Eos)));
        let [found] = &generation.boxes()[..] else { panic!("{:?}", generation.boxes()) };
        let found = (found.label.as_deref(), found.shape, &found.pixels[..], found.size);
        assert_eq!(found, (Some("a"), Outline::Box, &[[12, 14], [36, 29]][..], Some([121, 74])));
    }
}

/// An answer cannot add places for pictures to the conversation, also not by a tag that appears when another is removed.
#[test]
fn tags_in_an_answer_are_no_places() {
    let golden = Golden::open("qwenvl_b");
    let model = Model::load(&golden.folder, &Device::cpu()).expect("a model");
    let tokenizer = model.tokenizer().expect("a tokenizer");
    let encode = |text: &str| tokenizer.encode(text).expect("ids");
    let [open, close] = [encode("<imgpad>")[0] - 2, encode("<imgpad>")[0] - 1];
    let image = golden.folder.join("image_0.png");
    let ids = [
        encode("<im<image>age> <i"),
        vec![close],
        encode("mg> <im"),
        vec![open],
        encode("g> x"),
        vec![open],
        encode("<image>"),
    ];
    let ask = model.generate(Prompt::user("a").image(image.clone()), &Sampler::greedy()).expect("a generation");
    let mut answer = saying(ask.special(), ids.concat());
    let text: String = answer.by_ref().map(|piece| piece.expect("a token").text).collect();
    assert_eq!(text, "<im<image>age> <i</img>mg> <im<img>g> x<img><image>");
    let next = answer.follow_up("b", &Sampler::greedy()).expect("a conversation that goes on");
    let turns = [("user", "a"), ("assistant", "x"), ("user", "b")];
    let whole = Prompt::chat(turns.map(|(role, text)| Message::new(role, text))).image(image);
    let whole = model.encode(&whole).expect("ids").len();
    assert_eq!((next.stats().image_tokens, next.stats().prompt_tokens), (256, whole));
}

/// The pictures that a session holds are those whose rows fit a binding.
#[test]
fn a_binding_limits_the_pictures_of_a_session() {
    let golden = Golden::open("qwenvl_b");
    let checkpoint = Checkpoint::open(&golden.folder).expect("a golden folder");
    let picture = 4 * 256 * checkpoint.config.hidden as u64;
    let options = EngineOptions { max_binding: Some(6 * picture + 100), context: Some(64), ..EngineOptions::default() };
    for runtime in runtimes::full() {
        let engine = backend::load(&checkpoint, &runtime.choice, &options, &|_, _| ()).expect("a model");
        let most = if runtime.is_gpu() { 6 } else { usize::MAX };
        assert_eq!(engine.pictures(), most, "{}", runtime.label);
        let mut session = engine.session(8).expect("a session");
        let pixels = golden.f32("img0.pixel_values");
        session.encode(&pixels, 5 * 256).expect("room for a sixth picture");
        let seventh = session.encode(&pixels, 6 * 256).map_err(|error| error.kind());
        assert_eq!(seventh, if runtime.is_gpu() { Err(ErrorKind::OutOfMemory) } else { Ok(()) }, "{}", runtime.label);
    }
}
