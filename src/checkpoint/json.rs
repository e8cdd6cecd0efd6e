//! JSON files: errors name the file. And a form of values that several files share.

use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};

/// The content of `file` parsed as a `T`.
pub fn parse<'a, T: Deserialize<'a>>(file: &Path, content: &'a [u8]) -> Result<T> {
    serde_json::from_slice(content)
        .map_err(|error| Error::checkpoint(format!("{}: {error}", file.display())).caused_by(error))
}

/// One token, or a list of tokens.
#[derive(Deserialize)]
#[serde(untagged, expecting = "bos_token_id or eos_token_id is neither a token nor a list of tokens")]
pub(super) enum Ids {
    One(u32),
    Many(Vec<u32>),
}

impl Ids {
    pub(super) fn list(self) -> Vec<u32> {
        match self {
            Ids::One(id) => vec![id],
            Ids::Many(ids) => ids,
        }
    }
}
