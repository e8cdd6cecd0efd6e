//! `dunlin demo`: the model that ships with the program answers questions about a picture.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};

use clap::Args;

use super::Failure;
use crate::checkpoint::files::EMBEDDED_DEMO;
use crate::generate::{Device, Image, Model, Prompt, Sampler};

#[derive(Args)]
pub struct Demo {
    /// auto, cpu, gpu, a backend, an index of `dunlin info`, or [BACKEND:]NAME-PART
    #[arg(long, value_name = "D", default_value = "auto")]
    device: String,
}

/// A picture of the data set's test split, which the model has not seen.
const PICTURE: (&str, &[u8]) =
    ("examples/pictures/easy_vqa_4.png", include_bytes!("../../examples/pictures/easy_vqa_4.png"));

const QUESTIONS: [&str; 4] = [
    "what color is the shape?",
    "what shape is in the image?",
    "is there a circle in the image?",
    "is there not a red shape in the image?",
];

impl Demo {
    pub fn run(self) -> Result<(), Failure> {
        let image = Image::from_bytes(PICTURE.1)?;
        let mut out = std::io::stdout().lock();
        if out.is_terminal() {
            out.write_all(blocks(&image).as_bytes())?;
        }
        writeln!(out, "{}, {} × {} pixels\n", PICTURE.0, image.width(), image.height())?;
        let model = Model::load(EMBEDDED_DEMO, &Device::parse(&self.device)?)?;
        for question in QUESTIONS {
            write!(out, "{question}")?;
            for piece in model.generate(Prompt::user(question).image(image.clone()), &Sampler::greedy())?.max_tokens(16)
            {
                write!(out, "{}", piece?)?;
                out.flush()?;
            }
            writeln!(out)?;
        }
        writeln!(out, "\n[on {}] Ask about a picture of yours:", model.device())?;
        writeln!(out, "    dunlin run demo --image FILE --prompt \"what color is the shape?\"")?;
        Ok(out.flush()?)
    }
}

/// A picture for a terminal: two pixels a character, the upper one as foreground and the lower one as background.
fn blocks(image: &Image) -> String {
    const SIDE: usize = 32;
    let pixels = image.square(SIDE);
    let color = |row: usize, column: usize| -> [u8; 3] {
        let at = 3 * (row * SIDE + column);
        [pixels[at], pixels[at + 1], pixels[at + 2]]
    };
    let mut text = String::new();
    for row in (0..SIDE).step_by(2) {
        for column in 0..SIDE {
            let ([r, g, b], [x, y, z]) = (color(row, column), color(row + 1, column));
            let _ = write!(text, "\x1b[38;2;{r};{g};{b}m\x1b[48;2;{x};{y};{z}m▀");
        }
        text += "\x1b[0m\n";
    }
    text
}
