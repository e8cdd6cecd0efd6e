//! CPU against GPU, layer by layer: where a device begins to compute something else.
//!
//! cargo run --release --example compare -- MODEL [DEVICE [f32|auto [PROMPT]]]
//!
//! DEVICE is what `dunlin run --device` takes, `gpu` by default. Under `f32` layers must agree to 1e-4, relative; under
//! `auto`, where caches and tiles may be f16, to 1e-2. The exit code is 1 if one does not.

use std::process::ExitCode;

use dunlin::{Device, LoadOptions, Model, Precision, Prompt, Values};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |index: usize, default| arguments.get(index).map_or(default, String::as_str);
    let Some(path) = arguments.first() else {
        eprintln!("usage: compare MODEL [DEVICE [f32|auto [PROMPT]]]");
        return ExitCode::from(2);
    };
    let (precision, limit) = match argument(2, "f32") {
        "auto" => (Precision::Auto, 1e-2),
        _ => (Precision::F32, 1e-4),
    };
    match compare(path, argument(1, "gpu"), precision, argument(3, "The capital of France is"), limit) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some((name, error))) => {
            println!("{name} is the first to diverge: {error:.1e}, more than {limit:.0e}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the error of each layer; the first that is past `limit`, with its error.
fn compare(
    path: &str,
    device: &str,
    precision: Precision,
    prompt: &str,
    limit: f64,
) -> dunlin::Result<Option<(String, f64)>> {
    let options = LoadOptions::new().precision(precision);
    let load = |device: &Device| Model::load_with(path, device, &options);
    let (cpu, gpu) = (load(&Device::cpu())?, load(&Device::parse(device)?)?);
    let ids = cpu.encode(&Prompt::raw(prompt))?;
    println!("{} against cpu, {} tokens", gpu.device(), ids.len());
    println!("{:<14} {:>14} {:>14} {:>14}", "", "relative error", "largest error", "largest value");
    let mut first = None;
    for ((name, found), (_, wanted)) in gpu.trace(&ids)?.tensors.iter().zip(&cpu.trace(&ids)?.tensors) {
        let error = relative_error(found, wanted);
        let mark = if error <= limit { "" } else { "  ←" };
        println!("{name:<14} {error:>14.1e} {:>14.1e} {:>14.1e}{mark}", largest_error(found, wanted), largest(wanted));
        // Not a number is past any limit.
        if first.is_none() && !mark.is_empty() {
            first = Some((name.clone(), error));
        }
    }
    Ok(first)
}

/// sqrt(Σ(found − wanted)² / Σ wanted²)
fn relative_error(found: &Values, wanted: &Values) -> f64 {
    let square = |value: f32| f64::from(value) * f64::from(value);
    let error: f64 = found.data.iter().zip(&wanted.data).map(|(found, wanted)| square(found - wanted)).sum();
    (error / wanted.data.iter().copied().map(square).sum::<f64>()).sqrt()
}

fn largest_error(found: &Values, wanted: &Values) -> f32 {
    found.data.iter().zip(&wanted.data).map(|(found, wanted)| (found - wanted).abs()).fold(0.0, f32::max)
}

fn largest(matrix: &Values) -> f32 {
    matrix.data.iter().map(|value| value.abs()).fold(0.0, f32::max)
}
