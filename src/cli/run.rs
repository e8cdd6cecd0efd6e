//! `dunlin run`: continue a prompt.

mod prompts;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::RangedU64ValueParser;

use super::progress::Bar;
use super::{Failure, Load, Pictures, interrupted, parse_ids};
use crate::generate::{Generation, Located, Prompt, Sampler, Stats};

#[derive(Args)]
#[command(group(clap::ArgGroup::new("input").required(true)))]
pub struct Run {
    #[command(flatten)]
    load: Load,
    /// Text to answer or to continue; chat models get it through their template
    #[arg(long, value_name = "TEXT", group = "input", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Prompts, a JSON object a line: {"prompt":…,"image":PATH?}
    #[arg(long, value_name = "FILE", group = "input", conflicts_with_all = ["chat", "image", "release_vision"])]
    prompts: Option<PathBuf>,
    /// With --prompts, how many are continued at a time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    parallel: usize,
    /// Ids to continue, fed as they are
    #[arg(long, value_name = "IDS", group = "input", allow_hyphen_values = true)]
    tokens: Option<String>,
    #[command(flatten)]
    pictures: Pictures,
    /// Drop the weights that read pictures as soon as they are read
    #[arg(long)]
    release_vision: bool,
    /// Then read further questions from standard input, a line each
    #[arg(long, conflicts_with_all = ["tokens", "raw"])]
    chat: bool,
    /// Stop after this many tokens
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_tokens: usize,
    /// 0 is greedy
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    temperature: f32,
    /// Draw from the N most probable tokens; 0 means all
    #[arg(long, value_name = "N", default_value_t = 0)]
    top_k: u32,
    /// Draw from the fewest tokens that reach this probability
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    top_p: f32,
    /// Draw from tokens at least this fraction as probable as the best
    #[arg(long, value_name = "P", default_value_t = 0.0, allow_negative_numbers = true)]
    min_p: f32,
    /// Divide logits of recent tokens by this; 1 is off
    #[arg(long, value_name = "R", default_value_t = 1.0, allow_negative_numbers = true)]
    repeat_penalty: f32,
    /// Draw the same tokens again [default: new ones each time]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Do not use the chat template
    #[arg(long)]
    raw: bool,
    /// Show control tokens as they are written: `<ref>`, `<box>`
    #[arg(long)]
    special: bool,
    /// One JSON object a token, then one with statistics and the boxes that the answer names
    #[arg(long)]
    json: bool,
    /// With --json, the N most probable tokens of each step
    #[arg(long, value_name = "N", default_value_t = 0)]
    logprobs: usize,
}

impl Run {
    pub fn run(self) -> Result<(), Failure> {
        if let Some(file) = &self.prompts {
            return prompts::run(&self, &prompts::read(file, self.raw)?);
        }
        let prompt = match (&self.tokens, self.prompt.as_deref().unwrap_or_default()) {
            (Some(ids), _) => Prompt::tokens(parse_ids("--tokens", ids)?),
            (None, text) if self.raw => Prompt::raw(text),
            (None, text) => Prompt::user(text),
        };
        let prompt = self.pictures.add_to(prompt);
        let model = self.load.load()?;
        let mut generation = self.options(model.generate(prompt, &self.sampler())?);
        // Without a tokenizer there is no text, so ids are printed.
        let ids = model.tokenizer().is_err();
        self.print(&mut generation, ids)?;
        if !self.chat {
            return Ok(());
        }
        for question in std::io::stdin().lines() {
            let question = question?;
            if !question.trim().is_empty() {
                generation = self.options(generation.follow_up(question.trim(), &self.sampler())?);
                self.print(&mut generation, ids)?;
            }
        }
        Ok(())
    }

    fn options(&self, generation: Generation) -> Generation {
        let generation = generation.max_tokens(self.max_tokens).logprobs(self.logprobs);
        let generation = if self.special { generation.special() } else { generation };
        if self.release_vision { generation.release_vision() } else { generation }
    }

    /// Runs the prompt and prints the pieces as they come.
    fn print(&self, generation: &mut Generation, ids: bool) -> Result<(), Failure> {
        let bar = Bar::share("reading the picture").after(Duration::from_millis(500));
        let read = generation.encode_images(|done, all| bar.set(done, all));
        bar.clear();
        read?;
        let bar = Bar::tokens("reading the prompt");
        generation.prefill(|done, all| bar.set(done, all))?;
        if self.json { print_json(generation, &bar) } else { print_text(generation, &bar, ids) }
    }

    fn sampler(&self) -> Sampler {
        let sampler = Sampler::greedy()
            .temperature(self.temperature)
            .top_k(self.top_k)
            .top_p(self.top_p)
            .min_p(self.min_p)
            .repeat_penalty(self.repeat_penalty);
        match self.seed {
            Some(seed) => sampler.seed(seed),
            None => sampler,
        }
    }
}

/// The JSON object behind those of the tokens.
fn last_line(stats: &Stats, boxes: &[Located]) -> serde_json::Value {
    let mut line = serde_json::json!({"stats": stats});
    if !boxes.is_empty() {
        line["boxes"] = serde_json::json!(boxes);
    }
    line
}

fn print_json(generation: &mut Generation, bar: &Bar) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let mut stopped = false;
    for piece in generation.by_ref() {
        // The device works on the prompt until the first token is read.
        bar.clear();
        serde_json::to_writer(&mut out, &piece?).map_err(std::io::Error::from)?;
        out.write_all(b"\n")?;
        out.flush()?;
        stopped = interrupted();
        if stopped {
            break;
        }
    }
    bar.clear();
    writeln!(out, "{}", last_line(&generation.stats(), &generation.boxes()))?;
    out.flush()?;
    if stopped { Err(Failure::Interrupted) } else { Ok(()) }
}

fn print_text(generation: &mut Generation, bar: &Bar, ids: bool) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let mut line_ended = true;
    let mut stopped = false;
    for piece in generation.by_ref() {
        bar.clear();
        let piece = piece?;
        let text = if ids { format!("{} ", piece.id) } else { piece.text };
        if !text.is_empty() {
            line_ended = text.ends_with('\n');
            out.write_all(text.as_bytes())?;
            out.flush()?;
        }
        stopped = interrupted();
        if stopped {
            break;
        }
    }
    bar.clear();
    if !line_ended {
        out.write_all(b"\n")?;
    }
    out.flush()?;
    if std::io::stderr().is_terminal() {
        let stats = generation.stats();
        let prompt = stats.prompt_tokens as f64 / stats.prefill_s.max(1e-9);
        let decode = stats.generated_tokens.saturating_sub(1) as f64 / stats.decode_s.max(1e-9);
        eprintln!(
            "\n[{} prompt tokens at {prompt:.1}/s, {} tokens at {decode:.1}/s on {}]",
            stats.prompt_tokens, stats.generated_tokens, stats.device
        );
    }
    if stopped { Err(Failure::Interrupted) } else { Ok(()) }
}
