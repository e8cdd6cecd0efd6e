//! GGUF metadata → [`Description`], and GGUF tensor names → Hugging Face names.

use super::beyond::Beyond;
use super::config::{
    Description, EMBEDDING, GEMMA3, HEAD, MOST_CONTEXT, MOST_LAYERS, NORM, QkNorm, RopeDescription, Scaling,
    is_epsilon, layer_tensor,
};
use super::gguf::{Array, Gguf, Value};
use super::sentencepiece::PieceKind;
use super::stored::Stored;
use crate::error::{Error, Result};

/// The values of `general.architecture` that can be run.
const KNOWN: [&str; 6] = ["llama", "llama4", "qwen2", "qwen3", "smollm3", "gemma3"];

/// `blk.N.` + first + `.weight` is `model.layers.N.` + second + `.weight`; the same for `.bias`.
const LAYER: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The names that differ in Gemma 3, whose layers have four norms.
const GEMMA3_LAYER: [(&str, &str); 3] = [
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

/// The tokens that end a reply, by their text. Files name only some of them by keys: Gemma 3's `<end_of_turn>` and
/// Qwen2's `<|endoftext|>` have none.
const ENDS: [&str; 8] =
    ["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>", "<EOT>"];

/// Every sixth layer of Gemma 3 attends to all positions. This is the default for files without the key.
const GEMMA3_PATTERN: usize = 6;
/// Every fourth layer of SmolLM3 has no rope. Files do not store this number.
const SMOLLM3_PATTERN: usize = 4;

impl Gguf {
    /// Whether rows of q and k are interleaved: the converter does so for `llama` and architectures derived from it.
    pub(super) fn permuted(&self) -> bool {
        let architecture = self.metadata("general.architecture").and_then(Value::as_str);
        matches!(architecture, Some("llama" | "smollm3"))
    }

    /// The description of the model, and its tensors under Hugging Face names.
    pub(super) fn describe(&self, tensors: Vec<(String, Stored)>) -> Result<(Description, Vec<(String, Stored)>)> {
        let unsupported = |what: String| Error::unsupported(format!("{}: {what}", self.path.display()));
        let architecture = self.metadata("general.architecture").and_then(Value::as_str).unwrap_or_default();
        if architecture == "clip" {
            return Err(unsupported(
                "this is the vision half of a model; give the language model first, and this file with --mmproj".into(),
            ));
        }
        if !KNOWN.contains(&architecture) {
            return Err(unsupported(format!(
                "GGUF architecture `{architecture}` is not supported; dunlin runs {}",
                KNOWN.join(", ")
            )));
        }
        let (llama4, gemma) = (architecture == "llama4", architecture == "gemma3");
        let key = |name: &str| format!("{architecture}.{name}");

        if self.number("split.count")?.is_some_and(|count| count > 1) {
            return Err(unsupported(
                "the model is split over several files; join them with `llama-gguf-split --merge`".into(),
            ));
        }
        if self.number(&key("expert_count"))?.is_some_and(|count| count > 0) {
            return Err(unsupported("a mixture of experts is not supported, only dense models".into()));
        }

        let hidden = self.required(&key("embedding_length"))?;
        let layers = self.required(&key("block_count"))?;
        if layers > MOST_LAYERS {
            return Err(self.bad(format!("metadata `{}` is {layers}, which no model has", key("block_count"))));
        }
        let heads = self.heads(&key("attention.head_count"), layers)?;
        let head_dim = self.number(&key("attention.key_length"))?;
        let rotated = self.number(&key("rope.dimension_count"))?;
        let values = self.number(&key("attention.value_length"))?;
        for (what, size) in [("rope.dimension_count", rotated), ("attention.value_length", values)] {
            if let (Some(size), Some(head_dim)) = (size, head_dim)
                && size != head_dim
            {
                return Err(unsupported(format!("{what} is {size} for heads of {head_dim}; they must be equal")));
            }
        }
        let eps_key = key("attention.layer_norm_rms_epsilon");
        let norm_eps = self
            .float(&eps_key, is_epsilon, "a number of at least 0, such as 1e-5")?
            .ok_or_else(|| self.bad(format!("metadata `{eps_key}` is missing")))?;
        let context = self.number(&key("context_length"))?.unwrap_or(2048);
        if !(1..=MOST_CONTEXT).contains(&context) {
            let key = key("context_length");
            return Err(self.bad(format!("metadata `{key}` is {context}, expected a number from 1 to {MOST_CONTEXT}")));
        }

        let mut named = Vec::with_capacity(tensors.len());
        let mut scaling = self.scaling(&key("rope.scaling"))?;
        for (name, stored) in tensors {
            if name == "rope_freqs.weight" {
                let divisors = stored.load(&name, None)?.to_f32();
                if !divisors.iter().all(|&divisor| divisor > 0.0) {
                    return Err(self.bad("tensor `rope_freqs.weight` has elements that are not above 0".into()));
                }
                scaling = Scaling::Divisors(divisors);
                continue;
            }
            let translated = translate(&name, architecture).ok_or_else(|| {
                unsupported(format!("tensor `{name}` is not part of a {architecture} model as dunlin runs it"))
            })?;
            named.push((translated, stored));
        }

        let flag = |name: &str| self.metadata(name).and_then(Value::as_bool).unwrap_or(false);
        let sentencepiece = self.metadata("tokenizer.ggml.model").and_then(Value::as_str) == Some("llama");
        let id = |name: &str| -> Result<Option<u32>> {
            let id = self.number(&format!("tokenizer.ggml.{name}_token_id"))?;
            Ok(id.and_then(|id| u32::try_from(id).ok()))
        };
        let mut eos: Vec<u32> = Vec::new();
        let default_eos = sentencepiece.then_some(2);
        let keys = [id("eos")?.or(default_eos), id("eot")?, id("eom")?].into_iter().flatten();
        for id in keys.chain(self.ends()) {
            if !eos.contains(&id) {
                eos.push(id);
            }
        }
        for name in ["attn_logit_softcapping", "final_logit_softcapping"] {
            if self.metadata(&key(name)).and_then(Value::as_f64).is_some_and(|cap| cap != 0.0) {
                return Err(unsupported(format!("{name} is set, which dunlin does not do")));
            }
        }
        let windows = if gemma { self.windows(&key("attention.sliding_window"), layers)? } else { vec![None; layers] };
        let local_base = self.above_0(&key("rope.freq_base_swa"))?.unwrap_or(10_000.0);
        let local_rope = RopeDescription {
            interleaved: false,
            base: local_base,
            scaling: Scaling::None,
            rotated: None,
            beyond: Beyond::default(),
        };
        let description = Description {
            architecture: match architecture {
                "llama4" => "llama4_text",
                "gemma3" => GEMMA3,
                same => same,
            }
            .to_string(),
            hidden,
            layers,
            head_dim: head_dim.or(rotated),
            head_dim_key: head_dim.map(|_| "attention.key_length of the metadata"),
            norm_eps: norm_eps as f32,
            rope: RopeDescription {
                rotated: None,
                beyond: Beyond::default(),
                interleaved: llama4,
                base: self.above_0(&key("rope.freq_base"))?.unwrap_or(10_000.0),
                scaling,
            },
            local_rope: gemma.then_some(local_rope),
            rope_layers: (1..=layers).map(|layer| architecture != "smollm3" || layer % SMOLLM3_PATTERN != 0).collect(),
            windows,
            qk_norm: match architecture {
                "llama4" => QkNorm::Weightless,
                "qwen3" | "gemma3" => QkNorm::Weighted,
                _ => QkNorm::None,
            },
            // The largest Gemma 3, with 62 layers, has its own scale, which files do not store.
            attention_scale: (gemma && layers == 62).then(|| (heads[0] as f32 / hidden as f32).sqrt()),
            embedding_scale: if gemma { (hidden as f32).sqrt() } else { 1.0 },
            // The converter has already added the 1.
            gains_less_1: false,
            heads,
            qkv_bias: architecture == "qwen2",
            // No official key exists for layer sharing.
            layer_sharing: flag("dunlin.layer_sharing") || flag("llama.layer_sharing"),
            tied: false,
            context,
            bos: id("bos")?.or(sentencepiece.then_some(1)),
            eos,
        };
        Ok((description, named))
    }

    /// The control and user-defined tokens whose text ends a reply.
    fn ends(&self) -> Vec<u32> {
        let array = |name: &str| self.metadata(&format!("tokenizer.ggml.{name}")).and_then(Value::as_array);
        let (Some(tokens), Some(kinds)) =
            (array("tokens").and_then(Array::strings), array("token_type").and_then(Array::numbers))
        else {
            return Vec::new();
        };
        let ends = |(token, kind): (&str, f64)| {
            let kind = PieceKind::from_code(kind as u64);
            ENDS.contains(&token) && matches!(kind, Some(PieceKind::Control | PieceKind::UserDefined))
        };
        (0..).zip(tokens.zip(kinds)).filter_map(|(id, token)| ends(token).then_some(id)).collect()
    }

    pub(super) fn bad(&self, what: String) -> Error {
        Error::checkpoint(format!("{}: {what}", self.path.display()))
    }

    fn number(&self, key: &str) -> Result<Option<usize>> {
        let number = |value: &Value| {
            let number = value.as_u64().and_then(|value| usize::try_from(value).ok());
            number.ok_or_else(|| self.bad(format!("metadata `{key}` is not a whole number of at least 0")))
        };
        self.metadata(key).map(number).transpose()
    }

    /// A number above 0.
    pub(super) fn required(&self, key: &str) -> Result<usize> {
        match self.number(key)? {
            Some(0) => Err(self.bad(format!("metadata `{key}` is 0"))),
            Some(number) => Ok(number),
            None => Err(self.bad(format!("metadata `{key}` is missing"))),
        }
    }

    /// A finite number above 0.
    fn above_0(&self, key: &str) -> Result<Option<f64>> {
        self.float(key, |value| value > 0.0 && value.is_finite(), "a number above 0")
    }

    /// A number for which `right` holds; `expected` describes it in error messages.
    pub(super) fn float(&self, key: &str, right: fn(f64) -> bool, expected: &str) -> Result<Option<f64>> {
        let number = |value: &Value| match value.as_f64() {
            Some(number) if right(number) => Ok(number),
            Some(number) => Err(self.bad(format!("metadata `{key}` is {number:?}, expected {expected}"))),
            None => Err(self.bad(format!("metadata `{key}` is not a number, expected {expected}"))),
        };
        self.metadata(key).map(number).transpose()
    }

    /// One number for all layers, or an array with one number for each.
    fn heads(&self, key: &str, layers: usize) -> Result<Vec<usize>> {
        let Some(array) = self.metadata(key).and_then(Value::as_array) else {
            let heads = self.required(key)?;
            return Ok(vec![heads; layers]);
        };
        let numbers = array.numbers().filter(|numbers| numbers.len() == layers).ok_or_else(|| {
            self.bad(format!("metadata `{key}` has {} elements, expected {layers} numbers", array.len()))
        })?;
        let heads: Vec<usize> = numbers.map(|number| number as usize).collect();
        if heads.contains(&0) {
            return Err(self.bad(format!("metadata `{key}` has layers without heads")));
        }
        Ok(heads)
    }

    /// The window of each layer. The pattern is a flag for each layer, or a period whose last layer attends to all
    /// positions.
    fn windows(&self, key: &str, layers: usize) -> Result<Vec<Option<usize>>> {
        let window = self.required(key)?;
        let pattern = format!("{key}_pattern");
        let slides: Vec<bool> = match self.metadata(&pattern).and_then(Value::as_array).and_then(Array::numbers) {
            Some(flags) if flags.len() == layers => flags.map(|flag| flag != 0.0).collect(),
            Some(flags) => {
                return Err(self.bad(format!("metadata `{pattern}` has {} elements for {layers} layers", flags.len())));
            }
            None => {
                let number = self.number(&pattern)?.unwrap_or(GEMMA3_PATTERN).max(1);
                (1..=layers).map(|layer| layer % number != 0).collect()
            }
        };
        Ok(slides.into_iter().map(|slides| slides.then_some(window)).collect())
    }

    fn scaling(&self, prefix: &str) -> Result<Scaling> {
        let factor = self.above_0(&format!("{prefix}.factor"))?;
        match self.metadata(&format!("{prefix}.type")).and_then(Value::as_str) {
            None | Some("none") => Ok(Scaling::None),
            Some("linear") => Ok(Scaling::Linear {
                factor: factor.ok_or_else(|| self.bad(format!("metadata `{prefix}.factor` is missing")))?,
            }),
            Some(other) => Err(Error::unsupported(format!(
                "{}: rope scaling `{other}` is not supported; dunlin does none, linear and rope_freqs",
                self.path.display(),
            ))),
        }
    }
}

fn translate(name: &str, architecture: &str) -> Option<String> {
    match name {
        "token_embd.weight" => return Some(EMBEDDING.to_string()),
        "output_norm.weight" => return Some(NORM.to_string()),
        "output.weight" => return Some(HEAD.to_string()),
        _ => {}
    }
    let (layer, tensor) = name.strip_prefix("blk.")?.split_once('.')?;
    let layer = layer.parse().ok()?;
    let (tensor, kind) = tensor.split_once('.')?;
    let own = if architecture == "gemma3" { &GEMMA3_LAYER[..] } else { &[] };
    let (_, hugging_face) = own.iter().chain(&LAYER).find(|(gguf, _)| *gguf == tensor)?;
    let known = kind == "weight" || kind == "bias" && architecture == "qwen2";
    known.then(|| layer_tensor(layer, &format!("{hugging_face}.{kind}")))
}
