//! `dunlin trace`: hidden states and logits, to a safetensors file.

use std::path::PathBuf;

use clap::Args;

use super::{Failure, Load, Pictures, parse_ids};
use crate::generate::Prompt;

#[derive(Args)]
#[command(group(clap::ArgGroup::new("input").required(true)))]
pub struct Trace {
    #[command(flatten)]
    load: Load,
    /// Text, as it is: no chat template; with --image, a text that names no `<image>` is a question to the model
    #[arg(long, value_name = "TEXT", group = "input", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Ids, as they are
    #[arg(long, value_name = "IDS", group = "input", allow_hyphen_values = true)]
    tokens: Option<String>,
    #[command(flatten)]
    pictures: Pictures,
    /// Where embeddings, layers.0, …, logits go, as f32 of shape (tokens, features); for a picture vision.pixels,
    /// vision.features and vision.projected too
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Trace {
    pub fn run(self) -> Result<(), Failure> {
        let prompt = match (&self.tokens, self.prompt.unwrap_or_default()) {
            (Some(ids), _) => Prompt::tokens(parse_ids("--tokens", ids)?),
            (None, text) if self.pictures.image.is_empty() || text.contains("<image>") => Prompt::raw(text),
            (None, question) => Prompt::user(question),
        };
        self.load.load()?.trace(self.pictures.add_to(prompt))?.save(&self.out)?;
        Ok(())
    }
}
