//! `dunlin profile`: where the time of a prompt and some tokens goes, dispatch by dispatch.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::progress::Bar;
use super::{Failure, Load, Pictures, output, parse_ids};
use crate::backend::measured::Clock;
use crate::error::{Error, Result};
use crate::generate::workload::Workload;
use crate::generate::{Device, Prompt};
use crate::measure::floors::floors;
use crate::measure::host;
use crate::profile::{Report, Subject, page, roofline, table, trace};

#[derive(Args)]
pub struct Profile {
    #[command(flatten)]
    load: Load,
    /// Text to answer or to continue; chat models get it through their template
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, default_value = "What do you see?")]
    prompt: String,
    /// Ids to continue, fed as they are
    #[arg(long, value_name = "IDS", allow_hyphen_values = true, conflicts_with = "prompt")]
    tokens: Option<String>,
    #[command(flatten)]
    pictures: Pictures,
    /// Do not use the chat template
    #[arg(long)]
    raw: bool,
    /// Decode this many tokens after the prompt; no end token stops them
    #[arg(short = 'n', long, value_name = "N", default_value_t = 16)]
    decode: usize,
    /// How a dispatch is timed [default: the first that the device can do]
    #[arg(long, value_name = "C")]
    clock: Option<ClockName>,
    /// A trace for Perfetto or chrome://tracing (JSON)
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// One page for a browser: roofline, operators, layers, timeline, dispatches
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// The roofline alone (SVG)
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ClockName {
    /// The device's timestamps between the dispatches of a pass
    InPass,
    /// The device's timestamps around passes of one dispatch each
    Passes,
    /// The host's clock around submissions of one dispatch each
    Submissions,
}

impl Profile {
    pub fn run(self) -> Result<(), Failure> {
        let files = [&self.out, &self.html, &self.plot];
        let files: Vec<&Path> = files.into_iter().flatten().map(PathBuf::as_path).collect();
        // A wrong path is said before minutes of work.
        files.iter().try_for_each(|path| output::can_be_written(path))?;
        if let Some(path) = files.iter().enumerate().find(|(i, path)| files[..*i].contains(path)).map(|(_, path)| path)
        {
            return Err(Error::prompt(format!("{} is named twice: give each file its own name", path.display())).into());
        }
        let clock = self.clock.map(|clock| match clock {
            ClockName::InPass => Clock::InPass,
            ClockName::Passes => Clock::Passes,
            ClockName::Submissions => Clock::Submissions,
        });
        let (prompt, shown) = match &self.tokens {
            Some(ids) => (Prompt::tokens(parse_ids("--tokens", ids)?), ids.clone()),
            None if self.raw => (Prompt::raw(self.prompt.as_str()), self.prompt.clone()),
            None => (Prompt::user(self.prompt.as_str()), self.prompt.clone()),
        };
        let model = self.load.load()?;
        let workload = Workload::new(&model, self.pictures.add_to(prompt), self.decode)?;
        let bar = Bar::share("measuring");
        let runs = workload.run(clock, &|done, all| bar.set(done, all));
        bar.clear();
        let runs = runs?;
        let cpu = model.backend() == "cpu";
        let subject = Subject {
            model: self.load.model.display().to_string(),
            device: if cpu {
                format!("{}, {} threads", host::processor(), host::threads())
            } else {
                model.device().into()
            },
            backend: model.backend().into(),
            prompt: shown,
            prompt_tokens: workload.prompt_tokens(),
            images: self.pictures.image.len(),
            version: env!("CARGO_PKG_VERSION"),
        };
        let floors = floors(&Device::parse(&self.load.device)?.choose()?)?;
        let report = Report::new(subject, &runs, floors);

        let mut text = table(&report);
        let mut write = |path: &Option<PathBuf>, content: fn(&Report) -> String, what: &str| -> Result<()> {
            let Some(path) = path else { return Ok(()) };
            output::write(path, content(&report))?;
            text += &format!("\n{}: {what}\n", path.display());
            Ok(())
        };
        write(&self.out, trace, "a trace: open it in ui.perfetto.dev or chrome://tracing")?;
        write(&self.html, page, "a page: open it in a browser")?;
        write(&self.plot, roofline, "the roofline")?;
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }
}
