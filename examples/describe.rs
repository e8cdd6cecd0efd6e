//! Answers questions about a picture, which is read once:
//!
//!     cargo run --release --example describe -- models/MobileVLM_V2-1.7B photo.jpg "What is this?" "What colour is it?"

use std::io::Write;

use dunlin::{Device, Image, Model, Prompt, Sampler};

fn main() -> dunlin::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(picture), Some(question)) = (arguments.next(), arguments.next(), arguments.next()) else {
        eprintln!("usage: describe MODEL PICTURE QUESTION [QUESTION…]");
        std::process::exit(2);
    };
    let model = Model::load(path, &Device::auto())?;
    let image = Image::open(picture)?;
    let mut answer = model.generate(Prompt::user(question).image(image), &Sampler::greedy())?.max_tokens(200);
    loop {
        for piece in &mut answer {
            print!("{}", piece?);
            // Text comes in parts of a line, so that it has to be flushed.
            let _ = std::io::stdout().flush();
        }
        let stats = answer.stats();
        println!("\n[{} image tokens in {:.2} s on {}]\n", stats.image_tokens, stats.vision_s, stats.device);
        let Some(question) = arguments.next() else { return Ok(()) };
        answer = answer.follow_up(question, &Sampler::greedy())?.max_tokens(200);
    }
}
