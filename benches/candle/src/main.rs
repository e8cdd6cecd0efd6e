//! candle's quantised Llama on the CPU: prompt and decode rates in the form that `benches/peers.py` reads.
//!
//! bench-candle MODEL.gguf IDS DECODE    IDS is 1,2,3…

use std::time::Instant;

use candle_core::quantized::gguf_file;
use candle_core::{D, Device, Result, Tensor};
use candle_transformers::models::quantized_llama::ModelWeights;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, ids, decode] = &arguments[..] else {
        eprintln!("usage: bench-candle MODEL.gguf IDS DECODE");
        std::process::exit(2);
    };
    let ids: Vec<u32> = ids.split(',').map(|id| id.trim().parse().expect("ids as 1,2,3")).collect();
    let decode: usize = decode.parse().expect("how many tokens to decode");

    let mut file = std::fs::File::open(path)?;
    let content = gguf_file::Content::read(&mut file)?;
    let mut model = ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?;

    // A first run loads pages and starts threads, as dunlin's benchmark does.
    next(&mut model, &ids, 0)?;

    let start = Instant::now();
    let mut token = next(&mut model, &ids, 0)?;
    let prompt_s = start.elapsed().as_secs_f64();
    let start = Instant::now();
    for step in 0..decode {
        token = next(&mut model, &[token], ids.len() + step)?;
    }
    let decode_s = start.elapsed().as_secs_f64();
    println!("candle\t{:.1}\t{:.1}", ids.len() as f64 / prompt_s, decode as f64 / decode_s);
    Ok(())
}

/// Runs `ids` at `position` (0 begins a new sequence). Returns the most probable next token.
fn next(model: &mut ModelWeights, ids: &[u32], position: usize) -> Result<u32> {
    let input = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
    model.forward(&input, position)?.squeeze(0)?.argmax(D::Minus1)?.to_scalar()
}
