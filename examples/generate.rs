//! Talk to a model: cargo run --release --example generate -- MODEL "The capital of France is"

use std::io::Write;

use dunlin::{Device, Model, Prompt, Sampler};

fn main() -> dunlin::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().unwrap_or_else(|| "models/SmolLM2-135M-Instruct.Q4_1.gguf".into());
    let question = arguments.next().unwrap_or_else(|| "The capital of France is".into());

    let device = Device::auto(); // a real GPU if there is one, else the CPU
    let model = Model::load(path, &device)?;
    for piece in model.generate(Prompt::user(question), &Sampler::greedy())?.max_tokens(256) {
        print!("{}", piece?.text);
        // A terminal shows whole lines, and would hold words back; that it is closed is no reason to fail.
        let _ = std::io::stdout().flush();
    }
    println!();
    Ok(())
}
