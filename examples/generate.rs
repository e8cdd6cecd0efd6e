//! Answers a question, printing text as it comes:
//!
//!     cargo run --release --example generate -- models/SmolLM2-135M-Instruct.Q4_1.gguf "What is gravity?"

use std::io::Write;

use dunlin::{Device, Model, Prompt, Sampler};

fn main() -> dunlin::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(question)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: generate MODEL QUESTION");
        std::process::exit(2);
    };
    let model = Model::load(path, &Device::auto())?;
    let mut generation = model.generate(Prompt::user(question), &Sampler::greedy())?.max_tokens(200);
    for piece in &mut generation {
        print!("{}", piece?);
        // Text comes in parts of a line, so that it has to be flushed.
        let _ = std::io::stdout().flush();
    }
    let stats = generation.stats();
    let rate = stats.generated_tokens.saturating_sub(1) as f64 / stats.decode_s.max(1e-9);
    println!("\n\n{} tokens, {rate:.1} a second on {}", stats.generated_tokens, stats.device);
    Ok(())
}
