//! `dunlin eval`: how many items of a file a model gets right.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::progress::Bar;
use super::{Failure, Load, interrupted};
use crate::error::{Error, Result};
use crate::generate::eval::{Evaluator, Item, Outcome};

#[derive(Args)]
pub struct Eval {
    #[command(flatten)]
    load: Load,
    /// Items, a JSON object a line: {"image":PATH?,"prompt":…,"answer":…} or {"prompt":…,"choices":[…],"label":N}; or a
    /// folder with one such .jsonl file
    #[arg(long, visible_alias = "dataset", value_name = "FILE")]
    data: PathBuf,
    /// Stop after this many items
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// The longest answer
    #[arg(long, value_name = "N", default_value_t = 32)]
    max_tokens: usize,
    /// Where a JSON object for each item goes
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Go on where --out ends
    #[arg(long, requires = "out")]
    resume: bool,
    /// The JSON object of each item to standard output, then one with the table
    #[arg(long)]
    json: bool,
}

/// A line of the results.
#[derive(Serialize, Deserialize)]
struct Line {
    /// Of the item in its file, from 1.
    line: usize,
    prompt: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(flatten)]
    outcome: Outcome,
}

/// How many were right.
#[derive(Default, Serialize)]
struct Tally {
    items: usize,
    correct: usize,
    /// Of the items with choices.
    choices: usize,
    correct_norm: usize,
}

impl Eval {
    pub fn run(self) -> Result<(), Failure> {
        let file = items_file(&self.data)?;
        let items = read(&file, self.limit)?;
        let mut done = match &self.out {
            Some(out) if self.resume => results(out, &items)?,
            _ => HashMap::new(),
        };
        let mut out = self.out.as_deref().map(|path| append(path, self.resume)).transpose()?;
        let model = self.load.load()?;
        let mut evaluator = Evaluator::new(&model, self.max_tokens);

        let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
        let mut all = Tally::default();
        let bar = Bar::items("evaluating");
        let (start, mut stdout) = (Instant::now(), std::io::stdout().lock());
        let (mut computed, mut stopped) = (0, false);
        for (count, (line, item)) in items.iter().enumerate() {
            let result = match done.remove(line) {
                Some(result) => result,
                None => {
                    let at = |error: Error| error.at(&format!("{}, line {line}", file.display()));
                    let outcome = evaluator.evaluate(item).map_err(at)?;
                    computed += 1;
                    let result = Line { line: *line, prompt: item.prompt.clone(), group: item.group.clone(), outcome };
                    let text = serde_json::to_string(&result).map_err(std::io::Error::from)?;
                    if let Some(out) = &mut out {
                        writeln!(out, "{text}")?;
                        out.flush()?;
                    }
                    if self.json {
                        writeln!(stdout, "{text}")?;
                    }
                    result
                }
            };
            all.add(&result.outcome);
            if let Some(group) = &item.group {
                tallies.entry(group.clone()).or_default().add(&result.outcome);
            }
            bar.set(count + 1, items.len());
            bar.note(format!("{:.1} %", 100.0 * all.share()));
            stopped = interrupted();
            if stopped {
                break;
            }
        }
        bar.clear();
        let seconds = start.elapsed().as_secs_f64();
        if self.json {
            let summary = serde_json::json!({"summary": {
                "items": all.items, "correct": all.correct, "accuracy": all.share(), "accuracy_norm": all.share_norm(),
                "groups": tallies, "computed": computed, "seconds": seconds, "device": model.device(),
            }});
            writeln!(stdout, "{summary}")?;
        } else {
            tallies.insert("all".into(), all);
            write!(stdout, "{}", table(&tallies))?;
            writeln!(stdout, "{computed} items in {seconds:.1} s on {}", model.device())?;
        }
        stdout.flush()?;
        if stopped { Err(Failure::Interrupted) } else { Ok(()) }
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

    /// Among items with choices, where there are any.
    fn share_norm(&self) -> Option<f64> {
        (self.choices > 0).then(|| self.correct_norm as f64 / self.choices as f64)
    }
}

/// `data`, or the only `.jsonl` file in it.
fn items_file(data: &Path) -> Result<PathBuf> {
    if !data.is_dir() {
        return Ok(data.to_path_buf());
    }
    let entries = std::fs::read_dir(data)
        .map_err(|error| Error::prompt(format!("{} cannot be read", data.display())).caused_by(error))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    files.sort();
    match &files[..] {
        [file] => Ok(file.clone()),
        [] => Err(Error::prompt(format!("{} has no .jsonl file; --data takes one, or its folder", data.display()))),
        [first, second, ..] => {
            let (first, second) = (first.display(), second.display());
            Err(Error::prompt(format!(
                "{} has several .jsonl files, as {first} and {second}; name one",
                data.display()
            )))
        }
    }
}

/// Every item with the number of its line. Paths of pictures count from the file.
fn read(file: &Path, limit: Option<usize>) -> Result<Vec<(usize, Item)>> {
    let failed = |what: &str| Error::prompt(format!("{} {what}", file.display()));
    let bytes = std::fs::read(file).map_err(|error| failed("cannot be read").caused_by(error))?;
    let text = String::from_utf8(bytes).map_err(|error| failed("is not UTF-8 text").caused_by(error.utf8_error()))?;
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut items = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        if limit.is_some_and(|limit| items.len() >= limit) {
            break;
        }
        let mut item = Item::parse(line)
            .map_err(|what| Error::prompt(format!("{}, line {}: {what}", file.display(), index + 1)))?;
        if let Some(image) = &mut item.image {
            *image = folder.join(&*image).to_string_lossy().into_owned();
        }
        items.push((index + 1, item));
    }
    if items.is_empty() {
        return Err(failed("has no items"));
    }
    Ok(items)
}

/// What an earlier run wrote, by line. A last line that was cut short is taken off the file.
fn results(out: &Path, items: &[(usize, Item)]) -> Result<HashMap<usize, Line>> {
    let Ok(text) = std::fs::read_to_string(out) else { return Ok(HashMap::new()) };
    let bad = |number: usize, what: String| {
        Error::prompt(format!("{}, line {number}: {what}; give another --out, or leave --resume out", out.display()))
    };
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    if whole < text.len() {
        let file = OpenOptions::new().write(true).open(out);
        file.and_then(|file| file.set_len(whole as u64))
            .map_err(|error| Error::prompt(format!("{} cannot be written", out.display())).caused_by(error))?;
    }
    let mut done = HashMap::new();
    for (index, line) in text[..whole].lines().enumerate() {
        let result: Line = serde_json::from_str(line).map_err(|error| bad(index + 1, error.to_string()))?;
        let same = items.iter().find(|(number, _)| *number == result.line);
        if same.is_some_and(|(_, item)| item.prompt != result.prompt) {
            return Err(bad(index + 1, format!("line {} of the items has another prompt", result.line)));
        }
        done.insert(result.line, result);
    }
    Ok(done)
}

fn append(path: &Path, resume: bool) -> Result<BufWriter<File>> {
    let file = OpenOptions::new().create(true).write(true).append(resume).truncate(!resume).open(path);
    Ok(BufWriter::new(
        file.map_err(|error| Error::prompt(format!("{} cannot be written", path.display())).caused_by(error))?,
    ))
}

fn table(tallies: &BTreeMap<String, Tally>) -> String {
    let width = tallies.keys().map(|name| name.chars().count()).max().unwrap_or(0).max(5);
    let norm = tallies.values().any(|tally| tally.choices > 0);
    let mut text = format!("{:<width$}  {:>7}  {:>7}  {:>7}", "", "items", "right", "acc");
    text += if norm { "  acc_norm\n" } else { "\n" };
    for (name, tally) in tallies {
        let share = 100.0 * tally.share();
        text += &format!("{name:<width$}  {:>7}  {:>7}  {share:>5.2} %", tally.items, tally.correct);
        text += &match tally.share_norm() {
            Some(share) => format!("  {:>6.2} %\n", 100.0 * share),
            None => "\n".into(),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let tally = |items, correct| Tally { items, correct, ..Tally::default() };
        let tallies = BTreeMap::from([("all".to_string(), tally(200, 199)), ("color".to_string(), tally(3, 3))]);
        let expected =
            "         items    right      acc\nall        200      199  99.50 %\ncolor        3        3  100.00 %\n";
        assert_eq!(table(&tallies), expected);
    }
}
