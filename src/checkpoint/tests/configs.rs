//! `config.json` as each model family writes it, and the configurations that are refused.

use std::path::Path;

use serde_json::{Value as Json, json};

use super::*;

/// The description of a golden case's `config.json` after `edit`.
fn describe(case: &str, edit: impl FnOnce(&mut Json)) -> Result<config::Description> {
    let mut json: Json = serde_json::from_slice(&std::fs::read(golden(case).join("config.json")).unwrap()).unwrap();
    edit(&mut json);
    config_json::read(Path::new("case/config.json"), &serde_json::to_vec(&json).unwrap(), None)
}

/// The configuration of a golden case after `edit`.
fn config(case: &str, edit: impl FnOnce(&mut Json)) -> Result<Config> {
    let (_, tensors) = folder::read(&golden(case).into())?;
    describe(case, edit)?.resolve(Path::new(case), &canonical(Path::new(case), tensors)?)
}

/// The error for the GGUF file of a golden case after the 4-byte metadata values in `changed` are replaced.
fn gguf(changed: &[(&str, [u8; 4])]) -> String {
    let mut file = gguf_writer::from_folder(&golden("mobilellm_gqa"), |_, kind, bytes| (kind, bytes.to_vec())).finish();
    for (key, value) in changed {
        let key_at = file.windows(key.len()).position(|bytes| bytes == key.as_bytes()).expect(key);
        // The key is followed by its type, which has 4 bytes too.
        let at = key_at + key.len() + 4;
        file[at..at + 4].copy_from_slice(value);
    }
    Checkpoint::from_gguf(Path::new("case.gguf"), Bytes::new(file)).expect_err("a wrong value").to_string()
}

#[test]
fn refused() {
    let cases: [(&str, &str, Json, &[&str]); 30] = [
        ("mobilellm_gqa", "model_type", json!("mamba"), &["`mamba`", "mobilellm, llama, llama4_text"]),
        ("mobilellm_gqa", "hidden_act", json!("gelu"), &["`gelu`", "silu"]),
        ("mobilellm_gqa", "attention_bias", json!(true), &["attention_bias"]),
        ("mobilellm_gqa", "mlp_bias", json!(true), &["mlp_bias"]),
        ("mobilellm_gqa", "rope_scaling", json!({"rope_type": "yarn", "factor": 2.0}), &["`yarn`", "linear"]),
        ("mobilellm_gqa", "rope_scaling", json!({"type": "linear"}), &["factor"]),
        ("mobilellm_gqa", "rope_theta", json!(-1.0), &["rope_theta", "-1"]),
        ("mobilellm_gqa", "hidden_size", json!("wide"), &["string \"wide\""]),
        ("mobilellm_gqa", "eos_token_id", json!(-1), &["eos_token_id"]),
        ("mobilellm_gqa", "num_attention_heads", json!("9"), &["num_attention_heads"]),
        ("mobilellm_gqa", "num_hidden_layers", json!(u64::MAX), &["num_hidden_layers"]),
        ("mobilellm_pruned", "num_attention_heads", json!([1, 2]), &["num_attention_heads", "2", "4 layers"]),
        ("mobilellm_r1", "num_local_experts", json!(16), &["experts"]),
        ("mobilellm_r1", "moe_layers", json!([1]), &["experts"]),
        ("mobilellm_r1", "no_rope_layers", json!([1, 1]), &["no_rope_layers"]),
        ("mobilellm_gqa", "hidden_size", json!(145), &["embed_tokens", "144", "145"]),
        ("llama3", "rope_scaling", json!({"rope_type": "longrope", "factor": 2.0}), &["`longrope`", "llama3"]),
        ("llama3", "partial_rotary_factor", json!(0.5), &["partial_rotary_factor"]),
        ("llama3", "layer_types", json!(vec!["sliding_attention"; 3]), &["`sliding_attention`", "llama"]),
        ("qwen2", "layer_types", json!(["full_attention"]), &["layer_types", "1", "3 layers"]),
        ("qwen2", "layer_types", json!(vec!["linear_attention"; 3]), &["`linear_attention`"]),
        ("qwen3", "attention_bias", json!(true), &["attention_bias"]),
        ("qwen3", "rope_parameters", json!({"rope_type": "yarn", "factor": 4.0}), &["`yarn`"]),
        ("qwen3", "sliding_window", json!(0), &["sliding_window"]),
        ("smollm3", "use_sliding_window", json!(true), &["use_sliding_window", "smollm3"]),
        ("smollm3", "no_rope_layers", json!([1]), &["no_rope_layers", "4 layers"]),
        ("gemma3", "hidden_activation", json!("gelu"), &["`gelu`", "gelu_pytorch_tanh"]),
        ("gemma3", "final_logit_softcapping", json!(30.0), &["final_logit_softcapping"]),
        ("gemma3", "use_bidirectional_attention", json!(true), &["use_bidirectional_attention"]),
        ("gemma3", "query_pre_attn_scalar", json!(0), &["query_pre_attn_scalar", "0"]),
    ];
    for (case, key, value, words) in cases {
        let error = config(case, |json| json[key] = value.clone()).expect_err(key).to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{key} = {value}: `{error}` does not say {words:?}");
    }
    let tuned = |json: &mut Json| {
        json["attn_temperature_tuning"] = json!(true);
        json["no_rope_layers"] = json!([1, 1, 0]);
    };
    assert!(config("mobilellm_r1", tuned).unwrap_err().to_string().contains("attn_temperature_tuning"));
}

#[test]
fn defaults_and_variants() {
    let remove = |keys: &'static [&str]| {
        move |json: &mut Json| keys.iter().for_each(|&key| drop(json.as_object_mut().unwrap().remove(key)))
    };
    let plain = config("mobilellm_gqa", |_| {}).unwrap();
    // MobileLLM shares the embedding unless the key is false; this file has no other head anyway.
    assert_eq!(config("mobilellm_gqa", remove(&["share_embedding"])).unwrap(), plain);
    let bare = config(
        "mobilellm_gqa",
        remove(&["head_dim", "rope_theta", "rope_scaling", "layer_sharing", "intermediate_size"]),
    );
    assert_eq!(bare.unwrap(), plain);
    assert_eq!(config("mobilellm_gqa", remove(&["rms_norm_eps"])).unwrap().norm_eps, 1e-6);
    // Shapes override widths in the file.
    let wrong = |json: &mut Json| (json["intermediate_size"], json["num_key_value_heads"]) = (json!(7), json!(1));
    assert_eq!(config("mobilellm_gqa", wrong).unwrap(), plain);
    // The same code with Llama's model type.
    assert_eq!(config("mobilellm_gqa", |json| json["model_type"] = json!("llama")).unwrap(), plain);
    assert_eq!(config("efficientllm", remove(&["hidden_size_in"])).unwrap().head_dim, 16);
    assert!(!config("llama_untied_sharded", |_| {}).unwrap().tied);
    assert!(config("llama_untied_sharded", |json| json["tie_word_embeddings"] = json!(true)).unwrap().tied);
    let many = config("mobilellm_gqa", |json| json["eos_token_id"] = json!([2, 5])).unwrap();
    assert_eq!(many.eos, [2, 5]);
    let no_list = config("mobilellm_r1", |json| {
        (json["no_rope_layers"], json["attn_temperature_tuning"]) = (Json::Null, json!(false));
    });
    assert_eq!(no_list.unwrap().rope_layers, [true; 3]);
}

/// Keys that files of the newer families omit, and keys that exist in two forms.
#[test]
fn layers_that_differ() {
    let without = |case: &str, keys: &'static [&str]| {
        let config = config(case, |json| keys.iter().for_each(|&key| drop(json.as_object_mut().unwrap().remove(key))));
        config.unwrap()
    };
    let gemma = config("gemma3", |_| {}).unwrap();
    let local = Some(12);
    assert_eq!(gemma.windows, [local, local, local, local, local, None, local]);
    assert_eq!((gemma.embedding_scale, gemma.attention_scale), (80f32.sqrt(), 32f32.powf(-0.5)));
    assert_eq!(
        (gemma.rope.inv_freq[1], gemma.rope.local.as_ref().unwrap()[1]),
        (1e6f32.powf(-1.0 / 16.0), 1e4f32.powf(-1.0 / 16.0))
    );
    // The pattern given by its number, and θ in the form of older files.
    assert_eq!(without("gemma3", &["layer_types", "rope_parameters"]), gemma);
    let every = config("gemma3", |json| {
        json.as_object_mut().unwrap().remove("layer_types");
        json["sliding_window_pattern"] = json!(2);
    });
    assert_eq!(every.unwrap().windows, [local, None, local, None, local, None, local]);
    let older = config("gemma3_wide_heads", |_| {}).unwrap();
    assert_eq!((older.windows, older.attention_scale), (vec![Some(20), None], 168f32.powf(-0.5)));
    // Scaling applies to the frequencies of the layers without a window.
    let (all, local) = (older.rope.inv_freq, older.rope.local.unwrap());
    assert_eq!((all[0], local[0]), (0.125, 1.0));

    let smollm3 = config("smollm3", |_| {}).unwrap();
    assert_eq!(smollm3.rope_layers, [true, true, true, false]);
    assert_eq!(without("smollm3", &["no_rope_layers", "tie_word_embeddings"]), smollm3);
    let second = config("smollm3", |json| {
        (json["no_rope_layers"], json["no_rope_layer_interval"]) = (Json::Null, json!(2));
    });
    assert_eq!(second.unwrap().rope_layers, [true, false, true, false]);

    let qwen = config("qwen2", |_| {}).unwrap();
    assert!(qwen.qkv_bias && qwen.windows == [None; 3], "{qwen:?}");
    // Its files contain a window that is not in use; where it is in use, only later layers have it.
    let slides = |json: &mut Json| {
        (json["use_sliding_window"], json["sliding_window"], json["max_window_layers"]) =
            (json!(true), json!(9), json!(2));
        json.as_object_mut().unwrap().remove("layer_types");
    };
    assert_eq!(config("qwen2", slides).unwrap().windows, [None, None, Some(9)]);
    // Null is no window; the missing key is 4096.
    let nothing = |json: &mut Json| {
        slides(json);
        json["sliding_window"] = Json::Null;
    };
    assert_eq!(config("qwen2", nothing).unwrap().windows, [None; 3]);
    let missing = |json: &mut Json| {
        slides(json);
        json.as_object_mut().unwrap().remove("sliding_window");
    };
    assert_eq!(config("qwen2", missing).unwrap().windows, [None, None, Some(4096)]);
    let listed = |json: &mut Json| {
        nothing(json);
        json["layer_types"] = json!(["full_attention", "full_attention", "sliding_attention"]);
    };
    let error = config("qwen2", listed).unwrap_err().to_string();
    assert!(error.contains("sliding_window is null"), "{error}");
    let error = config("gemma3", |json| json["sliding_window"] = Json::Null).unwrap_err().to_string();
    assert!(error.contains("sliding_window is null"), "{error}");
    for tied in [false, true] {
        let tie = |json: &mut Json| json["tie_word_embeddings"] = json!(tied);
        assert_eq!((describe("smollm3", tie).unwrap().tied, describe("qwen2", tie).unwrap().tied), (tied, tied));
    }
    let qwen3 = config("qwen3", |_| {}).unwrap();
    assert_eq!((qwen3.qk_norm, qwen3.head_dim, qwen3.hidden), (QkNorm::Weighted, 32, 96));
}

/// Numbers that would run but give only NaN, or an endless table.
#[test]
fn numbers_out_of_range_are_named() {
    let cases = [
        ("rms_norm_eps", json!(-1e-5), "-1e-5"),
        ("rms_norm_eps", json!(1e39), "1e39"),
        ("rope_theta", json!(0), "0"),
        ("max_position_embeddings", json!(0), "0"),
        ("max_position_embeddings", json!(-1), "-1"),
        ("max_position_embeddings", json!((1u64 << 31) + 1), "2147483649"),
    ];
    for (key, value, said) in cases {
        let error = config("mobilellm_gqa", |json| json[key] = value).expect_err(key).to_string();
        assert!(error.contains(&format!("case/config.json: {key} is {said}, expected")), "{error}");
    }
    assert_eq!(config("mobilellm_gqa", |json| json["rms_norm_eps"] = json!(0)).unwrap().norm_eps, 0.0);
    assert_eq!(config("mobilellm_gqa", |json| json["max_position_embeddings"] = json!(1)).unwrap().context, 1);

    let cases = [
        ("llama.attention.layer_norm_rms_epsilon", f32::NAN.to_le_bytes(), "NaN"),
        ("llama.attention.layer_norm_rms_epsilon", (-1f32).to_le_bytes(), "-1.0"),
        ("llama.rope.freq_base", f32::INFINITY.to_le_bytes(), "inf"),
        ("llama.context_length", 0u32.to_le_bytes(), "0"),
        ("llama.context_length", u32::MAX.to_le_bytes(), "4294967295"),
    ];
    for (key, value, said) in cases {
        let error = gguf(&[(key, value)]);
        assert!(error.contains(&format!("case.gguf: metadata `{key}` is {said}, expected")), "{error}");
    }
}

/// A head size that contradicts both the number of heads and the tensors is refused.
#[test]
fn a_wrong_head_dim_is_refused() {
    let q = "`model.layers.0.self_attn.q_proj.weight` has 144";
    for (head_dim, rows) in [(8, "72 rows"), (48, "432 rows")] {
        let error = config("mobilellm_gqa", |json| json["head_dim"] = json!(head_dim)).unwrap_err().to_string();
        let words = [&format!("head_dim of config.json is {head_dim}"), "9 heads", rows, q, "should be 16"];
        assert!(words.iter().all(|word| error.contains(word)), "`{error}` does not say {words:?}");
    }
    let huge = config("mobilellm_gqa", |json| json["head_dim"] = json!(1u64 << 62)).unwrap_err().to_string();
    assert!(huge.contains("should be 16"), "{huge}");
    let keys = ["llama.rope.dimension_count", "llama.attention.value_length", "llama.attention.key_length"];
    let error = gguf(&keys.map(|key| (key, 8u32.to_le_bytes())));
    assert!(error.contains("case.gguf: attention.key_length") && error.contains("should be 16"), "{error}");

    // The number of heads from before pruning: one layer kept all of its heads, and the head size is right.
    let pruned = config("mobilellm_pruned", |_| {}).unwrap();
    assert_eq!(config("mobilellm_pruned", |json| json["num_attention_heads"] = json!(8)).unwrap(), pruned);
    assert!(config("mobilellm_pruned", |json| json["head_dim"] = json!(8)).is_err());
}

#[test]
fn generation_config_has_the_end_ids() {
    let content = std::fs::read(golden("mobilellm_gqa").join("config.json")).unwrap();
    let generation = br#"{"eos_token_id": [2, 7], "bos_token_id": 9}"#;
    let path = Path::new("generation_config.json");
    let description = config_json::read(Path::new("config.json"), &content, Some((path, generation))).unwrap();
    assert_eq!((description.bos, &description.eos[..]), (Some(1), &[2, 7][..]));
}

#[test]
fn rope_scaling() {
    let theta = |i: usize, base: f64| base.powf(-2.0 * i as f64 / 16.0);
    let inv_freq = |scaling: Json| {
        let config = config("mobilellm_gqa", |json| json["rope_scaling"] = scaling).unwrap();
        config.rope.inv_freq
    };
    for (i, value) in inv_freq(Json::Null).into_iter().enumerate() {
        assert_eq!(value, theta(i, 1e4) as f32);
    }
    let dynamic = config("mobilellm_gqa", |json| json["rope_scaling"] = json!({"type": "dynamic", "factor": 4.0}));
    assert_eq!(dynamic.unwrap().rope.most_positions, Some(2048));
    assert_eq!(config("mobilellm_gqa", |_| {}).unwrap().rope.most_positions, None);
    assert_eq!(inv_freq(json!({"type": "dynamic", "rope_type": "dynamic", "factor": 4.0})), inv_freq(Json::Null));
    for (i, value) in inv_freq(json!({"rope_type": "linear", "factor": 4.0})).into_iter().enumerate() {
        assert_eq!(value, (theta(i, 1e4) / 4.0) as f32);
    }
    // By wavelength: below 64 / 4 kept, above 64 / 1 divided, mixed in between.
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64});
    for (i, value) in inv_freq(llama3.clone()).into_iter().enumerate() {
        let theta = theta(i, 1e4);
        let length = std::f64::consts::TAU / theta;
        let expected = if length < 16.0 {
            theta
        } else if length > 64.0 {
            theta / 8.0
        } else {
            let mix = (64.0 / length - 1.0) / 3.0;
            (1.0 - mix) * theta / 8.0 + mix * theta
        };
        assert!((value as f64 / expected - 1.0).abs() < 1e-6, "{i}: {value}, expected {expected}");
    }
    // The newer key also contains the base.
    let newer = config("mobilellm_gqa", |json| {
        json.as_object_mut().unwrap().remove("rope_theta");
        json["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 500_000.0});
    });
    assert_eq!(newer.unwrap().rope.inv_freq[3], theta(3, 5e5) as f32);
    // Its base goes before the one outside, and `rope_scaling` before the whole key, as in transformers 5.
    let newer = |scaling: Option<Json>| {
        let config = config("mobilellm_gqa", |json| {
            json["rope_parameters"] = json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 500_000.0});
            json["rope_theta"] = json!(7e3);
            json["rope_scaling"] = scaling.into();
        });
        config.unwrap().rope.inv_freq[3]
    };
    assert_eq!(newer(None), (theta(3, 5e5) / 2.0) as f32);
    assert_eq!(newer(Some(json!({"rope_type": "linear", "factor": 4.0}))), (theta(3, 7e3) / 4.0) as f32);
    let mut parameters = llama3.clone();
    parameters["rope_theta"] = json!(1e4);
    let newer = config("mobilellm_gqa", |json| {
        json["rope_parameters"] = parameters;
        json["rope_scaling"] = Json::Null;
    });
    assert_eq!(newer.unwrap().rope.inv_freq, inv_freq(llama3));

    // One rope for all layers, or one for each type of layer, but no mixture and no typo.
    let rope = json!({"rope_type": "default", "rope_theta": 1e4});
    let wrong = [
        ("gemma3", json!({"full_attention": rope})),
        ("gemma3", json!({"full_attention": rope, "sliding_atention": rope})),
        ("gemma3", json!({"full_attention": rope, "sliding_attention": {"rope_theta": "ten"}})),
        ("mobilellm_gqa", json!({"rope_theta": 1e4, "default": {}})),
    ];
    for (case, parameters) in wrong {
        let error = config(case, |json| json["rope_parameters"] = parameters.clone()).unwrap_err().to_string();
        assert!(error.contains("rope_parameters"), "{parameters}: {error}");
    }
}

/// Folders whose index or files are wrong.
#[test]
fn broken_folders() {
    let scratch = std::env::temp_dir().join(format!("dunlin-broken-folders-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).unwrap();
    let complains = |words: &[&str]| {
        let error = Checkpoint::open(&scratch).expect_err("a broken folder").to_string();
        assert!(words.iter().all(|word| error.contains(word)), "`{error}` does not say {words:?}");
    };
    complains(&["config.json"]);
    std::fs::copy(golden("llama_untied_sharded").join("config.json"), scratch.join("config.json")).unwrap();
    complains(&["no weights", "model.safetensors", "pytorch_model.bin"]);
    let index = scratch.join("model.safetensors.index.json");
    let shard = "model-00001-of-00004.safetensors";
    std::fs::write(&index, json!({"weight_map": {"a": shard}}).to_string()).unwrap();
    complains(&["index.json", shard, "missing"]);
    std::fs::copy(golden("llama_untied_sharded").join(shard), scratch.join(shard)).unwrap();
    complains(&["index.json", "`a`", shard]);
    std::fs::write(&index, json!({"weight_map": {"a": "../elsewhere.safetensors"}}).to_string()).unwrap();
    complains(&["../elsewhere.safetensors", "beside it"]);
    std::fs::write(&index, "{").unwrap();
    complains(&["index.json"]);
    std::fs::write(scratch.join("model.safetensors"), "").unwrap();
    complains(&["model.safetensors", "truncated"]);
    std::fs::remove_dir_all(&scratch).unwrap();

    let error = Checkpoint::open(&scratch).unwrap_err().to_string();
    assert!(error.contains("does not exist") && error.contains(".gguf"), "{error}");
    if cfg!(unix) {
        let error = Checkpoint::open(Path::new("/dev/null")).unwrap_err().to_string();
        assert!(error.contains("/dev/null is neither a folder nor a file; give"), "{error}");
    }
}
