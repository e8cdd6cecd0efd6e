//! CLIP towers: their folder descriptions, and weights with unusual layouts in files.

use serde_json::{Value as Json, json};

use super::pickles::{Pickle, archive};
use super::scratch::Scratch;
use super::vision::Activation;
use super::vision_folders::{TOWER, Tensors, bytes, class_embedding, complains, copied, edit, load, save, whole};
use super::*;

/// Where no folder describes the tower, its description follows from shapes.
#[test]
fn shapes_describe_a_tower_without_a_folder() {
    let scratch = Scratch::new();
    let (folder, _) = copied(&scratch, "mobilevlm_v2_grid24");
    complains(Checkpoint::open(&folder), &["32 features", "heads of 64", "--vision-tower"]);

    // Features repeated until there are two heads of 64: 4 times 32.
    let mut tensors = load(&folder.join("model.safetensors"));
    for (name, (shape, values)) in &mut tensors {
        let repeat =
            |values: &[f32], run: usize| values.chunks(run).flat_map(|run| run.repeat(4)).collect::<Vec<f32>>();
        let tower = name.starts_with(TOWER);
        if tower && shape.len() == 4 {
            shape[0] *= 4;
            *values = values.repeat(4);
            continue;
        }
        let last = shape.len() - 1;
        if tower && shape[last] == 32 || name.ends_with("mlp.mlp.0.weight") {
            *values = repeat(values, 32);
            shape[last] *= 4;
        }
        if tower && shape.len() == 2 && shape[0] == 32 {
            *values = values.repeat(4);
            shape[0] *= 4;
        }
    }
    save(&folder.join("model.safetensors"), &tensors);
    let vision = Checkpoint::open(&folder).unwrap().config.vision.unwrap();
    let whole = open("mobilevlm_v2_grid24").config.vision.unwrap();
    assert_eq!(vision, VisionConfig { width: 128, heads: 2, ..whole });

    // The number of blocks follows from the last block.
    let first = format!("{TOWER}encoder.layers.0.mlp.fc1.weight");
    let far = format!("{TOWER}encoder.layers.{}.mlp.fc1.weight", usize::MAX);
    tensors.insert(far, tensors[&first].clone());
    save(&folder.join("model.safetensors"), &tensors);
    complains(Checkpoint::open(&folder), &["encoder.layers.3.", "missing"]);
}

#[test]
fn descriptions_of_towers() {
    let scratch = Scratch::new();
    let case = "mobilevlm_v1_grid4";
    let plain = open(case).config.vision.unwrap();
    let config = |change: &dyn Fn(&mut Json)| {
        let (folder, tower) = whole(&scratch, case);
        edit(&tower.join("config.json"), change);
        Checkpoint::open(&folder).map(|checkpoint| checkpoint.config.vision.unwrap())
    };
    let vision = |key: &'static str, value: Json| config(&move |json| json["vision_config"][key] = value.clone());
    // The vision half alone.
    assert_eq!(config(&|json| *json = json["vision_config"].take()).unwrap(), plain);
    assert_eq!(vision("hidden_act", json!("gelu")).unwrap().activation, Activation::Gelu);
    assert_eq!(vision("hidden_act", Json::Null).unwrap(), plain);
    assert_eq!(vision("layer_norm_eps", json!(1e-3)).unwrap().norm_eps, 1e-3);
    assert_eq!(vision("num_attention_heads", json!(6)).unwrap().heads, 6);
    // Shapes override widths in the file.
    assert_eq!(vision("intermediate_size", json!(3)).unwrap(), plain);
    assert_eq!(vision("hidden_size", json!(3)).unwrap(), plain);

    let refused: [(&'static str, Json, &[&str]); 13] = [
        ("hidden_act", json!("relu"), &["\"relu\"", "quick_gelu"]),
        ("image_size", json!(70), &["image_size", "70", "56"]),
        ("patch_size", json!(7), &["patch_size is 7", "14x14"]),
        ("patch_size", json!(0), &["patch_size is 0"]),
        ("num_attention_heads", json!(5), &["5 heads", "48 features"]),
        ("num_attention_heads", json!("4"), &["num_attention_heads is \"4\"", "whole number"]),
        ("num_hidden_layers", json!(100_000), &["num_hidden_layers is 100000"]),
        ("num_hidden_layers", json!(6), &["encoder.layers.4", "missing"]),
        ("num_channels", json!(1), &["num_channels is 1"]),
        ("layer_norm_eps", json!(-1.0), &["layer_norm_eps is -1.0"]),
        ("layer_norm_eps", json!("small"), &["layer_norm_eps is \"small\""]),
        ("hidden_act", json!(3), &["hidden_act 3", "quick_gelu"]),
        ("image_size", Json::Null, &["openai/clip-vit-tiny-patch14-56/config.json", "image_size is missing"]),
    ];
    for (key, value, words) in refused {
        let error = vision(key, value).expect_err(key).to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{key}: `{error}` does not say {words:?}");
    }
    let siglip = config(&|json| json["model_type"] = json!("siglip")).unwrap_err().to_string();
    assert!(siglip.contains("`siglip`"), "{siglip}");
}

#[test]
fn preprocessors() {
    let scratch = Scratch::new();
    let case = "mobilevlm_v1_grid4";
    let plain = open(case).config.vision.unwrap();
    let read = |content: Option<String>| {
        let (folder, tower) = whole(&scratch, case);
        let file = tower.join("preprocessor_config.json");
        match content {
            Some(content) => std::fs::write(file, content).unwrap(),
            None => std::fs::remove_file(file).unwrap(),
        }
        Checkpoint::open(&folder)
    };
    let vision = |json: Json| read(Some(json.to_string())).map(|checkpoint| checkpoint.config.vision.unwrap());
    assert_eq!(read(None).unwrap().config.vision.unwrap(), plain);
    assert_eq!(vision(json!({})).unwrap(), plain);
    let sizes = json!({"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}});
    assert_eq!(vision(sizes).unwrap(), plain);
    let grey = vision(json!({"image_mean": [0.5, 0.25, 0], "image_std": [0.5, 1, 2]})).unwrap();
    assert_eq!(grey, VisionConfig { mean: [0.5, 0.25, 0.0], std: [0.5, 1.0, 2.0], ..plain });

    let file = "preprocessor_config.json";
    complains(read(Some(json!({"size": 224}).to_string())), &[file, "size is 224x224", "56"]);
    complains(read(Some(json!({"crop_size": {"height": 56, "width": 57}}).to_string())), &[file, "56x57"]);
    complains(read(Some(json!({"size": "large"}).to_string())), &[file, "shortest_edge"]);
    complains(read(Some(json!({"image_std": [0.5, 0, 0.5]}).to_string())), &[file, "image_std"]);
    complains(read(Some(json!({"image_mean": [0.5, 0.5]}).to_string())), &[file]);
    complains(read(Some("{".into())), &[file]);
}

/// PyTorch saves a channels-last convolution as a view: (w, 3, p, p) with strides (3pp, 1, 3p, 3).
#[test]
fn strided_convolutions_become_the_same_matrices() {
    let scratch = Scratch::new();
    let case = "mobilevlm_v2_grid24";
    let (folder, tower) = whole(&scratch, case);
    let tensors = load(&folder.join("model.safetensors"));
    std::fs::remove_file(folder.join("model.safetensors")).unwrap();
    let mut storages = Vec::new();
    let pickle = Pickle::dict(|mut pickle| {
        for (number, (name, (shape, values))) in tensors.iter().enumerate() {
            let sizes: Vec<i32> = shape.iter().map(|&size| size as i32).collect();
            let mut strides: Vec<i32> = (0..sizes.len()).map(|i| sizes[i + 1..].iter().product()).collect();
            let mut stored = values.clone();
            if let &[outputs, channels, rows, cols] = &shape[..] {
                strides = [channels * rows * cols, 1, channels * cols, channels].map(|stride| stride as i32).to_vec();
                let mut index = 0..;
                for (o, c, r, k) in (0..outputs).flat_map(|o| {
                    (0..channels).flat_map(move |c| (0..rows).flat_map(move |r| (0..cols).map(move |k| (o, c, r, k))))
                }) {
                    stored[((o * rows + r) * cols + k) * channels + c] = values[index.next().unwrap()];
                }
            }
            let key = number.to_string();
            pickle = pickle.text(name).tensor("FloatStorage", &key, values.len() as i32, 0, &sizes, &strides);
            storages.push((key, bytes(&stored)));
        }
        pickle
    });
    let storages: Vec<(&str, &[u8])> = storages.iter().map(|(key, bytes)| (&**key, &bytes[..])).collect();
    std::fs::write(folder.join("pytorch_model.bin"), archive(&pickle, &storages)).unwrap();
    assert!(tower.is_dir());
    let (strided, plain) = (Checkpoint::open(&folder).unwrap(), open(case));
    assert_eq!(strided.config, plain.config);
    for info in plain.tensors() {
        let (wanted, found) =
            (plain.take(info.name, info.shape).unwrap(), strided.take(info.name, info.shape).unwrap());
        assert_eq!(wanted.to_f32(), found.to_f32(), "{}", info.name);
    }
}

/// A tower in shards, as larger CLIP models are distributed.
#[test]
fn a_tower_in_shards() {
    let scratch = Scratch::new();
    let case = "mobilevlm_v1_grid4";
    let (folder, tower) = whole(&scratch, case);
    let tensors = load(&tower.join("model.safetensors"));
    std::fs::remove_file(tower.join("model.safetensors")).unwrap();
    let (first, second): (Tensors, Tensors) = tensors.into_iter().partition(|(name, _)| name.contains(".mlp."));
    let mut index = json!({"weight_map": {}});
    for (shard, tensors) in [("model-1-of-2.safetensors", &first), ("model-2-of-2.safetensors", &second)] {
        save(&tower.join(shard), tensors);
        tensors.keys().for_each(|name| index["weight_map"][name] = json!(shard));
    }
    std::fs::write(tower.join("model.safetensors.index.json"), index.to_string()).unwrap();
    let (sharded, plain) = (Checkpoint::open(&folder).unwrap(), open(case));
    assert_eq!((&sharded.config, sharded.parameters()), (&plain.config, plain.parameters()));
    assert_eq!(class_embedding(&sharded), class_embedding(&plain));
}
