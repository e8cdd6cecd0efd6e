//! safetensors: u64 header length · JSON `{name: {dtype, shape, data_offsets: [begin, end]}, "__metadata__": …}` · data.
//!
//! All numbers are little endian; offsets count from the end of the header.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};

use super::stored::{Element, Stored, count};
use crate::error::{Error, Result};
use crate::tensor::{Bytes, DType, RowOrder};

/// The limit that the format specifies.
const HEADER_LIMIT: u64 = 100_000_000;

#[derive(Deserialize)]
struct Info {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

/// The header's entries in file order, so that duplicate names are detected.
struct Header(Vec<(String, Info)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// Lists the tensors of `file`, whose content is `bytes`.
pub fn read(file: &Path, bytes: &Bytes) -> Result<Vec<(String, Stored)>> {
    let bad = |what: String| Error::checkpoint(format!("{}: {what}", file.display()));
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(bad(format!("{} bytes are too few for a safetensors file; it is truncated", bytes.len())));
    };
    let length = u64::from_le_bytes(*length);
    if length > HEADER_LIMIT {
        return Err(bad(format!("not a safetensors file: a header of {length} bytes is above the format's limit")));
    }
    let length = length as usize;
    let Some(header) = rest.get(..length) else {
        return Err(bad(format!("truncated: the header has {length} bytes, {} are there", rest.len())));
    };
    let Header(mut entries) = serde_json::from_slice(header)
        .map_err(|error| bad(format!("the safetensors header is not valid: {error}")).caused_by(error))?;
    let data = bytes.slice(8 + length..bytes.len());

    entries.sort_by_key(|(_, info)| info.data_offsets);
    let owner = Arc::new(PathBuf::from(file));
    let mut tensors = Vec::with_capacity(entries.len());
    let mut free = (0, String::new());
    for (name, info) in entries {
        let (begin, end) = info.data_offsets;
        if begin > end || end > data.len() {
            return Err(bad(format!(
                "tensor `{name}` lies at bytes {begin}..{end} of the data, which has {}; the file is truncated or damaged",
                data.len(),
            )));
        }
        if begin < free.0 && begin < end {
            return Err(bad(format!("tensors `{}` and `{name}` overlap; the file is damaged", free.1)));
        }
        let (element, size) = element(&info.dtype);
        let elements = count(&info.shape);
        let bytes = |size| elements.and_then(|count| count.checked_mul(size));
        if elements.is_none() || size.is_some_and(|size| bytes(size) != Some(end - begin)) {
            return Err(bad(format!(
                "tensor `{name}` of type {} and shape {:?} does not fit its {} bytes",
                info.dtype,
                info.shape,
                end - begin,
            )));
        }
        let bytes = data.slice(begin..end);
        if end > free.0 {
            free = (end, name.clone());
        }
        let stored = Stored {
            file: owner.clone(),
            element,
            shape: info.shape,
            view: None,
            bytes,
            order: RowOrder::Stored,
            less_1: false,
        };
        tensors.push((name, stored));
    }
    Ok(tensors)
}

/// The element type and its size in bytes, if it is known.
fn element(dtype: &str) -> (Element, Option<usize>) {
    let other = || Element::Other(dtype.to_lowercase());
    match dtype {
        "F32" => (Element::Run(DType::F32), Some(4)),
        "F16" => (Element::Run(DType::F16), Some(2)),
        "BF16" => (Element::Run(DType::BF16), Some(2)),
        "F64" => (Element::F64, Some(8)),
        "I64" | "U64" | "C64" => (other(), Some(8)),
        "I32" | "U32" => (other(), Some(4)),
        "I16" | "U16" => (other(), Some(2)),
        "I8" | "U8" | "BOOL" => (other(), Some(1)),
        _ => (other(), None),
    }
}
