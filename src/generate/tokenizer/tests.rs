use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// A xorshift generator: tests need numbers that vary and stay the same.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

#[test]
fn golden_folders_give_the_reference_ids() {
    let mut strings = 0;
    for entry in std::fs::read_dir(golden()).unwrap() {
        let folder = entry.unwrap().path();
        let table = folder.join("tokenizer_expected.json");
        if !table.exists() {
            continue;
        }
        let tokenizer = Tokenizer::load(&folder).unwrap();
        for case in json(&table)["strings"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let context = format!("{}: {text:?}", folder.display());
            assert_eq!(tokenizer.encode(text).unwrap(), ids(&case["ids"]), "{context}");
            assert_eq!(tokenizer.encode_without_special(text).unwrap(), ids(&case["ids_no_special"]), "{context}");
            assert_eq!(tokenizer.encode_bare(text), ids(&case["sentencepiece_ids"]), "{context}");
            strings += 1;
            // Python's class adds and loses spaces next to special tokens and at the start.
            if text.starts_with([' ', '▁']) || ["<s>", "</s>", "<unk>"].iter().any(|token| text.contains(token)) {
                continue;
            }
            for key in ["ids", "ids_no_special"] {
                assert_eq!(tokenizer.decode(&ids(&case[key])), case["decoded_skip_special"], "{context}");
            }
        }
    }
    assert_eq!(strings, 650);
}

#[test]
fn streaming_is_whole_decoding_and_never_half_a_character() {
    let tokenizer = Tokenizer::load(golden().join("mobilellm_gqa")).unwrap();
    let mut random = Random(7);
    for _ in 0..500 {
        // Bytes are 3..259: half of the ids are broken UTF-8.
        let ids: Vec<u32> = (0..random.below(40))
            .map(|_| {
                let limit = [512, 259][random.below(2)];
                random.below(limit) as u32
            })
            .collect();
        let mut decoder = tokenizer.decoder();
        let mut pieces = String::new();
        let mut bytes = Vec::new();
        for &id in &ids {
            pieces.push_str(&decoder.push(id));
            match tokenizer.shown(id) {
                Shown::Nothing => {}
                Shown::Text(text) => bytes.extend_from_slice(text.as_bytes()),
                Shown::Bytes(more) => bytes.extend(more),
            }
        }
        pieces.push_str(&decoder.finish());
        let whole = per_byte_lossy(&bytes);
        assert_eq!(pieces, whole.strip_prefix(' ').unwrap_or(&whole), "{ids:?}");
        assert_eq!(pieces, tokenizer.decode(&ids));
    }
    // Half of a character waits, and is replaced only at the end.
    let mut decoder = tokenizer.decoder();
    assert_eq!((decoder.push(3 + 0xe2), decoder.push(3 + 0x82)), (String::new(), String::new()));
    assert!(decoder.is_waiting());
    assert_eq!(decoder.clone().finish(), "\u{fffd}\u{fffd}");
    assert_eq!(decoder.push(3 + 0xac), "€");
}

/// SentencePiece's rule, written down a second time: each byte that begins no character is one U+FFFD.
fn per_byte_lossy(mut bytes: &[u8]) -> String {
    let mut text = String::new();
    while let Some(&first) = bytes.first() {
        let valid = (1..=bytes.len().min(4)).find_map(|len| std::str::from_utf8(&bytes[..len]).ok());
        text.push_str(valid.unwrap_or("\u{fffd}"));
        bytes = &bytes[valid.map_or(1, str::len)..];
        let _ = first;
    }
    text
}

#[test]
fn long_texts_take_linear_time() {
    let tokenizer = Tokenizer::load(golden().join("mobilellm_gqa")).unwrap();
    let text = "the telescope was built to look at faint objects ".repeat(20_000);
    let start = std::time::Instant::now();
    let ids = tokenizer.encode(&text).unwrap();
    assert_eq!(tokenizer.decode(&ids), text);
    let spaces = tokenizer.encode_without_special(&" ".repeat(1_000_000)).unwrap();
    assert_eq!(tokenizer.decode(&spaces).len(), 1_000_000);
    // Quadratic would be hours.
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}

#[test]
fn special_tokens_of_every_spelling_are_found() {
    let folder = Folder::copy("llama_untied_sharded", "special");
    folder.write(
        "tokenizer_config.json",
        r#"{"bos_token": {"content": "<s>"}, "eos_token": "</s>", "add_bos_token": false, "add_eos_token": true,
            "additional_special_tokens": ["<image>"]}"#,
    );
    folder.remove("special_tokens_map.json");
    let tokenizer = Tokenizer::load(&folder.0).unwrap();
    // `<image>` is new: it gets the first id after the vocabulary. EOS is added, BOS is not.
    assert_eq!(tokenizer.encode("<image></s>").unwrap(), [512, 2, 2]);
    assert_eq!(tokenizer.decode(&[512, 263, 2]), "a");

    folder.write("tokenizer_config.json", r#"{"added_tokens_decoder": {"77": {"content": "«", "rstrip": true}}}"#);
    let tokenizer = Tokenizer::load(&folder.0).unwrap();
    assert_eq!(tokenizer.encode("«   a").unwrap(), [1, 77, 263]);
    assert_eq!(tokenizer.decode(&[77]), "«");

    folder.write("tokenizer_config.json", "{");
    let error = Tokenizer::load(&folder.0).unwrap_err();
    assert!(error.to_string().contains("tokenizer_config.json"), "{error}");
}

#[test]
fn a_folder_without_a_tokenizer_says_what_to_do() {
    let error = Tokenizer::load(golden().join("mobilellm_r1")).unwrap_err();
    assert_eq!(error.kind(), crate::error::ErrorKind::Prompt);
    assert!(error.to_string().contains("--tokens") && error.to_string().contains("mobilellm_r1"), "{error}");
}

/// The tokenizer files of a golden folder, copied to where a test may change them. Removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn copy(case: &str, name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("dunlin-tokenizer-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for file in ["tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"] {
            let _ = std::fs::copy(golden().join(case).join(file), folder.join(file));
        }
        Self(folder)
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.0.join(file), text).unwrap();
    }

    fn remove(&self, file: &str) {
        std::fs::remove_file(self.0.join(file)).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
