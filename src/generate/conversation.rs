//! Prompts → ids, pictures among them: templates, placeholders, and the rows that pictures become.

use std::time::Instant;

use super::image::Image;
use super::model::Text;
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
            None => {
                return Err(Error::prompt(
                    "the model reads text only, and the prompt has a picture: load a MobileVLM, or give the vision half \
                     with --mmproj",
                ));
            }
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
            Kind::Chat(messages) if self.has_template(config) => self.encode_chat(messages.clone(), config, encoded),
            Kind::Chat(_) => Err(self.no_template()),
        }
    }

    /// A conversation, by the model's template; a single question to a model without one is text to continue.
    pub(super) fn encode_chat(&self, messages: Vec<Message>, config: &Config, encoded: Encoded) -> Result<Encoded> {
        let mut shown = messages.clone();
        if !shown.iter().any(|message| message.content.contains(PLACEHOLDER))
            && let Some(first) = shown.iter_mut().find(|message| message.role == "user")
        {
            first.content = with_placeholders(std::mem::take(&mut first.content), encoded.images.len());
        }
        let encoded = Encoded { messages: Some(shown.clone()), ..encoded };
        if config.vision.is_some() {
            return self.encode_text(&vicuna(&shown)?, config, encoded);
        }
        if !self.has_template(config) {
            let ids = self.tokenizer()?.encode(&shown[0].content)?;
            return Ok(Encoded { ids, messages: None, ..encoded });
        }
        let json: Vec<serde_json::Value> =
            shown.iter().map(|m| serde_json::json!({"role": m.role, "content": m.content})).collect();
        let text = self.render(&json, true)?;
        // Templates write the start token themselves.
        Ok(Encoded { ids: self.tokenizer()?.encode_without_special(&text)?, ..encoded })
    }

    fn has_template(&self, config: &Config) -> bool {
        config.vision.is_some() || self.template().is_some()
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
fn vicuna(messages: &[Message]) -> Result<String> {
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
    if turns.len() % 2 == 0 {
        return Err(Error::prompt("the chat ends with the assistant: give it a question to answer"));
    }
    Ok(text + "ASSISTANT:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_that_of_the_authors() {
        let messages = ["hello", "Hi!", "what?"].into_iter().zip(["user", "assistant", "user"]);
        let messages: Vec<Message> = messages.map(|(content, role)| Message::new(role, content)).collect();
        assert_eq!(
            vicuna(&messages).unwrap(),
            "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, \
             detailed, and polite answers to the user's questions. USER: hello ASSISTANT: Hi!</s>USER: what? ASSISTANT:"
        );
        let system = [Message::new("system", "Be short."), Message::new("user", "a")];
        assert_eq!(vicuna(&system).unwrap(), "Be short. USER: a ASSISTANT:");
        assert!(vicuna(&messages[..2]).unwrap_err().to_string().contains("ends with the assistant"));
        assert!(vicuna(&messages[1..]).unwrap_err().to_string().contains("turn 1"));
    }

    #[test]
    fn a_text_without_places_gets_them_in_front() {
        assert_eq!(with_placeholders("q".into(), 2), "<image>\n<image>\nq");
        assert_eq!(with_placeholders("a <image> b".into(), 1), "a <image> b");
        assert_eq!(with_placeholders("q".into(), 0), "q");
    }
}
