//! Prompts → ids, pictures among them: templates, placeholders, and the rows that pictures become.

use std::time::Instant;

use serde_json::{Value, json};

use super::image::Image;
use super::model::{Template, Text};
use super::prompt::{Kind, Message, PLACEHOLDER, Prompt};
use super::tokenizer::Tokenizer;
use crate::checkpoint::Config;
use crate::error::{Error, Result};

/// A prompt as a model reads it.
#[derive(Clone, Debug, Default)]
pub(super) struct Encoded {
    /// Ids; `vocab + i` is row i of the pictures.
    pub ids: Vec<u32>,
    /// Pixels (3, S, S) of each picture.
    pub images: Vec<Vec<f32>>,
    /// The conversation, where it is one: a reply and another question may follow.
    pub messages: Option<Vec<Message>>,
    /// Seconds for decoding and resizing pictures.
    pub preprocess_s: f64,
}

/// How a vision-language model reads pictures.
#[derive(Clone, Copy)]
struct Rows {
    /// Ids from here on are rows of pictures.
    vocab: usize,
    /// Rows of a picture: M.
    each: usize,
}

impl Text {
    /// The ids and pictures of a prompt.
    pub(super) fn encode(&self, prompt: &Prompt, config: &Config) -> Result<Encoded> {
        let start = Instant::now();
        let images = prompt.images.iter().map(|source| source.load()).collect::<Result<Vec<Image>>>()?;
        let pixels = match &config.vision {
            Some(vision) => {
                images.iter().map(|image| image.pixels(vision.image_size, vision.mean, vision.std)).collect()
            }
            None if images.is_empty() => Vec::new(),
            None => return Err(self.text_only()),
        };
        let preprocess_s = start.elapsed().as_secs_f64();
        let encoded = Encoded { images: pixels, preprocess_s, ..Encoded::default() };
        match &prompt.kind {
            Kind::Tokens(ids) => Ok(Encoded { ids: ids.clone(), ..encoded }).and_then(|e| splice(e, config)),
            Kind::Raw(text) => {
                let text = with_placeholders(text.clone(), images.len());
                self.encode_text(&text, config, encoded)
            }
            Kind::User(text) => self.encode_chat(vec![Message::new("user", text)], config, encoded),
            Kind::Chat(messages) if self.template().is_some() => self.encode_chat(messages.clone(), config, encoded),
            Kind::Chat(_) => Err(self.no_template()),
        }
    }

    /// A conversation, by the model's template; a single question to a model without one is text to continue.
    pub(super) fn encode_chat(&self, mut messages: Vec<Message>, config: &Config, encoded: Encoded) -> Result<Encoded> {
        if !messages.iter().any(|message| message.content.contains(PLACEHOLDER))
            && let Some(first) = messages.iter_mut().find(|message| message.role == "user")
        {
            first.content = with_placeholders(std::mem::take(&mut first.content), encoded.images.len());
        }
        if self.template().is_none() {
            let ids = self.tokenizer()?.encode(&messages[0].content)?;
            return Ok(Encoded { ids, ..encoded });
        }
        let json: Vec<Value> = messages.iter().map(|m| json!({"role": m.role, "content": m.content})).collect();
        let ids = self.rendered_ids(&self.render(&json, true)?)?;
        splice(Encoded { ids, messages: Some(messages), ..encoded }, config)
    }

    /// The text of a chat, by the model's template. `generation` asks for the words after which the assistant speaks.
    pub fn render(&self, messages: &[Value], generation: bool) -> Result<String> {
        self.tokenizer()?;
        match self.template() {
            Some(Template::Jinja(template)) => template.render(messages, generation),
            Some(Template::Vicuna) => {
                let messages = messages.iter().enumerate().map(|(index, message)| {
                    let text = |key: &str| message.get(key).and_then(Value::as_str);
                    let read = || Some(Message::new(text("role")?, text("content")?));
                    let number = index + 1;
                    read().ok_or_else(|| {
                        Error::prompt(format!(
                            "message {number} of the chat lacks `role` or `content`, which are strings"
                        ))
                    })
                });
                vicuna(&messages.collect::<Result<Vec<_>>>()?, generation)
            }
            None => Err(self.no_template()),
        }
    }

    /// The ids of what [`Text::render`] gives, [`Prompt::IMAGE`] among them where pictures are.
    pub fn rendered_ids(&self, text: &str) -> Result<Vec<u32>> {
        let tokenizer = self.tokenizer()?;
        match self.template() {
            Some(Template::Vicuna) => cut(tokenizer, text),
            // Templates of files write the start token themselves.
            _ => tokenizer.encode_without_special(text),
        }
    }

    /// Text as it is, after the start token; cut at placeholders where the model reads pictures.
    fn encode_text(&self, text: &str, config: &Config, encoded: Encoded) -> Result<Encoded> {
        let tokenizer = self.tokenizer()?;
        if config.vision.is_none() {
            return Ok(Encoded { ids: tokenizer.encode(text)?, ..encoded });
        }
        splice(Encoded { ids: cut(tokenizer, text)?, ..encoded }, config)
    }
}

/// Each piece between placeholders is tokenized by itself; the start token stays on the first only.
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

/// Rows of pictures in place of [`Prompt::IMAGE`].
fn splice(encoded: Encoded, config: &Config) -> Result<Encoded> {
    let places = encoded.ids.iter().filter(|&&id| id == Prompt::IMAGE).count();
    if places != encoded.images.len() {
        return Err(Error::prompt(format!(
            "the prompt has {places} places for pictures ({PLACEHOLDER}), and {} pictures were given: they must be as many",
            encoded.images.len()
        )));
    }
    let Some(vision) = &config.vision else { return Ok(encoded) };
    let rows = Rows { vocab: config.vocab, each: vision.tokens() };
    let mut ids = Vec::with_capacity(encoded.ids.len() + places * rows.each);
    let mut next = rows.vocab as u32;
    for &id in &encoded.ids {
        if id == Prompt::IMAGE {
            ids.extend(next..next + rows.each as u32);
            next += rows.each as u32;
        } else if id as usize >= rows.vocab {
            return Err(super::model::not_in_vocabulary(id, rows.vocab));
        } else {
            ids.push(id);
        }
    }
    Ok(Encoded { ids, ..encoded })
}

/// A text that names no picture gets a line for each, in front.
fn with_placeholders(text: String, images: usize) -> String {
    if text.contains(PLACEHOLDER) { text } else { format!("{PLACEHOLDER}\n").repeat(images) + &text }
}

/// MobileVLM's conversation style `v1`, which is Vicuna's: a sentence, then turns.
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

    #[test]
    fn a_text_without_places_gets_them_in_front() {
        assert_eq!(with_placeholders("q".into(), 2), "<image>\n<image>\nq");
        assert_eq!(with_placeholders("a <image> b".into(), 1), "a <image> b");
        assert_eq!(with_placeholders("q".into(), 0), "q");
    }
}
