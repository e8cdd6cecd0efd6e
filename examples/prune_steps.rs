//! A pruned model after some steps of a run: `cargo run --example prune_steps -- MODEL REPORT.json PARAMETERS FOLDER`
//!
//! The steps of `dunlin prune` do not depend on its target, which only ends the run, so the report of one long run
//! contains every larger model. This program applies the steps until fewer than PARAMETERS are left, as a run with that
//! target does.

use std::error::Error;
use std::path::Path;

use dunlin::checkpoint::{Checkpoint, Kept};
use serde_json::Value;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, report, parameters, folder] = &arguments[..] else {
        return Err("usage: prune_steps MODEL REPORT.json PARAMETERS FOLDER".into());
    };
    let (mut checkpoint, target) = (Checkpoint::open(model)?, parameters.parse()?);
    let report: Value = serde_json::from_slice(&std::fs::read(report)?)?;
    for step in report["steps"].as_array().ok_or("the report has no steps")? {
        if checkpoint.parameters() < target {
            break;
        }
        let stays = |key: &str, layer: usize, count: usize| -> Option<Vec<usize>> {
            let removed: Vec<usize> = serde_json::from_value(step[key][layer].clone()).ok()?;
            Some((0..count).filter(|index| !removed.contains(index)).collect())
        };
        let config = &checkpoint.config;
        let kept = (0..config.layers).map(|layer| {
            let kv_heads = stays("removed_kv_heads", layer, config.kv_heads[layer])?;
            Some(Kept { kv_heads, channels: stays("removed_channels", layer, config.ffn[layer])? })
        });
        let kept = kept.collect::<Option<Vec<_>>>().ok_or("the report is of another model")?;
        checkpoint = checkpoint.cut(&kept)?;
    }
    if checkpoint.parameters() >= target {
        return Err(format!("the run ended at {} parameters", checkpoint.parameters()).into());
    }
    checkpoint.save(Path::new(folder), true)?;
    println!("{}", checkpoint.parameters());
    Ok(())
}
