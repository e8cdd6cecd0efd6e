//! `dunlin info`: the adapters of this machine.

use std::io::Write;

use clap::Args;
use serde_json::{Map, Value, json};

use super::Failure;
use crate::generate::{Adapter, Device};

#[derive(Args)]
pub struct Info {
    /// One JSON object
    #[arg(long)]
    json: bool,
}

impl Info {
    pub fn run(self) -> Result<(), Failure> {
        let adapters = Device::list();
        let mut out = std::io::stdout().lock();
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
