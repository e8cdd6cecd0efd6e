//! `dunlin score`: how well a model predicts a text.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use super::progress::Bar;
use super::{Failure, Load, Pictures, parse_ids};
use crate::error::{Error, Result};
use crate::generate::Prompt;

#[derive(Args)]
#[command(group(clap::ArgGroup::new("input").required(true)))]
pub struct Score {
    #[command(flatten)]
    load: Load,
    /// A UTF-8 text file
    #[arg(long, value_name = "FILE", group = "input")]
    text: Option<PathBuf>,
    /// Ids, as they are
    #[arg(long, value_name = "IDS", group = "input", allow_hyphen_values = true)]
    tokens: Option<String>,
    #[command(flatten)]
    pictures: Pictures,
    /// Cut the text into windows of N tokens, each scored alone [default: the context]
    #[arg(long, value_name = "N")]
    window: Option<usize>,
    /// One JSON object, with the value of every token
    #[arg(long)]
    json: bool,
}

impl Score {
    pub fn run(self) -> Result<(), Failure> {
        let given = self.tokens.as_ref().map(|ids| parse_ids("--tokens", ids)).transpose()?;
        let text = self.text.as_deref().map(read).transpose()?;
        let prompt = match (given, text) {
            (Some(ids), _) => Prompt::tokens(ids),
            (None, text) => Prompt::raw(text.unwrap_or_default()),
        };
        let prompt = self.pictures.add_to(prompt);
        let model = self.load.load()?;
        let bar = Bar::tokens("scoring");
        let score = model.score_with(prompt, self.window, |done, all| bar.set(done, all));
        bar.clear();
        let score = score?;
        let mut out = std::io::stdout().lock();
        if self.json {
            serde_json::to_writer(&mut out, &score).map_err(std::io::Error::from)?;
            writeln!(out)?;
        } else {
            let (predicted, all) = (score.token_nll.len(), score.tokens);
            writeln!(out, "perplexity {:.4}", score.perplexity)?;
            writeln!(out, "mean nll   {:.6} nats, over {predicted} of {all} tokens", score.mean_nll)?;
        }
        Ok(out.flush()?)
    }
}

fn read(path: &Path) -> Result<String> {
    let failed = |what: &str| Error::prompt(format!("{} {what}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| failed("cannot be read").caused_by(error))?;
    String::from_utf8(bytes).map_err(|error| failed("is not UTF-8 text").caused_by(error.utf8_error()))
}
