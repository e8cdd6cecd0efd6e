//! Places in pictures that an answer names, as Qwen-VL and Xiaomi's MobileVLM write them:
//!
//! ```text
//! <ref>Search</ref><box>(75,41),(924,110)</box>     thousandths of width and height
//! <ref>Search</ref><box>[54,52][665,140]</box>      pixels
//! <quad>(10,20),(30,20),(30,40),(10,40)</quad>      four corners, in either form
//! ```
//!
//! Any other form is text.

/// A place in a picture that a model named.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Located {
    /// The name of the place: the text of `<ref>` right before it.
    pub label: Option<String>,
    pub shape: Outline,
    /// Corners (x, y) in pixels of the picture. Empty if the model wrote thousandths and no picture was given.
    pub pixels: Vec<[u32; 2]>,
    /// Corners (x, y) in thousandths of the picture's width and height. Empty if the model wrote pixels and no picture
    /// was given.
    pub thousandths: Vec<[u32; 2]>,
    /// Width and height of the picture, which is the last one of the prompt.
    pub size: Option<[usize; 2]>,
}

/// The shape that the corners describe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outline {
    /// Two corners: top left and bottom right.
    Box,
    /// Four corners of a quadrilateral.
    Quad,
}

/// The places that a text names, in order. `size` is the size of the picture.
pub(super) fn located(text: &str, size: Option<(usize, usize)>) -> Vec<Located> {
    let mut found = Vec::new();
    // A label, and the position at which its place must begin.
    let mut label: Option<(&str, usize)> = None;
    let mut at = 0;
    while let Some(next) = text[at..].find('<').map(|next| at + next) {
        let after = |tag: &str| text[next..].starts_with(tag).then_some(next + tag.len());
        let inside = |open: &str, close: &str| {
            let start = after(open)?;
            let end = start + text[start..].find(close)?;
            Some((&text[start..end], end + close.len()))
        };
        at = next + 1;
        if let Some((words, end)) = inside("<ref>", "</ref>") {
            if !words.contains('<') {
                (label, at) = (Some((words, end)), end);
            }
            continue;
        }
        for (shape, open, close) in [(Outline::Box, "<box>", "</box>"), (Outline::Quad, "<quad>", "</quad>")] {
            let Some((content, end)) = inside(open, close) else { continue };
            let Some((corners, in_pixels)) = corners(content, shape) else { continue };
            let own = label.filter(|&(_, from)| text[from..next].trim().is_empty()).map(|(words, _)| words);
            label = own.map(|words| (words, end));
            found.push(Located::new(own, shape, corners, in_pixels, size));
            at = end;
        }
    }
    found
}

impl Located {
    fn new(
        label: Option<&str>,
        shape: Outline,
        corners: Vec<[u32; 2]>,
        in_pixels: bool,
        size: Option<(usize, usize)>,
    ) -> Self {
        let scaled = |of: [u64; 2], to: [u64; 2]| -> Vec<[u32; 2]> {
            let number = |value: u32, axis: usize| (u64::from(value) * to[axis] / of[axis].max(1)).min(u32::MAX.into());
            corners.iter().map(|&[x, y]| [number(x, 0) as u32, number(y, 1) as u32]).collect()
        };
        let whole = size.map(|(width, height)| [width as u64, height as u64]);
        let other = whole.map(|whole| if in_pixels { scaled(whole, [1000; 2]) } else { scaled([1000; 2], whole) });
        let other = other.unwrap_or_default();
        let (pixels, thousandths) = if in_pixels { (corners, other) } else { (other, corners) };
        let size = size.map(|(width, height)| [width, height]);
        Self { label: label.map(str::to_owned), shape, pixels, thousandths, size }
    }
}

/// The corners of a shape, and whether they are pixels: `[x,y][x,y]`, else `(x,y),(x,y)`.
fn corners(content: &str, shape: Outline) -> Option<(Vec<[u32; 2]>, bool)> {
    let count = if shape == Outline::Box { 2 } else { 4 };
    let list = |open: char, close: char, between: &str| -> Option<Vec<[u32; 2]>> {
        let mut rest = content.trim();
        let mut corners = Vec::new();
        while !rest.is_empty() {
            if !corners.is_empty() {
                rest = rest.strip_prefix(between)?.trim_start();
            }
            let (pair, after) = rest.strip_prefix(open)?.split_once(close)?;
            let (x, y) = pair.split_once(',')?;
            corners.push([number(x)?, number(y)?]);
            rest = after.trim_start();
        }
        (corners.len() == count).then_some(corners)
    };
    let pixels = list('[', ']', "").map(|corners| (corners, true));
    pixels.or_else(|| list('(', ')', ",").map(|corners| (corners, false)))
}

/// Digits only: no sign, and no number larger than a picture can have.
fn number(text: &str) -> Option<u32> {
    let text = text.trim();
    let digits = !text.is_empty() && text.len() <= 9 && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_with_their_labels() {
        let text = "<ref>Search</ref><box>(75,41),(924,110)</box> and click(<ref>确定</ref><box>[54,52][665,140]</box>)\n\
                    scroll(<box>[0,0][720,1280]</box>,up) <quad>(0,0),(1000,0),(1000,500),(0,500)</quad>";
        let found = located(text, Some((720, 1280)));
        let size = Some([720, 1280]);
        assert_eq!(
            found,
            [
                Located {
                    label: Some("Search".into()),
                    shape: Outline::Box,
                    // int(x / 1000 · 720), int(y / 1000 · 1280)
                    pixels: vec![[54, 52], [665, 140]],
                    thousandths: vec![[75, 41], [924, 110]],
                    size,
                },
                Located {
                    label: Some("确定".into()),
                    shape: Outline::Box,
                    pixels: vec![[54, 52], [665, 140]],
                    thousandths: vec![[75, 40], [923, 109]],
                    size,
                },
                Located {
                    label: None,
                    shape: Outline::Box,
                    pixels: vec![[0, 0], [720, 1280]],
                    thousandths: vec![[0, 0], [1000, 1000]],
                    size,
                },
                Located {
                    label: None,
                    shape: Outline::Quad,
                    pixels: vec![[0, 0], [720, 0], [720, 640], [0, 640]],
                    thousandths: vec![[0, 0], [1000, 0], [1000, 500], [0, 500]],
                    size,
                },
            ]
        );
    }

    #[test]
    fn a_label_belongs_to_the_boxes_right_behind_it() {
        let labels = |text: &str| -> Vec<Option<String>> { located(text, None).into_iter().map(|l| l.label).collect() };
        let (one, two) = ("<box>(1,2),(3,4)</box>", "<box> (5, 6), (7, 8) </box>");
        assert_eq!(labels(&format!("<ref>a</ref>{one}{two} then {one}")), [Some("a".into()), Some("a".into()), None]);
        assert_eq!(labels(&format!("<ref>a</ref> is at {one}")), [None]);
        assert!(located(one, None)[0].pixels.is_empty());
        let pixels = &located("<box>[1,2][3,4]</box>", None)[0];
        assert_eq!((&pixels.pixels[..], pixels.thousandths.len()), (&[[1, 2], [3, 4]][..], 0));
    }

    #[test]
    fn what_is_malformed_is_text() {
        for text in [
            "",
            "<box>",
            "<box></box>",
            "<box>(1,2)</box>",
            "<box>(1,2),(3,4),(5,6)</box>",
            "<box>(1,2)(3,4)</box>",
            "<box>[1,2],[3,4]</box>",
            "<box>(-1,2),(3,4)</box>",
            "<box>(1.5,2),(3,4)</box>",
            "<box>(1,2),(3,99999999999)</box>",
            "<box>(1,2),(3,4)",
            "<quad>(1,2),(3,4)</quad>",
            "<ref>a</ref>",
            "(1,2),(3,4) < <b",
        ] {
            assert!(located(text, Some((10, 10))).is_empty(), "{text}");
        }
        // A malformed place does not hide the next one.
        assert_eq!(located("<box>oh <box>(1,2),(3,4)</box> <ref>é", Some((10, 10))).len(), 1);
    }
}
