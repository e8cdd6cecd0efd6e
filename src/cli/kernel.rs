//! `dunlin kernel`: the kernels that there are, the text of one, and a file of the user's own in its place.

use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};

use super::progress::Bar;
use super::{Failure, sentence};
use crate::error::{Error, Result};
use crate::generate::{Device, Model};
use crate::kernel::{KernelFile, Needs, Slot, SlotDescription, Trial, TrialReport, needs};

#[derive(Args)]
pub struct Kernel {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the kernels: bindings, Params, overrides, grid, and when each is chosen
    List(List),
    /// Print a kernel as one WGSL file that compiles as it is
    Show(Show),
    /// Compare your own file with the reference in every case, and time it beside dunlin's kernel
    Try(Try),
}

#[derive(Args)]
struct List {
    /// Only this operator, with the whole name of each kernel; may be repeated
    #[arg(long = "operator", value_name = "NAME")]
    operators: Vec<String>,
    /// One JSON array with an object for each kernel
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Show {
    /// A kernel of `kernel list` or of `inspect --plan`, or parts of its name, joined by `+`
    name: String,
}

#[derive(Args)]
struct Try {
    /// The kernel to replace: its name in `kernel list` or `inspect --plan`, or parts of it, joined by `+`
    name: String,
    /// Your WGSL; `kernel show` prints one to begin with
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Set an override of the file in every case; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_set)]
    set: Vec<(String, f64)>,
    /// gpu, a backend, an index of `dunlin info`, or [BACKEND:]NAME-PART
    #[arg(long, value_name = "D", default_value = "gpu")]
    device: String,
    /// Only cases whose label contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    case: String,
    /// Give a kernel up that takes longer for one run
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    patience: u64,
    /// Try again whenever the file is saved, until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Kernels of the user's own for a model.
#[derive(Args, Debug)]
pub struct Own {
    /// Run your own kernel in the place of dunlin's (see kernel show, kernel try); may be repeated
    #[arg(long = "kernel", value_name = "NAME=FILE", value_parser = parse_own)]
    pub files: Vec<(String, PathBuf)>,
    /// Set an override of the file of --kernel, where it is the only one; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_set, requires = "files")]
    pub set: Vec<(String, f64)>,
}

impl Own {
    pub fn read(&self) -> Result<Vec<KernelFile>> {
        if let ([_, _, ..], [(name, _), ..]) = (&self.files[..], &self.set[..]) {
            return Err(Error::prompt(format!(
                "--set {name} is for one --kernel, and there are {}: give `{name}` its value in the file that means it, as a const",
                self.files.len()
            )));
        }
        self.files.iter().map(|(name, file)| read(name, file, &self.set)).collect()
    }
}

/// The files of several `NAME=FILE`.
pub fn read_all(texts: &[String]) -> Result<Vec<KernelFile>> {
    let each = |text: &String| {
        let (name, file) = parse_own(text).map_err(|expected| Error::prompt(format!("`{text}`: {expected}")))?;
        read(&name, &file, &[])
    };
    texts.iter().map(each).collect()
}

/// `NAME=FILE`.
fn parse_own(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, file)) if !name.is_empty() && !file.is_empty() => Ok((name.into(), file.into())),
        _ => Err("expected NAME=FILE, such as rms_norm=mine.wgsl".into()),
    }
}

/// `NAME=VALUE`.
fn parse_set(text: &str) -> Result<(String, f64), String> {
    let expected = "expected NAME=VALUE, such as SPLIT=8 or GELU=true";
    let (name, value) = text.split_once('=').ok_or(expected)?;
    let value = match value {
        "true" => 1.0,
        "false" => 0.0,
        _ => value.parse().map_err(|_| expected)?,
    };
    if name.is_empty() { Err(expected.into()) } else { Ok((name.into(), value)) }
}

fn read(name: &str, path: &Path, set: &[(String, f64)]) -> Result<KernelFile> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::prompt(format!("{} cannot be read", path.display())).caused_by(error))?;
    let label = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let file = KernelFile::new(name, label, text);
    Ok(set.iter().fold(file, |file, (name, value)| file.set(name, *value)))
}

/// Says which kernels of a loaded model are the user's, because their results are as well.
pub fn warn_of(model: &Model) {
    for own in model.own_kernels() {
        let (file, kernel) = (&own.file, &own.kernel);
        match own.uses {
            0 => eprintln!("warning: this model does not run {kernel}, so {file} is not used"),
            _ => {
                eprintln!("warning: {file} runs in the place of {kernel}; `dunlin kernel try` says whether it is right")
            }
        }
    }
}

impl Kernel {
    pub fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::List(command) => command.run(),
            Command::Show(command) => command.run(),
            Command::Try(command) => command.run(),
        }
    }
}

impl List {
    fn run(self) -> Result<(), Failure> {
        let known = Device::operators();
        if let Some(name) = self.operators.iter().find(|name| !known.contains(&name.as_str())) {
            let known = known.join(", ");
            return Err(Error::prompt(format!("there is no operator `{name}`; there are {known}")).into());
        }
        let chosen =
            |slot: &Slot| self.operators.is_empty() || self.operators.iter().any(|name| name == slot.operator());
        let all: Vec<SlotDescription> = Slot::all().iter().filter(|slot| chosen(slot)).map(Slot::describe).collect();
        let mut out = std::io::stdout().lock();
        if self.json {
            serde_json::to_writer(&mut out, &all).map_err(std::io::Error::from)?;
            writeln!(out)?;
        } else {
            out.write_all(listed(&all, !self.operators.is_empty()).as_bytes())?;
        }
        Ok(out.flush()?)
    }
}

impl Show {
    fn run(self) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        out.write_all(Slot::find(&self.name)?.wgsl().as_bytes())?;
        Ok(out.flush()?)
    }
}

/// Slots of one file, which differ in shared files, as one entry; then the name of each if `whole`.
fn listed(all: &[SlotDescription], whole: bool) -> String {
    let mut text = String::new();
    let file = |d: &SlotDescription| d.name.split('+').next().unwrap_or_default().to_string();
    for group in all.chunk_by(|a, b| a.operator == b.operator && file(a) == file(b)) {
        let first = &group[0];
        let _ = writeln!(text, "{}  ({}, {} kernels)", file(first), first.operator, group.len());
        let mut line = |title: &str, entry: &str| {
            let _ = writeln!(text, "  {title:<10} {entry}");
        };
        for (i, entry) in first.formula.iter().take_while(|line| !line.is_empty()).enumerate() {
            line(if i == 0 { "computes" } else { "" }, entry);
        }
        for (i, entry) in variants(group).iter().enumerate() {
            line(if i == 0 { "variants" } else { "" }, entry);
        }
        // Variants may add bindings, and then the one with the most shows all.
        let most = group.iter().max_by_key(|d| d.bindings.len()).unwrap_or(first);
        for (i, entry) in most.bindings.iter().enumerate() {
            line(if i == 0 { "bindings" } else { "" }, entry);
        }
        line("Params", &format!("{} bytes: {}", first.params_bytes, first.params.join(" ")));
        let overrides = unique(group, |d| d.overrides.clone());
        for (i, (entry, _)) in overrides.iter().enumerate() {
            line(if i == 0 { "overrides" } else { "" }, entry);
        }
        line("grid", &first.grid);
        if !first.grid_overrides.is_empty() {
            line("", &format!("it depends on {}", first.grid_overrides.join(", ")));
        }
        let needs = unique(group, |d| vec![needs(d)]);
        for (i, (entry, of)) in needs.iter().enumerate() {
            line(if i == 0 { "needs" } else { "" }, &format!("{of}{entry}"));
        }
        let chosen = unique(group, |d| d.chosen.clone());
        for (i, (entry, of)) in chosen.iter().enumerate() {
            line(if i == 0 { "chosen" } else { "" }, &format!("{of}{entry}"));
        }
        if whole {
            for d in group {
                line("", &format!("{}  ({} cases)", d.name, d.cases));
            }
        }
        text.push('\n');
    }
    text + "A file replaces one kernel, by its whole name: `dunlin kernel show NAME > mine.wgsl` is one to begin with.\n"
}

/// The parts that vary between the names of a group.
fn variants(group: &[SlotDescription]) -> Vec<String> {
    let mut sets: Vec<Vec<&str>> = Vec::new();
    for d in group {
        // Parts of one kind begin alike: weight_q4_0, epilogue_bias.
        for part in d.name.split('+').skip(1) {
            let kind = |part: &str| part.split('_').next().unwrap_or_default().to_string();
            match sets.iter_mut().find(|set| kind(set[0]) == kind(part)) {
                Some(set) if set.contains(&part) => {}
                Some(set) => set.push(part),
                None => sets.push(vec![part]),
            }
        }
    }
    sets.iter().map(|set| set.join(" | ")).collect()
}

/// The different entries of a group, each with the parts that only names with it have, where not all have it.
fn unique(group: &[SlotDescription], of: impl Fn(&SlotDescription) -> Vec<String>) -> Vec<(String, String)> {
    let mut found: Vec<(String, Vec<&SlotDescription>)> = Vec::new();
    for d in group {
        for entry in of(d) {
            match found.iter_mut().find(|(known, _)| *known == entry) {
                Some((_, with)) => with.push(d),
                None => found.push((entry, vec![d])),
            }
        }
    }
    let parts = |d: &SlotDescription| d.name.split('+').skip(1).map(str::to_string).collect::<Vec<_>>();
    let label = |with: &[&SlotDescription]| {
        if with.len() == group.len() {
            return String::new();
        }
        let mut common = parts(with[0]);
        common.retain(|part| with.iter().all(|d| parts(d).contains(part)));
        if common.is_empty() { String::new() } else { format!("{}: ", common.join("+")) }
    };
    found.iter().map(|(entry, with)| (entry.clone(), label(with))).collect()
}

impl Try {
    fn run(self) -> Result<(), Failure> {
        let device = Device::parse(&self.device)?;
        if !self.watch {
            return self.attempt(&device);
        }
        loop {
            let saved = saved(&self.file);
            match self.attempt(&device) {
                Ok(()) => {}
                Err(Failure::No(answer)) => eprintln!("{answer}"),
                // The next text may be better.
                Err(Failure::Error(error)) => eprintln!("error: {}", sentence(&error)),
                Err(failure) => return Err(failure),
            }
            eprintln!("waiting until {} is saved; Ctrl-C ends", self.file.display());
            while saved == self::saved(&self.file) {
                std::thread::sleep(Duration::from_millis(200));
            }
        }
    }

    fn attempt(&self, device: &Device) -> Result<(), Failure> {
        let file = read(&self.name, &self.file, &self.set)?;
        let trial = Trial::new(file).device(device.clone()).cases(&self.case);
        let bar = Bar::items("trying");
        let report = trial.patience(Duration::from_secs(self.patience)).run(|done, all| bar.set(done, all));
        bar.clear();
        let report = report?;
        let mut out = std::io::stdout().lock();
        if self.json {
            serde_json::to_writer(&mut out, &report).map_err(std::io::Error::from)?;
            writeln!(out)?;
        } else {
            out.write_all(table(&report).as_bytes())?;
        }
        out.flush()?;
        if report.stopped.is_some() && self.watch {
            let message = "the kernel may not end, and the device is not free for another: start again";
            return Err(Failure::Error(Error::device(message)));
        }
        match report.is_right() {
            true => Ok(()),
            false => Err(Failure::No(format!("{} is wrong", report.file))),
        }
    }
}

/// When a file was saved last, and its size: a second save within the clock's step may differ in size alone.
fn saved(path: &Path) -> Option<(SystemTime, u64)> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.modified().ok()?, found.len()))
}

fn table(report: &TrialReport) -> String {
    let TrialReport { device, kernel, file, cases, .. } = report;
    let mut text = format!("{file} in the place of {kernel} on {device}\n{}\n", needed(&report.needs));
    let width = cases.iter().map(|case| case.shapes.chars().count()).chain([4]).max().unwrap_or_default();
    let _ = writeln!(text, "{:<width$}  {:<6} {:>10} {:>10} {:>7}", "case", "right", "ours µs", "yours µs", "ratio");
    for case in cases {
        let right = if case.wrong.is_some() { "WRONG" } else { "yes" };
        let number = |value: Option<f64>| value.map_or("–".into(), |value| format!("{value:.1}"));
        let ratio = case.ratio().map_or("–".into(), |ratio| format!("{ratio:.2}"));
        let (ours, yours) = (number(case.ours_us), number(case.yours_us));
        let _ = writeln!(text, "{:<width$}  {right:<6} {ours:>10} {yours:>10} {ratio:>7}", case.shapes);
    }
    for case in cases {
        if let Some(wrong) = &case.wrong {
            let _ = writeln!(text, "wrong: {}: {}", case.case, wrong.what.replace('\n', " "));
        }
        if case.ours_wrong {
            let _ = writeln!(text, "dunlin's own kernel is wrong here, so nothing is timed: {}", case.case);
        }
    }
    if let Some(why) = &report.stopped {
        let _ = writeln!(text, "stopped: {why}");
    }
    text + &summary(report)
}

fn needed(needs: &Needs) -> String {
    let range = |[least, most]: [u32; 2]| if least == most { most.to_string() } else { format!("{least} to {most}") };
    let mut text = format!(
        "needs {} threads and {} bytes of workgroup memory a workgroup",
        range(needs.threads),
        range(needs.workgroup_bytes)
    );
    let features = [
        (needs.f16, "f16".to_string()),
        (needs.subgroups, "subgroups".into()),
        (needs.cooperative.is_some(), format!("cooperative matrices of {}", needs.cooperative.unwrap_or_default())),
    ];
    for (_, feature) in features.iter().filter(|(needed, _)| *needed) {
        text += &format!(", {feature}");
    }
    text + "; how many registers, the driver does not tell"
}

fn summary(report: &TrialReport) -> String {
    let (wrong, all) = (report.wrong(), report.cases.len());
    if wrong > 0 {
        return format!("wrong in {wrong} of {all} cases\n");
    }
    let mut text = format!("right in all {all} cases");
    let means = [("real models' shapes", report.ratio(|case| case.real)), ("all", report.ratio(|_| true))];
    for (of, mean) in means {
        if let Some(mean) = mean {
            text += &format!("; ratio over {of} {mean:.2}");
        }
    }
    let clocks: Vec<&str> = report.cases.iter().filter_map(|case| case.clock.as_deref()).collect();
    if let Some(clock) = clocks.first() {
        let clock = if clocks.iter().all(|other| other == clock) { clock } else { "timestamps or wall clock" };
        text += &format!(" (ours / yours: above 1 yours is faster; {clock})");
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{CaseTrial, Wrong};

    fn report() -> TrialReport {
        let case = |shapes: &str, wrong: Option<&str>, ours_us, yours_us| CaseTrial {
            case: format!("Add ({shapes}) at 0"),
            shapes: shapes.into(),
            real: true,
            groups: vec![[1, 1, 1]],
            wrong: wrong.map(|what| Wrong {
                what: what.into(),
                element: None,
                expected: None,
                got: None,
                tolerance: None,
            }),
            ours_wrong: false,
            ours_us,
            yours_us,
            clock: ours_us.map(|_| "timestamps".into()),
        };
        TrialReport {
            device: "vulkan:some GPU".into(),
            kernel: "add".into(),
            file: "mine.wgsl".into(),
            needs: Needs { threads: [64, 64], workgroup_bytes: [0, 256], subgroups: true, ..Needs::default() },
            cases: vec![case("f32[3]", None, Some(8.0), Some(4.0)), case("f32[64]", Some("no\nresult"), None, None)],
            stopped: None,
        }
    }

    #[test]
    fn a_table_says_what_is_wrong_and_how_fast_the_rest_is() {
        let mut report = report();
        let expected = "mine.wgsl in the place of add on vulkan:some GPU\n\
                        needs 64 threads and 0 to 256 bytes of workgroup memory a workgroup, subgroups; how many \
                        registers, the driver does not tell\n\
                        case     right     ours µs   yours µs   ratio\n\
                        f32[3]   yes           8.0        4.0    2.00\n\
                        f32[64]  WRONG           –          –       –\n\
                        wrong: Add (f32[64]) at 0: no result\n\
                        wrong in 1 of 2 cases\n";
        assert_eq!(table(&report), expected);
        assert!(!report.is_right());
        report.cases.truncate(1);
        let end = "right in all 1 cases; ratio over real models' shapes 2.00; ratio over all 2.00 (ours / yours: above \
                   1 yours is faster; timestamps)\n";
        assert!(table(&report).ends_with(end), "{}", table(&report));
    }

    #[test]
    fn arguments_are_pairs() {
        assert_eq!(parse_own("a+b=x=y.wgsl"), Ok(("a+b".into(), "x=y.wgsl".into())));
        assert!(parse_own("a.wgsl").is_err() && parse_own("=a").is_err() && parse_own("a=").is_err());
        assert_eq!(parse_set("WG=128"), Ok(("WG".into(), 128.0)));
        assert_eq!(parse_set("ON=true"), Ok(("ON".into(), 1.0)));
        assert!(parse_set("WG").is_err() && parse_set("WG=x").is_err() && parse_set("=1").is_err());
    }
}
