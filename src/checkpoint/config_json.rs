//! `config.json`, with the start and end ids of `generation_config.json` → [`Description`].

use std::path::Path;

use serde::{Deserialize, Deserializer};
use serde_json::{Number, Value};

use super::beyond::Beyond;
use super::config::{
    Description, GEMMA3, MOBILEVLM, MOST_CONTEXT, MOST_LAYERS, QWEN, QkNorm, RopeDescription, Scaling, is_epsilon,
};
use super::json::{Ids, parse};
use super::qwen_json;
use crate::error::{Error, Result};

/// The values of `model_type` that can be run.
pub const KNOWN: [&str; 9] =
    ["mobilellm", "llama", "llama4_text", QWEN, "qwen2", "qwen3", "smollm3", GEMMA3, MOBILEVLM];

/// The keys that are read. All other keys are for training or for other software.
#[derive(Deserialize)]
struct Json {
    model_type: Option<String>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    hidden_size: usize,
    hidden_size_in: Option<usize>,
    num_hidden_layers: usize,
    num_attention_heads: PerLayer,
    head_dim: Option<usize>,
    rms_norm_eps: Option<f64>,
    hidden_act: Option<String>,
    /// The newer name.
    hidden_activation: Option<String>,
    rope_theta: Option<f64>,
    rope_scaling: Option<Rope>,
    /// The newer name, which holds `rope_theta` as well.
    rope_parameters: Option<RopeParameters>,
    partial_rotary_factor: Option<f64>,
    max_position_embeddings: Option<Number>,
    tie_word_embeddings: Option<bool>,
    share_embedding: Option<bool>,
    layer_sharing: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    bos_token_id: Option<Ids>,
    eos_token_id: Option<Ids>,
    // llama4_text
    num_local_experts: Option<usize>,
    moe_layers: Option<Vec<usize>>,
    attn_temperature_tuning: Option<Value>,
    no_rope_layers: Option<Vec<u32>>,
    use_qk_norm: Option<bool>,
    // smollm3
    no_rope_layer_interval: Option<usize>,
    // qwen2, qwen3, gemma3_text
    use_sliding_window: Option<bool>,
    #[serde(default, deserialize_with = "nullable")]
    sliding_window: Option<Option<usize>>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    // gemma3_text
    sliding_window_pattern: Option<usize>,
    _sliding_window_pattern: Option<usize>,
    rope_local_base_freq: Option<f64>,
    query_pre_attn_scalar: Option<f64>,
    attn_logit_softcapping: Option<f64>,
    final_logit_softcapping: Option<f64>,
    use_bidirectional_attention: Option<Value>,
}

#[derive(Deserialize)]
struct Rope {
    rope_type: Option<String>,
    /// The older name of `rope_type`; some files have both.
    r#type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    partial_rotary_factor: Option<f64>,
}

/// One rope for all layers, or one for each layer type.
#[derive(Deserialize)]
#[serde(untagged, expecting = "rope_parameters is neither a rope nor one for each type of layer")]
enum RopeParameters {
    Each { full_attention: Rope, sliding_attention: Rope },
    All(Rope),
}

/// A key that is null, which differs from one that is missing.
fn nullable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<usize>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
struct GenerationJson {
    bos_token_id: Option<Ids>,
    eos_token_id: Option<Ids>,
}

/// One number for all layers, or one for each layer.
#[derive(Deserialize)]
#[serde(untagged, expecting = "num_attention_heads is neither a number nor a list of numbers")]
enum PerLayer {
    All(usize),
    Each(Vec<usize>),
}

/// Reads the description of a folder. `generation` is the content of `generation_config.json`, where it exists.
pub fn read(file: &Path, config: &[u8], generation: Option<(&Path, &[u8])>) -> Result<Description> {
    let bad = |what: String| Error::checkpoint(format!("{}: {what}", file.display()));
    let unsupported = |what: String| Error::unsupported(format!("{}: {what}", file.display()));

    // The architecture is read first, because files of other families may lack keys that are required here.
    let value: Value = parse(file, config)?;
    let model_type = value.get("model_type").and_then(Value::as_str).unwrap_or_default();
    if !KNOWN.contains(&model_type) {
        return Err(unsupported(format!(
            "model_type `{model_type}` is not supported; dunlin runs {}",
            KNOWN.join(", ")
        )));
    }
    if model_type == QWEN {
        return qwen_json::read(file, config, generation);
    }
    let json: Json = parse(file, config)?;
    let generation = generation.map(|(file, content)| parse::<GenerationJson>(file, content)).transpose()?;

    let layers = json.num_hidden_layers;
    if layers > MOST_LAYERS {
        return Err(bad(format!("num_hidden_layers is {layers}, which no model has")));
    }
    let windows = windows(&json, model_type, file)?;

    // MobileLLM's code has also been published with Llama's model type.
    let named = |class: &str| json.architectures.iter().flatten().any(|name| name == class);
    let architecture = match json.model_type.unwrap_or_default() {
        name if name == "llama" && named("MobileLLMForCausalLM") => "mobilellm".to_string(),
        name => name,
    };
    let llama4 = architecture == "llama4_text";

    let gemma = architecture == GEMMA3;
    let act = if gemma { "gelu_pytorch_tanh" } else { "silu" };
    for (key, set) in [("hidden_act", &json.hidden_act), ("hidden_activation", &json.hidden_activation)] {
        if let Some(set) = set.as_ref().filter(|set| *set != act) {
            return Err(unsupported(format!("{key} `{set}` is not supported in {architecture}, only `{act}`")));
        }
    }
    for (key, set) in [("attention_bias", json.attention_bias), ("mlp_bias", json.mlp_bias)] {
        if set == Some(true) {
            return Err(unsupported(format!("{key} is true; dunlin runs biases of q, k and v in qwen2 only")));
        }
    }
    for (key, set) in [
        ("attn_logit_softcapping", json.attn_logit_softcapping.is_some()),
        ("final_logit_softcapping", json.final_logit_softcapping.is_some()),
        ("use_bidirectional_attention", json.use_bidirectional_attention.as_ref().is_some_and(truthy)),
        ("partial_rotary_factor", json.partial_rotary_factor.is_some_and(|factor| factor != 1.0)),
    ] {
        if set {
            return Err(unsupported(format!(
                "{key} is set, which dunlin does not do; the model would say something else"
            )));
        }
    }
    if json.num_local_experts.is_some_and(|experts| experts > 0) || json.moe_layers.is_some_and(|l| !l.is_empty()) {
        return Err(unsupported("a mixture of experts is not supported, only dense models".into()));
    }

    let heads = match json.num_attention_heads {
        PerLayer::All(heads) => vec![heads; layers],
        PerLayer::Each(heads) if heads.len() == layers => heads,
        PerLayer::Each(heads) => {
            return Err(bad(format!("num_attention_heads has {} entries for {layers} layers", heads.len())));
        }
    };
    if layers == 0 || json.hidden_size == 0 || heads.contains(&0) {
        return Err(bad("hidden_size, num_hidden_layers and num_attention_heads must be above 0".into()));
    }
    let head_dim = match (json.head_dim, json.hidden_size_in) {
        (Some(head_dim), _) => Some(head_dim),
        (None, Some(width)) => Some(width / heads[0]),
        (None, None) => None,
    };
    let no_rope = llama4 || architecture == "smollm3";
    let rope_layers = match json.no_rope_layers {
        // The key's name is inverted: 1 means that the layer has rope.
        Some(flags) if no_rope && flags.len() == layers => flags.iter().map(|&flag| flag == 1).collect(),
        Some(flags) if no_rope && !flags.is_empty() => {
            return Err(bad(format!("no_rope_layers has {} entries for {layers} layers", flags.len())));
        }
        // The default of the published code when the list is missing: every fourth layer has no rope.
        _ if no_rope => {
            let interval = json.no_rope_layer_interval.unwrap_or(4).max(1);
            (1..=layers).map(|layer| layer % interval != 0).collect()
        }
        _ => vec![true; layers],
    };

    // The key scales the queries of layers without rope; the published code enables it when the key is missing.
    if llama4 && rope_layers.contains(&false) && json.attn_temperature_tuning.is_none_or(|value| truthy(&value)) {
        return Err(unsupported(
            "attn_temperature_tuning is not supported; set it to false if the model allows".into(),
        ));
    }

    let default_base = match &*architecture {
        "llama4_text" => 500_000.0,
        "smollm3" => 2e6,
        GEMMA3 => 1e6,
        _ => 10_000.0,
    };
    let (rope, local) = match json.rope_parameters {
        Some(RopeParameters::Each { full_attention, sliding_attention }) if gemma => {
            (Some(full_attention), Some(sliding_attention))
        }
        // The untagged form would take a rope for each type of layer, with a typo, for an empty rope.
        Some(RopeParameters::All(_)) if objects(&value["rope_parameters"]) => {
            return Err(bad(
                "rope_parameters holds objects, expected one rope, or `full_attention` and `sliding_attention` with a \
                 rope each"
                    .into(),
            ));
        }
        Some(RopeParameters::Each { .. }) => {
            return Err(unsupported(
                "rope_parameters differ by the type of a layer, which only gemma3_text has".into(),
            ));
        }
        Some(RopeParameters::All(rope)) => (Some(json.rope_scaling.unwrap_or(rope)), None),
        None => (json.rope_scaling, None),
    };
    let local_rope = match local {
        _ if !gemma => None,
        Some(rope) => Some(describe_rope(Some(rope), None, 10_000.0, file)?),
        None => Some(describe_rope(None, json.rope_local_base_freq, 10_000.0, file)?),
    };
    let rope = RopeDescription { interleaved: llama4, ..describe_rope(rope, json.rope_theta, default_base, file)? };
    let attention_scale = match json.query_pre_attn_scalar.or(gemma.then_some(256.0)).filter(|_| gemma) {
        Some(scalar) if scalar > 0.0 && scalar.is_finite() => Some(1.0 / scalar.sqrt() as f32),
        Some(scalar) => return Err(bad(format!("query_pre_attn_scalar is {scalar}, expected a number above 0"))),
        None => None,
    };
    let norm_eps = json.rms_norm_eps.unwrap_or(if llama4 { 1e-5 } else { 1e-6 });
    if !is_epsilon(norm_eps) {
        return Err(bad(format!("rms_norm_eps is {norm_eps:?}, expected a number of at least 0, such as 1e-5")));
    }
    let context = match json.max_position_embeddings {
        None => 2048,
        Some(number) => {
            number.as_u64().filter(|number| (1..=MOST_CONTEXT as u64).contains(number)).ok_or_else(|| {
                bad(format!("max_position_embeddings is {number}, expected a whole number from 1 to {MOST_CONTEXT}"))
            })? as usize
        }
    };
    let (bos, eos) = match generation {
        Some(generation) => {
            (json.bos_token_id.or(generation.bos_token_id), generation.eos_token_id.or(json.eos_token_id))
        }
        None => (json.bos_token_id, json.eos_token_id),
    };
    // The MobileLLM class shares the embedding unless the key is false.
    let share_embedding = json.share_embedding.unwrap_or(architecture == "mobilellm");
    Ok(Description {
        hidden: json.hidden_size,
        layers,
        heads,
        head_dim,
        head_dim_key: json.head_dim.map(|_| "head_dim of config.json"),
        norm_eps: norm_eps as f32,
        rope,
        local_rope,
        rope_layers,
        windows,
        qk_norm: match &*architecture {
            "llama4_text" if json.use_qk_norm.unwrap_or(true) => QkNorm::Weightless,
            "qwen3" | GEMMA3 => QkNorm::Weighted,
            _ => QkNorm::None,
        },
        attention_scale,
        embedding_scale: if gemma { (json.hidden_size as f32).sqrt() } else { 1.0 },
        gains_less_1: gemma,
        qkv_bias: architecture == "qwen2",
        layer_sharing: json.layer_sharing.unwrap_or(false),
        tied: share_embedding || json.tie_word_embeddings.unwrap_or(gemma || architecture == "smollm3"),
        context,
        bos: bos.and_then(|ids| ids.list().first().copied()),
        eos: eos.map(Ids::list).unwrap_or_default(),
        architecture,
    })
}

/// The number of positions that each layer attends to.
fn windows(json: &Json, architecture: &str, file: &Path) -> Result<Vec<Option<usize>>> {
    let bad = |what: String| Error::checkpoint(format!("{}: {what}", file.display()));
    let unsupported = |what: String| Error::unsupported(format!("{}: {what}", file.display()));
    let layers = json.num_hidden_layers;
    let window = json.sliding_window.unwrap_or(Some(4096));
    if window == Some(0) || window.is_none() && architecture == GEMMA3 {
        let found = window.map_or("null".to_owned(), |window| window.to_string());
        return Err(bad(format!("sliding_window is {found}, expected a number above 0")));
    }
    // The default where the file does not list the layers.
    let unlisted: Vec<bool> = match architecture {
        GEMMA3 => {
            let pattern = json.sliding_window_pattern.or(json._sliding_window_pattern).unwrap_or(6).max(1);
            (1..=layers).map(|layer| layer % pattern != 0).collect()
        }
        "qwen2" | "qwen3" if json.use_sliding_window == Some(true) => {
            let first = json.max_window_layers.unwrap_or(28);
            (0..layers).map(|layer| layer >= first).collect()
        }
        _ if json.use_sliding_window == Some(true) => {
            return Err(unsupported(format!("use_sliding_window is true, which dunlin does not do in {architecture}")));
        }
        // Layers with rope attend to chunks of 8192 positions, which the small models never reach.
        "llama4_text" => return Ok(vec![None; layers]),
        _ => vec![false; layers],
    };
    let slides = architecture == GEMMA3 || json.use_sliding_window == Some(true);
    let Some(types) = &json.layer_types else {
        // Qwen's null means that no layer has a window, whatever use_sliding_window says.
        return Ok(unlisted.into_iter().map(|slides| window.filter(|_| slides)).collect());
    };
    if types.len() != layers {
        return Err(bad(format!("layer_types has {} entries for {layers} layers", types.len())));
    }
    let of = |layer_type: &String| match &**layer_type {
        "full_attention" => Ok(None),
        "sliding_attention" if slides && window.is_none() => {
            Err(bad("layer_types has `sliding_attention`, but sliding_window is null".into()))
        }
        "sliding_attention" if slides => Ok(window),
        other => {
            Err(unsupported(format!("layer_types has `{other}`, which dunlin does not do in {architecture} here")))
        }
    };
    types.iter().map(of).collect()
}

/// Whether a value is an object with objects in it.
fn objects(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.values().any(Value::is_object))
}

/// The description of a file's rope. `base` is the value of `rope_theta` outside the rope's own object, whose own value
/// goes first.
fn describe_rope(rope: Option<Rope>, base: Option<f64>, default_base: f64, file: &Path) -> Result<RopeDescription> {
    let base = rope.as_ref().and_then(|rope| rope.rope_theta).or(base).unwrap_or(default_base);
    if !(base > 0.0 && base.is_finite()) {
        return Err(Error::checkpoint(format!("{}: rope_theta is {base}, expected a number above 0", file.display())));
    }
    if rope.as_ref().is_some_and(|rope| rope.partial_rotary_factor.is_some_and(|factor| factor != 1.0)) {
        return Err(Error::unsupported(format!(
            "{}: partial_rotary_factor is not 1; dunlin rotates whole heads only",
            file.display()
        )));
    }
    let scaling = rope.map_or(Ok(Scaling::None), |rope| scaling(rope, file))?;
    Ok(RopeDescription { interleaved: false, base, scaling, rotated: None, beyond: Beyond::default() })
}

fn scaling(rope: Rope, file: &Path) -> Result<Scaling> {
    let number = |key: &str, value: Option<f64>| match value {
        Some(value) if value > 0.0 && value.is_finite() => Ok(value),
        Some(value) => Err(Error::checkpoint(format!(
            "{}: {key} of rope_scaling is {value}, expected a number above 0",
            file.display()
        ))),
        None => Err(Error::checkpoint(format!("{}: rope_scaling lacks {key}", file.display()))),
    };
    match rope.rope_type.or(rope.r#type).as_deref() {
        None | Some("default") => Ok(Scaling::None),
        // Dynamic scaling has no effect up to the context that the model was made for; a longer context is refused.
        Some("dynamic") => Ok(Scaling::Dynamic),
        Some("linear") => Ok(Scaling::Linear { factor: number("factor", rope.factor)? }),
        Some("llama3") => {
            let low = number("low_freq_factor", rope.low_freq_factor)?;
            let high = number("high_freq_factor", rope.high_freq_factor)?;
            if low >= high {
                return Err(Error::checkpoint(format!(
                    "{}: low_freq_factor {low} of rope_scaling is not below high_freq_factor {high}",
                    file.display(),
                )));
            }
            let context = number("original_max_position_embeddings", rope.original_max_position_embeddings)?;
            Ok(Scaling::Llama3 { factor: number("factor", rope.factor)?, low, high, context })
        }
        Some(other) => Err(Error::unsupported(format!(
            "{}: rope scaling `{other}` is not supported; dunlin does default, linear, llama3, and dynamic within the \
             original context",
            file.display(),
        ))),
    }
}

fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        _ => true,
    }
}
