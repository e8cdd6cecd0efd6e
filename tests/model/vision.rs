//! Golden MobileVLM checkpoints on the CPU and on every adapter: pixels, features, image tokens, embeddings, logits,
//! greedy ids; conversations with follow-up questions; vision weights that are released.

use crate::support::golden::{self, Golden};
use crate::support::pictures::{greedy, log_softmax, prompt, saying, tensor};
use crate::support::runtimes::{self, Runtime};
use crate::support::tolerance::{F16, F32, Greedy, Tolerance, close, same_ids};
use dunlin::backend::{self, EngineOptions, Session, Step, Want};
use dunlin::checkpoint::{Checkpoint, Config};
use dunlin::work::{Family, Row};
use dunlin::{LoadOptions, Message, Model, Prompt, Sampler, Trace};

/// The tolerance of values after normalisation, where one step of a colour is 0.015.
const PIXELS: f32 = 1e-5;

#[test]
fn golden_vision_cases() {
    let runtimes = runtimes::all();
    for golden in golden::vision_cases() {
        for runtime in &runtimes {
            let model = runtime.model(&golden.folder, &LoadOptions::new());
            let tolerance = if runtime.auto { F16 } else { F32 };
            check(&golden, &model, &runtime.label, tolerance);
        }
    }
}

/// Compares a model with all expected values of a golden case.
fn check(golden: &Golden, model: &Model, label: &str, tolerance: Tolerance) {
    let at = |what: &str| format!("{} on {label}: {what}", golden.name);
    let near = |what: &str, trace: &Trace, name: &str, wanted: &str| {
        let wanted = golden.f32(wanted);
        close(&at(what), tensor(trace, name), &wanted, tolerance.hidden_absolute, tolerance.hidden_relative);
    };

    let trace = model.trace(prompt(golden, "p0")).expect("a trace");
    close(&at("pixels"), tensor(&trace, "vision.pixels"), &golden.f32("img0.pixel_values"), PIXELS, f32::INFINITY);
    near("features", &trace, "vision.features", "img0.vision_features");
    near("image tokens", &trace, "vision.projected", "img0.projector_out");
    near("embeddings", &trace, "embeddings", "p0.inputs_embeds");
    let logits = tensor(&trace, "logits");
    let vocab = logits.len() / trace.tensors.last().expect("logits").1.shape[0];
    let positions = golden.ids("p0.logit_positions");
    let found: Vec<f32> =
        positions.iter().flat_map(|&p| logits[p as usize * vocab..][..vocab].iter().copied()).collect();
    close(&at("logits"), &found, &golden.f32("p0.logits"), tolerance.logits, f32::INFINITY);

    // The third picture, and both orders of two in one prompt.
    let trace = model.trace(prompt(golden, "two")).expect("a trace");
    near("features of the first", &trace, "vision.features", "img1.vision_features");
    near("image tokens of the first", &trace, "vision.projected", "img1.projector_out");
    near("image tokens of the second", &trace, "vision.1.projected", "img0.projector_out");
    let trace = model.trace(prompt(golden, "p2")).expect("a trace");
    near("image tokens of image_2", &trace, "vision.projected", "img2.projector_out");

    for name in ["p0", "p1", "p2", "two", "text"] {
        let prompt = prompt(golden, name);
        let ids = golden.ids_with_images(&format!("{name}.input_ids"));
        let expanded = model.encode(&prompt).expect("ids");
        assert_eq!(expanded, expand(&ids, vocab, golden), "{}", at(&format!("{name} ids")));

        let logits = format!("{name}.greedy_logits");
        let wanted = Greedy {
            ids: golden.ids(&format!("{name}.greedy_ids")),
            margins: golden.margins(name),
            logits: if golden.has(&logits) { log_softmax(&golden.f32(&logits), vocab) } else { Vec::new() },
        };
        let found = greedy(model, prompt, wanted.ids.len(), vocab);
        if golden.has(&format!("{name}.last_logits")) {
            let wanted = log_softmax(&golden.f32(&format!("{name}.last_logits")), vocab);
            close(&at(&format!("{name} first step")), &found[0].1, &wanted, 2.0 * tolerance.logits, f32::INFINITY);
        }
        same_ids(&at(name), &found, &wanted, tolerance);
    }
}

/// The ids of a prompt, with the rows of the pictures in place of each picture.
fn expand(ids: &[u32], vocab: usize, golden: &Golden) -> Vec<u32> {
    let rows = golden.expected()["images"]["img0"]["projector_tokens"].as_u64().expect("a number") as u32;
    let mut next = vocab as u32;
    let mut expanded = Vec::new();
    for &id in ids {
        if id == Prompt::IMAGE {
            expanded.extend(next..next + rows);
            next += rows;
        } else {
            expanded.push(id);
        }
    }
    expanded
}

/// Calls `each` with one model of each kind on every runtime.
fn everywhere(each: impl Fn(&Golden, Model, &Runtime)) {
    for runtime in runtimes::all() {
        for name in ["mobilevlm_v1_grid8", "mobilevlm_v2_grid16"] {
            let golden = Golden::open(name);
            each(&golden, runtime.model(&golden.folder, &LoadOptions::new()), &runtime);
        }
    }
}

fn ids(generation: &mut dunlin::Generation) -> Vec<u32> {
    generation.map(|piece| piece.expect("a token").id).collect()
}

#[test]
fn a_question_that_follows_reads_no_picture_again() {
    everywhere(|golden, model, runtime| {
        let at = format!("{} on {}", golden.name, runtime.label);
        let sampler = Sampler::greedy();
        let image = golden.folder.join("image_0.png");
        let first = Prompt::user("What is it?").image(image.clone());
        let mut generation = model.generate(first, &sampler).expect("a generation").max_tokens(7);
        let mut reply = String::new();
        for piece in &mut generation {
            reply += &piece.expect("a token").text;
        }
        assert!(generation.stats().vision_s > 0.0 && generation.stats().image_tokens > 0, "{at}");

        let mut next = generation.follow_up("And what colour?", &sampler).expect("a generation").max_tokens(9);
        let answered: Vec<_> = next.by_ref().map(|piece| piece.expect("a token")).collect();
        let found: Vec<u32> = answered.iter().map(|piece| piece.id).collect();
        let stats = next.stats();
        assert_eq!(stats.vision_s, 0.0, "{at}: the picture was read again");

        // The same conversation as one prompt.
        let turns = [("user", "What is it?"), ("assistant", reply.trim()), ("user", "And what colour?")];
        let chat = Prompt::chat(turns.map(|(role, text)| Message::new(role, text))).image(image.clone());
        let mut whole = model.generate(chat, &sampler).expect("a generation").max_tokens(9);
        assert_eq!(found, ids(&mut whole), "{at}");
        assert_eq!(stats.prompt_tokens, whole.stats().prompt_tokens, "{at}");

        // A later question has a second picture, which comes after the first.
        let question = Prompt::user("<image> or this?").image(golden.folder.join("image_1.png"));
        let answer: String = answered.iter().map(|piece| piece.text.as_str()).collect();
        let mut third = next.follow_up(question, &sampler).expect("a generation").max_tokens(3);
        let turns = [
            ("user", "<image>\nWhat is it?"),
            ("assistant", reply.trim()),
            ("user", "And what colour?"),
            ("assistant", answer.trim()),
            ("user", "<image> or this?"),
        ];
        let chat = Prompt::chat(turns.map(|(role, text)| Message::new(role, text)));
        let chat = chat.image(image.clone()).image(golden.folder.join("image_1.png"));
        let mut whole = model.generate(chat, &sampler).expect("a generation").max_tokens(3);
        assert_eq!(ids(&mut third), ids(&mut whole), "{at}");
        assert_eq!(third.stats().prompt_tokens, whole.stats().prompt_tokens, "{at}");
        assert_eq!(third.stats().image_tokens, 2 * stats.image_tokens, "{at}");
        assert!(third.stats().vision_s > 0.0, "{at}");
    });
}

/// Two prompts with the same number of rows in one session that has room for both: the second picture moves the rows of
/// the first, so bindings must be updated.
#[test]
fn a_second_picture_is_read_in_a_pass_that_has_run() {
    let golden = Golden::open("mobilevlm_v2_grid16");
    let checkpoint = Checkpoint::open(&golden.folder).expect("a golden folder");
    let vision = checkpoint.config.vision.clone().expect("a vision half");
    let (rows, vocab) = (vision.tokens(), checkpoint.config.vocab as u32);
    let pixels = ["img0", "img1"].map(|name| golden.f32(&format!("{name}.pixel_values")));
    let prompt = |picture: usize| -> Vec<u32> {
        let first = vocab + (picture * rows) as u32;
        [1, 17].into_iter().chain(first..first + rows as u32).chain([40, 41]).collect()
    };
    let count = prompt(0).len();
    let encode = |session: &mut dyn Session, picture: usize| {
        session.encode(&pixels[picture], picture * rows).expect("a picture");
        while session.encode_slice().is_ok_and(|(done, all)| done < all) {}
    };
    let run = |session: &mut dyn Session, picture: usize| -> Vec<f32> {
        session.set_tokens(picture * count, &prompt(picture)).expect("tokens");
        let row = Row { slot: (picture * count) as u32, ..Row::at(0) };
        let step =
            Step { rows: &row.follow(count), family: Family::Many, want: Want::Logits, logits: false, images: true };
        session.run(&step).expect("a prompt");
        session.outputs().expect("outputs").pop().expect("logits").1.data
    };
    for runtime in runtimes::full() {
        let engine = runtime.load(&checkpoint);
        let mut both = engine.session(2 * count).expect("a session");
        encode(&mut *both, 0);
        let first = run(&mut *both, 0);
        encode(&mut *both, 1);
        let second = run(&mut *both, 1);
        let mut alone = engine.session(2 * count).expect("a session");
        encode(&mut *alone, 0);
        encode(&mut *alone, 1);
        assert_eq!(run(&mut *alone, 1), second, "{}", runtime.label);
        assert_eq!(run(&mut *alone, 0), first, "{}", runtime.label);
        assert_ne!(first, second, "{}", runtime.label);
    }
}

/// A follow-up question after a prompt that never ran, or that ran without a token: no row counts as computed.
#[test]
fn a_question_that_follows_nothing_is_a_whole_prompt() {
    everywhere(|golden, model, runtime| {
        let at = format!("{} on {}", golden.name, runtime.label);
        let sampler = Sampler::greedy();
        let first = || Prompt::user("What is it?").image(golden.folder.join("image_0.png"));
        let chat = Prompt::chat(
            [("user", "What is it?"), ("assistant", ""), ("user", "And what colour?")]
                .map(|(role, text)| Message::new(role, text)),
        );
        let chat = chat.image(golden.folder.join("image_0.png"));
        let wanted = ids(&mut model.generate(chat, &sampler).expect("a generation").max_tokens(6));
        for tokens in [0, 5] {
            let mut generation = model.generate(first(), &sampler).expect("a generation").max_tokens(tokens);
            generation.encode_images(|_, _| ()).expect("a picture");
            if tokens == 0 {
                assert!(generation.next().is_none(), "{at}");
            }
            let next = generation.follow_up("And what colour?", &sampler).expect("a generation");
            assert_eq!(ids(&mut next.max_tokens(6)), wanted, "{at}: after {tokens} tokens");
        }
    });
}

#[test]
fn the_weights_that_read_pictures_can_go() {
    everywhere(|golden, model, runtime| {
        let at = format!("{} on {}", golden.name, runtime.label);
        let prompt = || Prompt::user("What is it?").image(golden.folder.join("image_0.png"));
        let kept = ids(&mut model.generate(prompt(), &Sampler::greedy()).expect("a generation").max_tokens(5));
        let mut generation = model.generate(prompt(), &Sampler::greedy()).expect("a generation");
        generation = generation.max_tokens(5).release_vision();
        assert_eq!(ids(&mut generation), kept, "{at}");
        let stats = generation.stats();
        let (before, after) = (stats.weight_bytes_before_release, stats.weight_bytes_after_release);
        assert!(after.expect("released") < before.expect("released"), "{at}: {before:?} {after:?}");
        assert_eq!(stats.weight_bytes, after.expect("released"), "{at}");
        let error = model.generate(prompt(), &Sampler::greedy()).expect("a generation").next().expect("an error");
        assert!(error.unwrap_err().to_string().contains("released"), "{at}");
        // The same error where progress is shown, and then the end.
        let mut shown = model.generate(prompt(), &Sampler::greedy()).expect("a generation");
        let error = shown.encode_images(|_, _| ()).expect_err("released");
        assert!(error.to_string().contains("released") && shown.next().is_none(), "{at}: {error}");
        // Text needs none of the released weights.
        let mut text = model.generate(Prompt::user("Hello"), &Sampler::greedy()).expect("a generation").max_tokens(2);
        assert_eq!(ids(&mut text).len(), 2, "{at}");
    });
}

/// The CPU runs heads of any size; a GPU would compute only the part of a head that its kernels hold.
#[test]
fn heads_that_no_gpu_holds_are_refused() {
    let golden = Golden::open("mobilevlm_v2_grid16");
    for runtime in runtimes::full().iter().filter(|runtime| runtime.is_gpu()) {
        let refused = |change: &dyn Fn(&mut Config)| {
            let mut checkpoint = Checkpoint::open(&golden.folder).expect("a golden folder");
            change(&mut checkpoint.config);
            let loaded = backend::load(&checkpoint, &runtime.choice, &EngineOptions::default(), &|_, _| ());
            let Err(error) = loaded else { panic!("{}: large heads were loaded", runtime.label) };
            error.to_string()
        };
        let tower = refused(&|config| {
            let vision = config.vision.as_mut().expect("a vision half");
            (vision.width, vision.heads) = (514, 2);
        });
        for error in [tower, refused(&|config| config.head_dim = 257)] {
            assert!(error.contains("heads of 257") && error.contains("--device cpu"), "{error}");
        }
    }
}

#[test]
fn pictures_and_places_must_be_as_many() {
    let golden = Golden::open("mobilevlm_v2_grid24");
    let model = Model::load(&golden.folder, &dunlin::Device::cpu()).expect("a model");
    let image = || golden.folder.join("image_0.png");
    let refused = |prompt: Prompt| model.encode(&prompt).expect_err("an error").to_string();
    assert!(refused(Prompt::user("<image>")).contains("1 places for pictures (<image>), and 0 pictures"));
    assert!(refused(Prompt::raw("a <image> b").image(image()).image(image())).contains("1 places"));
    assert!(refused(Prompt::tokens(vec![1, 2]).image(image())).contains("0 places"));
    assert!(refused(Prompt::tokens(vec![1, 513])).contains("token 513 is not in the vocabulary"));
    let placed = model.encode(&Prompt::tokens(vec![1, Prompt::IMAGE, 2]).image(image())).expect("ids");
    assert_eq!((placed.len(), placed[1], placed[144], placed[145]), (146, 512, 655, 2));

    let text = Model::load(golden::root().join("mobilellm_gqa"), &dunlin::Device::cpu()).expect("a model");
    let error = text.encode(&Prompt::user("What?").image(image())).expect_err("an error").to_string();
    assert!(error.contains("reads text only"), "{error}");
}

#[test]
fn a_score_gives_pictures_and_predicts_text() {
    let golden = Golden::open("mobilevlm_v2_grid24");
    let model = Model::load(&golden.folder, &dunlin::Device::cpu()).expect("a model");
    let prompt = golden.expected()["prompts"]["p0"]["prompt"].as_str().expect("a prompt").to_string();
    let given = Prompt::raw(prompt.as_str()).image(golden.folder.join("image_0.png"));
    let score = model.score(given.clone(), None).expect("a score");
    let (positions, rows) = (golden.f32("p0.inputs_embeds").len() / 96, 144);
    assert_eq!((score.tokens, score.token_nll.len()), (positions, positions - 1 - rows));

    // The last token has the golden logits of the position before it.
    let vocab = 512;
    let before =
        golden.ids("p0.logit_positions").iter().position(|&p| p as usize == positions - 2).expect("a position");
    let row = &log_softmax(&golden.f32("p0.logits"), vocab)[before * vocab..][..vocab];
    let last = *golden.ids_with_images("p0.input_ids").last().expect("an id") as usize;
    let found = *score.token_nll.last().expect("a token") as f32;
    assert!((found + row[last]).abs() < 4e-3, "{found} for {}", -row[last]);

    let error = model.score(given, Some(100)).expect_err("an error").to_string();
    assert!(error.contains("scored whole"), "{error}");
}

/// An answer that has the placeholder of a picture in it adds no place to the conversation.
#[test]
fn a_placeholder_in_an_answer_is_no_place() {
    let golden = golden::vision_cases().remove(0);
    let model = Model::load(&golden.folder, &dunlin::Device::cpu()).expect("a model");
    let ids = model.tokenizer().expect("a tokenizer").encode_without_special("<im<image>age> x").expect("ids");
    let ask = model.generate(prompt(&golden, "p0"), &Sampler::greedy()).expect("a generation");
    let mut answer = saying(ask, ids);
    let text: String = answer.by_ref().map(|piece| piece.expect("a token").text).collect();
    assert_eq!(text.trim(), "<im<image>age> x");
    let before = answer.stats().image_tokens;
    let next = answer.follow_up("b", &Sampler::greedy()).expect("a conversation that goes on");
    assert_eq!(next.stats().image_tokens, before);
}
