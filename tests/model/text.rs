//! Tokenizers and chat templates of a real model file. Those of the small models are tested beside their code.

use crate::support::real_model;
use dunlin::Tokenizer;
use serde_json::Value;

fn golden(file: &str) -> Value {
    let path = format!("{}/tests/golden/{file}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn smollm2_tokenizes_as_its_reference_does() {
    let Some(path) = real_model::smollm2() else { return };
    let tokenizer = Tokenizer::load(path).unwrap();
    for case in golden("smollm2_tokenizer.json")["strings"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), ids(&case["ids"]), "{text:?}");
        if !text.contains("<|") {
            assert_eq!(tokenizer.decode(&ids(&case["ids"])), case["decoded"], "{text:?}");
        }
    }
    for case in golden("smollm2_chat.json")["rendered"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode_without_special(text).unwrap(), ids(&case["input_ids"]));
    }
    for prompt in golden("smollm2_greedy.json")["prompts"].as_object().unwrap().values() {
        assert_eq!(tokenizer.encode(prompt["text"].as_str().unwrap()).unwrap(), ids(&prompt["input_ids"]));
        let mut decoder = tokenizer.continuation();
        let mut text: String = ids(&prompt["greedy_ids"]).into_iter().map(|id| decoder.push(id)).collect();
        text += &decoder.finish();
        assert_eq!(text, prompt["greedy_text"].as_str().unwrap().replace("<|im_end|>", ""));
    }
}

#[test]
fn streaming_gives_what_whole_decoding_gives() {
    let Some(path) = real_model::smollm2() else { return };
    let tokenizer = Tokenizer::load(path).unwrap();
    // Ids of single bytes, and random ids.
    let mut state = 1u64;
    for _ in 0..300 {
        let mut ids = Vec::new();
        for _ in 0..30 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let limit = if state >> 63 == 0 { 49_152 } else { 270 };
            ids.push(((state >> 33) % limit) as u32);
        }
        let mut decoder = tokenizer.decoder();
        let mut streamed: String = ids.iter().map(|&id| decoder.push(id)).collect();
        streamed += &decoder.finish();
        assert_eq!(streamed, tokenizer.decode(&ids));
        let text = "naïve 日本 🙂 ";
        let again = tokenizer.encode(text).unwrap();
        assert_eq!(tokenizer.decode(&again), text);
    }
}
