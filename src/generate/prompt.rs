//! The input of a model: text, ids, or a chat that the model's own template turns into text; and pictures.

use std::path::{Path, PathBuf};

use super::image::Image;
use crate::error::Result;

/// The text or ids to continue, and their pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    pub(super) kind: Kind,
    pub(super) images: Vec<ImageSource>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    User(String),
    Raw(String),
    Tokens(Vec<u32>),
    Chat(Vec<Message>),
}

/// A picture of a prompt: a file that is read when the prompt is used, or an [`Image`].
#[derive(Clone, Debug, PartialEq)]
pub enum ImageSource {
    File(PathBuf),
    Image(Image),
}

impl ImageSource {
    /// The picture, decoded.
    pub(super) fn load(&self) -> Result<Image> {
        match self {
            ImageSource::File(path) => Image::open(path),
            ImageSource::Image(image) => Ok(image.clone()),
        }
    }
}

impl From<Image> for ImageSource {
    fn from(image: Image) -> Self {
        Self::Image(image)
    }
}

impl From<&str> for ImageSource {
    fn from(path: &str) -> Self {
        Self::File(path.into())
    }
}

impl From<String> for ImageSource {
    fn from(path: String) -> Self {
        Self::File(path.into())
    }
}

impl From<&Path> for ImageSource {
    fn from(path: &Path) -> Self {
        Self::File(path.into())
    }
}

impl From<PathBuf> for ImageSource {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

/// The placeholder of a picture in the text of a prompt.
pub(super) const PLACEHOLDER: &str = "<image>";

impl Prompt {
    /// The placeholder of a picture among ids ([`Prompt::tokens`]): −200, as in the MobileVLM authors' code.
    pub const IMAGE: u32 = (-200i32).cast_unsigned();

    /// A question from the user. It goes through the model's chat template; a model without one continues the text.
    pub fn user(text: impl Into<String>) -> Self {
        Self::of(Kind::User(text.into()))
    }

    /// Text to continue unchanged, after the model's start token.
    pub fn raw(text: impl Into<String>) -> Self {
        Self::of(Kind::Raw(text.into()))
    }

    /// Ids, unchanged: no start token is added. [`Prompt::IMAGE`] stands for a picture, and so do the 256 ids that a
    /// Qwen-VL has between `<img>` and `</img>`.
    pub fn tokens(ids: impl Into<Vec<u32>>) -> Self {
        Self::of(Kind::Tokens(ids.into()))
    }

    /// A conversation so far. It is an error if the model has no chat template.
    pub fn chat(messages: impl IntoIterator<Item = Message>) -> Self {
        Self::of(Kind::Chat(messages.into_iter().collect()))
    }

    /// Adds a picture: a path, or an [`Image`]. Pictures replace `<image>` in the text, in order; for a Qwen-VL also
    /// the text between `<img>` and `</img>`. A text without a place gets `<image>` and a line break for each at its
    /// beginning.
    pub fn image(mut self, image: impl Into<ImageSource>) -> Self {
        self.images.push(image.into());
        self
    }

    fn of(kind: Kind) -> Self {
        Self { kind, images: Vec::new() }
    }
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Self::user(text)
    }
}

impl From<String> for Prompt {
    fn from(text: String) -> Self {
        Self::user(text)
    }
}

impl From<&[u32]> for Prompt {
    fn from(ids: &[u32]) -> Self {
        Self::tokens(ids)
    }
}

impl From<Vec<u32>> for Prompt {
    fn from(ids: Vec<u32>) -> Self {
        Self::tokens(ids)
    }
}

impl From<&Vec<u32>> for Prompt {
    fn from(ids: &Vec<u32>) -> Self {
        Self::tokens(ids.as_slice())
    }
}

/// One turn of a chat.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    pub content: String,
}

impl Message {
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}
