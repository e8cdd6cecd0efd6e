//! GGUF v2 and v3: magic · version · counts · metadata · tensor infos · padding · data. All little endian.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::stored::{Element, Stored, count};
use crate::error::{Error, Result};
use crate::tensor::{Bytes, DType, RowOrder};

/// The metadata of a GGUF file.
#[derive(Debug)]
pub struct Gguf {
    pub(super) path: PathBuf,
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

/// An array in the file, not copied. It was checked once on opening, so that reading it later cannot fail.
#[derive(Clone, Debug)]
pub struct Array {
    kind: Kind,
    count: usize,
    bytes: Bytes,
}

/// The type of a value.
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

    /// Lists the metadata and the tensors of `path`, whose content is `bytes`. Tensors have the names of the file.
    pub(super) fn read(path: &Path, bytes: &Bytes) -> Result<(Self, Vec<(String, Stored)>)> {
        let mut cursor = Cursor { path, bytes, at: 0 };
        if bytes.get(..4) != Some(b"GGUF") {
            return Err(
                cursor.bad("not a GGUF file: it does not begin with `GGUF`; give a .gguf file or a folder".into())
            );
        }
        cursor.at = 4;
        match cursor.u32()? {
            2 | 3 => {}
            version if version.swap_bytes() <= 3 => return Err(cursor.bad("big-endian GGUF is not supported".into())),
            version => return Err(cursor.bad(format!("GGUF version {version} is not supported, only 2 and 3"))),
        }
        let (tensor_count, value_count) = (cursor.u64()?, cursor.u64()?);

        // Counts come from the file and may be wrong: nothing is allocated by them, and the loops end where the bytes
        // end.
        let mut metadata = BTreeMap::new();
        for _ in 0..value_count {
            let key = cursor.string()?;
            let value = cursor.value(&key)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(cursor.bad(format!("metadata `{key}` occurs twice")));
            }
        }
        let alignment = metadata.get("general.alignment").and_then(Value::as_u64).unwrap_or(32);
        if !alignment.is_power_of_two() || alignment > 1 << 20 {
            return Err(cursor.bad(format!("general.alignment is {alignment}, expected a power of two")));
        }
        let mut infos = Vec::new();
        for _ in 0..tensor_count {
            infos.push(cursor.info()?);
        }
        let data = cursor.at.next_multiple_of(alignment as usize).min(bytes.len());
        let tensors = place(path, infos, &bytes.slice(data..bytes.len()), alignment as usize)?;
        Ok((Self { path: path.to_path_buf(), metadata }, tensors))
    }
}

/// The description of a tensor in the file.
struct Info {
    name: String,
    shape: Vec<usize>,
    ggml_type: u32,
    offset: usize,
}

/// Finds the bytes of each tensor in `data`.
fn place(path: &Path, mut infos: Vec<Info>, data: &Bytes, alignment: usize) -> Result<Vec<(String, Stored)>> {
    let bad = |what: String| Error::checkpoint(format!("{}: {what}", path.display()));
    let file = Arc::new(path.to_path_buf());
    infos.sort_by_key(|info| info.offset);
    let mut tensors = Vec::with_capacity(infos.len());
    let mut free = (0, String::new());
    for Info { name, shape, ggml_type, offset } in infos {
        let (element, elements, block_bytes) = element(ggml_type);
        let cols = shape.last().copied().unwrap_or(1);
        if !cols.is_multiple_of(elements) {
            return Err(bad(format!(
                "tensor `{name}` has rows of {cols} elements, which {} blocks of {elements} do not fill",
                element.name()
            )));
        }
        let size = count(&shape).and_then(|count| (count / elements).checked_mul(block_bytes));
        let end = size.and_then(|size| size.checked_add(offset));
        let Some(end) = end.filter(|&end| end <= data.len()) else {
            return Err(bad(format!(
                "tensor `{name}` of type {} and shape {shape:?} at offset {offset} does not fit the {} bytes of data; \
                 the file is truncated or damaged",
                element.name(),
                data.len(),
            )));
        };
        if !offset.is_multiple_of(alignment) {
            return Err(bad(format!("tensor `{name}` at offset {offset} is not aligned to {alignment} bytes")));
        }
        if offset < free.0 && offset < end {
            return Err(bad(format!("tensors `{}` and `{name}` overlap; the file is damaged", free.1)));
        }
        if end > free.0 {
            free = (end, name.clone());
        }
        let bytes = data.slice(offset..end);
        let stored =
            Stored { file: file.clone(), element, shape, view: None, bytes, order: RowOrder::Stored, less_1: false };
        tensors.push((name, stored));
    }
    Ok(tensors)
}

/// (type, elements of a block, bytes of a block). For types that cannot be run only the name is returned.
fn element(ggml_type: u32) -> (Element, usize, usize) {
    if let Some(dtype) = DType::from_gguf(ggml_type) {
        let (elements, bytes) = dtype.block();
        return (Element::Run(dtype), elements, bytes);
    }
    let name = match ggml_type {
        28 => return (Element::F64, 1, 8),
        9 => "q8_1",
        15 => "q8_k",
        16 => "iq2_xxs",
        17 => "iq2_xs",
        18 => "iq3_xxs",
        19 => "iq1_s",
        21 => "iq3_s",
        22 => "iq2_s",
        23 => "iq4_xs",
        24 => "i8",
        25 => "i16",
        26 => "i32",
        27 => "i64",
        29 => "iq1_m",
        34 => "tq1_0",
        35 => "tq2_0",
        39 => "mxfp4",
        other => return (Element::Other(format!("ggml type {other}")), 1, 0),
    };
    (Element::Other(name.into()), 1, 0)
}

/// Reads the file from front to back.
struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a Bytes,
    at: usize,
}

impl Cursor<'_> {
    fn bad(&self, what: String) -> Error {
        Error::checkpoint(format!("{}: {what}", self.path.display()))
    }

    fn truncated(&self) -> Error {
        self.bad(format!("the file ends at byte {} in the middle of its header; it is truncated", self.bytes.len()))
    }

    fn bytes(&mut self, count: usize) -> Result<&[u8]> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len()).ok_or_else(|| self.truncated())?;
        let part = &self.bytes[self.at..end];
        self.at = end;
        Ok(part)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(*self.bytes(4)?.first_chunk().expect("4 bytes")))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(*self.bytes(8)?.first_chunk().expect("8 bytes")))
    }

    /// A 64-bit number of the file as a `usize`.
    fn size(&mut self) -> Result<usize> {
        let size = self.u64()?;
        usize::try_from(size).map_err(|_| self.bad(format!("the number {size} is too large for this machine")))
    }

    fn str(&mut self) -> Result<&str> {
        let length = self.size()?;
        let at = self.at;
        let bad = self.bad(format!("the text at byte {at} is not UTF-8"));
        str::from_utf8(self.bytes(length)?).map_err(|_| bad)
    }

    fn string(&mut self) -> Result<String> {
        self.str().map(str::to_owned)
    }

    fn value(&mut self, key: &str) -> Result<Value> {
        match self.kind(key)? {
            Kind::String => Ok(Value::String(self.string()?)),
            Kind::Array => {
                let kind = self.kind(key)?;
                let count = self.size()?;
                let begin = self.at;
                match kind.size() {
                    Some(size) => {
                        let length = count.checked_mul(size).ok_or_else(|| self.truncated())?;
                        self.bytes(length)?;
                    }
                    None if kind == Kind::String => {
                        for _ in 0..count {
                            self.str()?;
                        }
                    }
                    None => {
                        return Err(self.bad(format!("metadata `{key}` is an array of arrays, which is not supported")));
                    }
                }
                Ok(Value::Array(Array { kind, count, bytes: self.bytes.slice(begin..self.at) }))
            }
            kind => {
                let size = kind.size().expect("not a string or an array");
                Ok(kind.value(self.bytes(size)?))
            }
        }
    }

    fn kind(&mut self, key: &str) -> Result<Kind> {
        let number = self.u32()?;
        Kind::ALL
            .get(number as usize)
            .copied()
            .ok_or_else(|| self.bad(format!("metadata `{key}` has the unknown type {number}")))
    }

    fn info(&mut self) -> Result<Info> {
        let name = self.string()?;
        let dims = self.u32()?;
        if dims > 4 {
            return Err(self.bad(format!("tensor `{name}` has {dims} dimensions, expected at most 4")));
        }
        let mut shape = (0..dims).map(|_| self.size()).collect::<Result<Vec<_>>>()?;
        // GGUF lists the contiguous dimension first.
        shape.reverse();
        Ok(Info { name, shape, ggml_type: self.u32()?, offset: self.size()? })
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

    /// Any number as f64.
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

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The elements of an array of strings, borrowed from the file.
    pub fn strings(&self) -> Option<impl ExactSizeIterator<Item = &str>> {
        let mut rest: &[u8] = &self.bytes;
        let next = move |_| {
            let (length, tail) = rest.split_first_chunk().expect("read through before");
            let (text, tail) = tail.split_at(u64::from_le_bytes(*length) as usize);
            rest = tail;
            str::from_utf8(text).expect("read through before")
        };
        (self.kind == Kind::String).then(|| (0..self.count).map(next))
    }

    /// The elements of an array of numbers or flags (0 and 1). f64 represents integers of up to 32 bits exactly.
    pub fn numbers(&self) -> Option<impl ExactSizeIterator<Item = f64>> {
        let number = |bytes| match self.kind.value(bytes) {
            Value::Bool(value) => value as u8 as f64,
            value => value.as_f64().expect("a number"),
        };
        self.kind.size().map(|size| self.bytes.chunks_exact(size).map(number))
    }
}

impl Kind {
    /// In the order of their type numbers in the file.
    const ALL: [Kind; 13] = [
        Kind::U8,
        Kind::I8,
        Kind::U16,
        Kind::I16,
        Kind::U32,
        Kind::I32,
        Kind::F32,
        Kind::Bool,
        Kind::String,
        Kind::Array,
        Kind::U64,
        Kind::I64,
        Kind::F64,
    ];

    /// Bytes of a value, or `None` for types of variable size.
    fn size(self) -> Option<usize> {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => Some(1),
            Kind::U16 | Kind::I16 => Some(2),
            Kind::U32 | Kind::I32 | Kind::F32 => Some(4),
            Kind::U64 | Kind::I64 | Kind::F64 => Some(8),
            Kind::String | Kind::Array => None,
        }
    }

    /// The number in `bytes`, which has `size` bytes.
    fn value(self, bytes: &[u8]) -> Value {
        let mut eight = [0; 8];
        eight[..bytes.len()].copy_from_slice(bytes);
        let unsigned = u64::from_le_bytes(eight);
        // Extends the sign of a shorter integer to 64 bits.
        let signed = || (unsigned as i64) << (64 - 8 * bytes.len()) >> (64 - 8 * bytes.len());
        match self {
            Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64 => Value::Unsigned(unsigned),
            Kind::I8 | Kind::I16 | Kind::I32 | Kind::I64 => Value::Signed(signed()),
            Kind::F32 => Value::Float(f32::from_bits(unsigned as u32) as f64),
            Kind::F64 => Value::Float(f64::from_bits(unsigned)),
            Kind::Bool => Value::Bool(unsigned != 0),
            Kind::String | Kind::Array => unreachable!("not numbers"),
        }
    }
}
