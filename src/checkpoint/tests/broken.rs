//! Truncated, damaged and malicious files: each gives one clear error, never a panic and never a large allocation.

use std::path::Path;

use super::gguf_writer::{Writer, ggml};
use super::*;

const FILE: &str = "models/broken.file";

/// The text of the error, which must name the file and contain every one of `words`.
#[track_caller]
fn complains<T>(result: Result<T>, words: &[&str]) {
    let Err(error) = result else { panic!("no error, expected one about {words:?}") };
    let message = error.to_string();
    for word in words.iter().chain(&["broken.file"]) {
        assert!(message.contains(word), "`{message}` does not say `{word}`");
    }
    assert!(!message.contains('\n'), "{message}");
}

fn read_safetensors(bytes: &[u8]) -> Result<Vec<(String, Stored)>> {
    safetensors::read(Path::new(FILE), &Bytes::new(bytes.to_vec()))
}

fn read_torch(bytes: &[u8]) -> Result<Vec<(String, Stored)>> {
    torch::read(Path::new(FILE), &Bytes::new(bytes.to_vec()))
}

fn read_gguf(bytes: &[u8]) -> Result<Checkpoint> {
    Checkpoint::from_gguf(Path::new(FILE), Bytes::new(bytes.to_vec()))
}

fn safetensors_file(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat()
}

/// Every length where the file has structure, and a sample of the others.
fn lengths(file: &[u8], structured: usize) -> impl Iterator<Item = usize> {
    let len = file.len();
    (0..structured.min(len)).chain((structured..len).step_by(4999)).chain(len.saturating_sub(300)..len)
}

#[test]
fn truncated_safetensors() {
    let file = std::fs::read(golden("mobilellm_gqa").join("model.safetensors")).unwrap();
    for length in lengths(&file, 4500) {
        complains(read_safetensors(&file[..length]), &[]);
    }
    complains(read_safetensors(&file[..file.len() - 1]), &["truncated", "tensor `model."]);
}

#[test]
fn truncated_gguf() {
    let file = gguf_writer::from_folder(&golden("mobilellm_gqa"), |_, ggml_type, bytes| (ggml_type, bytes.to_vec()));
    let file = file.strings("tokenizer.ggml.tokens", &["<unk>", "<s>", "</s>"]).finish();
    for length in lengths(&file, 3500) {
        complains(read_gguf(&file[..length]), &[]);
    }
    complains(read_gguf(&file[..100]), &["truncated"]);
    complains(read_gguf(&file[..file.len() - 1]), &["truncated", "tensor `"]);
}

#[test]
fn truncated_torch() {
    let file = std::fs::read(golden("mobilellm_fp16_bin").join("pytorch_model.bin")).unwrap();
    for length in (0..200).chain((200..file.len()).step_by(40_009)).chain(file.len() - 120..file.len()) {
        complains(read_torch(&file[..length]), &[]);
    }
    complains(read_torch(&file[..file.len() / 2]), &["truncated"]);
    complains(read_torch(b"\x80\x02\x8a\x0a"), &["safetensors"]);
}

/// Random changes of bytes (xorshift) give an error or other numbers, never a panic.
#[test]
fn damaged_files() {
    let gguf = gguf_writer::from_folder(&golden("mobilellm_gqa"), |_, ggml_type, bytes| (ggml_type, bytes.to_vec()));
    // Most of the file is storages; only the pickle at the front and the directory at the end can break.
    let torch = std::fs::read(golden("mobilellm_fp16_bin").join("pytorch_model.bin")).unwrap();
    let safetensors = std::fs::read(golden("mobilellm_gqa").join("model.safetensors")).unwrap();
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let (gguf, torch_end) = (gguf.finish(), torch.len() - 4000);
    for round in 0..1500 {
        let mut file = gguf.clone();
        file[random(3400)] ^= 1 << (round % 8);
        let _ = read_gguf(&file);
        let mut file = safetensors.clone();
        file[random(3400)] ^= 1 << (round % 8);
        let _ = read_safetensors(&file);
        if round % 3 == 0 {
            let mut file = torch.clone();
            let at = if round % 2 == 0 { random(5300) } else { torch_end + random(4000) };
            file[at] ^= 1 << (round / 3 % 8);
            for (name, stored) in read_torch(&file).unwrap_or_default() {
                let _ = stored.load(&name, None);
            }
        }
    }
}

#[test]
fn impossible_safetensors() {
    let tensor = |name: &str, dtype: &str, shape: &str, begin: u64, end: u64| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
    };
    let a = tensor("a", "F32", "[2]", 0, 8);
    let cases: [(String, &[&str]); 9] = [
        (format!("{{{a},{}}}", tensor("b", "F32", "[2]", 4, 12)), &["`a`", "`b`", "overlap"]),
        (format!("{{{a},{}}}", tensor("b", "F32", "[20]", 8, 88)), &["`b`", "8..88", "truncated"]),
        (format!("{{{}}}", tensor("b", "F32", "[2]", 8, 4)), &["`b`"]),
        (format!("{{{}}}", tensor("b", "F32", "[3]", 0, 8)), &["`b`", "[3]", "8 bytes"]),
        (format!("{{{}}}", tensor("b", "F32", "[4294967296,4294967296,4]", 0, 8)), &["`b`", "8 bytes"]),
        (format!("{{{}}}", tensor("b", "F32", "[-1]", 0, 8)), &["header"]),
        (format!("{{{}}}", tensor("b", "F32", "[2]", 0, u64::MAX)), &["`b`"]),
        ("[]".into(), &["header"]),
        ("{".into(), &["header"]),
    ];
    for (header, words) in cases {
        complains(read_safetensors(&safetensors_file(&header, 16)), words);
    }
    complains(read_safetensors(&u64::MAX.to_le_bytes()), &["header"]);
    complains(read_safetensors(b""), &["truncated"]);

    let twice = format!("{{{a},{}}}", tensor("a", "F32", "[2]", 8, 16));
    let tensors = read_safetensors(&safetensors_file(&twice, 16)).unwrap();
    complains(canonical(Path::new(FILE), tensors), &["`model.a`", "twice"]);

    // A tensor of a type that cannot be run is listed, and refused when it is taken.
    let foreign = format!("{{{a},{}}}", tensor("b", "I64", "[1]", 8, 16));
    let tensors = read_safetensors(&safetensors_file(&foreign, 16)).unwrap();
    let (name, stored) = tensors.iter().find(|(name, _)| name == "b").unwrap();
    complains(stored.load(name, None), &["`b`", "i64"]);
}

#[test]
fn impossible_gguf() {
    let model = || Writer::new("llama").u32("llama.embedding_length", 32).u32("llama.block_count", 1);
    complains(read_gguf(b"GGML"), &["not a GGUF file"]);
    complains(read_gguf(b"GGUF\x01\0\0\0"), &["version 1"]);
    complains(read_gguf(b"GGUF\0\0\0\x03"), &["big-endian"]);
    complains(read_gguf(&Writer::new("mamba").finish()), &["`mamba`", "llama, llama4"]);
    complains(read_gguf(&model().finish()), &["`llama.attention.head_count`", "missing"]);
    complains(read_gguf(&model().u32("llama.block_count", 1).finish()), &["`llama.block_count`", "twice"]);
    complains(read_gguf(&model().value("x", 99, &[]).finish()), &["`x`", "99"]);
    complains(
        read_gguf(&Writer::new("llama").u32("llama.embedding_length", 32).u32("llama.block_count", u32::MAX).finish()),
        &["block_count"],
    );

    // Numbers that would cause huge allocations if the reader trusted them.
    let huge = u64::MAX.to_le_bytes();
    for at in [8, 16] {
        let mut file = model().finish();
        file[at..at + 8].copy_from_slice(&huge);
        complains(read_gguf(&file), &["truncated"]);
    }
    complains(read_gguf(&model().value("x", 8, &huge).finish()), &["truncated"]);
    for element in [0u32, 6, 8, 12] {
        let array = [&element.to_le_bytes()[..], &huge].concat();
        complains(read_gguf(&model().value("x", 9, &array).finish()), &["truncated"]);
    }
    let nested = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat();
    complains(read_gguf(&model().value("x", 9, &nested).finish()), &["`x`", "arrays"]);
    complains(read_gguf(&model().u32("general.alignment", 0).finish()), &["general.alignment"]);

    let tensor = |name: &str, shape: &[usize], ggml_type| model().tensor(name, shape, ggml_type, vec![0; 64]).finish();
    complains(read_gguf(&tensor("t", &[17], ggml::F32)), &["`t`", "[17]", "truncated"]);
    complains(read_gguf(&tensor("t", &[usize::MAX, 32], ggml::F32)), &["`t`"]);
    complains(read_gguf(&tensor("t", &[1, 33], ggml::Q8_0)), &["`t`", "33", "32"]);
    complains(read_gguf(&tensor("t", &[1, 1, 1, 1, 1], ggml::F32)), &["`t`", "5 dimensions"]);
    complains(read_gguf(&tensor("blk.0.attn_q.bias", &[16], ggml::F32)), &["head_count"]);
}

/// A golden model after `edit` of each tensor's name and shape, checked against the original list of tensors.
fn edited(edit: impl Fn(&str, Vec<usize>) -> Vec<(String, Vec<usize>)>) -> Result<Checkpoint> {
    let (description, tensors) = folder::read(&golden("mobilellm_gqa").into())?;
    let file = std::sync::Arc::new(PathBuf::from(FILE));
    let tensors = tensors.into_iter().flat_map(|(name, stored)| {
        let stored = Stored { file: file.clone(), ..stored };
        let edited = edit(&name, stored.shape.clone());
        edited.into_iter().map(move |(name, shape)| (name, Stored { shape, ..stored.clone() }))
    });
    let (path, source) = (Path::new(FILE).into(), Source::Folder(FILE.into()));
    let checkpoint = Checkpoint::new(&path, description, tensors.collect(), source, &VisionFiles::default())?;
    let golden = open("mobilellm_gqa");
    let stated = golden.tensors().map(|tensor| (tensor.name.to_string(), tensor.shape.to_vec()));
    checkpoint.check(&stated.collect())?;
    Ok(checkpoint)
}

/// A valid file whose tensors are not those of the architecture is refused.
#[test]
fn wrong_tensors() {
    let (q, v) = ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.v_proj.weight");
    let keep = |name: &str, shape| vec![(name.to_string(), shape)];
    let with = |extra: &'static str| {
        edited(move |name, shape| {
            let mut all = keep(name, shape.clone());
            all.extend((name == v).then(|| (extra.to_string(), shape)));
            all
        })
    };
    edited(keep).unwrap();
    edited(|name, shape| keep(&format!("module.{name}"), shape)).unwrap();
    edited(|name, shape| keep(name.strip_prefix("model.").unwrap_or(name), shape)).unwrap();
    // Buffers and an unused head are accepted.
    with("model.layers.0.self_attn.rotary_emb.inv_freq").unwrap();
    assert!(with("lm_head.weight").unwrap().tensors().all(|tensor| tensor.name != "lm_head.weight"));

    complains(with("model.layers.1.self_attn.v_proj.bias"), &["model.layers.1.self_attn.v_proj.bias", "mobilellm"]);
    complains(with("model.layers.3.self_attn.v_proj.weight"), &["model.layers.3", "3 layers"]);
    complains(with("module.model.layers.1.self_attn.v_proj.weight"), &[v, "twice"]);
    complains(edited(|name, shape| if name == v { vec![] } else { keep(name, shape) }), &[v, "missing"]);
    let reshaped = |of: &'static str, to: &'static [usize]| {
        edited(move |name, shape| keep(name, if name == of { to.to_vec() } else { shape }))
    };
    complains(reshaped(q, &[143, 144]), &[q, "143", "16"]);
    complains(reshaped(q, &[160, 144]), &["layer 0", "10 query heads"]);
    complains(reshaped(q, &[144 * 144]), &[q, "matrix"]);
    complains(reshaped("model.embed_tokens.weight", &[1024, 72]), &["embed_tokens", "72", "144"]);

    let checkpoint = open("mobilellm_gqa");
    let error = checkpoint.take(q, &[144, 145]).unwrap_err().to_string();
    for word in [q, "[144, 144]", "[144, 145]", "model.safetensors"] {
        assert!(error.contains(word), "{error}");
    }
    assert!(checkpoint.take("nothing", &[1]).unwrap_err().to_string().contains("`nothing`"));
}
