//! Files → pixels. The error for a refused file names the file.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;
use std::sync::Arc;

use ::image::codecs::jpeg::JpegDecoder;
use ::image::codecs::png::PngDecoder;
use ::image::codecs::webp::WebPDecoder;
use ::image::metadata::Orientation;
use ::image::{ColorType, DynamicImage, ImageDecoder, ImageError, ImageFormat, Limits, RgbImage};

use super::{Image, MOST_PIXELS, check_size};
use crate::error::{Error, Result};

/// The number of bytes that contain every format's signature.
const SIGNATURE: u64 = 16;
/// The largest picture that is read, at 16 bits of red, green, blue and alpha.
const MOST_BYTES: u64 = 8 * MOST_PIXELS;

pub fn file(path: &Path) -> Result<Image> {
    let name = path.display().to_string();
    if path.is_dir() {
        return Err(Error::prompt(format!("{name} is a folder: give a JPEG, PNG or WebP file")));
    }
    let failed = |error| Error::prompt(format!("{name} cannot be read")).caused_by(error);
    let mut file = File::open(path).map_err(failed)?;
    // If a model is given in place of a picture, it is refused before its gigabytes are read.
    let mut content = Vec::new();
    file.by_ref().take(SIGNATURE).read_to_end(&mut content).map_err(failed)?;
    format(&name, &content)?;
    file.take(MOST_BYTES).read_to_end(&mut content).map_err(failed)?;
    bytes(&name, &content)
}

/// `name` is the name of the bytes in messages.
pub fn bytes(name: &str, bytes: &[u8]) -> Result<Image> {
    let mut limits = Limits::default();
    limits.max_alloc = Some(MOST_BYTES);
    let input = Cursor::new(bytes);
    match format(name, bytes)? {
        ImageFormat::Jpeg => {
            check_jpeg(name, bytes)?;
            decode(name, "JPEG", JpegDecoder::new(input), limits)
        }
        ImageFormat::Png => {
            check_png(name, bytes)?;
            decode(name, "PNG", PngDecoder::with_limits(input, limits.clone()), limits)
        }
        _ => {
            check_webp(name, bytes)?;
            decode(name, "WebP", WebPDecoder::new(input), limits)
        }
    }
}

fn decode(name: &str, format: &str, decoder: Result<impl ImageDecoder, ImageError>, limits: Limits) -> Result<Image> {
    let failed = |error: ImageError| {
        Error::prompt(format!("{name} is a {format} file that is cut short or damaged")).caused_by(error)
    };
    let mut decoder = decoder.map_err(failed)?;
    let (width, height) = decoder.dimensions();
    check_size(name, width.into(), height.into())?;
    decoder.set_limits(limits).map_err(failed)?;
    // Metadata that cannot be read does not turn the picture.
    let exif = decoder.exif_metadata().ok().flatten().unwrap_or_default();
    // Some WebP files have the signature of JPEG's metadata.
    let exif = exif.strip_prefix(b"Exif\0\0").unwrap_or(&exif);
    let orientation = Orientation::from_exif_chunk(exif).unwrap_or(Orientation::NoTransforms);
    let color = decoder.color_type();
    let mut content = vec![0; width as usize * height as usize * usize::from(color.bytes_per_pixel())];
    decoder.read_image(&mut content).map_err(failed)?;

    let rgb = to_rgb(color, content)
        .ok_or_else(|| Error::prompt(format!("{name} has pixels of type {color:?}: convert it to 8-bit RGB")))?;
    if orientation == Orientation::NoTransforms {
        return Ok(Image::new(width as usize, height as usize, rgb));
    }
    let stored = Image::new(width as usize, height as usize, rgb.clone());
    let picture = RgbImage::from_raw(width, height, rgb).expect("three bytes a pixel");
    let mut picture = DynamicImage::ImageRgb8(picture);
    picture.apply_orientation(orientation);
    let upright = Image::new(picture.width() as usize, picture.height() as usize, picture.into_bytes());
    Ok(Image { stored: Some(Arc::new(stored)), ..upright })
}

/// The same as Pillow's `convert("RGB")`: grey is repeated, transparency is dropped, and of 16 bits the upper 8 are
/// kept.
fn to_rgb(color: ColorType, content: Vec<u8>) -> Option<Vec<u8>> {
    // The two bytes are in the byte order of this machine.
    let upper = if cfg!(target_endian = "big") { 0 } else { 1 };
    let pick = |stride: usize, bytes: [usize; 3]| {
        let mut rgb = Vec::with_capacity(content.len() / stride * 3);
        for pixel in content.chunks_exact(stride) {
            rgb.extend_from_slice(&bytes.map(|byte| pixel[byte]));
        }
        rgb
    };
    Some(match color {
        ColorType::Rgb8 => content,
        ColorType::L8 => pick(1, [0; 3]),
        ColorType::La8 => pick(2, [0; 3]),
        ColorType::Rgba8 => pick(4, [0, 1, 2]),
        ColorType::La16 => pick(4, [upper; 3]),
        ColorType::Rgb16 => pick(6, [upper, upper + 2, upper + 4]),
        ColorType::Rgba16 => pick(8, [upper, upper + 2, upper + 4]),
        _ => return None,
    })
}

/// The format that the first bytes announce.
fn format(name: &str, bytes: &[u8]) -> Result<ImageFormat> {
    let advice = "dunlin reads JPEG, PNG and WebP";
    if bytes.is_empty() {
        return Err(Error::prompt(format!("{name} is empty: {advice}")));
    }
    match ::image::guess_format(bytes) {
        Ok(format @ (ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::WebP)) => Ok(format),
        Ok(other) => {
            let other = format!("{other:?}").to_uppercase();
            Err(Error::prompt(format!("{name} is a {other} picture: {advice}, convert it")))
        }
        Err(_) => {
            let start = bytes[..bytes.len().min(8)].escape_ascii();
            Err(Error::prompt(format!("{name} starts with \"{start}\" and is no picture that is known: {advice}")))
        }
    }
}

/// Refuses a file that is cut short. Decoders accept it without an error and fill the missing part with grey.
fn check_jpeg(name: &str, bytes: &[u8]) -> Result<()> {
    let mut rest = bytes;
    // Skips the compressed pixels, in which the first byte of a marker is always followed by 0.
    while let Some(at) = rest.windows(2).position(|pair| pair[0] == 0xFF && !matches!(pair[1], 0 | 0xFF)) {
        let marker = rest[at + 1];
        rest = &rest[at + 2..];
        match marker {
            // The end marker.
            0xD9 => return Ok(()),
            // Start, restarts and 1 have no content.
            0x01 | 0xD0..=0xD8 => {}
            // Other markers state their length. A thumbnail in one of them has an end marker of its own.
            _ => {
                let Some(&[high, low]) = rest.get(..2) else { break };
                rest = rest.get(u16::from_be_bytes([high, low]).into()..).unwrap_or_default();
            }
        }
    }
    Err(Error::prompt(format!("{name} is a JPEG file that is cut short: its end marker is missing")))
}

/// Refuses a size that is too large before the decoder allocates a row of it, and 16-bit grey, in which Pillow turns
/// all values above 255 white.
fn check_png(name: &str, bytes: &[u8]) -> Result<()> {
    // Signature, length, `IHDR`; then width, height, bits a channel, color type.
    let Some(header) = bytes.get(16..26) else { return Ok(()) };
    let number = |at: usize| header[at..at + 4].iter().fold(0, |number, &byte| number << 8 | u64::from(byte));
    check_size(name, number(0), number(4))?;
    if header[8..] == [16, 0] {
        return Err(Error::prompt(format!("{name} is a PNG of 16-bit grey: convert it to 8 bits")));
    }
    Ok(())
}

/// Refuses a file that is cut short, because the decoder would guess the last rows of a lossy picture.
fn check_webp(name: &str, bytes: &[u8]) -> Result<()> {
    let length = |at: [u8; 4]| 8 + u64::from(u32::from_le_bytes(at));
    match bytes.get(4..8).map(|at| length(at.try_into().expect("4 bytes"))) {
        Some(length) if length > bytes.len() as u64 => Err(Error::prompt(format!(
            "{name} is a WebP file that is cut short: it has {} of {length} bytes",
            bytes.len()
        ))),
        _ => Ok(()),
    }
}
