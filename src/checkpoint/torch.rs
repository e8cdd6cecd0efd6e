//! PyTorch `.bin`: a zip of `NAME/data.pkl`, which lists tensors as views of storages, and `NAME/data/KEY`, the storages.
//!
//! Entries are stored without compression, so that the storages can be used in place in the mapped file.

use std::collections::HashMap;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use zip::{CompressionMethod, ZipArchive};

use super::pickle::{self, PickledTensor};
use super::stored::{Element, Stored, View, count};
use crate::error::{Error, Result};
use crate::tensor::{Bytes, DType, RowOrder};

/// Lists the tensors of `file`, whose content is `bytes`.
pub fn read(file: &Path, bytes: &Bytes) -> Result<Vec<(String, Stored)>> {
    let bad = |what: String| Error::checkpoint(format!("{}: {what}", file.display()));
    if !bytes.starts_with(b"PK\x03\x04") {
        return Err(bad(
            "not a zip file as torch.save has written since PyTorch 1.6; save it again, or as safetensors".into(),
        ));
    }
    let entries = entries(file, bytes)?;
    let Some((folder, pickled)) =
        entries.iter().find_map(|(name, content)| Some((name.strip_suffix("data.pkl")?, content)))
    else {
        return Err(bad("the zip file has no data.pkl; it was not written by torch.save".into()));
    };
    if entries.get(&format!("{folder}byteorder")).is_some_and(|order| order.trim_ascii() != b"little") {
        return Err(bad("big-endian storages are not supported".into()));
    }

    let owner = Arc::new(file.to_path_buf());
    let named = pickle::read(pickled).map_err(|what| bad(format!("data.pkl {what}")))?;
    let tensors = named.into_iter().map(|(name, tensor)| {
        let storage = entries
            .get(&format!("{folder}data/{}", tensor.key))
            .ok_or_else(|| bad(format!("tensor `{name}` lies in storage {}, which is missing", tensor.key)))?;
        let (element, size) = element(tensor.storage_type);
        let (bytes, view) =
            view(&tensor, storage, size).map_err(|what| bad(format!("tensor `{name}` {what}; the file is damaged")))?;
        let stored = Stored {
            file: owner.clone(),
            element,
            shape: tensor.shape,
            view,
            bytes,
            order: RowOrder::Stored,
            less_1: false,
        };
        Ok((name.to_string(), stored))
    });
    tensors.collect()
}

/// The content of each entry by name.
fn entries(file: &Path, bytes: &Bytes) -> Result<HashMap<String, Bytes>> {
    let bad = |what: String| Error::checkpoint(format!("{}: {what}", file.display()));
    let broken =
        |error: zip::result::ZipError| bad(format!("the zip file is truncated or damaged ({error})")).caused_by(error);
    let mut archive = ZipArchive::new(Cursor::new(&bytes[..])).map_err(broken)?;
    let mut entries = HashMap::new();
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(broken)?;
        let name = entry.name().map_err(broken)?.into_owned();
        if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
            return Err(bad(format!("`{name}` is compressed or encrypted, which torch.save does not do")));
        }
        let range = entry.data_start().and_then(|start| {
            let start = usize::try_from(start).ok()?;
            let end = start.checked_add(usize::try_from(entry.size()).ok()?)?;
            (end <= bytes.len()).then_some(start..end)
        });
        let Some(range) = range else {
            return Err(bad(format!("`{name}` reaches past the end of the file; it is truncated or damaged")));
        };
        entries.insert(name, bytes.slice(range));
    }
    Ok(entries)
}

/// The element type and its size in bytes.
fn element(storage_type: &str) -> (Element, usize) {
    match storage_type {
        "FloatStorage" => (Element::Run(DType::F32), 4),
        "HalfStorage" => (Element::Run(DType::F16), 2),
        "BFloat16Storage" => (Element::Run(DType::BF16), 2),
        "DoubleStorage" => (Element::F64, 8),
        "LongStorage" => (Element::Other("i64".into()), 8),
        "IntStorage" => (Element::Other("i32".into()), 4),
        "ShortStorage" => (Element::Other("i16".into()), 2),
        "CharStorage" => (Element::Other("i8".into()), 1),
        "ByteStorage" => (Element::Other("u8".into()), 1),
        "BoolStorage" => (Element::Other("bool".into()), 1),
        other => unreachable!("{other} is not on the list of storages"),
    }
}

/// The bytes from the first to the last element, and their layout where it is not contiguous.
fn view(tensor: &PickledTensor, storage: &Bytes, size: usize) -> Result<(Bytes, Option<View>), String> {
    let PickledTensor { shape, strides, offset, storage_len, .. } = tensor;
    if strides.len() != shape.len() {
        return Err(format!("has {} strides for shape {shape:?}", strides.len()));
    }
    if storage_len.checked_mul(size).is_none_or(|bytes| bytes > storage.len()) {
        return Err(format!("lies in a storage of {storage_len} elements, of which {} bytes are there", storage.len()));
    }
    let elements = count(shape).ok_or_else(|| format!("has the impossible shape {shape:?}"))?;
    if elements == 0 {
        return Ok((storage.slice(0..0), None));
    }
    // The distance from the first element to the position after the last.
    let reach = shape
        .iter()
        .zip(strides)
        .try_fold(1usize, |reach, (&size, &stride)| reach.checked_add((size - 1).checked_mul(stride)?));
    let end = reach.and_then(|reach| reach.checked_add(*offset));
    let Some(end) = end.filter(|&end| end <= *storage_len) else {
        return Err(format!(
            "with shape {shape:?}, strides {strides:?} and offset {offset} reaches past its storage of {storage_len} elements"
        ));
    };
    let mut step = 1;
    let contiguous = shape.iter().zip(strides).rev().all(|(&size, &stride)| {
        let right = size == 1 || stride == step;
        step *= size;
        right
    });
    // Strides that repeat elements would let a small file request any amount of memory.
    if !contiguous && elements > *storage_len {
        return Err(format!("with shape {shape:?} repeats the elements of its storage, which is not supported"));
    }
    let view = (!contiguous).then(|| View { shape: shape.clone(), strides: strides.clone() });
    Ok((storage.slice(offset * size..end * size), view))
}
