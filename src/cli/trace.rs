//! `dunlin trace`: hidden states and logits, to a safetensors file.

use std::path::PathBuf;

use clap::Args;

use super::{Failure, Load, parse_ids};
use crate::generate::Prompt;

#[derive(Args)]
#[command(group(clap::ArgGroup::new("input").required(true)))]
pub struct Trace {
    #[command(flatten)]
    load: Load,
    /// Text, as it is: no chat template
    #[arg(long, value_name = "TEXT", group = "input", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Ids, as they are
    #[arg(long, value_name = "IDS", group = "input", allow_hyphen_values = true)]
    tokens: Option<String>,
    /// Where embeddings, layers.0, …, logits go, as f32 of shape (tokens, features)
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Trace {
    pub fn run(self) -> Result<(), Failure> {
        let prompt = match &self.tokens {
            Some(ids) => Prompt::tokens(parse_ids("--tokens", ids)?),
            None => Prompt::raw(self.prompt.unwrap_or_default()),
        };
        let model = self.load.load()?;
        model.trace(&model.encode(&prompt)?)?.save(&self.out)?;
        Ok(())
    }
}
