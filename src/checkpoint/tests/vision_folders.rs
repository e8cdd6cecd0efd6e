//! MobileVLM folders: the content of their files, the choice of the tower, and refusals.

use serde_json::{Value as Json, json};

use super::scratch::Scratch;
use super::vision::{Activation, Projector};
use super::*;
use crate::checkpoint::vision_tensors::{MEAN, STD};

pub const TOWER: &str = "model.vision_tower.vision_tower.vision_model.";

/// (case, [image size, patch, width, heads, ffn, blocks executed], projector)
const CASES: [(&str, [usize; 6], Projector); 4] = [
    ("mobilevlm_v1_grid4", [56, 14, 48, 4, 100, 3], Projector::Ldp { squeeze: 24 }),
    ("mobilevlm_v1_grid8", [112, 14, 40, 5, 88, 3], Projector::Ldp { squeeze: 32 }),
    ("mobilevlm_v2_grid16", [128, 8, 40, 4, 80, 2], Projector::Ldpv2),
    ("mobilevlm_v2_grid24", [96, 4, 32, 4, 72, 2], Projector::Ldpv2),
];

/// Tensors of a safetensors file by name: shape and elements. Tensors that are not f32 are left out.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

pub fn load(file: &Path) -> Tensors {
    let content = std::fs::read(file).unwrap();
    let tensors = ::safetensors::SafeTensors::deserialize(&content).unwrap();
    let tensors = tensors.iter().filter(|(_, view)| view.dtype() == ::safetensors::Dtype::F32);
    let values = |bytes: &[u8]| bytes.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect();
    tensors.map(|(name, view)| (name.to_string(), (view.shape().to_vec(), values(view.data())))).collect()
}

pub fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub fn save(file: &Path, tensors: &Tensors) {
    let stored: Vec<_> = tensors.iter().map(|(name, (shape, values))| (name, shape.clone(), bytes(values))).collect();
    let views = stored.iter().map(|(name, shape, bytes)| {
        (name, ::safetensors::tensor::TensorView::new(::safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    std::fs::write(file, ::safetensors::serialize(views, None).unwrap()).unwrap();
}

pub fn edit(file: &Path, change: impl FnOnce(&mut Json)) {
    let mut json = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    change(&mut json);
    std::fs::write(file, json.to_string()).unwrap();
}

/// A copy of a case without its tower's folder, and the path of that folder in the copy.
pub fn copied(scratch: &Scratch, case: &str) -> (PathBuf, PathBuf) {
    let folder = scratch.copy(&golden(case));
    let config: Json = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    let tower = folder.join(config["mm_vision_tower"].as_str().unwrap());
    (folder, tower)
}

/// A copy of a case, and its tower's folder.
pub fn whole(scratch: &Scratch, case: &str) -> (PathBuf, PathBuf) {
    let (folder, tower) = copied(scratch, case);
    std::fs::create_dir_all(&tower).unwrap();
    for entry in std::fs::read_dir(golden(case).join(tower.strip_prefix(&folder).unwrap())).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), tower.join(entry.file_name())).unwrap();
    }
    (folder, tower)
}

fn with_tower(folder: &Path, tower: &Path) -> Result<Checkpoint> {
    Checkpoint::open_with(folder, &VisionFiles { mmproj: None, tower: Some(tower.to_path_buf()) })
}

pub fn class_embedding(checkpoint: &Checkpoint) -> Vec<f32> {
    let width = checkpoint.config.vision.as_ref().unwrap().width;
    checkpoint.take(&format!("{TOWER}embeddings.class_embedding"), &[width]).unwrap().to_f32()
}

#[track_caller]
pub fn complains(result: Result<Checkpoint>, words: &[&str]) {
    let Err(error) = result else { panic!("no error, expected one about {words:?}") };
    let error = error.to_string();
    assert!(words.iter().all(|word| error.contains(word)), "`{error}` does not say {words:?}");
    assert!(!error.contains('\n'), "{error}");
}

#[test]
fn golden_folders_have_a_vision_half() {
    for (case, [image_size, patch, width, heads, ffn, blocks], projector) in CASES {
        let checkpoint = open(case);
        let expected = VisionConfig {
            image_size,
            patch,
            width,
            heads,
            ffn,
            blocks,
            norm_eps: 1e-5,
            activation: Activation::QuickGelu,
            projector,
            mean: MEAN,
            std: STD,
            image_start: None,
        };
        let config = &checkpoint.config;
        assert_eq!((config.vision.as_ref(), &*config.architecture), (Some(&expected), "mobilevlm"), "{case}");
        assert!(!config.tied, "{case}");

        let h = config.hidden;
        let linear = |rows: usize, cols: usize| rows * cols + rows;
        let block = 4 * width + 4 * linear(width, width) + linear(ffn, width) + linear(width, ffn);
        let patches = width * (1 + 3 * patch * patch + expected.patches() + 1) + 2 * width;
        let projector = linear(h, width)
            + linear(h, h)
            + match projector {
                Projector::Ldp { squeeze: s } => 2 * (9 * h + 2 * h + linear(s, h) + linear(h, s) + h * h + 2 * h),
                Projector::Ldpv2 => 10 * h,
                Projector::Resampler { .. } => panic!("no MobileVLM has it"),
            };
        assert_eq!(checkpoint.parameters(), parameters(config) + patches + blocks * block + projector, "{case}");

        for info in checkpoint.tensors() {
            let tensor = checkpoint.take(info.name, info.shape).unwrap();
            assert_eq!(Some(tensor.dtype), checkpoint.dtype(info.name), "{case}: {}", info.name);
            assert!(tensor.to_f32().iter().all(|value| value.is_finite()), "{case}: {}", info.name);
            for unused in [&format!("layers.{blocks}."), "post_layernorm", "position_ids", "projection", "text_model"] {
                let vision = info.name.starts_with(TOWER) || !info.name.starts_with("model.layers.");
                assert!(!vision || !info.name.contains(unused), "{case}: {}", info.name);
            }
        }
        let taken = [
            ("embeddings.class_embedding", vec![width], true),
            ("embeddings.patch_embedding.weight", vec![width, 3 * patch * patch], false),
            ("embeddings.position_embedding.weight", vec![(expected.patches() + 1) * width], true),
            ("pre_layrnorm.bias", vec![width], true),
            ("encoder.layers.0.self_attn.out_proj.weight", vec![width, width], false),
            ("encoder.layers.1.mlp.fc1.weight", vec![ffn, width], false),
            ("encoder.layers.1.mlp.fc2.weight", vec![width, ffn], false),
        ];
        for (name, shape, flat) in taken {
            let tensor = checkpoint.take(&format!("{TOWER}{name}"), &shape).unwrap();
            assert!(!flat || tensor.dtype == DType::F32, "{case}: {name}");
        }
    }
}

/// Only the shapes of tensors change; elements stay in place.
#[test]
fn reshaped_tensors_are_those_of_the_file() {
    for (case, convolutions) in [("mobilevlm_v1_grid4", 9), ("mobilevlm_v2_grid24", 2)] {
        let checkpoint = open(case);
        let file = load(&golden(case).join("model.safetensors"));
        let mut reshaped = 0;
        for info in checkpoint.tensors() {
            let (shape, values) = &file[info.name];
            assert_eq!(&checkpoint.take(info.name, info.shape).unwrap().to_f32(), values, "{case}: {}", info.name);
            reshaped += (shape.len() == 4) as usize;
        }
        assert_eq!(reshaped, convolutions, "{case}");
    }
    // 24 = h / 4, and 8 in front: (o, i, 1, 1) and (h, 1, 3, 3).
    let checkpoint = open("mobilevlm_v1_grid4");
    let projector = "model.mm_projector.model.mb_block.2.block.";
    for (name, shape) in [
        ("0.0.weight", &[9 * 96][..]),
        ("1.fc1.weight", &[24, 96]),
        ("1.fc2.weight", &[96, 24]),
        ("2.0.weight", &[96, 96]),
    ] {
        assert!(checkpoint.take(&format!("{projector}{name}"), shape).is_ok(), "{name}");
    }
}

/// V1 takes the tower of the folder and V2 that of the checkpoint, as MobileVLM's loader does; a given tower wins.
#[test]
fn which_tower() {
    let scratch = Scratch::new();
    for (case, takes_folder) in [("mobilevlm_v1_grid4", true), ("mobilevlm_v2_grid24", false)] {
        let (folder, tower) = whole(&scratch, case);
        let mut weights = load(&tower.join("model.safetensors"));
        weights.get_mut("vision_model.embeddings.class_embedding").unwrap().1.fill(7.5);
        save(&tower.join("model.safetensors"), &weights);
        let stored = load(&folder.join("model.safetensors"));
        let (_, own) = &stored[&format!("{TOWER}embeddings.class_embedding")];
        let sevens = vec![7.5; own.len()];
        assert_ne!(*own, sevens);

        let wanted = if takes_folder { &sevens } else { own };
        assert_eq!(&class_embedding(&Checkpoint::open(&folder).unwrap()), wanted, "{case}");

        // The same folder, named by a path, and by the older key.
        let elsewhere = scratch.path(&format!("{case}_tower"));
        std::fs::rename(&tower, &elsewhere).unwrap();
        edit(&folder.join("config.json"), |json| {
            json.as_object_mut().unwrap().remove("mm_vision_tower");
            json["vision_tower"] = json!(elsewhere);
        });
        let plain = Checkpoint::open(&folder).unwrap();
        assert_eq!(&class_embedding(&plain), wanted, "{case}");

        weights.get_mut("vision_model.embeddings.class_embedding").unwrap().1.fill(-2.0);
        let given = scratch.path(&format!("{case}_given"));
        std::fs::create_dir_all(&given).unwrap();
        std::fs::copy(elsewhere.join("config.json"), given.join("config.json")).unwrap();
        save(&given.join("model.safetensors"), &weights);
        let overridden = with_tower(&folder, &given).unwrap();
        assert_eq!(class_embedding(&overridden), vec![-2.0; own.len()], "{case}");
        assert_eq!(overridden.config, plain.config, "{case}");

        // A checkpoint without a tower uses the folder's tower.
        let language: Tensors = stored.into_iter().filter(|(name, _)| !name.starts_with(TOWER)).collect();
        save(&folder.join("model.safetensors"), &language);
        assert_eq!(class_embedding(&Checkpoint::open(&folder).unwrap()), sevens, "{case}");

        // No tower exists anywhere.
        std::fs::remove_dir_all(&elsewhere).unwrap();
        let place = elsewhere.to_string_lossy();
        complains(Checkpoint::open(&folder), &["no vision tower", "its own weights", &place, "--vision-tower"]);
        complains(with_tower(&folder, &elsewhere), &["--vision-tower", &place, "not a folder"]);
        complains(with_tower(&folder, &folder), &["model_type `mobilevlm`", "clip_vision_model"]);
    }
}

#[test]
fn a_missing_tower_names_each_place() {
    let scratch = Scratch::new();
    let (folder, tower) = copied(&scratch, "mobilevlm_v2_grid24");
    let mut tensors = load(&folder.join("model.safetensors"));
    tensors.retain(|name, _| !name.starts_with(TOWER));
    save(&folder.join("model.safetensors"), &tensors);
    let name = "as the folder openai/clip-vit-tiny-patch4-96";
    complains(Checkpoint::open(&folder), &["its own weights", &tower.to_string_lossy(), name, "--vision-tower"]);
    edit(&folder.join("config.json"), |json| drop(json.as_object_mut().unwrap().remove("mm_vision_tower")));
    complains(Checkpoint::open(&folder), &["no vision tower", "--vision-tower"]);
}

/// Hidden state 0 is the input of the first block, state i the output of block i; the tower has 4 blocks.
#[test]
fn select_layer() {
    let scratch = Scratch::new();
    let (folder, _) = whole(&scratch, "mobilevlm_v1_grid4");
    let open = |layer: Json| {
        edit(&folder.join("config.json"), |json| json["mm_vision_select_layer"] = layer);
        Checkpoint::open(&folder)
    };
    for (layer, blocks) in [(-1, 4), (-2, 3), (-5, 0), (0, 0), (3, 3), (4, 4)] {
        let checkpoint = open(json!(layer)).unwrap();
        assert_eq!(checkpoint.config.vision.as_ref().unwrap().blocks, blocks, "{layer}");
        let found = checkpoint.tensors().filter(|tensor| tensor.name.ends_with("mlp.fc1.bias")).count();
        assert_eq!(found, blocks, "{layer}");
    }
    for layer in [-6, 5, i64::MIN, i64::MAX] {
        complains(open(json!(layer)), &["config.json", &format!("is {layer}"), "-5 to 4", "4 blocks"]);
    }
    complains(open(Json::Null), &["mm_vision_select_layer is missing", "-5 to 4"]);
    complains(open(json!([-2, -7])), &["config.json", "sequence"]);
    complains(open(json!(-2.5)), &["config.json", "-2.5"]);
}

#[test]
fn keys_that_mean_another_model_are_refused() {
    let scratch = Scratch::new();
    let cases: [(&str, Json, &[&str]); 9] = [
        ("mm_projector_type", json!("mlp2x_gelu"), &["`mlp2x_gelu`", "ldpnet", "ldpnetv2"]),
        ("mm_projector_type", json!("linear"), &["`linear`"]),
        ("mm_projector_type", Json::Null, &["mm_projector_type is missing"]),
        ("mm_vision_select_feature", json!("cls_patch"), &["`cls_patch`", "class token"]),
        ("image_aspect_ratio", json!("anyres"), &["`anyres`", "pad"]),
        ("mm_use_im_start_end", json!(true), &["mm_use_im_start_end is true"]),
        ("mm_use_im_patch_token", json!(true), &["mm_use_im_patch_token is true"]),
        // The projector of the other generation.
        ("mm_projector_type", json!("ldpnetv2"), &["mlp.mlp.0.weight", "missing"]),
        ("hidden_size", json!(97), &["97", "96"]),
    ];
    for (key, value, words) in cases {
        let (folder, _) = whole(&scratch, "mobilevlm_v1_grid4");
        edit(&folder.join("config.json"), |json| json[key] = value);
        complains(Checkpoint::open(&folder), words);
    }
    // Missing keys have the default values of MobileVLM's own code; the unused keys of the 2.7B model are not read.
    let (folder, _) = whole(&scratch, "mobilevlm_v1_grid4");
    edit(&folder.join("config.json"), |json| {
        for key in ["mm_vision_select_feature", "image_aspect_ratio", "mm_use_im_start_end", "mm_use_im_patch_token"] {
            json.as_object_mut().unwrap().remove(key);
        }
        (json["n_head"], json["n_query_groups"], json["num_key_value_heads"]) = (json!(3), json!(2), json!(1));
        json["mm_hidden_size"] = json!(1024);
    });
    assert_eq!(Checkpoint::open(&folder).unwrap().config, open("mobilevlm_v1_grid4").config);
}

#[test]
fn broken_vision_halves() {
    let scratch = Scratch::new();
    let case = "mobilevlm_v2_grid24";
    let weights = |change: &dyn Fn(&mut Tensors)| {
        let (folder, _) = whole(&scratch, case);
        let mut tensors = load(&folder.join("model.safetensors"));
        change(&mut tensors);
        save(&folder.join("model.safetensors"), &tensors);
        Checkpoint::open(&folder)
    };
    let rename = |from: String, to: &'static str| {
        weights(&move |tensors| {
            let tensor = tensors.remove(&from).unwrap();
            tensors.insert(to.into(), tensor);
        })
    };
    let peg = "model.mm_projector.peg.peg.0.bias";
    complains(rename(peg.into(), "model.mm_projector.peg.peg.0.gain"), &[peg, "missing"]);
    complains(weights(&|t| drop(t.insert("model.mm_projector.extra".into(), (vec![1], vec![0.0])))), &["extra"]);
    complains(weights(&|t| drop(t.insert(format!("{TOWER}extra"), (vec![1], vec![0.0])))), &["extra", "vision half"]);
    let other = "model.vision_tower.extra";
    complains(weights(&|t| drop(t.insert(other.into(), (vec![1], vec![0.0])))), &["`extra`", "CLIP"]);
    let fc2 = format!("{TOWER}encoder.layers.1.mlp.fc2.bias");
    complains(weights(&|t| drop(t.remove(&fc2))), &[&fc2, "missing"]);
    complains(weights(&|t| t.get_mut(&fc2).unwrap().0 = vec![2, 16]), &[&fc2, "[2, 16]", "[32]"]);
    let conv = format!("{TOWER}embeddings.patch_embedding.weight");
    complains(weights(&|t| t.get_mut(&conv).unwrap().0 = vec![32, 4, 3, 4]), &[&conv, "[32, 3, 3, 3]"]);
    complains(weights(&|t| t.get_mut(&conv).unwrap().0 = vec![32, 48]), &[&conv, "4 dimensions"]);
    let table = format!("{TOWER}embeddings.position_embedding.weight");
    complains(weights(&|t| *t.get_mut(&table).unwrap() = (vec![576, 32], vec![0.0; 576 * 32])), &[&table, "square"]);
    complains(weights(&|t| *t.get_mut(&table).unwrap() = (vec![1, 32], vec![0.0; 32])), &[&table, "square"]);
    complains(
        weights(&|t| *t.get_mut(&table).unwrap() = (vec![17, 32], vec![0.0; 17 * 32])),
        &["config.json", "image_size is 96", "17 rows"],
    );
    let mlp = "model.mm_projector.mlp.mlp.0.weight";
    complains(
        weights(&|t| *t.get_mut(mlp).unwrap() = (vec![96, 31], vec![0.0; 96 * 31])),
        &["31 features", "makes 32", "not of the same model"],
    );
    // Missing blocks after the last executed block are accepted.
    let last = format!("{TOWER}encoder.layers.2.");
    let fewer = weights(&|tensors| tensors.retain(|name, _| !name.starts_with(&last)));
    assert_eq!(fewer.unwrap().config, open(case).config);

    let (folder, tower) = whole(&scratch, case);
    std::fs::write(tower.join("config.json"), "[").unwrap();
    complains(Checkpoint::open(&folder), &["patch4-96/config.json"]);
    std::fs::remove_file(tower.join("config.json")).unwrap();
    complains(Checkpoint::open(&folder), &["patch4-96", "no config.json"]);
    std::fs::write(folder.join("config.json"), "{\"model_type\": \"mobilevlm\"").unwrap();
    complains(Checkpoint::open(&folder), &["config.json"]);
}

#[test]
fn a_text_model_has_no_tower() {
    let tower = golden("mobilevlm_v1_grid4").join("openai/clip-vit-tiny-patch14-56");
    complains(with_tower(&golden("mobilellm_gqa"), &tower), &["--vision-tower", "MobileVLM", "mobilellm"]);
    assert_eq!(open("mobilellm_gqa").config.vision, None);
}

/// `--weights` converts matrices of both halves; vectors stay f32.
#[test]
fn both_halves_are_converted() {
    let mut checkpoint = open("mobilevlm_v2_grid24");
    checkpoint.convert(DType::Q8_0).unwrap();
    let expected = [
        ("model.layers.0.self_attn.q_proj.weight".to_string(), vec![96, 96], DType::Q8_0),
        (format!("{TOWER}encoder.layers.1.mlp.fc1.weight"), vec![72, 32], DType::Q8_0),
        // Rows of 72 and 48 are not multiples of 32.
        (format!("{TOWER}encoder.layers.1.mlp.fc2.weight"), vec![32, 72], DType::F16),
        (format!("{TOWER}embeddings.patch_embedding.weight"), vec![32, 48], DType::F16),
        (format!("{TOWER}embeddings.position_embedding.weight"), vec![577 * 32], DType::F32),
        ("model.mm_projector.mlp.mlp.2.weight".into(), vec![96, 96], DType::Q8_0),
        ("model.mm_projector.peg.peg.0.weight".into(), vec![9 * 96], DType::F32),
    ];
    for (name, shape, dtype) in expected {
        assert_eq!(checkpoint.take(&name, &shape).unwrap().dtype, dtype, "{name}");
        assert_eq!(checkpoint.dtype(&name), Some(dtype), "{name}");
    }
}
