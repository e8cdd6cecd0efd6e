//! Qwen folders: adjacent heads, matrices of three thirds, layouts on disk, and refusals.

use serde_json::{Value as Json, json};

use super::pickles::{Pickle, archive};
use super::*;

/// The tensors of a golden folder by their names in its files.
fn stored(case: &str) -> BTreeMap<String, Stored> {
    folder::read(&golden(case).into()).expect(case).1.into_iter().collect()
}

fn values(stored: &Stored) -> Vec<f32> {
    stored.load("a tensor", None).expect("floats").to_f32()
}

/// A golden folder in memory with its configuration after `edit`, and `weights` in place of its own.
fn folder_of(case: &str, edit: impl FnOnce(&mut Json), weights: Vec<(String, Vec<u8>)>) -> Result<Checkpoint> {
    let read = |name: &str| std::fs::read(golden(case).join(name)).expect(name);
    let mut json: Json = serde_json::from_slice(&read("config.json")).expect("JSON");
    edit(&mut json);
    let mut files = vec![
        ("config.json".to_string(), json.to_string().into_bytes()),
        ("generation_config.json".to_string(), read("generation_config.json")),
    ];
    if json["with_tokenizer"] != json!(false) {
        files.push(("qwen.tiktoken".into(), read("qwen.tiktoken")));
    }
    files.extend(weights);
    Checkpoint::open(Files::memory(files))
}

/// The weights of qwenvl_a as a safetensors file of f32, after `edit` of their names.
fn weights(edit: impl Fn(&str) -> Vec<String>) -> Vec<(String, Vec<u8>)> {
    let tensors = stored("qwenvl_a");
    let named = tensors.iter().flat_map(|(name, stored)| edit(name).into_iter().map(move |name| (name, stored)));
    let views = named.map(|(name, stored)| {
        let view =
            ::safetensors::tensor::TensorView::new(::safetensors::Dtype::F32, stored.shape.clone(), &stored.bytes);
        (name, view.expect("a tensor"))
    });
    vec![("model.safetensors".into(), ::safetensors::serialize(views, None).expect("a file"))]
}

fn keep(name: &str) -> Vec<String> {
    vec![name.into()]
}

#[test]
fn golden_qwen_folders() {
    for (case, hidden, ffn, trained, dtype) in
        [("qwenvl_a", 128, 72, 320, DType::F32), ("qwenvl_b", 256, 68, 2048, DType::BF16)]
    {
        let checkpoint = open(case);
        let config = &checkpoint.config;
        // Of the 624 rows, only those that have a text count.
        assert_eq!((config.vocab, config.hidden, config.ffn[0], config.context), (612, hidden, ffn, 8192), "{case}");
        assert_eq!((config.head_dim, config.norm_eps, config.qkv_bias), (hidden / 4, 1e-6, true), "{case}");
        assert_eq!(config.eos, [395, 396, 397], "{case}");
        let beyond = &config.rope.beyond;
        assert_eq!((beyond.trained, beyond.ntk.is_some(), beyond.logn), (trained, true, true), "{case}");
        let vision = config.vision.as_ref().expect(case);
        assert_eq!(
            (vision.tokens(), vision.ffn, vision.fills_square()),
            (256, [236, 196][usize::from(case == "qwenvl_b")], true)
        );
        let embedding = checkpoint.take("model.embed_tokens.weight", &[612, hidden]).expect(case);
        assert_eq!(embedding.dtype, dtype, "{case}");
    }
}

/// q, k and v are thirds of the decoder's matrix and adjacent heads of the tower's; 16-bit rows stay in place.
#[test]
fn fused_projections_are_taken_apart() {
    for case in ["qwenvl_a", "qwenvl_b"] {
        let (checkpoint, raw) = (open(case), stored(case));
        let (h, vision) = (checkpoint.config.hidden, checkpoint.config.vision.clone().expect(case));
        let (w, heads) = (vision.width, vision.heads);
        let d = w / heads;
        for block in 0..vision.blocks {
            let name = format!("transformer.visual.transformer.resblocks.{block}.attn.in_proj");
            let (weight, bias) = (values(&raw[&format!("{name}.weight")]), values(&raw[&format!("{name}.bias")]));
            for (s, part) in ["q", "k", "v"].into_iter().enumerate() {
                let name = format!("visual.blocks.{block}.self_attn.{part}_proj");
                let tensor = checkpoint.take(&format!("{name}.weight"), &[w, w]).expect(case);
                assert_eq!(tensor.order, RowOrder::Strided { each: d, step: 3 * d }, "{case}: copied");
                let biases = checkpoint.take(&format!("{name}.bias"), &[w]).expect(case).to_f32();
                let mut row = vec![0.0; w];
                for head in 0..heads {
                    for i in 0..d {
                        let at = (head * 3 + s) * d + i;
                        tensor.read_row(head * d + i, &mut row);
                        assert_eq!(row, weight[at * w..(at + 1) * w], "{case}: {name}, head {head}, row {i}");
                        assert_eq!(biases[head * d + i], bias[at], "{case}: {name}, head {head}, bias {i}");
                    }
                }
                // Tensors that are converted while loading have their rows in order.
                let mut converted = open(case);
                converted.convert(DType::F16).expect("f16");
                let converted = converted.take(&format!("{name}.weight"), &[w, w]).expect(case);
                let apart =
                    converted.to_f32().iter().zip(tensor.to_f32()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(apart < 1e-3, "{case}: {name} is off by {apart}");
            }
        }
        for (from, to) in [
            ("transformer.h.0.attn.c_attn.weight", "model.layers.0.self_attn.{}_proj.weight"),
            ("transformer.visual.attn_pool.attn.in_proj_weight", "visual.resampler.{}_proj.weight"),
        ] {
            let all = values(&raw[from]);
            for (s, part) in ["q", "k", "v"].into_iter().enumerate() {
                let found = checkpoint.take(&to.replace("{}", part), &[h, h]).expect(case).to_f32();
                assert_eq!(found, all[s * h * h..(s + 1) * h * h], "{case}: {from}, {part}");
            }
        }
        // The activation is applied to w2; proj is stored untransposed, so its columns are rows here.
        let (gate, w2) = ("model.layers.0.mlp.gate_proj.weight", "transformer.h.0.mlp.w2.weight");
        assert_eq!(checkpoint.take(gate, &raw[w2].shape).expect(case).to_f32(), values(&raw[w2]), "{case}");
        let proj = checkpoint.take("visual.proj.weight", &[h, h]).expect(case).to_f32();
        assert_eq!(proj[1], values(&raw["transformer.visual.proj"])[h], "{case}");
    }
}

/// Where rope rotates a part of each head, pairs and their biases move half a head apart; scores do not change.
#[test]
fn partly_rotated_heads_are_put_in_order() {
    let checkpoint = folder_of("qwenvl_a", |json| json["rotary_pct"] = json!(0.25), weights(keep)).expect("a folder");
    let (whole, config) = (open("qwenvl_a"), &checkpoint.config);
    let (h, d, rotated) = (config.hidden, config.head_dim, 8);
    assert_eq!(config.rope.inv_freq.len(), d / 2);
    assert!(config.rope.inv_freq[rotated / 2..].iter().all(|&theta| theta == 0.0));
    assert_eq!(config.rope.inv_freq[1], 10_000f64.powf(-2.0 / 8.0) as f32);
    for part in ["q", "k", "v"] {
        let name = format!("model.layers.0.self_attn.{part}_proj");
        let take = |checkpoint: &Checkpoint, kind: &str, shape: &[usize]| {
            checkpoint.take(&format!("{name}.{kind}"), shape).expect("a tensor").to_f32()
        };
        for (kind, shape) in [("weight", vec![h, h]), ("bias", vec![h])] {
            let (found, stored) = (take(&checkpoint, kind, &shape), take(&whole, kind, &shape));
            let cols = found.len() / h;
            let row = |values: &[f32], row: usize| values[row * cols..(row + 1) * cols].to_vec();
            let mut seen = vec![false; d];
            for i in 0..d {
                let from = match i {
                    _ if part == "v" => i,
                    // The pair (j, j + R/2) lies at (j, j + D/2).
                    i if i % (d / 2) < rotated / 2 => i % (d / 2) + i / (d / 2) * rotated / 2,
                    i => rotated + i % (d / 2) - rotated / 2 + i / (d / 2) * (d - rotated) / 2,
                };
                assert!(!std::mem::replace(&mut seen[from], true), "row {from} twice");
                assert_eq!(row(&found, d + i), row(&stored, d + from), "{name}.{kind}: row {i} of head 1");
            }
        }
    }
}

/// PyTorch files in two shards, with a matrix whose elements lie by columns.
#[test]
fn pickled_shards_hold_the_same_model() {
    let tensors: Vec<(String, Stored)> = stored("qwenvl_a").into_iter().collect();
    let by_columns = "transformer.visual.transformer.resblocks.0.attn.in_proj.weight";
    let shards: Vec<&[(String, Stored)]> = tensors.chunks(tensors.len().div_ceil(2)).collect();
    let mut files = Vec::new();
    let mut map = serde_json::Map::new();
    for (index, shard) in shards.iter().enumerate() {
        let file = format!("pytorch_model-{:05}-of-{:05}.bin", index + 1, shards.len());
        let mut storages = Vec::new();
        for (name, stored) in *shard {
            map.insert(name.clone(), json!(file));
            let mut bytes = stored.bytes.to_vec();
            if name == by_columns {
                let (rows, cols) = (stored.shape[0], stored.shape[1]);
                let element = |i: usize| stored.bytes[4 * (i % rows * cols + i / rows)..][..4].to_vec();
                bytes = (0..rows * cols).flat_map(element).collect();
            }
            storages.push((storages.len().to_string(), bytes));
        }
        let pickle = Pickle::dict(|mut pickle| {
            for (key, (name, stored)) in shard.iter().enumerate() {
                let shape: Vec<i32> = stored.shape.iter().map(|&size| size as i32).collect();
                let mut strides: Vec<i32> = (0..shape.len()).map(|i| shape[i + 1..].iter().product()).collect();
                if name == by_columns {
                    strides = vec![1, shape[0]];
                }
                let count = shape.iter().product();
                pickle = pickle.text(name).tensor("FloatStorage", &key.to_string(), count, 0, &shape, &strides);
            }
            pickle
        });
        let storages: Vec<(&str, &[u8])> = storages.iter().map(|(key, bytes)| (key.as_str(), &bytes[..])).collect();
        files.push((file, archive(&pickle, &storages)));
    }
    let index = json!({"metadata": {}, "weight_map": map}).to_string().into_bytes();
    files.push(("pytorch_model.bin.index.json".into(), index));

    let (found, wanted) = (folder_of("qwenvl_a", |_| (), files).expect("shards"), open("qwenvl_a"));
    assert_eq!(found.config, wanted.config);
    let names: Vec<&str> = wanted.tensors().map(|tensor| tensor.name).collect();
    assert_eq!(found.tensors().map(|tensor| tensor.name).collect::<Vec<_>>(), names);
    // q, k and v share the one copy that has their rows in order.
    let part = |part: &str| &found.tensors[&format!("visual.blocks.0.self_attn.{part}_proj.weight")];
    let (q, k) = (part("q"), part("k"));
    let RowOrder::Strided { each, .. } = q.order else { panic!("{:?}", q.order) };
    let apart = (k.bytes.as_ptr() as usize).wrapping_sub(q.bytes.as_ptr() as usize);
    assert_eq!(apart, 4 * each * q.shape[1], "a copy each");
    for tensor in wanted.tensors() {
        let values = |checkpoint: &Checkpoint| checkpoint.take(tensor.name, tensor.shape).expect("a tensor").to_f32();
        assert_eq!(values(&found), values(&wanted), "{}", tensor.name);
    }
}

/// Text alone: the same decoder, a tokenizer without the nine tags, and every row of the vocabulary where no file
/// limits it.
#[test]
fn a_folder_without_a_vision_half() {
    let text = |name: &str| if name.contains(".visual.") { vec![] } else { keep(name) };
    let without = |json: &mut Json| drop(json.as_object_mut().expect("an object").remove("visual"));
    let checkpoint = folder_of("qwenvl_a", without, weights(text)).expect("a folder");
    assert_eq!((checkpoint.config.vocab, checkpoint.config.vision.is_none()), (395 + 208, true));
    let bare = |json: &mut Json| {
        without(json);
        json["with_tokenizer"] = json!(false);
    };
    let checkpoint = folder_of("qwenvl_a", bare, weights(text)).expect("a folder");
    assert_eq!((checkpoint.config.vocab, &checkpoint.config.eos[..]), (624, &[395, 396, 397][..]));
    // With the vision half, a key of its own tells where the ids with text end.
    let bare = |json: &mut Json| json["with_tokenizer"] = json!(false);
    assert_eq!(folder_of("qwenvl_a", bare, weights(keep)).expect("a folder").config.vocab, 612);
}

#[test]
fn what_is_not_qwen_is_named() {
    let complains = |result: Result<Checkpoint>, words: &[&str]| {
        let error = result.expect_err("an error").to_string();
        assert!(words.iter().all(|word| error.contains(word)), "`{error}` does not say {words:?}");
    };
    let c_attn = "transformer.h.1.attn.c_attn.weight";
    let quantised = |name: &str| vec![if name == c_attn { name.replace(".weight", ".qweight") } else { name.into() }];
    complains(folder_of("qwenvl_a", |_| (), weights(quantised)), &["c_attn.qweight", "GPTQ", "--weights"]);
    let missing = |name: &str| if name == c_attn { vec![] } else { keep(name) };
    complains(folder_of("qwenvl_a", |_| (), weights(missing)), &[c_attn, "missing"]);
    let proj = "transformer.visual.proj";
    let missing = |name: &str| if name == proj { vec![] } else { keep(name) };
    complains(folder_of("qwenvl_a", |_| (), weights(missing)), &[proj, "missing"]);
    let more = |name: &str| match name == c_attn {
        true => vec![name.into(), name.replace("c_attn", "c_proj").replace("weight", "bias")],
        false => keep(name),
    };
    complains(folder_of("qwenvl_a", |_| (), weights(more)), &["transformer.h.1.attn.c_proj.bias", "2 layers"]);
    // Buffers of older versions.
    let old = |name: &str| match name == c_attn {
        true => vec![
            name.into(),
            "transformer.h.1.attn.rotary_emb.inv_freq".into(),
            "transformer.h.1.attn.masked_bias".into(),
        ],
        false => keep(name),
    };
    folder_of("qwenvl_a", |_| (), weights(old)).expect("a folder with buffers");

    for (key, value, words) in [
        ("kv_channels", json!(16), &["kv_channels", "hidden_size, 128"][..]),
        ("no_bias", json!(false), &["no_bias"]),
        ("layer_norm_epsilon", json!(-1.0), &["layer_norm_epsilon"]),
        ("rotary_emb_base", json!(0), &["rotary_emb_base"]),
        ("rotary_pct", json!(1.5), &["rotary_pct"]),
        ("seq_length", json!(null), &["seq_length"]),
        ("rotary_pct", json!(0.1), &["rotary_pct is 0.1", "turns 3", "even number from 2 to 32"]),
        ("seq_length", json!(1), &["seq_length is 1,", "from 2"]),
        ("max_position_embeddings", json!(0), &["max_position_embeddings is 0", "from 1"]),
        ("num_hidden_layers", json!(3), &["transformer.h.2.", "missing"]),
        ("num_hidden_layers", json!(1), &["transformer.h.1.", "7 more", "1 layers"]),
        ("num_hidden_layers", json!(0), &["num_hidden_layers is 0", "from 1"]),
        ("num_attention_heads", json!(0), &["num_attention_heads is 0"]),
        ("hidden_size", json!("wide"), &["wide"]),
    ] {
        complains(folder_of("qwenvl_a", |json| json[key] = value, weights(keep)), words);
    }
    for (key, value, words) in [
        ("image_start_id", json!(608), &["image_start_id", "608", "609", "395 tokens"][..]),
        ("image_start_id", json!(469), &["image_start_id of visual is 469", "from 470"]),
        ("n_queries", json!(64), &["n_queries", "64"]),
        ("output_dim", json!(64), &["output_dim", "64"]),
        ("heads", json!(5), &["width of visual is 48", "multiple of heads, 5"]),
        ("heads", json!(0), &["heads of visual is 0", "from 1 to 48"]),
        ("width", json!(0), &["width of visual is 0"]),
        ("patch_size", json!(4), &["conv1.weight", "[48, 3, 4, 4]"]),
        ("patch_size", json!(65), &["patch_size of visual is 65", "from 1 to 64"]),
        ("layers", json!(3), &["resblocks.2.", "missing"]),
        ("layers", json!(1), &["resblocks.1.", "11 more"]),
        ("mlp_ratio", json!(0), &["mlp_ratio", "0 features of 48"]),
        ("image_size", json!(0), &["image_size of visual is 0", "from 1 to 8192"]),
        ("image_size", json!(2048), &["2048 and 2", "1024 patches", "at most 128"]),
    ] {
        complains(folder_of("qwenvl_a", |json| json["visual"][key] = value, weights(keep)), words);
    }
    // Ids that no vocabulary has, where no tokenizer contradicts them.
    for id in [u64::from(u32::MAX) - 8, u64::from(u32::MAX) + 1 + 609, u64::MAX] {
        let edit = |json: &mut Json| {
            json["with_tokenizer"] = json!(false);
            json["visual"]["image_start_id"] = json!(id);
        };
        let words = [format!("image_start_id of visual is {id}"), "to 4294967286".into()];
        complains(folder_of("qwenvl_a", edit, weights(keep)), &[&words[0], &words[1]]);
    }
    // A picture too large to prepare, of patches that are few.
    let edit = |json: &mut Json| {
        json["visual"]["image_size"] = json!(128_000);
        json["visual"]["patch_size"] = json!(1000);
    };
    complains(folder_of("qwenvl_a", edit, weights(keep)), &["image_size of visual is 128000", "from 1 to 8192"]);
    // 386 is the hidden size, but no multiple of its three heads.
    let edit = |json: &mut Json| {
        for (key, value) in [("hidden_size", 386), ("num_attention_heads", 193), ("kv_channels", 2)] {
            json[key] = json!(value);
        }
        json["visual"]["output_dim"] = json!(386);
    };
    complains(folder_of("qwenvl_a", edit, weights(keep)), &["output_dim of visual is 386", "heads", ": 3"]);
    // The tokenizer has more ids than the embedding has rows.
    let edit = |json: &mut Json| json["with_tokenizer"] = json!(false);
    let id = |json: &mut Json| {
        edit(json);
        json["visual"]["image_start_id"] = json!(700);
    };
    complains(folder_of("qwenvl_a", id, weights(keep)), &["image_start_id", "703 ids", "624 rows"]);
}

/// Where the tower is as wide as the decoder, there is no matrix between them, and one in the file is refused.
#[test]
fn a_tower_as_wide_as_the_decoder_needs_no_projection() {
    let kv_proj = "transformer.visual.attn_pool.kv_proj.weight";
    let with = |has_projection: bool| {
        let tensors = stored("qwenvl_a");
        let zeros = vec![0u8; 4 * 384 * 128];
        let named = tensors.iter().filter(|(name, _)| has_projection || *name != kv_proj).map(|(name, stored)| {
            // The tower's width is 48, and its feed-forward width 236.
            let wide = |size: &usize| match size {
                48 => 128,
                144 => 384,
                236 => 128,
                size => *size,
            };
            let shape: Vec<usize> = match name.contains("visual") {
                true => stored.shape.iter().map(wide).collect(),
                false => stored.shape.clone(),
            };
            let bytes =
                if name.contains("visual") { &zeros[..4 * shape.iter().product::<usize>()] } else { &stored.bytes };
            let view = ::safetensors::tensor::TensorView::new(::safetensors::Dtype::F32, shape, bytes);
            (name.clone(), view.expect("a tensor"))
        });
        let file = ::safetensors::serialize(named.collect::<Vec<_>>(), None).expect("a file");
        let edit = |json: &mut Json| {
            json["visual"]["width"] = json!(128);
            json["visual"]["mlp_ratio"] = json!(1.0);
        };
        folder_of("qwenvl_a", edit, vec![("model.safetensors".into(), file)])
    };
    let checkpoint = with(false).expect("a folder");
    assert_eq!(checkpoint.config.vision.expect("a tower").width, checkpoint.config.hidden);
    let error = with(true).expect_err("an error").to_string();
    assert!(error.contains(kv_proj) && error.contains("not part of a qwen model"), "{error}");
}

/// End ids as some folders have them: a list, whose lowest is `<|endoftext|>` where nothing else tells its id.
#[test]
fn end_ids_may_be_a_list() {
    let text = |name: &str| if name.contains(".visual.") { vec![] } else { keep(name) };
    for (tokenizer, ids) in [(true, json!([397, 395])), (false, json!([397, 395])), (false, json!(395))] {
        let edit = |json: &mut Json| {
            json["with_tokenizer"] = json!(tokenizer);
            json.as_object_mut().expect("an object").remove("visual");
        };
        let mut files = weights(text);
        files.push(("generation_config.json".into(), json!({"eos_token_id": ids}).to_string().into_bytes()));
        assert_eq!(folder_of("qwenvl_a", edit, files).expect("a folder").config.eos, [395, 396, 397], "{ids}");
    }
}

/// A Qwen folder to which a user added a conversion of the tokenizer keeps its own; other models do not.
#[test]
fn the_own_tokenizer_comes_first() {
    let read = |name: &str| std::fs::read(golden("qwenvl_a").join(name)).expect(name);
    for (model_type, own) in [("qwen", true), ("qwen2", false)] {
        let files = Files::memory([
            ("config.json", json!({"model_type": model_type, "visual": {}}).to_string().into_bytes()),
            ("qwen.tiktoken", read("qwen.tiktoken")),
            ("tokenizer.json", b"{}".to_vec()),
        ]);
        let text = text::TextFiles::read(&files).expect("files").expect("a tokenizer");
        assert_eq!(matches!(text.vocabulary, text::Vocabulary::Tiktoken(_)), own, "{model_type}");
    }
}
