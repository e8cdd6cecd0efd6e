//! The `dunlin` program: one file a subcommand. Exit codes: 0, 1 for a failure, 2 for wrong usage, 3 where a comparison
//! says no, 130 after Ctrl-C.

mod bench;
mod check;
#[cfg(feature = "demo")]
mod demo;
mod eval;
mod eval_files;
mod info;
mod inspect;
mod kernel;
mod output;
mod profile;
mod progress;
mod prune;
mod run;
mod score;
mod tokenize;
mod trace;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::checkpoint::VisionFiles;
use crate::error::{Error, Result};
use crate::generate::{Device, LoadOptions, Model, Precision, Prompt, Weights};

/// Run deep-and-thin language models (MobileLLM) and the vision-language models on top of them (MobileVLM).
#[derive(Parser)]
#[command(name = "dunlin", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Ask the model that ships with the program about a picture
    #[cfg(feature = "demo")]
    Demo(demo::Demo),
    /// Continue a prompt, streaming text
    Run(run::Run),
    /// Measure how well a model predicts a text
    Score(score::Score),
    /// Count how many items of a file a model gets right
    Eval(eval::Eval),
    /// Make a model smaller: remove heads and channels that matter little (Adapt-Pruner)
    Prune(prune::Prune),
    /// Write hidden states and logits to a file
    Trace(trace::Trace),
    /// Turn text into ids, ids into text, or a chat into text
    Tokenize(tokenize::Tokenize),
    /// List the adapters of this machine, or the models that run
    Info(info::Info),
    /// Measure how fast a model or each operator is, beside what the device can do
    Bench(bench::Bench),
    /// Compare the kernels that run on an adapter with the CPU path
    Check(check::Check),
    /// Show what a model is made of
    Inspect(inspect::Inspect),
    /// List kernels, print one, and try your own in its place
    Kernel(kernel::Kernel),
    /// Time each dispatch of a prompt and some tokens: a table, a trace, a page, a roofline
    Profile(profile::Profile),
}

/// What every command that loads a model takes.
#[derive(Args)]
struct Load {
    /// A Hugging Face folder, a .gguf file, or demo
    model: PathBuf,
    /// auto, cpu, gpu, a backend, an index of `dunlin info`, or [BACKEND:]NAME-PART
    #[arg(long, value_name = "D", default_value = "auto")]
    device: String,
    #[command(flatten)]
    how: How,
}

/// How a model is loaded.
#[derive(Args)]
struct How {
    /// Convert weights of a float checkpoint while loading
    #[arg(long, value_name = "F")]
    weights: Option<Format>,
    /// f32 keeps activations and KV cache in f32; auto may use f16, and on the CPU 8 bits for activations
    #[arg(long, value_name = "P", default_value = "auto")]
    precision: Digits,
    /// The most tokens of prompt and continuation [default: what the model was made for]
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    #[command(flatten)]
    refused: Refused,
    #[command(flatten)]
    own: kernel::Own,
    #[command(flatten)]
    vision: Vision,
    /// Number pictures as `Picture 1:<img>`, without a space before the tag (Qwen-VL)
    #[arg(long)]
    tight_pictures: bool,
}

/// Kernels that may not run.
#[derive(Args, Debug)]
struct Refused {
    /// Do without a kernel, or without all that have a part of its name (see inspect --plan); may be repeated
    #[arg(long = "refuse", value_name = "KERNEL")]
    kernels: Vec<String>,
}

/// Where the vision half is, where the model's own files do not say.
#[derive(Args, Debug)]
struct Vision {
    /// The vision half of a .gguf model, which is a file of its own
    #[arg(long, value_name = "FILE")]
    mmproj: Option<PathBuf>,
    /// The folder of the vision tower, instead of the one that the model names
    #[arg(long, value_name = "FOLDER")]
    vision_tower: Option<PathBuf>,
}

impl Vision {
    fn files(&self) -> VisionFiles {
        VisionFiles { mmproj: self.mmproj.clone(), tower: self.vision_tower.clone() }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    F16,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q4_0")]
    Q4_0,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Digits {
    Auto,
    F32,
}

impl Load {
    fn load(&self) -> Result<Model> {
        let device = Device::parse(&self.device)?;
        let bar = progress::Bar::share("loading");
        let shown = bar.clone();
        let options = self.how.options()?.progress(move |done, all| shown.set(done, all));
        let model = Model::load_with(&self.model, &device, &options);
        bar.clear();
        let model = model?;
        kernel::warn_of(&model);
        Ok(model)
    }
}

impl How {
    fn options(&self) -> Result<LoadOptions> {
        let mut options = LoadOptions::new().precision(match self.precision {
            Digits::Auto => Precision::Auto,
            Digits::F32 => Precision::F32,
        });
        if let Some(weights) = self.weights {
            options = options.weights(match weights {
                Format::F16 => Weights::F16,
                Format::Q8_0 => Weights::Q8_0,
                Format::Q4_0 => Weights::Q4_0,
            });
        }
        if let Some(context) = self.context {
            options = options.context(context);
        }
        for kernel in &self.refused.kernels {
            options = options.refuse(kernel);
        }
        for file in self.own.read()? {
            options = options.kernel(file);
        }
        if let Some(file) = &self.vision.mmproj {
            options = options.mmproj(file);
        }
        if let Some(folder) = &self.vision.vision_tower {
            options = options.vision_tower(folder);
        }
        if self.tight_pictures {
            options = options.tight_pictures();
        }
        Ok(options)
    }
}

/// The reason why a command ended early.
enum Failure {
    Error(Error),
    /// The reader of our output closed the pipe, which is not an error.
    Closed,
    Interrupted,
    /// The command worked, and its answer is no: exit code 3.
    No(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Error(Error::prompt("the output cannot be written").caused_by(error)),
        }
    }
}

/// Set by the first Ctrl-C if the running command can stop by itself.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// Whether the running command checks [`interrupted`].
static STOPPABLE: AtomicBool = AtomicBool::new(false);

fn interrupted() -> bool {
    STOPPABLE.store(true, Ordering::Relaxed);
    INTERRUPTED.load(Ordering::Relaxed)
}

/// The whole program.
pub fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => {
            // clap returns help and version as errors; a closed pipe is not an error of ours.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    // A second Ctrl-C, or one that no command checks for, ends the process at once.
    let _ = ctrlc::set_handler(|| {
        if !STOPPABLE.load(Ordering::Relaxed) || INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    });
    let result = match command {
        #[cfg(feature = "demo")]
        Command::Demo(command) => command.run(),
        Command::Run(command) => command.run(),
        Command::Score(command) => command.run(),
        Command::Eval(command) => command.run(),
        Command::Prune(command) => command.run(),
        Command::Trace(command) => command.run(),
        Command::Tokenize(command) => command.run(),
        Command::Info(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::Inspect(command) => command.run(),
        Command::Kernel(command) => command.run(),
        Command::Profile(command) => command.run(),
    };
    match result {
        Ok(()) | Err(Failure::Closed) => ExitCode::SUCCESS,
        Err(Failure::Interrupted) => ExitCode::from(130),
        Err(Failure::No(answer)) => {
            eprintln!("{answer}");
            ExitCode::from(3)
        }
        Err(Failure::Error(error)) => {
            eprintln!("error: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

/// The message and its causes in one line; then the list of the message, if it has one, with an indented line for each
/// entry.
fn sentence(error: &dyn std::error::Error) -> String {
    let message = error.to_string();
    let list = message.find("\n  ").filter(|at| message[at + 1..].lines().all(|line| line.starts_with("  ")));
    let (message, list) = message.split_at(list.unwrap_or(message.len()));
    let mut text = message.to_owned();
    let mut cause = error.source();
    while let Some(error) = cause {
        let cause_text = error.to_string();
        // Some messages already contain the text of their cause.
        if !text.contains(&cause_text) {
            text += &format!(": {cause_text}");
        }
        cause = error.source();
    }
    text.replace('\n', " ") + list
}

/// Ids as `--tokens` and `--decode` give them: `1,2,3`; −200 is the place of a picture.
fn parse_ids(flag: &str, text: &str) -> Result<Vec<u32>> {
    let ids = text.split(',').map(str::trim).filter(|id| !id.is_empty()).map(|id| match id {
        "-200" => Ok(Prompt::IMAGE),
        _ => id
            .parse()
            .map_err(|_| Error::prompt(format!("{flag}: `{id}` is not a token id, which is a whole number from 0"))),
    });
    ids.collect()
}

/// Pictures for a prompt.
#[derive(Args)]
struct Pictures {
    /// A picture that the prompt is about (JPEG, PNG or WebP); again for another
    #[arg(long, value_name = "FILE")]
    image: Vec<PathBuf>,
}

impl Pictures {
    fn add_to(&self, prompt: Prompt) -> Prompt {
        self.image.iter().fold(prompt, |prompt, path| prompt.image(path.as_path()))
    }
}
