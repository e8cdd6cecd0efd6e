//! Prompts → ids, with pictures: templates, placeholders, and the rows of pictures.

use std::ops::Range;
use std::sync::Arc;

use serde_json::{Value, json};

use super::chatml::{Turns, with_places};
use super::image::Image;
use super::prompt::{Kind, Message, PLACEHOLDER, Prompt};
use super::text::Text;
use crate::checkpoint::{Config, VisionConfig};
use crate::clock::Instant;
use crate::error::{Error, Result};
use crate::models::PictureIds;

/// A prompt in the form that a model reads.
#[derive(Clone, Debug, Default)]
pub(super) struct Encoded {
    /// Ids; `vocab + i` is row i of the pictures.
    pub ids: Vec<u32>,
    /// The pictures whose rows are among `ids`.
    pub pictures: Pictures,
    /// What a reply and another question may continue, if the prompt is a conversation.
    pub conversation: Option<Conversation>,
    /// Seconds for decoding and resizing pictures.
    pub preprocess_s: f64,
}

/// The pictures of a prompt, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Pictures {
    /// Pixels (3, S, S) of each.
    pub pixels: Vec<Arc<Vec<f32>>>,
    /// Width and height of each, as the model sees it.
    pub sizes: Vec<(usize, usize)>,
}

/// A conversation as it was given.
#[derive(Clone, Debug)]
pub(super) struct Conversation {
    pub messages: Vec<Message>,
    /// All of its pictures, also those of turns that the model no longer reads.
    pub pictures: Pictures,
}

impl Pictures {
    /// The pictures, and then those of another prompt.
    pub fn and(mut self, other: Pictures) -> Self {
        self.pixels.extend(other.pixels);
        self.sizes.extend(other.sizes);
        self
    }

    fn without(mut self, dropped: Range<usize>) -> Self {
        self.pixels.drain(dropped.clone());
        self.sizes.drain(dropped);
        self
    }
}

impl Text {
    /// The ids and pictures of a prompt.
    pub(super) fn encode(&self, prompt: &Prompt, config: &Config) -> Result<Encoded> {
        let start = Instant::now();
        let mut images = prompt.images.iter().map(|source| source.load()).collect::<Result<Vec<Image>>>()?;
        let fills_square = config.vision.as_ref().is_some_and(VisionConfig::fills_square);
        if fills_square {
            images = images.iter().map(Image::as_stored).collect();
        }
        let pixels = match &config.vision {
            Some(VisionConfig { image_size: size, mean, std, .. }) => {
                let pixels = |image: &Image| match fills_square {
                    true => image.stretched_pixels(*size, *mean, *std),
                    false => image.pixels(*size, *mean, *std),
                };
                images.iter().map(|image| Arc::new(pixels(image))).collect()
            }
            None if images.is_empty() => Vec::new(),
            None => return Err(self.text_only()),
        };
        let preprocess_s = start.elapsed().as_secs_f64();
        let sizes = images.iter().map(|image| (image.width(), image.height())).collect();
        let encoded = Encoded { pictures: Pictures { pixels, sizes }, preprocess_s, ..Encoded::default() };
        match &prompt.kind {
            Kind::Tokens(ids) => {
                let ids = with_places(config.vision.as_ref().and_then(|vision| vision.image_start), ids)?;
                splice(Encoded { ids, ..encoded }, config, 0..0)
            }
            Kind::Raw(text) => {
                let places = if self.has_places(text) { 0 } else { images.len() };
                self.encode_text(&with_placeholders(text, places), config, encoded)
            }
            Kind::User(text) => self.encode_chat(vec![Message::new("user", text)], config, encoded),
            Kind::Chat(messages) if self.template().is_some() => self.encode_chat(messages.clone(), config, encoded),
            Kind::Chat(_) => Err(self.no_template()),
        }
    }

    /// Encodes a conversation with the model's template; without a template, a single question is text to continue.
    pub(super) fn encode_chat(&self, mut messages: Vec<Message>, config: &Config, encoded: Encoded) -> Result<Encoded> {
        if !messages.iter().any(|message| self.has_places(&message.content))
            && let Some(first) = messages.iter_mut().find(|message| message.role == "user")
        {
            first.content = with_placeholders(&first.content, encoded.pictures.pixels.len());
        }
        if self.template().is_none() {
            return self.encode_text(&messages[0].content, config, encoded);
        }
        let json: Vec<Value> = messages.iter().map(|m| json!({"role": m.role, "content": m.content})).collect();
        let Turns { ids, skipped } = self.chat_ids(&json, true)?;
        let conversation = Some(Conversation { messages, pictures: encoded.pictures.clone() });
        splice(Encoded { ids, conversation, ..encoded }, config, skipped)
    }

    /// Encodes text unchanged, after the start token; if the model reads pictures, the text is cut at placeholders.
    fn encode_text(&self, text: &str, config: &Config, encoded: Encoded) -> Result<Encoded> {
        let tokenizer = self.tokenizer()?;
        if config.vision.is_none() {
            return Ok(Encoded { ids: tokenizer.encode(text)?, ..encoded });
        }
        splice(Encoded { ids: self.text_ids(text)?, ..encoded }, config, 0..0)
    }
}

/// Puts rows of pictures in place of [`Prompt::IMAGE`]. The pictures `skipped` have no place any more, and are dropped.
fn splice(encoded: Encoded, config: &Config, skipped: Range<usize>) -> Result<Encoded> {
    let places = encoded.ids.iter().filter(|&&id| id == Prompt::IMAGE).count();
    let (all, given) = (places + skipped.len(), encoded.pictures.pixels.len());
    if all != given {
        return Err(Error::prompt(format!(
            "the prompt has {all} places for pictures ({PLACEHOLDER}), and {given} pictures were given: they must be as \
             many; give each with --image"
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
    Ok(Encoded { ids, pictures: encoded.pictures.without(skipped), ..encoded })
}

pub(super) fn not_in_vocabulary(id: u32, vocab: usize) -> Error {
    Error::prompt(format!("token {id} is not in the vocabulary, which has {vocab} ids from 0"))
}

/// A text without places for pictures gets a line for each picture at its beginning.
fn with_placeholders(text: &str, images: usize) -> String {
    format!("{PLACEHOLDER}\n").repeat(images) + text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_places_gets_them_in_front() {
        assert_eq!(with_placeholders("q", 2), "<image>\n<image>\nq");
        assert_eq!(with_placeholders("q", 0), "q");
    }
}
