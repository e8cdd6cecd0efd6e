//! Decoded pictures equal Pillow 12's (`scripts/make_resize_fixtures.py`), exactly if the format is lossless, and the
//! vision tower's input equals the reference's. The error for a broken file is a sentence that names it.

use std::path::{Path, PathBuf};

use crate::support::golden::{self, Golden};
use crate::support::scratch::Scratch;
use dunlin::{ErrorKind, Image};

/// The files of a folder of tests/fixtures/images with one of these extensions, in order.
fn fixtures(folder: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images").join(folder);
    let entries = std::fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut found: Vec<PathBuf> =
        entries.filter(|path| extensions.iter().any(|wanted| path.extension().is_some_and(|e| e == *wanted))).collect();
    found.sort();
    found
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).expect("UTF-8")
}

/// The pixels of a picture, row by row: its square at the original size, without the padding.
fn rgb(image: &Image) -> Vec<u8> {
    let (width, height) = (image.width(), image.height());
    let side = width.max(height);
    let square = image.square(side);
    let rows = square.chunks_exact(3 * side).skip((side - height) / 2).take(height);
    rows.flat_map(|row| row[3 * ((side - width) / 2)..][..3 * width].to_vec()).collect()
}

/// Pillow's pixels for a file of `decode/`: width, height, RGB.
fn pillow(path: &Path) -> (usize, usize, Vec<u8>) {
    let bytes = std::fs::read(path.with_file_name(format!("{}.bin", name(path)))).expect("a .bin beside it");
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes")) as usize;
    (number(0), number(4), bytes[8..].to_vec())
}

fn largest_difference(a: &[u8], b: &[u8]) -> u8 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().expect("not empty")
}

#[test]
fn resizing_is_pillows_to_the_last_byte() {
    let mut cases = 0;
    for path in fixtures("resize", &["png"]) {
        let Some((source, size)) = name(&path).strip_suffix(".png").and_then(|name| name.split_once('.')) else {
            continue;
        };
        let image = Image::open(path.with_file_name(format!("{source}.png"))).expect(source);
        let expected = rgb(&Image::open(&path).expect(source));
        let found = image.square(size.parse().expect("a size"));
        assert_eq!(largest_difference(&found, &expected), 0, "{source}");
        cases += 1;
    }
    assert_eq!(cases, 21);
}

#[test]
fn files_are_decoded_as_pillow_decodes_them() {
    let mut cases = 0;
    for path in fixtures("decode", &["png", "webp", "jpg"]) {
        let name = name(&path);
        if name.starts_with("refused") {
            continue;
        }
        let (width, height, expected) = pillow(&path);
        let image = Image::open(&path).expect(name);
        assert_eq!((image.width(), image.height()), (width, height), "{name}");
        // A JPEG's cosine transform and its colours are each rounded, and each may be rounded the other way.
        let tolerance = if name.starts_with("lossy") { 2 } else { 0 };
        let difference = largest_difference(&rgb(&image), &expected);
        assert!(difference <= tolerance, "{name}: {difference}");
        assert_eq!(image, Image::from_bytes(&std::fs::read(&path).expect(name)).expect(name));
        if tolerance == 0 {
            assert_eq!(image, Image::from_rgb(width, height, &expected).expect(name));
        }
        cases += 1;
    }
    assert_eq!(cases, 45);
}

#[test]
fn a_tower_gets_the_pixels_of_the_reference() {
    for case in ["mobilevlm_v1_grid4", "mobilevlm_v1_grid8", "mobilevlm_v2_grid16", "mobilevlm_v2_grid24"] {
        let golden = Golden::open(case);
        let tower = std::fs::read_dir(golden.folder.join("openai")).expect("a folder").next().expect("a tower");
        let config = std::fs::read(tower.expect("a tower").path().join("preprocessor_config.json")).expect(case);
        let config: serde_json::Value = serde_json::from_slice(&config).expect(case);
        let [mean, std] =
            ["image_mean", "image_std"].map(|key| golden::numbers(&config[key]).try_into().expect("three channels"));
        for k in 0..2 {
            let image = Image::open(golden.folder.join(format!("image_{k}.png"))).expect(case);
            let (shape, resized) = golden.u8(&format!("img{k}.resized_u8"));
            let size = shape[0];
            assert_eq!(shape, [size, size, 3]);
            assert_eq!(largest_difference(&image.square(size), &resized), 0, "{case}, image {k}");
            // The same operations in the same order: no tolerance.
            assert_eq!(image.pixels(size, mean, std), golden.f32(&format!("img{k}.pixel_values")), "{case}, image {k}");
        }
    }
}

#[test]
fn what_is_no_picture_is_refused_by_name() {
    let scratch = Scratch::new();
    let folder = scratch.path("folder.png");
    std::fs::create_dir(&folder).expect("a folder");
    let made = [
        (scratch.path("nowhere.jpg"), "nowhere.jpg cannot be read"),
        (folder, "folder.png is a folder: give a JPEG, PNG or WebP file"),
        (scratch.write("nothing.png", b""), "nothing.png is empty: dunlin reads JPEG, PNG and WebP"),
        (scratch.write("short.jpg", [0xFF]), "short.jpg starts with \"\\xff\" and is no picture that is known"),
        (
            scratch.write("model.gguf", b"GGUF\x03\0\0\0 and more"),
            "model.gguf starts with \"GGUF\\x03\\x00\\x00\\x00\" and",
        ),
        (scratch.write("text.png", "not a picture"), "text.png starts with \"not a pi\" and is no picture"),
    ];
    let stored = [
        ("refused_area.jpg", "is 20000 × 20000 pixels: at most 100 megapixels are read"),
        ("refused_area.png", "is 20000 × 20000 pixels: at most 100 megapixels are read"),
        ("refused_area.webp", "is 12000 × 12000 pixels: at most 100 megapixels are read"),
        ("refused_gif.gif", "is a GIF picture: dunlin reads JPEG, PNG and WebP"),
        ("refused_grey_16.png", "is a PNG of 16-bit grey: convert it to 8 bits"),
        ("refused_grey_16_transparent.png", "is a PNG of 16-bit grey: convert it to 8 bits"),
        ("refused_largest.png", "is 2147483647 × 2147483647 pixels: at most 65535 a side are read"),
        ("refused_nothing.png", "is 0 × 5 pixels: there is nothing to see"),
        ("refused_side.png", "is 1 × 65536 pixels: at most 65535 a side are read"),
    ];
    let files = fixtures("decode", &["jpg", "png", "webp", "gif"]);
    let refused: Vec<PathBuf> = files.into_iter().filter(|path| name(path).starts_with("refused")).collect();
    assert_eq!(refused.iter().map(|path| name(path)).collect::<Vec<_>>(), stored.map(|(file, _)| file));

    let stored = refused.into_iter().zip(stored.map(|(_, message)| message));
    for (path, message) in made.into_iter().chain(stored) {
        let error = Image::open(&path).expect_err(message);
        assert_eq!(error.kind(), ErrorKind::Prompt, "{error}");
        let text = error.to_string();
        assert!(text.starts_with(path.to_str().expect("UTF-8")) && text.contains(message), "{text}, not {message}");
    }
}

#[test]
fn pixels_are_counted() {
    let refused = |width, height, bytes: usize| {
        Image::from_rgb(width, height, &vec![0; bytes]).expect_err("a refusal").to_string()
    };
    assert_eq!(refused(2, 3, 17), "an image of 2 × 3 pixels has 18 bytes of RGB, but 17 were given");
    assert_eq!(refused(2, 3, 24), "an image of 2 × 3 pixels has 18 bytes of RGB, but 24 were given");
    for (width, height) in [(0, 3), (3, 0), (65_536, 1), (1, 65_536), (10_001, 10_000), (usize::MAX, usize::MAX)] {
        let text = refused(width, height, 0);
        assert!(text.starts_with(&format!("the image is {width} × {height} pixels: ")), "{text}");
    }
    let image = Image::from_rgb(2, 1, &[1, 2, 3, 4, 5, 6]).expect("an image");
    assert_eq!(image.square(2), [1, 2, 3, 4, 5, 6, 122, 116, 104, 122, 116, 104]);
    assert_eq!(format!("{image:?}"), "Image { width: 2, height: 1, .. }");
}

/// One file of each kind, with its name.
fn whole_files() -> Vec<(String, Vec<u8>)> {
    let names = [
        "rgb.png",
        "palette_transparent.png",
        "lossless.webp",
        "lossless_alpha.webp",
        "lossy_webp.webp",
        "lossy_444.jpg",
        "lossy_progressive.jpg",
        "lossy_cmyk.jpg",
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images/decode");
    names.map(|name| (name.to_owned(), std::fs::read(folder.join(name)).expect(name))).into()
}

#[test]
fn a_file_that_is_cut_short_is_no_picture() {
    for (name, bytes) in whole_files() {
        // The last 4 bytes of a PNG are the checksum of its empty end chunk, which decoders do not need.
        let needed = if name.ends_with("png") { bytes.len() - 4 } else { bytes.len() };
        for length in 0..needed {
            let error = Image::from_bytes(&bytes[..length]).expect_err(&name);
            assert_eq!(error.kind(), ErrorKind::Prompt);
            assert!(error.to_string().starts_with("the image "), "{name}: {error}");
        }
        assert!(Image::from_bytes(&bytes).is_ok(), "{name}");
    }
}

#[test]
fn a_garbled_file_is_a_picture_or_a_sentence() {
    let mut refused = 0;
    for (name, bytes) in whole_files() {
        for at in 0..bytes.len() {
            let mut garbled = bytes.clone();
            garbled[at] ^= 1 << (at % 8);
            if let Err(error) = Image::from_bytes(&garbled) {
                assert_eq!(error.kind(), ErrorKind::Prompt);
                assert!(error.to_string().starts_with("the image "), "{name}: {error}");
                refused += 1;
            }
        }
    }
    // A checksum covers every byte of a PNG.
    assert!(refused > 700, "{refused}");
}

/// Qwen-VL stretches pictures to its square; the tower's input equals the reference's.
#[test]
fn stretched_pictures_are_pillows_to_the_last_byte() {
    for golden in ["qwenvl_a", "qwenvl_b"].map(Golden::open) {
        for index in [0, 1] {
            let image = Image::open(golden.folder.join(format!("image_{index}.png"))).expect("a picture");
            let (shape, expected) = golden.u8(&format!("img{index}.resized_u8"));
            let at = format!("{}, image {index}", golden.name);
            assert_eq!(largest_difference(&image.stretched(shape[0]), &expected), 0, "{at}");
            // CLIP's mean and deviation, with the digits that the checkpoint's own code has.
            let mean = [0.481_454_66, 0.457_827_5, 0.408_210_73];
            let std = [0.268_629_54, 0.261_302_6, 0.275_777_1];
            let found = image.stretched_pixels(shape[0], mean, std);
            let expected = golden.f32(&format!("img{index}.pixel_values"));
            let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(found.len() == expected.len() && worst < 1e-6, "{at}: pixels are off by {worst}");
        }
    }
    // A picture that has the right size stays unchanged.
    let square: Vec<u8> = (0..3 * 9 * 9).map(|i| (i * 37 % 256) as u8).collect();
    assert_eq!(Image::from_rgb(9, 9, &square).expect("a picture").stretched(9), square);
}

/// A model that ignores EXIF gets the picture in the orientation of its file.
#[test]
fn pictures_that_exif_turns_keep_what_is_in_the_file() {
    let mut turned = 0;
    for path in fixtures("decode", &["jpg", "png", "webp"]) {
        // Some files must be refused, so they are skipped here.
        let Ok(image) = Image::open(&path) else { continue };
        let stored = image.as_stored();
        if stored == image {
            continue;
        }
        turned += 1;
        let mut both = [rgb(&image), rgb(&stored)];
        both.iter_mut().for_each(|pixels| pixels.sort_unstable());
        assert_eq!(both[0], both[1], "{}: the same pixels in another order", name(&path));
        assert_eq!(stored.as_stored(), stored, "{}", name(&path));
    }
    assert!(turned >= 3, "only {turned} fixtures are turned");
}
