//! `dunlin eval` counts right answers, does not repeat finished items, and names a bad line by its number.

use std::path::Path;

use crate::support::program::{fails, json_lines, stdout};
use crate::support::scratch::Scratch;
use serde_json::{Value, json};

fn golden(name: &str) -> String {
    format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn lines(values: &[Value]) -> String {
    values.iter().map(|value| format!("{value}\n")).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A model's answer to a question, as text.
fn answer(model: &str, question: &[&str]) -> String {
    let arguments = [&["run", model, "--device", "cpu", "--max-tokens", "6", "--json"], question].concat();
    let pieces = json_lines(&arguments);
    pieces.iter().filter_map(|line| line["text"].as_str()).collect()
}

#[test]
fn answers_are_compared_word_for_word() {
    let (scratch, model) = (Scratch::new(), golden("mobilevlm_v2_grid24"));
    let image = golden("mobilevlm_v2_grid24/image_1.png");
    std::fs::copy(&image, scratch.path("picture.png")).expect("a copy");
    let about_picture = answer(&model, &["--image", &image, "--prompt", "What?"]);
    let plain = answer(&model, &["--prompt", "Who?"]);
    let data = scratch.write(
        "test.jsonl",
        lines(&[
            // Case and surrounding space are ignored; the picture's path is relative to the file.
            json!({"image": "picture.png", "prompt": "What?", "answer": format!(" {} ", about_picture.to_uppercase()), "group": "seen"}),
            json!({"image": "picture.png", "prompt": "What?", "answer": about_picture.clone() + "!", "group": "seen"}),
            json!({"prompt": "Who?", "answer": plain}),
        ]),
    );
    let arguments = ["eval", &model, "--device", "cpu", "--max-tokens", "6", "--data", text(&data)];
    let results = json_lines(&[&arguments[..], &["--json"]].concat());
    let [first, second, third, summary] = &results[..] else { panic!("{results:?}") };
    assert_eq!([&first["correct"], &second["correct"], &third["correct"]], [true, false, true]);
    assert_eq!((&first["line"], &first["found"]), (&json!(1), &json!(about_picture)));
    assert_eq!(first["ids"].as_array().expect("ids").len(), 6);
    let summary = &summary["summary"];
    assert_eq!((&summary["items"], &summary["correct"]), (&json!(3), &json!(2)));
    assert_eq!(summary["groups"]["seen"]["correct"], 1);
    assert!(summary["accuracy_norm"].is_null());

    // `--dataset` also takes the file's folder, and the table shows the same numbers.
    let table = stdout(&["eval", &model, "--device", "cpu", "--max-tokens", "6", "--dataset", text(&scratch.path(""))]);
    assert!(table.contains("all          3        2  66.67 %"), "{table}");
    assert!(table.contains("seen         2        1  50.00 %"), "{table}");
}

#[test]
fn choices_are_scored_as_scores_are() {
    let (scratch, model) = (Scratch::new(), golden("mobilellm_gqa"));
    let (prompt, choices) = ("The cat sat", ["on the mat", "x", "and then it went away again"]);
    let ids = |words: &str| -> Vec<u64> {
        let printed = json_lines(&["tokenize", &model, words, "--json"]);
        printed[0]["ids"].as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id")).collect()
    };
    let logprobs = choices.map(|choice| {
        let whole = ids(&format!("{prompt} {choice}"));
        let count = whole.len() - ids(prompt).len();
        let given = whole.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        let score = json_lines(&["score", &model, "--device", "cpu", "--tokens", &given, "--json"]);
        let nll = score[0]["token_nll"].as_array().expect("numbers");
        -nll[nll.len() - count..].iter().map(|value| value.as_f64().expect("a number")).sum::<f64>()
    });
    let best = |values: [f64; 3]| (0..3).max_by(|&a, &b| values[a].total_cmp(&values[b])).expect("three");
    let by_length = [0, 1, 2].map(|i| logprobs[i] / choices[i].chars().count() as f64);
    let data =
        scratch.write("d.jsonl", lines(&[json!({"prompt": prompt, "choices": choices, "label": best(logprobs)})]));
    let results = json_lines(&["eval", &model, "--device", "cpu", "--data", text(&data), "--json"]);
    let found: Vec<f64> =
        results[0]["logprobs"].as_array().expect("numbers").iter().filter_map(Value::as_f64).collect();
    assert_eq!(found.len(), 3, "{results:?}");
    // The start that choices share is computed once, and sums over seven rows have another order than over eight.
    assert!(found.iter().zip(logprobs).all(|(a, b)| (a - b).abs() < 1e-4), "{found:?} for {logprobs:?}");
    assert_eq!(results[0]["correct"], true);
    assert_eq!(results[0]["correct_norm"], best(by_length) == best(logprobs));
    assert_eq!(results[1]["summary"]["accuracy"], 1.0);
    let table = stdout(&["eval", &model, "--device", "cpu", "--data", text(&data)]);
    assert!(table.contains("acc_norm"), "{table}");
}

/// A Japanese character is three bytes, and each byte is a token of this model.
#[test]
fn the_length_of_a_choice_is_counted_in_characters() {
    let (scratch, model) = (Scratch::new(), golden("mobilellm_gqa"));
    let choices = ["qz", "日本"];
    let data = scratch.write("d.jsonl", lines(&[json!({"prompt": "The cat sat", "choices": choices, "label": 0})]));
    let results = json_lines(&["eval", &model, "--device", "cpu", "--data", text(&data), "--json"]);
    let logprobs = results[0]["logprobs"].as_array().expect("numbers").iter().filter_map(Value::as_f64);
    let [latin, japanese] = logprobs.collect::<Vec<_>>()[..] else { panic!("{results:?}") };
    assert!(latin / 2.0 > japanese / 2.0 && latin / 2.0 < japanese / 6.0, "bytes would say otherwise: {results:?}");
    assert_eq!(results[0]["correct_norm"], true, "{results:?}");
}

#[test]
fn a_choice_stands_behind_one_space_and_a_first_token() {
    let (scratch, model) = (Scratch::new(), golden("mobilellm_gqa"));
    let item = |prompt: &str, choices: [&str; 2]| json!({"prompt": prompt, "choices": choices, "label": 0});
    let items = [
        item("The cat sat", ["on the mat", "x"]),
        item("The cat sat ", ["on the mat", "x"]),
        item("The cat sat", [" on the mat", " x"]),
        item("The cat sat ", [" on the mat", " x"]),
        item("", ["on the mat", "x"]),
        item(" ", [" on the mat", "x"]),
    ];
    let data = scratch.write("d.jsonl", lines(&items));
    let scores = |model: &str| {
        let results = json_lines(&["eval", model, "--device", "cpu", "--data", text(&data), "--json"]);
        results[..6].iter().map(|result| result["logprobs"].to_string()).collect::<Vec<_>>()
    };
    let found = scores(&model);
    assert!(found[..4].iter().all(|scores| *scores == found[0]), "{found:?}");
    assert_eq!(found[4], found[5]);
    assert_ne!(found[3], found[4]);

    // A tokenizer that adds an end token does not add it to a prompt; one that adds no start token gives an empty
    // prompt.
    let folder = scratch.copy(Path::new(&model));
    let mut config: Value = serde_json::from_slice(&std::fs::read(folder.join("tokenizer_config.json")).expect("JSON"))
        .expect("a configuration");
    config["add_eos_token"] = json!(true);
    std::fs::write(folder.join("tokenizer_config.json"), config.to_string()).expect("a file");
    assert_eq!(scores(text(&folder)), found);
    config["add_bos_token"] = json!(false);
    std::fs::write(folder.join("tokenizer_config.json"), config.to_string()).expect("a file");
    assert_eq!(scores(text(&folder))[4..], found[4..]);
    // The same if start and end are one token.
    config["add_bos_token"] = json!(true);
    config["add_eos_token"] = json!(false);
    config["eos_token"] = json!("<s>");
    std::fs::write(folder.join("tokenizer_config.json"), config.to_string()).expect("a file");
    assert_eq!(scores(text(&folder)), found);

    let short = ["eval", &model, "--device", "cpu", "--data", text(&data), "--context", "4"];
    fails(&short, &["d.jsonl, line 1", "the context of 4"]);
}

/// A model's own answer to a picture is the likeliest choice, and each choice has the score of the whole text.
#[test]
fn choices_about_a_picture_are_replies() {
    let (scratch, model) = (Scratch::new(), golden("mobilevlm_v2_grid24"));
    let image = golden("mobilevlm_v2_grid24/image_1.png");
    let choices = ["a cat", "a cat and a dog", " the sea"];
    let data = scratch
        .write("d.jsonl", lines(&[json!({"image": image, "prompt": "What is it?", "choices": choices, "label": 0})]));
    let results = json_lines(&["eval", &model, "--device", "cpu", "--data", text(&data), "--json"]);
    let found: Vec<f64> =
        results[0]["logprobs"].as_array().expect("numbers").iter().filter_map(Value::as_f64).collect();
    assert_eq!(found.len(), 3, "{results:?}");
    let chat = |reply: &[&str]| -> Vec<i64> {
        let user = json!({"role": "user", "content": "<image>\nWhat is it?"});
        let reply = reply.iter().map(|reply| json!({"role": "assistant", "content": reply}));
        let file = scratch.write("chat.json", Value::Array([user].into_iter().chain(reply).collect()).to_string());
        let printed = json_lines(&["tokenize", &model, "--chat", text(&file), "--json"]);
        printed[0]["ids"].as_array().expect("ids").iter().map(|id| id.as_i64().expect("an id")).collect()
    };
    let asked = chat(&[]);
    for (choice, found) in choices.iter().zip(found) {
        // The reply ends with a token that the choice does not have.
        let mut whole = chat(&[choice.trim()]);
        whole.pop();
        assert_eq!(whole[..asked.len()], asked[..]);
        let given = whole.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
        let arguments = ["score", &model, "--device", "cpu", "--tokens", &given, "--image", &image, "--json"];
        let score = json_lines(&arguments);
        let nll = score[0]["token_nll"].as_array().expect("numbers").iter().rev().take(whole.len() - asked.len());
        let scored = -nll.map(|value| value.as_f64().expect("a number")).sum::<f64>();
        // The start that choices share is computed once, and sums over seven rows have another order than over eight.
        assert!((found - scored).abs() < 1e-4, "{choice}: {found}, and as a whole {scored}");
    }
}

#[test]
fn what_was_done_is_not_done_again() {
    let (scratch, model) = (Scratch::new(), golden("mobilellm_gqa"));
    let items: Vec<Value> = (0..4).map(|i| json!({"prompt": format!("item {i}"), "answer": "?"})).collect();
    let data = scratch.write("d.jsonl", lines(&items));
    let out = scratch.path("out.jsonl");
    let arguments =
        ["eval", &model, "--device", "cpu", "--max-tokens", "2", "--data", text(&data), "--out", text(&out), "--json"];
    let computed = |more: &[&str]| {
        let results = json_lines(&[&arguments[..], more].concat());
        results.last().expect("a summary")["summary"]["computed"].as_u64().expect("a number")
    };
    assert_eq!(computed(&["--limit", "3"]), 3);
    let whole = std::fs::read_to_string(&out).expect("results");
    assert_eq!(whole.lines().count(), 3);
    // Existing results are not overwritten.
    fails(&arguments, &["out.jsonl is there already", "--resume"]);
    // The last line is incomplete, as after a power failure, and ends in the middle of a character.
    std::fs::write(
        &out,
        [&whole.as_bytes()[..whole.trim_end().rfind('\n').expect("lines") + 1], b"{\"line\":3,\"p\xc3"].concat(),
    )
    .expect("a file");
    assert_eq!(computed(&["--resume"]), 2);
    let again = std::fs::read_to_string(&out).expect("results");
    assert!(again.starts_with(&whole) && again.lines().count() == 4, "{again}");
    assert_eq!(computed(&["--resume"]), 0);
    let shown = json_lines(&[&arguments[..], &["--resume"]].concat());
    assert_eq!(shown.len(), 5, "each item has its line, also where it was known: {shown:?}");

    // The results must belong to these items, this model and these options.
    let swapped = |from: &str, to: &str| -> Vec<String> {
        arguments.iter().map(|&part| if part == from { to.to_string() } else { part.to_string() }).collect()
    };
    let refused = |arguments: &[String], more: &[&str], parts: &[&str]| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
        fails(&arguments, parts);
    };
    refused(&swapped("2", "3"), &["--resume"], &["out.jsonl has a result for line 1", "other options"]);
    refused(&swapped(&model, &golden("mobilellm_ls")), &["--resume"], &["line 1", "another model"]);
    let as_it_was = std::fs::read_to_string(&data).expect("the items");
    let changed = as_it_was.replace("item 3", "item three");
    scratch.write("d.jsonl", &changed);
    refused(&swapped("", ""), &["--resume", "--limit", "2"], &["line 4", "another item"]);
    scratch.write("d.jsonl", "{\"prompt\":\"item 0\",\"answer\":\"?\"}\n");
    refused(&swapped("", ""), &["--resume"], &["another item"]);
    refused(&swapped(text(&out), text(&data)), &["--resume"], &["d.jsonl, line 1", "no result of dunlin eval"]);
    assert_eq!(std::fs::read_to_string(&data).expect("the items").lines().count(), 1);
    scratch.write("d.jsonl", as_it_was);

    // Without --out the results are beside the items.
    let alone = ["eval", &model, "--device", "cpu", "--max-tokens", "2", "--data", text(&data), "--resume"];
    assert!(stdout(&[&alone[..], &["--limit", "3"]].concat()).contains("\n3 items"));
    assert!(stdout(&alone).contains("\n1 items"));
    assert_eq!(std::fs::read_to_string(scratch.path("d.jsonl.results")).expect("results").lines().count(), 4);

    // The file is locked against other processes. Other files beside the model do not matter.
    let held = std::fs::File::open(&out).expect("results");
    held.lock().expect("a lock");
    refused(&swapped("", ""), &["--resume"], &["out.jsonl is being written by another process"]);
    drop(held);
    let copy = scratch.copy(Path::new(&model));
    let out = copy.join("out.jsonl");
    let beside = ["eval", text(&copy), "--device", "cpu", "--data", text(&data), "--out", text(&out)];
    stdout(&beside);
    std::fs::write(copy.join("notes.txt"), "fast").expect("a file");
    assert!(stdout(&[&beside[..], &["--resume"]].concat()).contains("\n0 items"));
    std::fs::File::open(copy.join("config.json"))
        .and_then(|file| file.set_modified(std::time::UNIX_EPOCH))
        .expect("a time");
    fails(&[&beside[..], &["--resume"]].concat(), &["another model"]);
}

#[test]
fn a_bad_line_is_named_by_its_number() {
    let (scratch, model) = (Scratch::new(), golden("mobilellm_gqa"));
    let refused = |content: &str, parts: &[&str]| {
        let data = scratch.write("d.jsonl", content);
        fails(&["eval", &model, "--device", "cpu", "--data", text(&data)], parts);
    };
    refused("{\"prompt\":\"a\",\"answer\":\"b\"}\n\n{\"prompt\":}\n", &["d.jsonl, line 3", "expected value"]);
    refused("{\"prompt\":\"a\",\"choices\":[\"b\"],\"label\":1}\n", &["line 1", "label is 1"]);
    refused("{\"prompt\":\"a\"}", &["line 1", "either answer"]);
    refused("", &["d.jsonl has no items"]);
    refused("{\"image\":\"no.png\",\"prompt\":\"a\",\"answer\":\"b\"}", &["d.jsonl, line 1", "no.png"]);
    refused("{\"prompt\":\"a\",\"answer\":\"b\"}\n{\"prompt\":\"\u{e9}\"", &["line 2", "EOF", "at column"]);
    fails(&["eval", &model, "--device", "cpu", "--data", "no such file"], &["no such file cannot be read"]);
    let folder = Scratch::new();
    let path = folder.path("");
    let arguments = ["eval", &model, "--device", "cpu", "--data", text(&path)];
    fails(&arguments, &["has no .jsonl file"]);
    folder.write("a.jsonl", "");
    folder.write("b.jsonl", "");
    fails(&arguments, &["several .jsonl files", "a.jsonl", "b.jsonl", "name one"]);
}
