//! GGUF v2 and v3: magic · version · counts · metadata · tensor infos · padding · data. All little endian.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::config::Description;
use super::stored::Stored;
use crate::error::{Error, Result};
use crate::tensor::Bytes;

/// The metadata of a GGUF file.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    metadata: BTreeMap<String, Value>,
}

/// A value of the metadata.
#[derive(Clone, Debug)]
pub enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(String),
    Array(Array),
}

/// An array in the file, not copied.
#[derive(Clone, Debug)]
pub struct Array {
    element: Kind,
    count: usize,
    bytes: Bytes,
}

/// The type of a value, numbered as in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl Gguf {
    /// The value of a key, for example `tokenizer.ggml.tokens`.
    pub fn metadata(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    pub(super) fn read(path: &Path, bytes: &Bytes) -> Result<(Self, Vec<(String, Stored)>)> {
        let _ = bytes;
        Err(Error::checkpoint(format!("{}: GGUF is not read yet", path.display())))
    }

    pub(super) fn describe(&self, tensors: Vec<(String, Stored)>) -> Result<(Description, Vec<(String, Stored)>)> {
        let _ = tensors;
        Err(Error::checkpoint(format!("{}: GGUF is not read yet", self.path.display())))
    }
}

impl Value {
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Value::Unsigned(value) => Some(*value),
            Value::Signed(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// Any number.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Unsigned(value) => Some(*value as f64),
            Value::Signed(value) => Some(*value as f64),
            Value::Float(value) => Some(*value),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(value) => Some(value),
            _ => None,
        }
    }

    pub fn as_array(&self) -> Option<&Array> {
        match self {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }
}

impl Array {
    pub fn len(&self) -> usize {
        self.count
    }

    /// The elements of an array of strings, where they lie in the file.
    pub fn strings(&self) -> Option<impl ExactSizeIterator<Item = &str>> {
        let mut rest: &[u8] = &self.bytes;
        (self.element == Kind::String).then(|| {
            (0..self.count).map(move |_| {
                let (length, tail) = rest.split_first_chunk::<8>().expect("checked when the file was read");
                let (text, tail) = tail.split_at(u64::from_le_bytes(*length) as usize);
                rest = tail;
                str::from_utf8(text).expect("checked when the file was read")
            })
        })
    }

    /// The elements of an array of numbers, as f64, which holds those of 32 bits exactly.
    pub fn numbers(&self) -> Option<impl ExactSizeIterator<Item = f64>> {
        let size = self.element.size()?;
        Some(self.bytes.chunks_exact(size).map(|bytes| self.element.number(bytes)))
    }
}

impl Kind {
    /// Bytes of a value, where they are always the same.
    fn size(self) -> Option<usize> {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => Some(1),
            Kind::U16 | Kind::I16 => Some(2),
            Kind::U32 | Kind::I32 | Kind::F32 => Some(4),
            Kind::U64 | Kind::I64 | Kind::F64 => Some(8),
            Kind::String | Kind::Array => None,
        }
    }

    fn number(self, bytes: &[u8]) -> f64 {
        todo!("{self:?} {bytes:?}")
    }
}
