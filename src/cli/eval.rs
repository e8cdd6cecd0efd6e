//! `dunlin eval`: how many items of a file a model gets right.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use clap::builder::RangedU64ValueParser;
use serde::Serialize;

use super::eval_files::{Line, Numbered, Results, fingerprint, items};
use super::progress::Bar;
use super::{Failure, How, Load, interrupted};
use crate::error::{Error, Result};
use crate::generate::Model;
use crate::generate::eval::{Evaluator, Outcome};

#[derive(Args)]
pub struct Eval {
    #[command(flatten)]
    load: Load,
    /// Items, a JSON object a line: {"image":PATH?,"prompt":…,"answer":…} or {"prompt":…,"choices":[…],"label":N}; or a
    /// folder with one such .jsonl file
    #[arg(long, visible_alias = "dataset", value_name = "FILE")]
    data: PathBuf,
    /// Stop after this many items
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    limit: Option<usize>,
    /// The longest answer
    #[arg(long, value_name = "N", default_value_t = 32)]
    max_tokens: usize,
    /// Items that are answered at a time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    parallel: usize,
    /// Where a JSON object for each item goes
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Go on where --out ends [without --out: the data file's name with .results behind it]
    #[arg(long)]
    resume: bool,
    /// The JSON object of each item to standard output, then one with the table
    #[arg(long)]
    json: bool,
}

/// How many were right.
#[derive(Default, Serialize)]
struct Tally {
    items: usize,
    correct: usize,
    /// Right answers among the items with choices.
    choices: usize,
    correct_norm: usize,
}

impl Eval {
    pub fn run(self) -> Result<(), Failure> {
        let (file, mut items) = items(&self.data)?;
        let beside = || {
            let mut name = file.clone().into_os_string();
            name.push(".results");
            PathBuf::from(name)
        };
        let out = self.out.clone().or_else(|| self.resume.then(beside));
        let mut results = out.map(|path| Results::open(&path, self.resume)).transpose()?;
        let model = self.load.load()?;
        let settings = self.settings(&model);
        if let Some(results) = &results {
            results.compare(&items, &settings)?;
        }
        items.truncate(self.limit.unwrap_or(usize::MAX));
        let mut report = Report { json: self.json, ..Report::default() };
        let (start, mut stdout) = (Instant::now(), std::io::stdout().lock());
        let bar = Bar::items("evaluating");
        let known: Vec<bool> = items
            .iter()
            .map(|numbered| results.as_ref().is_some_and(|results| results.done.contains_key(&numbered.line)))
            .collect();
        // Outcomes are reported in the order of the items, in whatever order they arrive.
        let mut outcomes: BTreeMap<usize, Outcome> = BTreeMap::new();
        let mut next = 0;
        let mut report_ready = |came: Option<(usize, Outcome)>| -> Result<(), Failure> {
            outcomes.extend(came);
            while let Some(numbered) = items.get(next) {
                let Numbered { line, item, .. } = numbered;
                let result = match results.as_mut().and_then(|results| results.done.remove(line)) {
                    Some(result) => result,
                    None => {
                        let Some(outcome) = outcomes.remove(&next) else { break };
                        let (prompt, group) = (item.prompt.clone(), item.group.clone());
                        let result = Line { line: *line, prompt, group, outcome, of: numbered.of(&settings) };
                        report.computed += 1;
                        if let Some(results) = &mut results {
                            results.write(&result)?;
                        }
                        result
                    }
                };
                next += 1;
                if self.json {
                    writeln!(stdout, "{}", serde_json::to_string(&result).map_err(std::io::Error::from)?)?;
                }
                report.add(&result, item.group.as_deref());
                bar.advance(report.all.items, items.len(), report.computed);
                bar.note(format!("{:.1} %", 100.0 * report.all.share()));
            }
            Ok(())
        };
        report_ready(None)?;
        let mut evaluator = Evaluator::new(&model, self.max_tokens, self.parallel, &interrupted);
        let mut unknown =
            items.iter().enumerate().filter(|(index, _)| !known[*index]).map(|(index, n)| (index, &n.item));
        let mut failed = None;
        let evaluated = evaluator.evaluate(&mut unknown, &mut |index, outcome| {
            if failed.is_none() {
                failed = report_ready(Some((index, outcome))).err();
            }
            // `failed` holds the error to report; this one only stops the evaluation.
            if failed.is_some() { Err(Error::prompt("results cannot be reported")) } else { Ok(()) }
        });
        // The outcomes so far are shown in a table, even after an error.
        let ended = match (evaluated, failed) {
            (_, Some(failure)) => return Err(failure),
            (Ok(true), None) => Ok(()),
            (Ok(false), None) => Err(Failure::Interrupted),
            (Err((index, error)), None) => {
                Err(error.at(&format!("{}, line {}", file.display(), items[index].line)).into())
            }
        };
        bar.clear();
        if report.all.items > 0 {
            stdout.write_all(report.text(start.elapsed().as_secs_f64(), model.device()).as_bytes())?;
        }
        stdout.flush()?;
        ended
    }

    /// The settings that outcomes depend on, besides the items.
    fn settings(&self, model: &Model) -> String {
        let Load { model: path, device: _, how } = &self.load;
        let How { weights, precision, context, refused, own, vision, tight_pictures } = how;
        let kernels: Vec<String> =
            own.files.iter().map(|(name, file)| format!(" {name}={}", fingerprint(file))).collect();
        let set: Vec<String> = own.set.iter().map(|(name, value)| format!(" {name}={value}")).collect();
        let [mmproj, tower] = [&vision.mmproj, &vision.vision_tower].map(|path| path.as_deref().map(fingerprint));
        format!(
            "{} {} {weights:?} {precision:?} {context:?} {:?} {mmproj:?} {tower:?} {tight_pictures} {}:{} {}{}{}",
            env!("CARGO_PKG_VERSION"),
            fingerprint(path),
            refused.kernels,
            model.backend(),
            model.device(),
            self.max_tokens,
            kernels.concat(),
            set.concat()
        )
    }
}

/// The results, for people or as JSON.
#[derive(Default)]
struct Report {
    json: bool,
    groups: BTreeMap<String, Tally>,
    all: Tally,
    computed: usize,
}

impl Report {
    fn add(&mut self, result: &Line, group: Option<&str>) {
        self.all.add(&result.outcome);
        if let Some(group) = group {
            self.groups.entry(group.into()).or_default().add(&result.outcome);
        }
    }

    fn text(&self, seconds: f64, device: &str) -> String {
        let Self { all, computed, .. } = self;
        if self.json {
            let summary = serde_json::json!({"summary": {
                "items": all.items, "correct": all.correct, "accuracy": all.share(), "accuracy_norm": all.share_norm(),
                "groups": self.groups, "computed": computed, "seconds": seconds, "device": device,
            }});
            return format!("{summary}\n");
        }
        format!("{}{computed} items in {seconds:.1} s on {device}\n", self.table())
    }

    fn table(&self) -> String {
        let rows = || self.groups.iter().map(|(name, tally)| (name.as_str(), tally)).chain([("all", &self.all)]);
        let width = rows().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max(5);
        let norm = self.all.choices > 0;
        let mut text = format!("{:<width$}  {:>7}  {:>7}  {:>7}", "", "items", "right", "acc");
        text += if norm { "  acc_norm\n" } else { "\n" };
        for (name, tally) in rows() {
            let share = 100.0 * tally.share();
            text += &format!("{name:<width$}  {:>7}  {:>7}  {share:>5.2} %", tally.items, tally.correct);
            text += &match tally.share_norm() {
                Some(share) => format!("  {:>6.2} %\n", 100.0 * share),
                None => "\n".into(),
            };
        }
        text
    }
}

impl Tally {
    fn add(&mut self, outcome: &Outcome) {
        self.items += 1;
        self.correct += usize::from(outcome.correct());
        if let Some(correct) = outcome.correct_norm() {
            self.choices += 1;
            self.correct_norm += usize::from(correct);
        }
    }

    fn share(&self) -> f64 {
        self.correct as f64 / self.items.max(1) as f64
    }

    /// The share of items with choices that are right by length-normalised scores, if there are any.
    fn share_norm(&self) -> Option<f64> {
        (self.choices > 0).then(|| self.correct_norm as f64 / self.choices as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let tally = |items, correct| Tally { items, correct, ..Tally::default() };
        let groups = BTreeMap::from([("all".to_string(), tally(2, 1)), ("color".to_string(), tally(3, 3))]);
        let report = Report { groups, all: tally(200, 199), ..Report::default() };
        let expected = "         items    right      acc\n\
                        all          2        1  50.00 %\n\
                        color        3        3  100.00 %\n\
                        all        200      199  99.50 %\n";
        assert_eq!(report.table(), expected);
    }
}
