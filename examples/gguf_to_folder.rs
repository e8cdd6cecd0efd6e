//! A GGUF file as a Hugging Face folder of f16: `cargo run --release --example gguf_to_folder -- MODEL.gguf FOLDER`
//!
//! For tools that read folders of floats, such as `dunlin prune`. Blocks are decoded and rounded to f16. The tokenizer
//! becomes a byte-level BPE in `tokenizer.json`; other kinds of vocabulary are refused.

use std::error::Error;
use std::fs;
use std::path::Path;

use dunlin::checkpoint::Checkpoint;
use dunlin::checkpoint::text::{TextFiles, Vocabulary};
use dunlin::tensor::DType;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, folder] = &arguments[..] else { return Err("usage: gguf_to_folder MODEL.gguf FOLDER".into()) };
    let (checkpoint, folder) = (Checkpoint::open(model)?, Path::new(folder));
    let text = TextFiles::of(&checkpoint)?.ok_or("the file has no vocabulary")?;
    fs::create_dir(folder)?;
    let pretty = |value: &Value| serde_json::to_string_pretty(value);
    fs::write(folder.join("config.json"), pretty(&config(&checkpoint))?)?;
    fs::write(folder.join("tokenizer.json"), pretty(&tokenizer(&text)?)?)?;
    fs::write(folder.join("tokenizer_config.json"), pretty(&tokenizer_config(&text))?)?;
    weights(&checkpoint, &folder.join("model.safetensors"))
}

fn config(checkpoint: &Checkpoint) -> Value {
    let c = &checkpoint.config;
    // θ_1 = base^(−2 / D). Files with scaled frequencies have no single base.
    let base = f64::from(c.rope.inv_freq[1]).powf(-0.5 * c.head_dim as f64).round();
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": c.hidden,
        "intermediate_size": c.ffn[0],
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads[0],
        "num_key_value_heads": c.kv_heads[0],
        "head_dim": c.head_dim,
        "vocab_size": c.vocab,
        "max_position_embeddings": c.context,
        "rms_norm_eps": c.norm_eps,
        "rope_theta": base,
        "tie_word_embeddings": c.tied,
        "attention_bias": false,
        "mlp_bias": false,
        "bos_token_id": c.bos,
        "eos_token_id": c.eos,
        "torch_dtype": "float16",
    })
}

fn tokenizer(text: &TextFiles) -> Result<Value, Box<dyn Error>> {
    let Vocabulary::ByteLevel { pre, tokens, merges } = &text.vocabulary else {
        return Err("only byte-level BPE is converted".into());
    };
    if pre != "smollm" {
        return Err(format!("the pre-tokenizer `{pre}` is not converted, only SmolLM's").into());
    }
    let vocab: serde_json::Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect();
    let added = text.added.iter().map(|token| {
        json!({
            "id": token.id, "content": token.text, "special": token.special, "single_word": false,
            "lstrip": token.lstrip, "rstrip": token.rstrip, "normalized": false,
        })
    });
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    Ok(json!({
        "version": "1.0",
        "added_tokens": added.collect::<Vec<_>>(),
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": true}, byte_level],
        },
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }))
}

fn tokenizer_config(text: &TextFiles) -> Value {
    let mut config =
        json!({"tokenizer_class": "GPT2Tokenizer", "add_bos_token": text.add_bos, "add_eos_token": text.add_eos});
    for (key, token) in &text.special {
        config[key] = token.as_str().into();
    }
    if let Some((_, template)) = text.templates.iter().find(|(name, _)| name == "default") {
        config["chat_template"] = template.as_str().into();
    }
    config
}

/// Every tensor under its Hugging Face name; matrices and vectors in f16.
fn weights(checkpoint: &Checkpoint, file: &Path) -> Result<(), Box<dyn Error>> {
    let mut tensors = Vec::new();
    for info in checkpoint.tensors() {
        let values = checkpoint.take(info.name, info.shape)?.to_f32();
        let mut bytes = vec![0; DType::F16.row_bytes(values.len())];
        dunlin::formats::quantize_row(DType::F16, &values, &mut bytes);
        tensors.push((info.name, info.shape.to_vec(), bytes));
    }
    let views =
        tensors.iter().map(|(name, shape, bytes)| Ok((*name, TensorView::new(Dtype::F16, shape.clone(), bytes)?)));
    let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    let metadata = std::collections::HashMap::from([("format".to_string(), "pt".to_string())]);
    Ok(safetensors::serialize_to_file(views, Some(metadata), file)?)
}
