//! Whether a run agrees with the committed figures.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::figures;
use crate::report::{Figures, Report, line};

/// The committed figures.
pub struct Committed {
    mesa: String,
    text: String,
    /// By kernel and device.
    figures: BTreeMap<(String, String), Figures>,
}

impl Committed {
    /// # Errors
    ///
    /// The text is not what [`Report::json`] writes.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = |what: &str| format!("benches/phones.json: {what}; {AGAIN}");
        let value: Value = serde_json::from_str(text).map_err(|error| bad(&error.to_string()))?;
        let mesa = value["mesa"].as_str().ok_or_else(|| bad("it names no version of Mesa"))?.to_string();
        let mut figures = BTreeMap::new();
        for line in value["figures"].as_array().ok_or_else(|| bad("it has no list `figures`"))? {
            let mut own = line.as_object().ok_or_else(|| bad("a line of `figures` is no object"))?.clone();
            let mut take = |key: &str| match own.shift_remove(key) {
                Some(Value::String(text)) => Ok(text),
                _ => Err(bad(&format!("a line of `figures` has no {key}"))),
            };
            let key = (take("kernel")?, take("device")?);
            figures.insert(key, own);
        }
        Ok(Committed { mesa, text: text.into(), figures })
    }

    /// What differs, a sentence each. `whole`: the run compiled everything, so that nothing may be left over.
    pub fn differences(&self, report: &Report, whole: bool) -> Vec<String> {
        let mut found = Vec::new();
        let same_compilers = self.mesa == report.mesa;
        if !same_compilers {
            println!(
                "the figures are of Mesa {} and this is {}: only failures are looked for; {AGAIN}",
                self.mesa, report.mesa
            );
        }
        for (kernel, device, now) in report.figures() {
            let before = self.figures.get(&(kernel.to_string(), device.to_string()));
            if let Some(failure) = figures::failure(now)
                && before.is_none_or(|before| figures::failure(before) != Some(failure))
            {
                found.push(format!("{kernel} on {device}: {failure}: {}", line(kernel, device, now)));
                continue;
            }
            if !same_compilers {
                continue;
            }
            match before {
                None => found.push(format!("{kernel} on {device} is new: {}", line(kernel, device, now))),
                Some(before) if before == now => {}
                Some(before) => {
                    let spills = |figures| figures::spills(figures).is_some();
                    let what = if spills(now) && !spills(before) { "spills now" } else { "changed" };
                    found.push(format!("{kernel} on {device} {what}: {}", changes(before, now)));
                }
            }
        }
        if whole && same_compilers && found.is_empty() && report.json() != self.text {
            found.push("pipelines are gone, or devices, models or passes changed".into());
        }
        found
    }
}

/// What to do about a difference.
pub const AGAIN: &str = "make the figures again (scripts/phones.sh && cargo bench --bench phones) and commit benches/PHONES.md and phones.json";

/// `instructions 855 → 870, registers 40 → 42`
fn changes(before: &Figures, now: &Figures) -> String {
    let text = |value: Option<&Value>| value.map_or("none".into(), Value::to_string);
    let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let both = names.into_iter().map(|name| (name, before.get(name), now.get(name)));
    let changed = both.filter(|(_, old, new)| old != new);
    let changes: Vec<String> =
        changed.map(|(name, old, new)| format!("{name} {} → {}", text(old), text(new))).collect();
    changes.join(", ")
}
