//! JSON files: errors name the file.

use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};

/// The content of `file` parsed as a `T`.
pub fn parse<'a, T: Deserialize<'a>>(file: &Path, content: &'a [u8]) -> Result<T> {
    serde_json::from_slice(content)
        .map_err(|error| Error::checkpoint(format!("{}: {error}", file.display())).caused_by(error))
}
