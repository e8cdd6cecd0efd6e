//! `config.json` of a Qwen model, with the end ids of `generation_config.json` → [`Description`].

use std::path::Path;

use serde::Deserialize;

use super::beyond::{Beyond, Ntk};
use super::config::{Description, MOST_CONTEXT, MOST_LAYERS, QWEN, QkNorm, RopeDescription, Scaling, is_epsilon};
use super::json::{Ids, parse};
use crate::error::{Error, Result};

/// The keys that are read, with the defaults of the published class.
#[derive(Deserialize)]
struct Json {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    kv_channels: Option<usize>,
    layer_norm_epsilon: Option<f64>,
    no_bias: Option<bool>,
    rotary_emb_base: Option<f64>,
    rotary_pct: Option<f64>,
    /// Number of tokens that the model was trained with.
    seq_length: Option<usize>,
    max_position_embeddings: Option<usize>,
    use_dynamic_ntk: Option<bool>,
    use_logn_attn: Option<bool>,
    tie_word_embeddings: Option<bool>,
}

#[derive(Deserialize)]
struct GenerationJson {
    eos_token_id: Option<Ids>,
}

/// Reads the description of a folder. `generation` is the content of `generation_config.json`, where it exists.
pub fn read(file: &Path, config: &[u8], generation: Option<(&Path, &[u8])>) -> Result<Description> {
    let bad = |what: String| Error::checkpoint(format!("{}: {what}", file.display()));
    let json: Json = parse(file, config)?;
    let generation = generation.map(|(file, content)| parse::<GenerationJson>(file, content)).transpose()?;

    let (layers, heads, hidden) = (json.num_hidden_layers, json.num_attention_heads, json.hidden_size);
    for (key, found, most) in [
        ("hidden_size", hidden, usize::MAX),
        ("num_attention_heads", heads, usize::MAX),
        ("num_hidden_layers", layers, MOST_LAYERS),
    ] {
        if !(1..=most).contains(&found) {
            return Err(bad(match most {
                usize::MAX => format!("{key} is {found}, expected at least 1"),
                _ => format!("{key} is {found}, expected a number from 1 to {most}"),
            }));
        }
    }
    let head_dim = json.kv_channels.unwrap_or(128);
    if head_dim.checked_mul(heads) != Some(hidden) {
        return Err(bad(format!(
            "kv_channels is {head_dim} and there are {heads} heads, expected hidden_size, {hidden}, as their product"
        )));
    }
    if json.no_bias == Some(false) {
        let what = "no_bias is false; dunlin runs Qwen models with biases on q, k and v only";
        return Err(Error::unsupported(format!("{}: {what}", file.display())));
    }
    let norm_eps = json.layer_norm_epsilon.unwrap_or(1e-6);
    if !is_epsilon(norm_eps) {
        return Err(bad(format!("layer_norm_epsilon is {norm_eps:?}, expected a number of at least 0, such as 1e-6")));
    }
    let base = json.rotary_emb_base.unwrap_or(10_000.0);
    if !(base > 0.0 && base.is_finite()) {
        return Err(bad(format!("rotary_emb_base is {base}, expected a number above 0")));
    }
    let part = json.rotary_pct.unwrap_or(1.0);
    let rotated = if part == 1.0 { head_dim } else { (head_dim as f64 * part) as usize };
    if rotated < 2 || rotated > head_dim || !rotated.is_multiple_of(2) {
        return Err(bad(format!(
            "rotary_pct is {part}, which turns {rotated} elements of a head of {head_dim}, expected an even number from 2 \
             to {head_dim}"
        )));
    }
    let what = "seq_length is missing: the number of tokens that the model was trained with, such as 2048";
    let trained = json.seq_length.ok_or_else(|| bad(what.into()))?;
    let context = json.max_position_embeddings.unwrap_or(8192);
    for (key, found, least) in [("seq_length", trained, 2), ("max_position_embeddings", context, 1)] {
        if !(least..=MOST_CONTEXT).contains(&found) {
            return Err(bad(format!("{key} is {found}, expected a number from {least} to {MOST_CONTEXT}")));
        }
    }
    // With R = 2 the exponent R / (R − 2) is undefined, and the only angle does not depend on the base.
    let ntk = json.use_dynamic_ntk.unwrap_or(true) && rotated > 2;
    let beyond =
        Beyond { trained, ntk: ntk.then_some(Ntk { base, rotated }), logn: json.use_logn_attn.unwrap_or(true) };
    Ok(Description {
        architecture: QWEN.into(),
        hidden,
        layers,
        heads: vec![heads; layers],
        head_dim: Some(head_dim),
        head_dim_key: Some("kv_channels of config.json"),
        norm_eps: norm_eps as f32,
        rope: RopeDescription {
            interleaved: false,
            base,
            scaling: Scaling::None,
            rotated: (rotated < head_dim).then_some(rotated),
            beyond,
        },
        rope_layers: vec![true; layers],
        local_rope: None,
        windows: vec![None; layers],
        qk_norm: QkNorm::None,
        attention_scale: None,
        embedding_scale: 1.0,
        gains_less_1: false,
        qkv_bias: true,
        layer_sharing: false,
        tied: json.tie_word_embeddings.unwrap_or(false),
        context,
        bos: None,
        eos: generation.and_then(|generation| generation.eos_token_id).map_or_else(Vec::new, Ids::list),
    })
}
