//! llama.cpp's vision half: variants of its metadata and tensors, and files that do not match each other.

use super::gguf_writer::{Naming, Writer, ggml, mobilevlm, mobilevlm_of};
use super::scratch::Scratch;
use super::vision::{Activation, Projector};
use super::vision_folders::{TOWER, complains, load};
use super::*;
use crate::formats::quantize_row;

const CASE: &str = "mobilevlm_v1_grid4";

fn vision(case: &str) -> Writer {
    mobilevlm(&golden(case), Naming::Legacy, ggml::F32).1
}

/// The language half of `CASE`, with this file as its vision half.
fn with(scratch: &Scratch, mmproj: impl AsRef<[u8]>) -> Result<Checkpoint> {
    let (language, _) = mobilevlm(&golden(CASE), Naming::Legacy, ggml::F32);
    join(&scratch.write("language.gguf", language.finish()), &scratch.write("vision.gguf", mmproj))
}

fn join(model: &Path, mmproj: &Path) -> Result<Checkpoint> {
    Checkpoint::open_with(model, &VisionFiles { mmproj: Some(mmproj.to_path_buf()), tower: None })
}

/// The file after replacing the bytes that start `after` bytes behind the end of a key: 4 for a number or a flag, 12
/// for a string.
fn patched(writer: &Writer, key: &str, after: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = writer.finish();
    let at = file.windows(key.len()).position(|bytes| bytes == key.as_bytes()).expect(key) + key.len() + after;
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

/// The file without a key: the key is renamed to an unknown one.
fn without(writer: &Writer, key: &str) -> Vec<u8> {
    let mut file = writer.finish();
    let at = file.windows(key.len()).position(|bytes| bytes == key.as_bytes()).expect(key);
    file[at] = b'x';
    file
}

#[test]
fn metadata() {
    let scratch = Scratch::new();
    let plain = with(&scratch, vision(CASE).finish()).unwrap().config;
    assert_eq!(plain, open(CASE).config);
    let plain = plain.vision.unwrap();
    let config = |file: Vec<u8>| with(&scratch, file).unwrap().config.vision.unwrap();

    let gelu = config(patched(&vision(CASE), "clip.use_gelu", 4, &[1]));
    assert_eq!(gelu, VisionConfig { activation: Activation::Gelu, ..plain.clone() });
    for key in ["clip.use_gelu", "clip.vision.image_mean", "clip.vision.image_std", "clip.has_vision_encoder"] {
        assert_eq!(config(without(&vision(CASE), key)), plain, "{key}");
    }
    let sound = vision(CASE).string("clip.vision.projector_type", "ldp");
    assert_eq!(config(without(&sound, "clip.projector_type")), plain);
    let last = vision(CASE).tensor("v.post_ln.weight", &[48], ggml::F32, vec![0; 192]);
    assert_eq!(config(last.finish()), plain);

    let refused: [(Vec<u8>, &[&str]); 12] = [
        (patched(&vision(CASE), "clip.projector_type", 12, b"mlp"), &["`mlp`", "ldp", "ldpv2"]),
        (without(&vision(CASE), "clip.projector_type"), &["`clip.projector_type` is missing"]),
        (patched(&vision(CASE), "clip.has_vision_encoder", 4, &[0]), &["has_vision_encoder"]),
        (vision(CASE).bool("clip.use_silu", true).finish(), &["use_silu"]),
        (without(&vision(CASE), "clip.vision.attention.layer_norm_epsilon"), &["layer_norm_epsilon", "missing"]),
        (patched(&vision(CASE), "clip.vision.attention.head_count", 4, &[7]), &["7 heads", "48"]),
        (patched(&vision(CASE), "clip.vision.image_size", 4, &[70]), &["image_size is 70", "17 rows", "56"]),
        (patched(&vision(CASE), "clip.vision.patch_size", 4, &[7]), &["patch_size is 7", "14x14"]),
        (patched(&vision(CASE), "clip.vision.block_count", 4, &[0, 0, 1, 0]), &["block_count", "65536"]),
        (patched(&vision(CASE), "clip.vision.block_count", 4, &[4]), &["encoder.layers.3", "missing"]),
        (patched(&vision(CASE), "clip.vision.image_std", 16, &[0; 4]), &["image_std"]),
        (patched(&vision(CASE), "clip.vision.image_mean", 8, &[2]), &[]),
    ];
    for (file, words) in refused {
        let words: Vec<&str> = words.iter().copied().chain(["vision.gguf"]).collect();
        complains(with(&scratch, file), &words);
    }
    let file = vision(CASE).finish();
    // The very end of the file may be padding, which is not read.
    for length in [0, 3, 100, 1000, file.len() - 33] {
        complains(with(&scratch, &file[..length]), &["vision.gguf"]);
    }
}

/// `block_count` is the number of stored and executed blocks; `feature_layer` selects one hidden state, 0 before the
/// first block.
#[test]
fn executed_blocks() {
    let scratch = Scratch::new();
    let blocks = |file: Vec<u8>| {
        with(&scratch, file).map(|checkpoint| {
            let listed = checkpoint.tensors().filter(|tensor| tensor.name.ends_with("layer_norm1.bias")).count();
            let blocks = checkpoint.config.vision.unwrap().blocks;
            assert_eq!(listed, blocks);
            blocks
        })
    };
    assert_eq!(blocks(vision(CASE).finish()).unwrap(), 3);
    assert_eq!(blocks(patched(&vision(CASE), "clip.vision.block_count", 4, &[2])).unwrap(), 2);
    for layer in 0..=3 {
        assert_eq!(blocks(vision(CASE).i32s("clip.vision.feature_layer", &[layer]).finish()).unwrap(), layer as usize);
        assert_eq!(
            blocks(vision(CASE).u32("clip.vision.feature_layer", layer as u32).finish()).unwrap(),
            layer as usize
        );
    }
    for layers in [&[4][..], &[-1], &[1, 3], &[]] {
        let error = blocks(vision(CASE).i32s("clip.vision.feature_layer", layers).finish()).unwrap_err().to_string();
        assert!(error.contains("feature_layer") && error.contains("0 to 3"), "{error}");
    }
}

#[test]
fn tensors_of_other_models_are_refused() {
    let scratch = Scratch::new();
    for name in ["mm.0.weight", "v.blk.0.attn_sinks.weight", "v.patch_embd.weight.1", "mm.model.fc.weight", "v.extra"] {
        let file = vision(CASE).tensor(name, &[48], ggml::F32, vec![0; 192]).finish();
        complains(with(&scratch, file), &["vision.gguf", "is not part of"]);
    }
    let (_, second) = mobilevlm(&golden("mobilevlm_v2_grid24"), Naming::Legacy, ggml::F32);
    // The metadata names the other projector.
    let second = without(&second.string("clip.vision.projector_type", "ldp"), "clip.projector_type");
    complains(with(&scratch, second), &["vision.gguf", "model.mlp.1.weight", "missing"]);
}

/// Files that are given in the wrong place, or that belong to different models, are refused.
#[test]
fn files_that_do_not_belong_together() {
    let scratch = Scratch::new();
    let (language, vision) = mobilevlm(&golden(CASE), Naming::Newer, ggml::F32);
    let (language, vision) =
        (scratch.write("language.gguf", language.finish()), scratch.write("vision.gguf", vision.finish()));
    complains(Checkpoint::open(&vision), &["vision.gguf", "--mmproj"]);
    complains(join(&vision, &vision), &["vision.gguf", "--mmproj"]);
    complains(join(&language, &language), &["language.gguf", "`llama`", "`clip`"]);
    complains(join(&language, &scratch.path("nowhere.gguf")), &["nowhere.gguf", "not a file"]);
    complains(join(&language, &golden(CASE)), &[CASE, "not a file"]);
    let wide = golden("llama_untied_sharded");
    complains(join(&wide, &vision), &["vision.gguf", "96", "llama_untied_sharded", "140"]);
    complains(join(&golden("mobilellm_gqa"), &vision), &["--mmproj", "llama, mobilevlm", "mobilellm_gqa"]);
    complains(join(&golden("mobilellm_r1"), &vision), &["--mmproj", "llama4_text"]);

    let tower = Some(golden(CASE).join("openai/clip-vit-tiny-patch14-56"));
    let both = VisionFiles { mmproj: Some(vision.clone()), tower: tower.clone() };
    complains(Checkpoint::open_with(&language, &both), &["--mmproj", "--vision-tower"]);
    let only = VisionFiles { mmproj: None, tower };
    complains(Checkpoint::open_with(&language, &only), &["--vision-tower", "language.gguf", "llama"]);
    // The language half alone is a text model.
    let text = Checkpoint::open(&language).unwrap().config;
    assert_eq!((&*text.architecture, text.vision), ("llama", None));
}

/// The file's vision half replaces that of a MobileVLM folder.
#[test]
fn a_folder_with_another_vision_half() {
    let scratch = Scratch::new();
    let mmproj = scratch.write("vision.gguf", vision("mobilevlm_v2_grid24").finish());
    let (mixed, second) = (join(&golden(CASE), &mmproj).unwrap(), open("mobilevlm_v2_grid24"));
    assert_eq!(mixed.config, Config { vision: second.config.vision.clone(), ..open(CASE).config });
    assert_eq!(mixed.config.vision.as_ref().unwrap().projector, Projector::Ldpv2);
    let names = |checkpoint: &Checkpoint| {
        let names = checkpoint.tensors().map(|tensor| tensor.name.to_string());
        names.filter(|name| vision_folder::is_vision(name)).collect::<Vec<_>>()
    };
    assert_eq!(names(&mixed), names(&second));

    let (folder, _) = super::vision_folders::copied(&scratch, CASE);
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    std::fs::write(folder.join("config.json"), config.replace("\"pad\"", "\"anyres\"")).unwrap();
    complains(join(&folder, &mmproj), &["image_aspect_ratio", "`anyres`"]);
}

/// Where both widths are equal, shapes cannot tell the first matrix: the names of MobileVLM's files are assumed.
#[test]
fn square_feed_forward_parts_have_legacy_names() {
    let scratch = Scratch::new();
    let mut tensors = load(&golden(CASE).join("model.safetensors"));
    for (name, (shape, values)) in &mut tensors {
        if name.starts_with(TOWER) && name.contains(".fc1.") {
            values.truncate(values.len() / shape[0] * 48);
            shape[0] = 48;
        } else if name.starts_with(TOWER) && name.ends_with("fc2.weight") {
            *values = values.chunks(100).flat_map(|row| row[..48].to_vec()).collect();
            shape[1] = 48;
        }
    }
    let listed = tensors.iter().map(|(name, (shape, values))| (name.clone(), shape.clone(), values.clone()));
    let (language, vision) = mobilevlm_of(&golden(CASE), listed.collect(), Naming::Legacy, ggml::F32);
    let (language, vision) =
        (scratch.write("language.gguf", language.finish()), scratch.write("vision.gguf", vision.finish()));
    let checkpoint = join(&language, &vision).unwrap();
    assert_eq!(checkpoint.config.vision.as_ref().unwrap().ffn, 48);
    for fc in ["fc1", "fc2"] {
        let name = format!("{TOWER}encoder.layers.1.mlp.{fc}.weight");
        assert_eq!(checkpoint.take(&name, &[48, 48]).unwrap().to_f32(), tensors[&name].1, "{fc}");
    }
}

/// Quantised blocks run as they are; vectors are converted to f32.
#[test]
fn quantised_matrices() {
    let scratch = Scratch::new();
    let case = "mobilevlm_v2_grid24";
    let quantised = vision(case).encoded(|shape, ggml_type, bytes| match shape {
        &[rows, cols] if cols % 32 == 0 => {
            let values: Vec<f32> = bytes.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect();
            let mut blocks = vec![0; rows * DType::Q8_0.row_bytes(cols)];
            for (row, blocks) in values.chunks(cols).zip(blocks.chunks_mut(DType::Q8_0.row_bytes(cols))) {
                quantize_row(DType::Q8_0, row, blocks);
            }
            (ggml::Q8_0, blocks)
        }
        _ => (ggml_type, bytes),
    });
    let checkpoint = with(&scratch, quantised.finish()).unwrap();
    let exact = open(case);
    let expected = [
        ("encoder.layers.1.self_attn.q_proj.weight", vec![32, 32], DType::Q8_0),
        ("encoder.layers.1.mlp.fc1.weight", vec![72, 32], DType::Q8_0),
        ("encoder.layers.1.mlp.fc2.weight", vec![32, 72], DType::F32),
        ("embeddings.position_embedding.weight", vec![577 * 32], DType::F32),
    ];
    for (name, shape, dtype) in expected {
        let name = format!("{TOWER}{name}");
        let (found, exact) = (checkpoint.take(&name, &shape).unwrap(), exact.take(&name, &shape).unwrap().to_f32());
        // Unlike in the language model, rows of q and k of a tower are in order.
        assert_eq!((found.dtype, found.order), (dtype, RowOrder::Stored), "{name}");
        let largest = exact.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        for (value, exact) in found.to_f32().iter().zip(exact) {
            // Half a step of a block's scale (largest / 127), and the scale's rounding to f16.
            assert!((value - exact).abs() <= largest * 5e-3, "{name}: {value} for {exact}");
        }
    }
}
