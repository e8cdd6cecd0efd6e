//! Prompts → ids, pictures among them: templates, placeholders, and the rows that pictures become.

use std::sync::Arc;

use serde_json::{Value, json};

use super::image::Image;
use super::prompt::{Kind, Message, PLACEHOLDER, Prompt};
use super::text::{Text, cut};
use crate::checkpoint::Config;
use crate::clock::Instant;
use crate::error::{Error, Result};
use crate::models::PictureIds;

/// A prompt as a model reads it.
#[derive(Clone, Debug, Default)]
pub(super) struct Encoded {
    /// Ids; `vocab + i` is row i of the pictures.
    pub ids: Vec<u32>,
    /// Pixels (3, S, S) of each picture.
    pub images: Vec<Arc<Vec<f32>>>,
    /// The conversation, where it is one: a reply and another question may follow.
    pub messages: Option<Vec<Message>>,
    /// Seconds for decoding and resizing pictures.
    pub preprocess_s: f64,
}

impl Text {
    /// The ids and pictures of a prompt.
    pub(super) fn encode(&self, prompt: &Prompt, config: &Config) -> Result<Encoded> {
        let start = Instant::now();
        let images = prompt.images.iter().map(|source| source.load()).collect::<Result<Vec<Image>>>()?;
        let pixels = match &config.vision {
            Some(vision) => {
                images.iter().map(|image| Arc::new(image.pixels(vision.image_size, vision.mean, vision.std))).collect()
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

    /// Text as it is, after the start token; cut at placeholders where the model reads pictures.
    fn encode_text(&self, text: &str, config: &Config, encoded: Encoded) -> Result<Encoded> {
        let tokenizer = self.tokenizer()?;
        if config.vision.is_none() {
            return Ok(Encoded { ids: tokenizer.encode(text)?, ..encoded });
        }
        splice(Encoded { ids: cut(tokenizer, text)?, ..encoded }, config)
    }
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
    let pictures = PictureIds { vocab: config.vocab };
    let each = vision.tokens();
    let mut ids = Vec::with_capacity(encoded.ids.len() + places * each);
    let mut rows = 0;
    for &id in &encoded.ids {
        if id == Prompt::IMAGE {
            ids.extend((rows..rows + each).map(|row| pictures.id(row)));
            rows += each;
        } else if pictures.row(id).is_some() {
            return Err(not_in_vocabulary(id, config.vocab));
        } else {
            ids.push(id);
        }
    }
    Ok(Encoded { ids, ..encoded })
}

pub(super) fn not_in_vocabulary(id: u32, vocab: usize) -> Error {
    Error::prompt(format!("token {id} is not in the vocabulary, which has {vocab} ids from 0"))
}

/// A text that names no picture gets a line for each, in front.
fn with_placeholders(text: String, images: usize) -> String {
    if text.contains(PLACEHOLDER) { text } else { format!("{PLACEHOLDER}\n").repeat(images) + &text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_places_gets_them_in_front() {
        assert_eq!(with_placeholders("q".into(), 2), "<image>\n<image>\nq");
        assert_eq!(with_placeholders("a <image> b".into(), 1), "a <image> b");
        assert_eq!(with_placeholders("q".into(), 0), "q");
    }
}
