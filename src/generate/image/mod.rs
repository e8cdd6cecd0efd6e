//! Pictures in the form that vision towers read: decoded, padded or stretched to a square, resized as Pillow does,
//! normalised.
//!
//! PNG and lossless WebP give exactly the bytes of Pillow 12. Decoders of JPEG differ from each other, mostly by 2
//! steps of 255 or less, so JPEG pixels are not exact; all steps after decoding are exact again.

mod decode;
mod resize;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};

/// A picture, decoded: 8-bit RGB. Cheap to clone. Pictures with the same pixels are equal.
#[derive(Clone)]
pub struct Image {
    width: usize,
    height: usize,
    /// 3 · width · height bytes, row by row.
    rgb: Arc<Vec<u8>>,
    /// The picture as stored in its file, if EXIF turned it.
    stored: Option<Arc<Image>>,
}

/// Limits the work that a small file can cause: a photograph has 12 to 50 million pixels.
const MOST_PIXELS: u64 = 100_000_000;
/// The longest side of a JPEG. Resizing a line of a hundred million pixels would take minutes.
const LONGEST_SIDE: u64 = 65_535;

impl Image {
    /// Reads a JPEG, PNG or WebP file, turned according to its EXIF orientation. Transparency is dropped as in Pillow's
    /// `convert("RGB")`; of an animation the first picture is read.
    ///
    /// The error has the kind [`Prompt`](crate::ErrorKind::Prompt): a file cannot be read, is no picture or is cut
    /// short; it has more than 100 megapixels or 65535 pixels a side; or it is 16-bit grey, which Pillow turns white.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        decode::file(path.as_ref())
    }

    /// A JPEG, PNG or WebP file in memory. Errors are those of [`Image::open`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        decode::bytes("the image", bytes)
    }

    /// A picture from pixels: `rgb` is 3 · `width` · `height` bytes, row by row. It is an error if the size differs, if
    /// a side is 0 or if the picture is too large.
    pub fn from_rgb(width: usize, height: usize, rgb: &[u8]) -> Result<Self> {
        check_size("the image", width as u64, height as u64)?;
        let expected = 3 * width * height;
        if rgb.len() != expected {
            return Err(Error::prompt(format!(
                "an image of {width} × {height} pixels has {expected} bytes of RGB, but {} were given",
                rgb.len()
            )));
        }
        Ok(Self::new(width, height, rgb.to_vec()))
    }

    /// The number of pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The number of rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// (3, `size`, `size`): the square, red, green, blue plane after plane, each (value / 255 − mean) / std.
    #[doc(hidden)]
    pub fn pixels(&self, size: usize, mean: [f32; 3], std: [f32; 3]) -> Vec<f32> {
        // The order of CLIPImageProcessor: the product in f64, rounded; the rest in f32.
        planes(&self.square(size), |value| (f64::from(value) * (1.0 / 255.0)) as f32, mean, std)
    }

    /// (3, `size`, `size`): the whole picture stretched to the square, red, green, blue plane after plane.
    #[doc(hidden)]
    pub fn stretched_pixels(&self, size: usize, mean: [f32; 3], std: [f32; 3]) -> Vec<f32> {
        // The order of torchvision's ToTensor and Normalize: all in f32.
        planes(&self.stretched(size), |value| f32::from(value) / 255.0, mean, std)
    }

    /// (`size`, `size`, 3): the whole picture, with each side resized to `size`.
    #[doc(hidden)]
    pub fn stretched(&self, size: usize) -> Vec<u8> {
        resize::stretched(self, size)
    }

    /// The picture as stored in its file, not turned by its EXIF orientation.
    #[doc(hidden)]
    pub fn as_stored(&self) -> Image {
        self.stored.as_deref().unwrap_or(self).clone()
    }

    /// (`size`, `size`, 3): the picture in the middle of a square of CLIP's mean colour, resized to `size`.
    #[doc(hidden)]
    pub fn square(&self, size: usize) -> Vec<u8> {
        resize::square(self, size)
    }

    fn new(width: usize, height: usize, rgb: Vec<u8>) -> Self {
        debug_assert_eq!(rgb.len(), 3 * width * height);
        Self { width, height, rgb: Arc::new(rgb), stored: None }
    }
}

/// Plane after plane, each value (`scaled` − mean) / std.
fn planes(square: &[u8], scaled: impl Fn(u8) -> f32, mean: [f32; 3], std: [f32; 3]) -> Vec<f32> {
    let mut out = Vec::with_capacity(square.len());
    for channel in 0..3 {
        let values: [f32; 256] = std::array::from_fn(|value| (scaled(value as u8) - mean[channel]) / std[channel]);
        out.extend(square.iter().skip(channel).step_by(3).map(|&value| values[usize::from(value)]));
    }
    out
}

impl PartialEq for Image {
    fn eq(&self, other: &Self) -> bool {
        (self.width, self.height, &self.rgb) == (other.width, other.height, &other.rgb)
    }
}

impl Eq for Image {}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image").field("width", &self.width).field("height", &self.height).finish_non_exhaustive()
    }
}

/// `name` is the file name or `the image`.
fn check_size(name: &str, width: u64, height: u64) -> Result<()> {
    let refuse = |limit: &str| Err(Error::prompt(format!("{name} is {width} × {height} pixels: {limit}")));
    if width == 0 || height == 0 {
        return refuse("there is nothing to see");
    }
    if width.max(height) > LONGEST_SIDE {
        return refuse(&format!("at most {LONGEST_SIDE} a side are read, make it smaller"));
    }
    if width * height > MOST_PIXELS {
        return refuse(&format!("at most {} megapixels are read, make it smaller", MOST_PIXELS / 1_000_000));
    }
    Ok(())
}
