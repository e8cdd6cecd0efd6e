//! `dunlin tokenize`: text → ids, ids → text, chat → text. Reads no weights.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::{Failure, parse_ids};
use crate::error::{Error, Result};
use crate::generate::{Prompt, Text};

#[derive(Args)]
#[command(group(clap::ArgGroup::new("input").required(true)))]
pub struct Tokenize {
    /// A Hugging Face folder or a .gguf file
    model: PathBuf,
    /// Text to turn into ids
    #[arg(group = "input", allow_hyphen_values = true)]
    text: Option<String>,
    /// Ids to turn into text, printed as {"text":"…"}
    #[arg(long, value_name = "IDS", group = "input", allow_hyphen_values = true)]
    decode: Option<String>,
    /// A JSON file with a list of messages, or with {"messages":[…],"add_generation_prompt":true}
    #[arg(long, value_name = "FILE", group = "input")]
    chat: Option<PathBuf>,
    /// Leave out the start and end tokens that the model was trained with
    #[arg(long)]
    no_special: bool,
    /// JSON instead of plain text
    #[arg(long)]
    json: bool,
}

impl Tokenize {
    pub fn run(self) -> Result<(), Failure> {
        let model = Text::open(&self.model)?;
        let tokenizer = model.tokenizer()?;
        let mut out = std::io::stdout().lock();
        if let Some(ids) = &self.decode {
            let ids = parse_ids("--decode", ids)?;
            if ids.contains(&Prompt::IMAGE) {
                return Err(Error::prompt("--decode: -200 is the place of a picture, which has no text").into());
            }
            if let Some(id) = ids.iter().find(|&&id| tokenizer.token(id).is_none()) {
                return Err(Error::prompt(format!("--decode: {id} is not an id of this tokenizer")).into());
            }
            writeln!(out, "{}", json!({"text": tokenizer.decode(&ids)}))?;
        } else if let Some(file) = &self.chat {
            let (messages, generation) = read_chat(file)?;
            let text = model.render(&messages, generation)?;
            if self.json {
                let ids = model.chat_ids(&messages, generation)?.ids.into_iter();
                let ids: Vec<i64> = ids.map(|id| if id == Prompt::IMAGE { -200 } else { id.into() }).collect();
                writeln!(out, "{}", json!({"text": text, "ids": ids}))?;
            } else {
                out.write_all(text.as_bytes())?;
            }
        } else {
            let text = self.text.as_deref().unwrap_or_default();
            let ids = if self.no_special { tokenizer.encode_without_special(text) } else { tokenizer.encode(text) }?;
            if self.json {
                writeln!(out, "{}", json!({"ids": ids}))?;
            } else {
                let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
                writeln!(out, "{}", ids.join(","))?;
            }
        }
        Ok(out.flush()?)
    }
}

/// The messages, and whether the assistant speaks next: as stated in the file, else if the last message is not the
/// assistant's.
fn read_chat(path: &std::path::Path) -> Result<(Vec<Value>, bool)> {
    let failed = |what: &str| Error::prompt(format!("{} {what}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| failed("cannot be read").caused_by(error))?;
    let mut json: Value =
        serde_json::from_slice(&bytes).map_err(|error| failed("is not valid JSON").caused_by(error))?;
    let generation = json.get("add_generation_prompt").and_then(Value::as_bool);
    if let Some(messages) = json.get_mut("messages") {
        json = messages.take();
    }
    let Value::Array(messages) = json else {
        return Err(failed("is neither a list of messages nor an object with `messages`"));
    };
    let spoke = messages.last().and_then(|message| message.get("role")).is_some_and(|role| role == "assistant");
    Ok((messages, generation.unwrap_or(!spoke)))
}
