//! `dunlin info`: the adapters of this machine, or the models that run.

use std::io::Write;

use clap::Args;
use serde_json::{Map, Value, json};

use super::Failure;
use crate::generate::{Adapter, Device};
use crate::models::known::{KNOWN, Known, Tried};

#[derive(Args)]
pub struct Info {
    /// One JSON object
    #[arg(long)]
    json: bool,
    /// The models that run, instead of the adapters
    #[arg(long)]
    models: bool,
}

impl Info {
    pub fn run(self) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        if self.models {
            models(&mut out, self.json)?;
            return Ok(out.flush()?);
        }
        let adapters = Device::list();
        if self.json {
            let adapters: Vec<Value> = adapters.iter().map(describe).collect();
            writeln!(out, "{}", json!({"adapters": adapters}))?;
            return Ok(out.flush()?);
        }
        if adapters.is_empty() {
            writeln!(out, "no adapters: models run on the CPU")?;
        }
        for adapter in &adapters {
            writeln!(out, "{adapter}")?;
            if let Some(why) = adapter.unusable() {
                writeln!(out, "     cannot run models: {why}")?;
            }
            for (name, value) in adapter.limits() {
                writeln!(out, "     {name:<40} {value}")?;
            }
            let features = if adapter.features().is_empty() { "none".into() } else { adapter.features().join(", ") };
            writeln!(out, "     {:<40} {features}", "features")?;
        }
        Ok(out.flush()?)
    }
}

/// The architectures, with names of known models, their file types, and the models that were tested.
fn models(out: &mut impl Write, as_json: bool) -> std::io::Result<()> {
    let tried = |known: &Known| match known.tried {
        Tried::Real(model) => format!("{model}, random weights"),
        Tried::Random => "random weights".into(),
    };
    if as_json {
        let row = |known: &Known| {
            json!({
                "architecture": known.architecture,
                "models": known.models,
                "gguf": known.gguf,
                "tried_on": tried(known),
            })
        };
        return writeln!(out, "{}", json!({"models": KNOWN.iter().map(row).collect::<Vec<_>>()}));
    }
    let files = |known: &Known| known.gguf.map_or("folder".into(), |name| format!("folder, GGUF `{name}`"));
    writeln!(out, "{:<14} {:<23} {:<37} models", "architecture", "files", "tried on")?;
    for known in KNOWN {
        writeln!(out, "{:<14} {:<23} {:<37} {}", known.architecture, files(known), tried(known), known.models)?;
    }
    Ok(())
}

fn describe(adapter: &Adapter) -> Value {
    let limits: Map<_, _> = adapter.limits().iter().map(|(name, limit)| (name.clone(), json!(limit))).collect();
    json!({
        "index": adapter.index(),
        "name": adapter.name(),
        "backend": adapter.backend(),
        "kind": adapter.kind(),
        "software": adapter.is_software(),
        "driver": adapter.driver(),
        "unusable": adapter.unusable(),
        "limits": limits,
        "features": adapter.features(),
    })
}
