//! Errors, sorted by what an app developer can do about them.

use std::fmt;

/// The result of every function in dunlin that reads files or uses devices.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One sentence that names the file, tensor or device, what was found, what was expected, and what to do.
///
/// The cause, where another library reported one, is kept: [`std::error::Error::source`].
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What the caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A file is missing or malformed, or a tensor has the wrong name, shape or type: fix the folder.
    Checkpoint,
    /// An architecture or option that dunlin does not run; the message lists those that it does.
    UnsupportedModel,
    /// There is no such adapter, a device was lost, or a limit is too small (which one, its value, the required value).
    Device,
    /// Memory ran out: the message says how much was needed, the limit, and which option reduces it.
    OutOfMemory,
    /// The caller's input: too long for the context, a token outside the vocabulary, an unreadable text.
    Prompt,
}

impl Error {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(crate) fn checkpoint(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Checkpoint, message)
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::UnsupportedModel, message)
    }

    pub(crate) fn out_of_memory(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::OutOfMemory, message)
    }

    pub(crate) fn device(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Device, message)
    }

    pub(crate) fn prompt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Prompt, message)
    }

    /// Adds the position in the caller's input where the error happened.
    #[cfg(feature = "cli")]
    pub(crate) fn at(mut self, place: &str) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// Keeps the cause that another library reported.
    pub(crate) fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as _)
    }
}
