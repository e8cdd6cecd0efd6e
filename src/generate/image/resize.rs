//! Pads or stretches, and resizes, bit for bit as Pillow does (up to version 12: later versions may change the order of
//! the passes).
//!
//! The picture (h, w) is in the middle of a square of side s = max(h, w), and the rest is `PADDING`. Bicubic, a = −½,
//! horizontal pass first, then vertical, with bytes in between:
//!
//! ```text
//! out[i] = clip((2²¹ + Σ_x weight[i][x] · in[x]) >> 22)
//! ```
//!
//! The square is never stored. Padding has one colour, so its weights in a sum are added to one number, and the cost
//! depends on the picture alone, whatever its proportions.

use super::Image;

/// 255 times CLIP's mean colour, rounded down.
const PADDING: [u8; 3] = [122, 116, 104];
/// Fraction bits of a weight: of 32 bits, 8 hold the value and 2 hold sums that overshoot.
const FRACTION: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (FRACTION - 1);
/// The kernel reaches two pixels to either side.
const REACH: f64 = 2.0;

/// (`size`, `size`, 3)
pub fn square(image: &Image, size: usize) -> Vec<u8> {
    assert!(size > 0, "an image is resized to nothing");
    let (width, height) = (image.width, image.height);
    let side = width.max(height);
    if side == size {
        return padded(image);
    }
    let columns = Axis::new(side, (side - width) / 2, width, size);
    let rows = Axis::new(side, (side - height) / 2, height, size);
    resampled(image, &columns, &rows, size)
}

/// (`size`, `size`, 3), the picture alone, with any ratio of its sides.
pub fn stretched(image: &Image, size: usize) -> Vec<u8> {
    assert!(size > 0, "an image is resized to nothing");
    let (width, height) = (image.width, image.height);
    if (width, height) == (size, size) {
        return image.rgb.to_vec();
    }
    resampled(image, &Axis::new(width, 0, width, size), &Axis::new(height, 0, height, size), size)
}

/// Runs both passes.
fn resampled(image: &Image, columns: &Axis, rows: &Axis, size: usize) -> Vec<u8> {
    let (width, height) = (image.width, image.height);
    let row = 3 * size;
    let mut narrow = vec![0u8; height * row];
    for (from, to) in image.rgb.chunks_exact(3 * width).zip(narrow.chunks_exact_mut(row)) {
        for (window, pixel) in columns.windows.iter().zip(to.chunks_exact_mut(3)) {
            let mut sums = PADDING.map(|value| HALF + window.padding * i32::from(value));
            let taps = columns.taps(window);
            for (weight, pixel) in taps.iter().zip(from[3 * window.first..].chunks_exact(3)) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum += weight * i32::from(value);
                }
            }
            pixel.copy_from_slice(&sums.map(clip));
        }
    }
    // The result of the horizontal pass for a row of padding: weights are rounded, so the colour may differ.
    let mut margin = vec![0u8; row];
    for (window, pixel) in columns.windows.iter().zip(margin.chunks_exact_mut(3)) {
        let whole = window.padding + columns.taps(window).iter().sum::<i32>();
        pixel.copy_from_slice(&PADDING.map(|value| clip(HALF + whole * i32::from(value))));
    }

    let mut out = vec![0u8; size * row];
    let mut sums = vec![0i32; row];
    for (window, to) in rows.windows.iter().zip(out.chunks_exact_mut(row)) {
        for (sum, &value) in sums.iter_mut().zip(&margin) {
            *sum = HALF + window.padding * i32::from(value);
        }
        for (weight, from) in rows.taps(window).iter().zip(narrow[window.first * row..].chunks_exact(row)) {
            for (sum, &value) in sums.iter_mut().zip(from) {
                *sum += weight * i32::from(value);
            }
        }
        for (value, &sum) in to.iter_mut().zip(&sums) {
            *value = clip(sum);
        }
    }
    out
}

/// The square at its own size: Pillow copies it, and no pass rounds.
fn padded(image: &Image) -> Vec<u8> {
    let side = image.width.max(image.height);
    let (left, top) = ((side - image.width) / 2, (side - image.height) / 2);
    let mut out = PADDING.repeat(side * side);
    let rows = out.chunks_exact_mut(3 * side).skip(top);
    for (to, from) in rows.zip(image.rgb.chunks_exact(3 * image.width)) {
        to[3 * left..][..from.len()].copy_from_slice(from);
    }
    out
}

/// One direction of a resize: the weighted sum for each output element.
struct Axis {
    windows: Vec<Window>,
    /// The weights of all windows, in order.
    weights: Vec<i32>,
}

struct Window {
    /// The first element of the picture in the window.
    first: usize,
    taps: std::ops::Range<usize>,
    /// The sum of the weights that apply to padding.
    padding: i32,
}

impl Axis {
    /// An axis of `side` elements, of which `length` from `offset` on are picture, resized to `size`.
    fn new(side: usize, offset: usize, length: usize, size: usize) -> Self {
        let scale = side as f64 / size as f64;
        // When the picture shrinks, the kernel is stretched to cover every element.
        let stretch = scale.max(1.0);
        let reach = REACH * stretch;
        let mut weights = Vec::new();
        let mut exact = Vec::new();
        let mut windows = Vec::with_capacity(size);
        for i in 0..size {
            let center = (i as f64 + 0.5) * scale;
            // Casts round towards zero, and negative numbers become zero.
            let from = (center - reach + 0.5) as usize;
            let to = ((center + reach + 0.5) as usize).min(side);
            exact.clear();
            exact.extend((from..to).map(|x| bicubic((x as f64 - center + 0.5) * (1.0 / stretch))));
            let total: f64 = exact.iter().sum();
            let fixed = exact.iter().map(|weight| {
                let weight = if total == 0.0 { *weight } else { weight / total };
                (weight * f64::from(1 << FRACTION) + 0.5f64.copysign(weight)) as i32
            });
            let start = weights.len();
            let mut padding = 0;
            for (x, weight) in (from..to).zip(fixed) {
                if (offset..offset + length).contains(&x) {
                    weights.push(weight);
                } else {
                    padding += weight;
                }
            }
            let first = from.saturating_sub(offset).min(length);
            windows.push(Window { first, taps: start..weights.len(), padding });
        }
        Self { windows, weights }
    }

    fn taps(&self, window: &Window) -> &[i32] {
        &self.weights[window.taps.clone()]
    }
}

/// Keys' cubic convolution with a = −½. The order of the operations is Pillow's; another order rounds differently.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn clip(sum: i32) -> u8 {
    (sum >> FRACTION).clamp(0, 255) as u8
}
