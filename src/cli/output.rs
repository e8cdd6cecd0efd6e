//! Files that commands write: refused before the work, written before anything is printed, because the reader of
//! standard output may stop at any line.

use std::fs::{self, OpenOptions};
use std::path::Path;

use crate::error::{Error, Result};

/// Checks that a file can be written, and leaves it as it is.
pub fn can_be_written(path: &Path) -> Result<()> {
    let new = !path.exists();
    let opened = OpenOptions::new().write(true).create(new).truncate(false).open(path);
    opened.map_err(|error| unwritable(path).caused_by(error))?;
    if new {
        fs::remove_file(path).map_err(|error| unwritable(path).caused_by(error))?;
    }
    Ok(())
}

pub fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    fs::write(path, content).map_err(|error| unwritable(path).caused_by(error))
}

fn unwritable(path: &Path) -> Error {
    Error::prompt(format!("{} cannot be written", path.display()))
}
