//! A model's tokenizer and chat template, which turn chats and text into ids.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::chatml::{ChatMl, Turns, with_labels, with_places};
use super::prompt::{Message, PLACEHOLDER, Prompt};
use super::template::ChatTemplate;
use super::tokenizer::{Tokenizer, missing};
use crate::checkpoint::Checkpoint;
#[cfg(any(test, feature = "cli"))]
use crate::checkpoint::Files;
use crate::checkpoint::text::{TextFiles, Vocabulary};
use crate::error::{Error, Result};

/// A model's tokenizer and chat template. A folder may have neither; this is an error only when text is used.
pub(crate) struct Text {
    path: PathBuf,
    tokenizer: Option<Tokenizer>,
    template: Option<Template>,
    /// `Picture 1:<img>` without a space (Qwen-VL).
    pub tight_pictures: bool,
}

/// The template that turns a chat into text.
pub(super) enum Template {
    /// A Jinja template from the model's files.
    Jinja(Box<ChatTemplate>),
    /// MobileVLM's conversation style, which is not in the files of a MobileVLM.
    Vicuna,
    /// Qwen's template, which is defined by the code of its tokenizer.
    ChatMl(ChatMl),
}

impl Text {
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        Self::from_files(&checkpoint.path, TextFiles::of(checkpoint)?, checkpoint.is_mobilevlm())
    }

    /// Loads tokenizer and template, but no weights.
    #[cfg(any(test, feature = "cli"))]
    pub fn open(files: impl Into<Files>) -> Result<Self> {
        let files = files.into();
        Self::from_files(files.path(), TextFiles::open(files.clone())?, crate::checkpoint::is_mobilevlm(&files)?)
    }

    fn from_files(path: &Path, files: Option<TextFiles>, mobilevlm: bool) -> Result<Self> {
        let mut text = Self { path: path.to_path_buf(), tokenizer: None, template: None, tight_pictures: false };
        if let Some(files) = files {
            let tokenizer = Tokenizer::new(&files)?;
            text.template = match &files.vocabulary {
                Vocabulary::Tiktoken(qwen) => qwen.chat_window.map(|window| Template::ChatMl(ChatMl { window })),
                _ => ChatTemplate::new(&files, &tokenizer)?.map(|template| Template::Jinja(Box::new(template))),
            };
            text.tokenizer = Some(tokenizer);
        }
        if mobilevlm {
            text.template = Some(Template::Vicuna);
        }
        Ok(text)
    }

    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| missing(&self.path))
    }

    pub(super) fn template(&self) -> Option<&Template> {
        self.template.as_ref()
    }

    pub(super) fn no_template(&self) -> Error {
        Error::prompt(format!("{} has no chat template: it continues plain text", self.path.display()))
    }

    pub(super) fn text_only(&self) -> Error {
        Error::prompt(format!(
            "{} reads text only, and the prompt has a picture: load a MobileVLM or a Qwen-VL, or give the vision half with --mmproj",
            self.path.display()
        ))
    }

    /// The text of a chat, by the model's template. `generation` asks for the words after which the assistant speaks.
    pub fn render(&self, messages: &[Value], generation: bool) -> Result<String> {
        self.tokenizer()?;
        match self.template() {
            Some(Template::Jinja(template)) => template.render(messages, generation),
            Some(Template::Vicuna) => vicuna(&plain(messages)?, generation),
            Some(Template::ChatMl(_)) => ChatMl::text(&self.labelled(plain(messages)?), generation),
            None => Err(self.no_template()),
        }
    }

    /// The ids of a chat, with [`Prompt::IMAGE`] in place of pictures.
    pub fn chat_ids(&self, messages: &[Value], generation: bool) -> Result<Turns> {
        let tokenizer = self.tokenizer()?;
        let ids = match (self.template(), tokenizer.tiktoken()) {
            (Some(Template::ChatMl(chatml)), Some(encoder)) => {
                return chatml.ids(encoder, &self.labelled(plain(messages)?), generation);
            }
            (Some(Template::Vicuna), _) => cut(tokenizer, &self.render(messages, generation)?)?,
            // Templates from files write the start token themselves.
            _ => tokenizer.encode_without_special(&self.render(messages, generation)?)?,
        };
        Ok(Turns { ids, skipped: 0..0 })
    }

    /// Whether text may have pictures between `<img>` and `</img>`.
    pub(super) fn has_image_tags(&self) -> bool {
        let qwen = self.tokenizer.as_ref().and_then(Tokenizer::tiktoken);
        qwen.is_some_and(|encoder| encoder.image().is_some())
    }

    /// Whether a text names the places of its pictures.
    pub(super) fn has_places(&self, text: &str) -> bool {
        text.contains(PLACEHOLDER) || self.has_image_tags() && text.contains("<img>")
    }

    /// A text without places for pictures. What is left of it is none either.
    pub(super) fn without_places(&self, text: &str) -> String {
        let tags = [PLACEHOLDER, "<img>", "</img>"];
        let tags = if self.has_image_tags() { &tags[..] } else { &tags[..1] };
        let mut text = text.to_owned();
        while let Some(tag) = tags.iter().find(|tag| text.contains(**tag)) {
            text = text.replace(tag, "");
        }
        text
    }

    /// Qwen's messages, with numbered pictures.
    fn labelled(&self, mut messages: Vec<Message>) -> Vec<Message> {
        if !self.has_image_tags() {
            return messages;
        }
        let mut next = 1;
        for message in &mut messages {
            message.content = with_labels(&message.content, self.tight_pictures, &mut next);
        }
        messages
    }

    /// The ids of unchanged text, after the start token, with [`Prompt::IMAGE`] in place of pictures.
    pub(super) fn text_ids(&self, text: &str) -> Result<Vec<u32>> {
        let tokenizer = self.tokenizer()?;
        match tokenizer.tiktoken() {
            Some(encoder) => {
                with_places(encoder.image(), &tokenizer.encode(&with_labels(text, self.tight_pictures, &mut 1))?)
            }
            None => cut(tokenizer, text),
        }
    }
}

/// Messages whose contents are text.
fn plain(messages: &[Value]) -> Result<Vec<Message>> {
    let messages = messages.iter().enumerate().map(|(index, message)| {
        let text = |key: &str| message.get(key).and_then(Value::as_str);
        let read = || Some(Message::new(text("role")?, text("content")?));
        let number = index + 1;
        read().ok_or_else(|| {
            Error::prompt(format!("message {number} of the chat lacks `role` or `content`, which are strings"))
        })
    });
    messages.collect()
}

/// Each part between placeholders is tokenized alone; only the first keeps its start token.
fn cut(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for (index, piece) in text.split(PLACEHOLDER).enumerate() {
        if index == 0 {
            ids = tokenizer.encode(piece)?;
        } else {
            ids.push(Prompt::IMAGE);
            ids.extend(tokenizer.encode_without_special(piece)?);
        }
    }
    Ok(ids)
}

/// MobileVLM's conversation style `v1`, which is Vicuna's: a system sentence, then turns.
fn vicuna(messages: &[Message], generation: bool) -> Result<String> {
    const SYSTEM: &str = "A chat between a curious user and an artificial intelligence assistant. The assistant gives \
                          helpful, detailed, and polite answers to the user's questions.";
    let (system, turns) = match messages {
        [first, rest @ ..] if first.role == "system" => (first.content.as_str(), rest),
        _ => (SYSTEM, messages),
    };
    let mut text = format!("{system} ");
    for (turn, message) in turns.iter().enumerate() {
        let (role, name, end) = if turn % 2 == 0 { ("user", "USER", " ") } else { ("assistant", "ASSISTANT", "</s>") };
        if message.role != role {
            return Err(Error::prompt(format!(
                "turn {} of the chat is the {}'s, expected the {role}'s: the model was made for questions and answers in turns",
                turn + 1,
                message.role
            )));
        }
        text += &format!("{name}: {}{end}", message.content);
    }
    match (generation, turns.len() % 2) {
        (false, _) => Ok(text),
        (true, 1) => Ok(text + "ASSISTANT:"),
        _ => Err(Error::prompt("the chat is empty or ends with the assistant: give it a question to answer")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_that_of_the_authors() {
        let messages = ["hello", "Hi!", "what?"].into_iter().zip(["user", "assistant", "user"]);
        let messages: Vec<Message> = messages.map(|(content, role)| Message::new(role, content)).collect();
        assert_eq!(
            vicuna(&messages, true).unwrap(),
            "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, \
             detailed, and polite answers to the user's questions. USER: hello ASSISTANT: Hi!</s>USER: what? ASSISTANT:"
        );
        let system = [Message::new("system", "Be short."), Message::new("user", "a")];
        assert_eq!(vicuna(&system, true).unwrap(), "Be short. USER: a ASSISTANT:");
        assert!(vicuna(&messages[..2], false).unwrap().ends_with("USER: hello ASSISTANT: Hi!</s>"));
        assert!(vicuna(&messages[..1], false).unwrap().ends_with("questions. USER: hello "));
        assert!(vicuna(&messages[..2], true).unwrap_err().to_string().contains("ends with the assistant"));
        assert!(vicuna(&messages[1..], true).unwrap_err().to_string().contains("turn 1"));
    }
}
