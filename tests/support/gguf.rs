//! A small GGUF v3 writer, and golden folders as GGUF.
//!
//! magic · version · tensor count · value count · values · tensor infos · padding · data, all little endian. Strings
//! and arrays begin with a u64 length. Shapes are written with the contiguous dimension first.

use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// The codes of tensor types in a file.
pub mod ggml {
    pub const F32: u32 = 0;
    pub const F16: u32 = 1;
    pub const Q4_0: u32 = 2;
    pub const Q4_1: u32 = 3;
    pub const Q5_0: u32 = 6;
    pub const Q5_1: u32 = 7;
    pub const Q8_0: u32 = 8;
    pub const Q4_K: u32 = 12;
    pub const Q5_K: u32 = 13;
    pub const Q6_K: u32 = 14;
    pub const BF16: u32 = 30;
}

/// Name, shape with the contiguous dimension last, type, and bytes.
pub type Stored = (String, Vec<usize>, u32, Vec<u8>);

/// A tensor's entry in the head of a file: shape with the contiguous dimension last, and the size of its data in bytes.
pub struct Info<'a> {
    pub name: &'a str,
    pub shape: &'a [usize],
    pub ggml_type: u32,
    pub bytes: usize,
}

/// A tensor's data begin at a multiple of this offset from the data of the first tensor.
pub const ALIGNMENT: usize = 32;

/// Writes a file. Methods add a value or a tensor and return the writer.
#[derive(Clone, Default)]
pub struct Writer {
    values: Vec<u8>,
    value_count: u64,
    tensors: Vec<Stored>,
}

impl Writer {
    pub fn new(architecture: &str) -> Self {
        Self::default().string("general.architecture", architecture)
    }

    pub fn u32(self, key: &str, value: u32) -> Self {
        self.value(key, 4, &value.to_le_bytes())
    }

    pub fn f32(self, key: &str, value: f32) -> Self {
        self.value(key, 6, &value.to_le_bytes())
    }

    pub fn bool(self, key: &str, value: bool) -> Self {
        self.value(key, 7, &[value.into()])
    }

    pub fn string(self, key: &str, value: &str) -> Self {
        self.value(key, 8, &text(value))
    }

    pub fn u32s(self, key: &str, values: &[u32]) -> Self {
        self.array(key, 4, values.len(), values.iter().flat_map(|value| value.to_le_bytes()))
    }

    pub fn i32s(self, key: &str, values: &[i32]) -> Self {
        self.array(key, 5, values.len(), values.iter().flat_map(|value| value.to_le_bytes()))
    }

    pub fn f32s(self, key: &str, values: &[f32]) -> Self {
        self.array(key, 6, values.len(), values.iter().flat_map(|value| value.to_le_bytes()))
    }

    pub fn strings(self, key: &str, values: &[impl AsRef<str>]) -> Self {
        self.array(key, 8, values.len(), values.iter().flat_map(|value| text(value.as_ref())))
    }

    /// `shape` is (rows, cols), as everywhere but in the file. `bytes` are the rows in stored order.
    pub fn tensor(mut self, name: &str, shape: &[usize], ggml_type: u32, bytes: Vec<u8>) -> Self {
        self.tensors.push((name.to_string(), shape.to_vec(), ggml_type, bytes));
        self
    }

    /// The same file, with each tensor's type and bytes replaced by the result of `encode` for its shape, type and
    /// bytes.
    pub fn encoded(mut self, encode: impl Fn(&[usize], u32, Vec<u8>) -> (u32, Vec<u8>)) -> Self {
        for (_, shape, ggml_type, bytes) in &mut self.tensors {
            (*ggml_type, *bytes) = encode(shape, *ggml_type, std::mem::take(bytes));
        }
        self
    }

    /// A value of any type, given as the bytes of the file.
    pub fn value(mut self, key: &str, value_type: u32, bytes: &[u8]) -> Self {
        self.values.extend(text(key));
        self.values.extend(value_type.to_le_bytes());
        self.values.extend(bytes);
        self.value_count += 1;
        self
    }

    fn array(self, key: &str, element: u32, count: usize, bytes: impl Iterator<Item = u8>) -> Self {
        let mut array = element.to_le_bytes().to_vec();
        array.extend((count as u64).to_le_bytes());
        array.extend(bytes);
        self.value(key, 9, &array)
    }

    /// The content of the file.
    pub fn finish(&self) -> Vec<u8> {
        let infos = self.tensors.iter().map(|(name, shape, ggml_type, bytes)| Info {
            name,
            shape,
            ggml_type: *ggml_type,
            bytes: bytes.len(),
        });
        let mut file = self.head(infos);
        for (_, _, _, bytes) in &self.tensors {
            file.extend(bytes);
            file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
        }
        file
    }

    /// Everything before the data. The bytes of each tensor follow, padded to a multiple of [`ALIGNMENT`].
    pub fn head<'a>(&self, tensors: impl ExactSizeIterator<Item = Info<'a>>) -> Vec<u8> {
        let mut head = b"GGUF".to_vec();
        head.extend(3u32.to_le_bytes());
        head.extend((tensors.len() as u64).to_le_bytes());
        head.extend(self.value_count.to_le_bytes());
        head.extend(&self.values);
        let mut offset = 0;
        for Info { name, shape, ggml_type, bytes } in tensors {
            head.extend(text(name));
            head.extend((shape.len() as u32).to_le_bytes());
            head.extend(shape.iter().rev().flat_map(|&size| (size as u64).to_le_bytes()));
            head.extend(ggml_type.to_le_bytes());
            head.extend((offset as u64).to_le_bytes());
            offset += bytes.next_multiple_of(ALIGNMENT);
        }
        head.resize(head.len().next_multiple_of(ALIGNMENT), 0);
        head
    }
}

fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes(), value.as_bytes()].concat()
}

/// The rows of q or k as the `llama` converter stores them: row `head·D + s·D/2 + j` goes to `head·D + 2j + s`.
pub fn permute_rows(bytes: &[u8], rows: usize, head_dim: usize) -> Vec<u8> {
    let size = bytes.len() / rows;
    let mut permuted = vec![0; bytes.len()];
    for (row, content) in bytes.chunks(size).enumerate() {
        let (head, half, j) = (row / head_dim, row % head_dim / (head_dim / 2), row % (head_dim / 2));
        let to = head * head_dim + 2 * j + half;
        permuted[to * size..(to + 1) * size].copy_from_slice(content);
    }
    permuted
}

/// The GGUF name of a Hugging Face tensor, for a Gemma or another model.
pub fn gguf_name(name: &str, gemma: bool) -> String {
    match name {
        "model.embed_tokens.weight" => return "token_embd.weight".into(),
        "model.norm.weight" => return "output_norm.weight".into(),
        "lm_head.weight" => return "output.weight".into(),
        _ => {}
    }
    let (layer, tensor) = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')).expect(name);
    let (tensor, kind) = tensor.rsplit_once('.').expect(name);
    let tensor = match tensor {
        "input_layernorm" => "attn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "self_attn.o_proj" => "attn_output",
        "post_attention_layernorm" if gemma => "post_attention_norm",
        "pre_feedforward_layernorm" => "ffn_norm",
        "post_feedforward_layernorm" => "post_ffw_norm",
        "post_attention_layernorm" => "ffn_norm",
        "mlp.gate_proj" | "feed_forward.gate_proj" => "ffn_gate",
        "mlp.up_proj" | "feed_forward.up_proj" => "ffn_up",
        "mlp.down_proj" | "feed_forward.down_proj" => "ffn_down",
        _ => panic!("{name} has no GGUF name"),
    };
    format!("blk.{layer}.{tensor}.{kind}")
}

/// The properties of a model family, besides the metadata.
struct Family {
    head_dim: usize,
    /// Whether rows of q and k are interleaved.
    permuted: bool,
    gemma: bool,
    /// The divisors of the frequencies of rope, if they differ between frequencies.
    divisors: Option<Vec<f32>>,
}

/// The configuration of a folder.
fn read_config(folder: &Path) -> Value {
    let json = std::fs::read(folder.join("config.json")).expect("config.json");
    serde_json::from_slice(&json).expect("config.json")
}

/// Llama 3's divisors, as its converter makes them.
fn llama3_divisors(scaling: &Value, base: f64, head_dim: usize) -> Option<Vec<f32>> {
    if scaling["rope_type"] != "llama3" {
        return None;
    }
    let number = |key: &str| scaling[key].as_f64().expect(key);
    let (low, high) = (number("low_freq_factor"), number("high_freq_factor"));
    let (factor, context) = (number("factor"), number("original_max_position_embeddings"));
    let divisor = |i: usize| {
        let wavelength = std::f64::consts::TAU * base.powf(2.0 * i as f64 / head_dim as f64);
        if wavelength < context / high {
            1.0
        } else if wavelength > context / low {
            factor
        } else {
            let smooth = (context / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    Some((0..head_dim / 2).map(|i| divisor(i) as f32).collect())
}

/// The metadata of a folder as GGUF, with arrays for the lists of its configuration.
fn describe(folder: &Path) -> (Writer, Family) {
    let config = read_config(folder);
    let number = |key: &str| config[key].as_u64().unwrap_or_else(|| panic!("{key} of config.json")) as u32;
    let per_layer = |writer: Writer, name: &str, key: &str| match &config[key] {
        Value::Array(list) => {
            let list: Vec<u32> = list.iter().map(|value| value.as_u64().expect(key) as u32).collect();
            writer.u32s(name, &list)
        }
        _ => writer.u32(name, number(key)),
    };
    let arch = match config["model_type"].as_str().expect("model_type") {
        "llama4_text" => "llama4",
        "gemma3_text" => "gemma3",
        same @ ("qwen2" | "qwen3" | "smollm3") => same,
        _ => "llama",
    };
    let (llama4, gemma) = (arch == "llama4", arch == "gemma3");
    // The base is beside the other values, or in the newer dictionary, which may have one for each type of layer.
    let parameters = &config["rope_parameters"];
    let thetas = [&config["rope_theta"], &parameters["rope_theta"], &parameters["full_attention"]["rope_theta"]];
    let base = thetas.into_iter().find_map(Value::as_f64).expect("rope_theta");
    let head_dim = match (config["head_dim"].as_u64(), config["hidden_size_in"].as_u64()) {
        (Some(head_dim), _) => head_dim as u32,
        (None, Some(width)) => width as u32 / number("num_attention_heads"),
        (None, None) => number("hidden_size") / number("num_attention_heads"),
    };
    let key = |name: &str| format!("{arch}.{name}");
    let mut writer = Writer::new(arch)
        .u32(&key("context_length"), number("max_position_embeddings"))
        .u32(&key("embedding_length"), number("hidden_size"))
        .u32(&key("block_count"), number("num_hidden_layers"))
        .u32(&key("attention.key_length"), head_dim)
        .u32(&key("attention.value_length"), head_dim)
        .u32(&key("rope.dimension_count"), head_dim)
        .u32(&key("vocab_size"), number("vocab_size"))
        .f32(&key("rope.freq_base"), base as f32)
        .f32(&key("attention.layer_norm_rms_epsilon"), config["rms_norm_eps"].as_f64().expect("rms_norm_eps") as f32)
        .u32("tokenizer.ggml.eos_token_id", number("eos_token_id"));
    // In this list the end of a turn follows the end of the text.
    let generation = std::fs::read(folder.join("generation_config.json")).unwrap_or_else(|_| b"{}".to_vec());
    let generation: Value = serde_json::from_slice(&generation).expect("generation_config.json");
    if let Some(turn) = generation["eos_token_id"][1].as_u64() {
        writer = writer.u32("tokenizer.ggml.eot_token_id", turn as u32);
    }
    if !config["bos_token_id"].is_null() {
        writer = writer.u32("tokenizer.ggml.bos_token_id", number("bos_token_id"));
    }
    if gemma {
        writer = writer.u32(&key("attention.sliding_window"), number("sliding_window"));
    }
    writer = per_layer(writer, &key("attention.head_count"), "num_attention_heads");
    writer = per_layer(writer, &key("attention.head_count_kv"), "num_key_value_heads");
    let ffn = if llama4 { "intermediate_size_mlp" } else { "intermediate_size" };
    writer = per_layer(writer, &key("feed_forward_length"), ffn);
    if config["layer_sharing"] == true {
        writer = writer.bool("dunlin.layer_sharing", true);
    }
    let family = Family {
        head_dim: head_dim as usize,
        permuted: matches!(arch, "llama" | "smollm3"),
        gemma,
        divisors: llama3_divisors(&config["rope_scaling"], base, head_dim as usize),
    };
    (writer, family)
}

/// A golden folder with safetensors as GGUF: metadata with per-layer arrays for the lists of its configuration, q and k
/// permuted for `llama`. The caller adds the tokenizer.
///
/// `encode` gets a tensor's shape, its element type in the file and its bytes, and returns the type and bytes to write.
pub fn from_folder(folder: &Path, encode: impl Fn(&[usize], u32, &[u8]) -> (u32, Vec<u8>)) -> Writer {
    let all = read_folder(folder).into_iter().map(|(name, shape, ggml_type, bytes)| {
        let (ggml_type, bytes) = encode(&shape, ggml_type, &bytes);
        (name, shape, ggml_type, bytes)
    });
    from_tensors(folder, all.collect())
}

/// The tensors of a folder's safetensors.
fn read_folder(folder: &Path) -> Vec<Stored> {
    let mut all = Vec::new();
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|file| file.file_name().unwrap().to_string_lossy().starts_with("model"));
    files.retain(|file| file.extension().is_some_and(|extension| extension == "safetensors"));
    files.sort();
    assert!(!files.is_empty(), "{} has no safetensors", folder.display());
    for file in files {
        let content = std::fs::read(&file).expect("a readable file");
        let tensors = SafeTensors::deserialize(&content).expect("a safetensors file");
        for (name, view) in tensors.tensors() {
            if name.ends_with("rotary_emb.inv_freq") {
                continue;
            }
            let ggml_type = match view.dtype() {
                Dtype::F32 => ggml::F32,
                Dtype::F16 => ggml::F16,
                Dtype::BF16 => ggml::BF16,
                other => panic!("{name} is {other:?}"),
            };
            all.push((name, view.shape().to_vec(), ggml_type, view.data().to_vec()));
        }
    }
    // The crate returns tensors in a varying order; a file must always be the same.
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// The configuration of a folder with these tensors: Hugging Face name, shape, type and bytes, rows in its order.
pub fn from_tensors(folder: &Path, tensors: Vec<Stored>) -> Writer {
    let (mut writer, family) = describe(folder);
    if let Some(divisors) = &family.divisors {
        let bytes = divisors.iter().flat_map(|value| value.to_le_bytes()).collect();
        writer = writer.tensor("rope_freqs.weight", &[divisors.len()], ggml::F32, bytes);
    }
    for (name, shape, ggml_type, mut bytes) in tensors {
        if family.permuted && (name.ends_with("q_proj.weight") || name.ends_with("k_proj.weight")) {
            bytes = permute_rows(&bytes, shape[0], family.head_dim);
        }
        if family.gemma && name.ends_with("norm.weight") {
            assert_eq!(ggml_type, ggml::F32, "{name}");
            let values = bytes.as_chunks().0.iter().map(|&four| 1.0 + f32::from_le_bytes(four));
            bytes = values.flat_map(f32::to_le_bytes).collect();
        }
        writer = writer.tensor(&gguf_name(&name, family.gemma), &shape, ggml_type, bytes);
    }
    writer
}

/// The names that llama.cpp's converters give the two matrices of a vision tower's feed-forward part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// fc1 is `ffn_down`, fc2 is `ffn_up`: the converter that made MobileVLM's files.
    Legacy,
    /// fc1 is `ffn_up`, fc2 is `ffn_down`.
    Newer,
}

/// A golden MobileVLM folder as llama.cpp's two files: the language model and the vision half, `mmproj`. Matrices and
/// convolutions have the type `matrices` (F32 or F16), vectors are f32. The caller adds the tokenizer.
pub fn mobilevlm(folder: &Path, naming: Naming, matrices: u32) -> (Writer, Writer) {
    let tensors = read_folder(folder).into_iter().map(|(name, shape, ggml_type, bytes)| {
        assert_eq!(ggml_type, ggml::F32, "{name} of {}", folder.display());
        (name, shape, bytes.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect())
    });
    mobilevlm_of(folder, tensors.collect(), naming, matrices)
}

/// [`mobilevlm`] with these tensors: Hugging Face name, shape (there, or flattened) and elements.
pub fn mobilevlm_of(
    folder: &Path,
    tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
    naming: Naming,
    matrices: u32,
) -> (Writer, Writer) {
    let json = |file: &Path| -> Value {
        serde_json::from_slice(&std::fs::read(file).expect("a json file")).expect("a json file")
    };
    let config = json(&folder.join("config.json"));
    let tower = folder.join(config["mm_vision_tower"].as_str().expect("a tower"));
    let colours = json(&tower.join("preprocessor_config.json"));
    let colours = |key: &str| -> Vec<f32> {
        colours[key].as_array().expect(key).iter().map(|value| value.as_f64().expect(key) as f32).collect()
    };
    let tower = json(&tower.join("config.json"));
    let tower = &tower["vision_config"];
    let number = |key: &str| tower[key].as_u64().unwrap_or_else(|| panic!("{key} of the tower")) as usize;
    let (width, patch, hidden) =
        (number("hidden_size"), number("patch_size"), config["hidden_size"].as_u64().expect("a width") as usize);
    // Hidden state -2 is the output of the second-last block.
    assert_eq!(config["mm_vision_select_layer"], -2);
    let blocks = number("num_hidden_layers") - 1;

    let projector = if config["mm_projector_type"] == "ldpnetv2" { "ldpv2" } else { "ldp" };
    let mut vision = Writer::new("clip")
        .bool("clip.has_text_encoder", false)
        .bool("clip.has_vision_encoder", true)
        .bool("clip.has_llava_projector", true)
        .string("clip.projector_type", projector)
        .u32("clip.vision.image_size", number("image_size") as u32)
        .u32("clip.vision.patch_size", patch as u32)
        .u32("clip.vision.embedding_length", width as u32)
        .u32("clip.vision.feed_forward_length", number("intermediate_size") as u32)
        .u32("clip.vision.projection_dim", number("projection_dim") as u32)
        .u32("clip.vision.attention.head_count", number("num_attention_heads") as u32)
        .f32("clip.vision.attention.layer_norm_epsilon", tower["layer_norm_eps"].as_f64().expect("a number") as f32)
        .u32("clip.vision.block_count", blocks as u32)
        .f32s("clip.vision.image_mean", &colours("image_mean"))
        .f32s("clip.vision.image_std", &colours("image_std"))
        .bool("clip.use_gelu", tower["hidden_act"] == "gelu");
    if naming == Naming::Newer {
        vision = vision.i32s("clip.vision.feature_layer", &[blocks as i32]);
    }

    let mut language = Vec::new();
    for (name, shape, values) in tensors {
        let shape = if name.ends_with("patch_embedding.weight") {
            vec![width, 3, patch, patch]
        } else if name.ends_with("position_embedding.weight") {
            vec![values.len() / width, width]
        } else if name.ends_with("block.0.0.weight") || name.ends_with("peg.0.weight") {
            vec![hidden, 3, 3]
        } else {
            shape.into_iter().filter(|&size| size != 1).collect()
        };
        let (ggml_type, bytes) = if shape.len() > 1 && matrices == ggml::F16 {
            (ggml::F16, values.iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes()).collect())
        } else {
            (ggml::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect())
        };
        let tower = name.strip_prefix("model.vision_tower.vision_tower.vision_model.");
        if let Some(name) = tower.map(|name| tower_name(name, naming)).or_else(|| projector_name(&name)) {
            let block = name.strip_prefix("v.blk.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
            if !name.starts_with("v.post_ln") && block.is_none_or(|block| block < blocks) {
                vision = vision.tensor(&name, &shape, ggml_type, bytes);
            }
        } else {
            language.push((name, shape, ggml_type, bytes));
        }
    }
    (from_tensors(folder, language), vision)
}

/// The GGUF name of a tensor of CLIP's vision half.
fn tower_name(name: &str, naming: Naming) -> String {
    let (fc1, fc2) = match naming {
        Naming::Legacy => ("ffn_down", "ffn_up"),
        Naming::Newer => ("ffn_up", "ffn_down"),
    };
    let renamed = [
        ("embeddings.class_embedding", "class_embd"),
        ("embeddings.patch_embedding", "patch_embd"),
        ("embeddings.position_embedding", "position_embd"),
        ("pre_layrnorm", "pre_ln"),
        ("post_layernorm", "post_ln"),
        ("encoder.layers", "blk"),
        ("layer_norm", "ln"),
        ("self_attn.", "attn_"),
        ("_proj", ""),
        ("mlp.fc1", fc1),
        ("mlp.fc2", fc2),
    ];
    let name = renamed.iter().fold(name.to_string(), |name, (from, to)| name.replace(from, to));
    format!("v.{name}")
}

/// The GGUF name of a tensor of the projector, if it is one.
fn projector_name(name: &str) -> Option<String> {
    let name = name.strip_prefix("model.mm_projector.")?;
    let bare = name.strip_prefix("model.").unwrap_or(name);
    Some(format!("mm.model.{}", bare.replace("mlp.mlp.", "mlp.").replace("peg.peg.", "peg.")))
}
