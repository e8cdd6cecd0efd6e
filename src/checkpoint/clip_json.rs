//! `config.json` and `preprocessor_config.json` of a CLIP folder → [`Facts`].

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::config::{MOST_LAYERS, is_epsilon};
use super::files::Files;
use super::json::parse;
use super::vision::Activation;
use super::vision_tensors::{Facts, MEAN, NORM_EPS, STD};
use crate::error::{Error, Result};

#[derive(Deserialize)]
struct Preprocessor {
    image_mean: Option<[f32; 3]>,
    image_std: Option<[f32; 3]>,
    size: Option<Size>,
    crop_size: Option<Size>,
}

/// Side of a square image in pixels, in the forms that versions of the Python library have written.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged, expecting = "size or crop_size is neither a number, nor height and width, nor shortest_edge")]
enum Size {
    Side(usize),
    Sides { height: usize, width: usize },
    Shortest { shortest_edge: usize },
}

/// Reads the description of the vision half from a CLIP folder.
pub fn read(files: &Files, folder: &Path) -> Result<Facts> {
    let file = folder.join("config.json");
    if !files.is_file(&file) {
        return Err(Error::checkpoint(format!(
            "the vision tower {} has no config.json; give a CLIP folder, such as openai/clip-vit-large-patch14-336",
            folder.display(),
        )));
    }
    let bad = |what: String| Error::checkpoint(format!("{}: {what}", file.display()));
    let unsupported = |what: String| Error::unsupported(format!("{}: {what}", file.display()));

    let whole: Value = parse(&file, &files.read(&file)?)?;
    let model_type = whole.get("model_type").and_then(Value::as_str).unwrap_or_default();
    let vision = match (model_type, whole.get("vision_config")) {
        ("clip", Some(vision)) => vision,
        ("clip_vision_model", _) => &whole,
        _ => {
            return Err(unsupported(format!(
                "model_type `{model_type}` is not a vision tower that dunlin runs: it runs clip (with a vision_config) and \
                 clip_vision_model",
            )));
        }
    };
    // Keys that shapes cannot give, or that must agree with the shapes. An error names the key whose value is wrong.
    let stated = |key: &str| vision.get(key).filter(|value| !value.is_null());
    let whole = |key: &str| -> Result<Option<usize>> {
        let number = |value: &Value| value.as_u64().and_then(|number| usize::try_from(number).ok());
        let wrong = |value| bad(format!("{key} is {value}, expected a whole number"));
        stated(key).map(|value| number(value).ok_or_else(|| wrong(value))).transpose()
    };
    let required = |key: &str| whole(key)?.ok_or_else(|| bad(format!("{key} is missing, expected a whole number")));
    let above_0 = |key: &str| match required(key)? {
        0 => Err(bad(format!("{key} is 0"))),
        number => Ok(number),
    };
    let (image_size, patch) = (above_0("image_size")?, above_0("patch_size")?);
    let (heads, layers) = (above_0("num_attention_heads")?, required("num_hidden_layers")?);
    if layers > MOST_LAYERS {
        return Err(bad(format!("num_hidden_layers is {layers}, which no model has")));
    }
    if let Some(channels) = whole("num_channels")?.filter(|&channels| channels != 3) {
        return Err(unsupported(format!("num_channels is {channels}; images have 3")));
    }
    let activation = match stated("hidden_act") {
        None => Activation::QuickGelu,
        Some(name) if name == "quick_gelu" => Activation::QuickGelu,
        Some(name) if name == "gelu" => Activation::Gelu,
        Some(other) => {
            return Err(unsupported(format!("hidden_act {other} is not supported, only `quick_gelu` and `gelu`")));
        }
    };
    let norm_eps = stated("layer_norm_eps").map_or(Ok(NORM_EPS), |value| {
        let number = value.as_f64().filter(|&number| is_epsilon(number));
        number.ok_or_else(|| bad(format!("layer_norm_eps is {value}, expected a number of at least 0, such as 1e-5")))
    })?;
    let (mean, std) = colours(files, &folder.join("preprocessor_config.json"), image_size)?;
    Ok(Facts {
        image_size: Some(image_size),
        patch: Some(patch),
        heads: Some(heads),
        layers: Some(layers),
        norm_eps: norm_eps as f32,
        activation,
        mean,
        std,
        file,
    })
}

/// Mean and standard deviation of each colour, from `preprocessor_config.json` where the file exists and gives them.
fn colours(files: &Files, file: &Path, image_size: usize) -> Result<([f32; 3], [f32; 3])> {
    if !files.is_file(file) {
        return Ok((MEAN, STD));
    }
    let json: Preprocessor = parse(file, &files.read(file)?)?;
    for (key, size) in [("size", json.size), ("crop_size", json.crop_size)] {
        let sides = match size {
            None => continue,
            Some(Size::Side(side) | Size::Shortest { shortest_edge: side }) => [side; 2],
            Some(Size::Sides { height, width }) => [height, width],
        };
        if sides != [image_size; 2] {
            let [height, width] = sides;
            return Err(Error::checkpoint(format!(
                "{}: {key} is {height}x{width}, but image_size of config.json beside it is {image_size}",
                file.display(),
            )));
        }
    }
    let (mean, std) = (json.image_mean.unwrap_or(MEAN), json.image_std.unwrap_or(STD));
    check_colours(file, &mean, &std)?;
    Ok((mean, std))
}

/// Refuses numbers that would make every pixel NaN or infinite.
pub fn check_colours(file: &Path, mean: &[f32; 3], std: &[f32; 3]) -> Result<()> {
    if mean.iter().all(|mean| mean.is_finite()) && std.iter().all(|&std| std > 0.0 && std.is_finite()) {
        return Ok(());
    }
    Err(Error::checkpoint(format!(
        "{}: image_mean {mean:?} and image_std {std:?} are not three numbers each, the latter above 0",
        file.display(),
    )))
}
