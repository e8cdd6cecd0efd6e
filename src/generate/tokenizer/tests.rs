use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::sentencepiece::PieceKind;
use crate::checkpoint::tests::gguf_writer::from_folder;
use crate::tensor::Bytes;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// A xorshift generator: its numbers vary, but are the same in every run.
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
    let (mut strings, mut with_vision) = (0, 0);
    for entry in std::fs::read_dir(golden()).unwrap() {
        let folder = entry.unwrap().path();
        let table = folder.join("tokenizer_expected.json");
        if !table.exists() || !folder.join("tokenizer.model").exists() {
            continue;
        }
        with_vision += folder.file_name().unwrap().to_str().unwrap().starts_with("mobilevlm") as usize;
        let tokenizer = Tokenizer::load(&folder).unwrap();
        for case in json(&table)["strings"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let context = format!("{}: {text:?}", folder.display());
            assert_eq!(tokenizer.encode(text).unwrap(), ids(&case["ids"]), "{context}");
            assert_eq!(tokenizer.encode_without_special(text).unwrap(), ids(&case["ids_no_special"]), "{context}");
            assert_eq!(tokenizer.encode_bare(text), ids(&case["sentencepiece_ids"]), "{context}");
            strings += 1;
            // Python's class adds and removes spaces next to special tokens and at the start.
            if text.starts_with([' ', '▁']) || ["<s>", "</s>", "<unk>"].iter().any(|token| text.contains(token)) {
                continue;
            }
            for key in ["ids", "ids_no_special"] {
                assert_eq!(tokenizer.decode(&ids(&case[key])), case["decoded_skip_special"], "{context}");
            }
        }
    }
    assert_eq!((strings, with_vision), (650, 4));
}

/// Folders with a `tokenizer.json`, of the families that have one.
fn hugging_face_folders() -> Vec<PathBuf> {
    let folders = ["qwen2", "qwen3", "llama3", "smollm3", "gemma3"].map(|name| golden().join(name));
    assert!(folders.iter().all(|folder| folder.join("tokenizer.json").exists()));
    folders.into()
}

#[test]
fn folders_of_the_newer_families_give_the_reference_ids() {
    for folder in hugging_face_folders() {
        let tokenizer = Tokenizer::load(&folder).unwrap();
        for case in json(&folder.join("tokenizer_expected.json"))["strings"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let context = format!("{}: {text:?}", folder.display());
            assert_eq!(tokenizer.encode(text).unwrap(), ids(&case["ids"]), "{context}");
            assert_eq!(tokenizer.encode_without_special(text).unwrap(), ids(&case["ids_no_special"]), "{context}");
            assert_eq!(tokenizer.decode(&ids(&case["ids"])), case["decoded"], "{context}");
            assert_eq!(tokenizer.decode(&ids(&case["ids_no_special"])), case["decoded"], "{context}");
        }
    }
}

/// The file that llama.cpp's converter makes from the same folder: vocabulary, merges and the name of the family.
#[test]
fn gguf_files_of_the_newer_families_give_the_reference_ids() {
    let cases =
        [("qwen2", "qwen2"), ("qwen3", "qwen2"), ("llama3", "llama-bpe"), ("smollm3", "smaug-bpe"), ("gemma3", "")];
    for (case, pre) in cases {
        let folder = golden().join(case);
        let file = json(&folder.join("tokenizer.json"));
        let mut tokens = vec![String::new(); 512];
        let mut kinds = vec![1; 512];
        for (text, id) in file["model"]["vocab"].as_object().unwrap() {
            tokens[id.as_u64().unwrap() as usize] = text.clone();
        }
        for token in file["added_tokens"].as_array().unwrap() {
            let id = token["id"].as_u64().unwrap() as usize;
            (tokens[id], kinds[id]) = (token["content"].as_str().unwrap().to_owned(), 3);
        }
        let pair = |merge: &Value| [0, 1].map(|i| merge[i].as_str().unwrap().to_owned());
        let merges: Vec<[String; 2]> = file["model"]["merges"].as_array().unwrap().iter().map(pair).collect();
        let mut writer = from_folder(&folder, |_, ggml_type, bytes| (ggml_type, bytes.to_vec()));
        let gemma = pre.is_empty();
        if gemma {
            // SentencePiece has scores instead of merges: the earlier a merge, the higher its score.
            let rank = |token: &String| merges.iter().position(|[left, right]| *token == format!("{left}{right}"));
            let scores: Vec<f32> = tokens.iter().map(|token| rank(token).map_or(-1e4, |rank| -(rank as f32))).collect();
            for (token, kind) in tokens.iter().zip(&mut kinds) {
                *kind = if token.starts_with("<0x") { 6 } else { *kind };
            }
            writer = writer
                .string("tokenizer.ggml.model", "llama")
                .f32s("tokenizer.ggml.scores", &scores)
                .u32("tokenizer.ggml.unknown_token_id", 3)
                .bool("tokenizer.ggml.add_space_prefix", false)
                .bool("tokenizer.ggml.add_bos_token", true);
        } else {
            let merges: Vec<String> = merges.iter().map(|pair| pair.join(" ")).collect();
            writer = writer
                .string("tokenizer.ggml.model", "gpt2")
                .string("tokenizer.ggml.pre", pre)
                .strings("tokenizer.ggml.merges", &merges);
        }
        let writer = writer.strings("tokenizer.ggml.tokens", &tokens).i32s("tokenizer.ggml.token_type", &kinds);
        let path = Path::new("toy.gguf");
        let checkpoint = Checkpoint::from_gguf(path, Bytes::new(writer.finish())).unwrap();
        let tokenizer = Tokenizer::new(&TextFiles::of(&checkpoint).unwrap().unwrap()).unwrap();
        for case in json(&folder.join("tokenizer_expected.json"))["strings"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let context = format!("{}: {text:?}", folder.display());
            assert_eq!(tokenizer.encode(text).unwrap(), ids(&case["ids"]), "{context}");
            assert_eq!(tokenizer.decode(&ids(&case["ids_no_special"])), case["decoded"], "{context}");
        }
    }
}

/// Checks Qwen's tokenizer: the strings of a table with the reference's ids, under both sets of allowed special tokens,
/// and their texts.
fn check_qwen(tokenizer: &Tokenizer, table: &Value) -> usize {
    let encoder = tokenizer.tiktoken().expect("Qwen's tokenizer");
    assert_eq!(u64::from(encoder.end_of_text()), table["endoftext"].as_u64().unwrap());
    assert_eq!(encoder.image().map(u64::from), table["img_start"].as_u64());
    let strings = table["strings"].as_array().unwrap();
    for case in strings {
        let text = case["text"].as_str().unwrap();
        if case.get("error").is_some() {
            assert!(tokenizer.encode(text).is_err(), "{text:?} is no error");
            continue;
        }
        assert_eq!(tokenizer.encode(text).unwrap(), ids(&case["ids"]), "{text:?}");
        assert_eq!(encoder.encode(text, Allowed::Tags).unwrap(), ids(&case["ids_image_tags_only"]), "{text:?}");
        if case.get("decode_error").is_none() {
            assert_eq!(tokenizer.decode(&ids(&case["ids"])), case["decoded_skip_special"], "{text:?}");
            assert_eq!(tokenizer.decode_with_special(&ids(&case["ids"])), case["decoded"], "{text:?}");
        }
    }
    strings.len()
}

#[test]
fn small_qwen_folders_give_the_reference_ids() {
    for case in ["qwenvl_a", "qwenvl_b"] {
        let folder = golden().join(case);
        let tokenizer = Tokenizer::load(&folder).unwrap();
        assert_eq!(check_qwen(&tokenizer, &json(&folder.join("tokenizer_expected.json"))), 61, "{case}");
    }
}

/// The real vocabulary is 2.5 MB; `DUNLIN_QWEN_TIKTOKEN` is its path.
#[test]
fn the_real_qwen_vocabulary_gives_the_reference_ids() {
    let Some(file) = std::env::var_os("DUNLIN_QWEN_TIKTOKEN") else {
        eprintln!("skipped: qwen.tiktoken is not at hand (DUNLIN_QWEN_TIKTOKEN names the file)");
        return;
    };
    let files = Files::memory([
        ("config.json", b"{\"visual\":{}}".to_vec()),
        ("qwen.tiktoken", std::fs::read(file).expect("DUNLIN_QWEN_TIKTOKEN names a file")),
    ]);
    let tokenizer = Tokenizer::load(files).unwrap();
    assert_eq!(check_qwen(&tokenizer, &json(&golden().join("qwen_tokenizer_expected.json"))), 199);
}

/// Merging with a heap gives the same as the definition: repeatedly merge the pair of lowest rank, the leftmost first.
#[test]
fn qwen_merges_the_lowest_rank_first() {
    let tokenizer = Tokenizer::load(golden().join("qwenvl_a")).unwrap();
    let encoder = tokenizer.tiktoken().unwrap();
    let rank = |bytes: &[u8]| (0..encoder.end_of_text()).find(|&id| encoder.bytes(id) == Some(bytes));
    let mut random = Random(7);
    for _ in 0..200 {
        // Letters only, so that the pattern leaves them in one piece.
        let word: String = (0..1 + random.below(14)).map(|_| char::from(b"aehinorstd"[random.below(10)])).collect();
        let mut parts: Vec<Vec<u8>> = word.bytes().map(|byte| vec![byte]).collect();
        while rank(word.as_bytes()).is_none() {
            let joined = |i: usize| rank(&[&parts[i][..], &parts[i + 1][..]].concat());
            let Some((_, at)) = (0..parts.len() - 1).filter_map(|i| Some((joined(i)?, i))).min() else { break };
            let right = parts.remove(at + 1);
            parts[at].extend(right);
        }
        let expected: Vec<u32> = match rank(word.as_bytes()) {
            Some(id) => vec![id],
            None => parts.iter().map(|part| rank(part).unwrap()).collect(),
        };
        assert_eq!(tokenizer.encode(&word).unwrap(), expected, "{word}");
    }
}

/// The tokenizer inside an open MobileVLM equals that of its folder, under either rule for spaces.
#[test]
fn open_mobilevlms_bring_their_tokenizer() {
    for (case, prefix) in [("mobilevlm_v1_grid4", Prefix::Every), ("mobilevlm_v2_grid16", Prefix::First)] {
        let checkpoint = Checkpoint::open(golden().join(case)).unwrap();
        let files = TextFiles::of(&checkpoint).unwrap().unwrap();
        assert!(
            matches!(files.vocabulary, Vocabulary::SentencePiece { prefix: found, .. } if found == prefix),
            "{case}"
        );
        let tokenizer = Tokenizer::new(&files).unwrap();
        for case in json(&golden().join(case).join("tokenizer_expected.json"))["strings"].as_array().unwrap() {
            assert_eq!(tokenizer.encode(case["text"].as_str().unwrap()).unwrap(), ids(&case["ids"]));
        }
    }
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
        let (mut bytes, mut first) = (Vec::new(), true);
        for &id in &ids {
            pieces.push_str(&decoder.push(id));
            match tokenizer.shown(id, false) {
                Shown::Nothing => {}
                Shown::Text(text) if std::mem::take(&mut first) => {
                    bytes.extend_from_slice(text.strip_prefix(' ').unwrap_or(&text).as_bytes());
                }
                Shown::Text(text) => bytes.extend_from_slice(text.as_bytes()),
                Shown::Bytes(more) => {
                    first = false;
                    bytes.extend(more);
                }
            }
        }
        pieces.push_str(&decoder.finish());
        assert_eq!(pieces, per_byte_lossy(&bytes), "{ids:?}");
        assert_eq!(pieces, tokenizer.decode(&ids));
    }
    // Half of a character waits, and is replaced at the end.
    let mut decoder = tokenizer.decoder();
    assert_eq!((decoder.push(3 + 0xe2), decoder.push(3 + 0x82)), (String::new(), String::new()));
    assert!(decoder.is_waiting());
    assert_eq!(decoder.clone().finish(), "\u{fffd}\u{fffd}");
    assert_eq!(decoder.push(3 + 0xac), "€");
}

/// SentencePiece's rule, implemented a second time: each byte that begins no character is one U+FFFD.
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
    // A quadratic algorithm would take hours.
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

#[test]
fn gguf_holds_the_same_tokenizer() {
    let folder = Tokenizer::load(golden().join("llama_untied_sharded")).unwrap();
    let bytes = std::fs::read(golden().join("llama_untied_sharded/tokenizer.model")).unwrap();
    let model = crate::checkpoint::sentencepiece::read("tokenizer.model", &bytes).unwrap();
    let codes: Vec<i32> = model.pieces.iter().map(|piece| 1 + piece.kind as i32).collect();
    let scores: Vec<f32> = model.pieces.iter().map(|piece| piece.score).collect();
    let pieces: Vec<&str> = model.pieces.iter().map(|piece| piece.text.as_str()).collect();
    let writer = |kind: &str| {
        from_folder(&golden().join("llama_untied_sharded"), |_, ggml_type, bytes| (ggml_type, bytes.to_vec()))
            .string("tokenizer.ggml.model", kind)
            .strings("tokenizer.ggml.tokens", &pieces)
            .i32s("tokenizer.ggml.token_type", &codes)
    };
    let open = |file: Vec<u8>| {
        let checkpoint = Checkpoint::from_gguf(Path::new("case.gguf"), Bytes::new(file))?;
        Tokenizer::new(&TextFiles::of(&checkpoint)?.expect("a tokenizer"))
    };
    let gguf: Result<Tokenizer> = open(writer("llama").f32s("tokenizer.ggml.scores", &scores).finish());
    let gguf = gguf.unwrap();
    assert_eq!((gguf.bos(), gguf.eos()), (folder.bos(), folder.eos()));
    let table = json(&golden().join("llama_untied_sharded/tokenizer_expected.json"));
    for case in table["strings"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(gguf.encode(text).unwrap(), ids(&case["ids"]), "{text:?}");
        assert_eq!(gguf.decode(&ids(&case["ids"])), folder.decode(&ids(&case["ids"])), "{text:?}");
    }
    let without: Result<Tokenizer> = open(writer("llama").finish());
    assert!(without.unwrap_err().to_string().contains("scores"));
    let other: Result<Tokenizer> = open(writer("rwkv").finish());
    assert!(other.unwrap_err().to_string().contains("rwkv"));
}

#[test]
fn tokenizer_json_of_both_kinds() {
    // The vocabulary of a golden folder in the form of Hugging Face's converter: the same ids, and a template of its
    // own.
    let bytes = std::fs::read(golden().join("llama_untied_sharded/tokenizer.model")).unwrap();
    let model = crate::checkpoint::sentencepiece::read("tokenizer.model", &bytes).unwrap();
    let vocabulary: serde_json::Map<String, Value> =
        model.pieces.iter().enumerate().map(|(id, piece)| (piece.text.clone(), id.into())).collect();
    let mut merges: Vec<(f32, u64, u64, String)> = Vec::new();
    for piece in model.pieces.iter().filter(|piece| piece.kind == PieceKind::Normal) {
        for (at, _) in piece.text.char_indices().skip(1) {
            let (left, right) = piece.text.split_at(at);
            if let (Some(l), Some(r)) = (vocabulary.get(left), vocabulary.get(right)) {
                merges.push((-piece.score, l.as_u64().unwrap(), r.as_u64().unwrap(), format!("{left} {right}")));
            }
        }
    }
    merges.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let merges: Vec<String> = merges.into_iter().map(|merge| merge.3).collect();
    let special = |id: u32, content: &str| {
        serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let llama = serde_json::json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocabulary, "merges": merges},
    });
    let folder = Folder::copy("llama_untied_sharded", "json");
    folder.write("tokenizer.json", &llama.to_string());
    let tokenizer = Tokenizer::load(&folder.0).unwrap();
    let table = json(&golden().join("llama_untied_sharded/tokenizer_expected.json"));
    for case in table["strings"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), ids(&case["ids"]), "{text:?}");
        assert_eq!(tokenizer.encode_without_special(text).unwrap(), ids(&case["ids_no_special"]), "{text:?}");
    }
    assert_eq!(tokenizer.decode(&[1, 419, 501, 3 + 0xe2, 3 + 0x82, 3 + 0xac, 2]), "H€");

    // For another class the template in the file applies.
    folder.write("tokenizer_config.json", r#"{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}"#);
    let mut own = llama.clone();
    own["post_processor"] = serde_json::json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "</s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}});
    folder.write("tokenizer.json", &own.to_string());
    let tokenizer = Tokenizer::load(&folder.0).unwrap();
    assert_eq!(tokenizer.encode("a").unwrap(), [2, 263]);
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(2)));

    // Byte-level: invalid UTF-8 is decoded lossily, with one U+FFFD for a broken sequence.
    let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
    let vocabulary: serde_json::Map<String, Value> =
        alphabet.into_iter().map(|char| (char.to_string(), byte_level::bytes(&char.to_string())[0].into())).collect();
    let mut bytes = llama;
    bytes["added_tokens"] = serde_json::json!([special(256, "<|end|>")]);
    bytes["normalizer"] = Value::Null;
    bytes["pre_tokenizer"] =
        serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    bytes["decoder"] = bytes["pre_tokenizer"].clone();
    bytes["model"] = serde_json::json!({"type": "BPE", "vocab": vocabulary, "merges": []});
    folder.write("tokenizer.json", &bytes.to_string());
    let tokenizer = Tokenizer::load(&folder.0).unwrap();
    assert_eq!(tokenizer.encode("a€<|end|>").unwrap(), [0x61, 0xe2, 0x82, 0xac, 256]);
    let mut random = Random(99);
    for _ in 0..500 {
        let ids: Vec<u32> = (0..random.below(30)).map(|_| random.below(256) as u32).collect();
        let bytes: Vec<u8> = ids.iter().map(|&id| id as u8).collect();
        assert_eq!(tokenizer.decode(&ids), String::from_utf8_lossy(&bytes), "{ids:?}");
    }
    folder.write("tokenizer.json", "{}");
    let error = Tokenizer::load(&folder.0).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json"), "{error}");
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
