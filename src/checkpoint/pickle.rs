//! The pickle of a state dict, read by a stack machine that only builds tensors. It executes nothing, and [`Global`]
//! lists all names that a file may use.
//!
//! Objects refer to containers by index, so that no file can create nested or cyclic objects that are hard to drop.

use std::collections::HashMap;

/// A tensor of the state dict: a view of a storage, in elements.
#[derive(Clone, Debug)]
pub struct PickledTensor<'a> {
    /// For example `HalfStorage`.
    pub storage_type: &'a str,
    pub key: &'a str,
    pub storage_len: usize,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

#[derive(Clone, Copy)]
enum Object<'a> {
    None,
    Bool,
    Float,
    Int(i64),
    Text(&'a str),
    Tuple(usize),
    List,
    Dict(usize),
    Global(Global<'a>),
    /// Indices of `storages` and `tensors`.
    Storage(usize),
    Tensor(usize),
}

#[derive(Clone, Copy, PartialEq)]
enum Global<'a> {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    /// `torch.….Storage`
    Storage(&'a str),
}

/// The storages of plain element types.
const STORAGES: [&str; 10] = [
    "FloatStorage",
    "DoubleStorage",
    "HalfStorage",
    "BFloat16Storage",
    "LongStorage",
    "IntStorage",
    "ShortStorage",
    "CharStorage",
    "ByteStorage",
    "BoolStorage",
];

struct Storage<'a> {
    storage_type: &'a str,
    key: &'a str,
    len: usize,
}

#[derive(Default)]
struct Machine<'a> {
    rest: &'a [u8],
    stack: Vec<Object<'a>>,
    marks: Vec<usize>,
    memo: HashMap<u32, Object<'a>>,
    tuples: Vec<Vec<Object<'a>>>,
    dicts: Vec<Vec<(Object<'a>, Object<'a>)>>,
    storages: Vec<Storage<'a>>,
    tensors: Vec<PickledTensor<'a>>,
}

/// The named tensors of a state dict. The error is the second half of a sentence that begins with `data.pkl`.
pub fn read(pickle: &[u8]) -> Result<Vec<(&str, PickledTensor<'_>)>, String> {
    let mut machine = Machine { rest: pickle, ..Machine::default() };
    let root = machine.run()?;
    let Object::Dict(root) = root else { return Err("does not hold a state dict".into()) };
    let mut named = Vec::new();
    for (key, value) in &machine.dicts[root] {
        match (key, value) {
            (Object::Text(name), Object::Tensor(tensor)) => named.push((*name, machine.tensors[*tensor].clone())),
            (Object::Text(name), _) => {
                return Err(format!("holds `{name}`, which is not a tensor; save the model's state_dict() alone"));
            }
            _ => return Err("has entries whose names are not text".into()),
        }
    }
    Ok(named)
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Object<'a>, String> {
        loop {
            match self.byte()? {
                // PROTO, FRAME
                0x80 => drop(self.byte()?),
                0x95 => drop(self.bytes(8)?),
                // STOP
                b'.' => return self.pop(),
                // NONE, NEWTRUE, NEWFALSE, BINFLOAT
                b'N' => self.stack.push(Object::None),
                0x88 | 0x89 => self.stack.push(Object::Bool),
                b'G' => {
                    self.bytes(8)?;
                    self.stack.push(Object::Float);
                }
                // BININT, BININT1, BININT2, LONG1
                b'J' => {
                    let value = self.little(4)? as u32 as i32;
                    self.stack.push(Object::Int(value.into()));
                }
                b'K' => self.push_int(1)?,
                b'M' => self.push_int(2)?,
                0x8a => {
                    let length = self.byte()? as usize;
                    if length > 8 {
                        return Err(format!("holds a number of {length} bytes"));
                    }
                    let value = self.little(length)?;
                    let unused = 64 - 8 * length as u32;
                    self.stack.push(Object::Int(if length == 0 { 0 } else { (value << unused) as i64 >> unused }));
                }
                // BINUNICODE, SHORT_BINUNICODE
                b'X' => {
                    let length = self.little(4)? as usize;
                    self.push_text(length)?;
                }
                0x8c => {
                    let length = self.byte()? as usize;
                    self.push_text(length)?;
                }
                // EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE
                b')' => self.push_tuple(Vec::new()),
                count @ 0x85..=0x87 => {
                    let from = self.stack.len().checked_sub(count as usize - 0x84).ok_or_else(underflow)?;
                    let items = self.stack.split_off(from);
                    self.push_tuple(items);
                }
                b't' => {
                    let items = self.pop_marked()?;
                    self.push_tuple(items);
                }
                // MARK
                b'(' => self.marks.push(self.stack.len()),
                // EMPTY_LIST, APPEND, APPENDS: lists occur in metadata only, so their elements are dropped.
                b']' => self.stack.push(Object::List),
                b'a' => drop(self.pop()?),
                b'e' => drop(self.pop_marked()?),
                // EMPTY_DICT, SETITEM, SETITEMS
                b'}' => self.push_dict(),
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set_items(&[key, value])?;
                }
                b'u' => {
                    let items = self.pop_marked()?;
                    self.set_items(&items)?;
                }
                // BINPUT, LONG_BINPUT, MEMOIZE
                b'q' => {
                    let index = self.byte()? as u32;
                    self.put(index)?;
                }
                b'r' => {
                    let index = self.little(4)? as u32;
                    self.put(index)?;
                }
                0x94 => self.put(self.memo.len() as u32)?,
                // BINGET, LONG_BINGET
                b'h' => {
                    let index = self.byte()? as u32;
                    self.get(index)?;
                }
                b'j' => {
                    let index = self.little(4)? as u32;
                    self.get(index)?;
                }
                // GLOBAL, STACK_GLOBAL
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.stack.push(Object::Global(global(module, name)?));
                }
                0x93 => match (self.pop()?, self.pop()?) {
                    (Object::Text(name), Object::Text(module)) => {
                        self.stack.push(Object::Global(global(module, name)?));
                    }
                    _ => return Err("names something that is not text".into()),
                },
                // BINPERSID, REDUCE
                b'Q' => self.persistent()?,
                b'R' => self.reduce()?,
                // BUILD gives the state dict attributes, such as `_metadata`.
                b'b' => {
                    self.pop()?;
                    if !matches!(self.stack.last(), Some(Object::Dict(_))) {
                        return Err("sets attributes of something that is not a dictionary".into());
                    }
                }
                other => return Err(format!("uses the pickle instruction {other:#04x}, which no state dict needs")),
            }
        }
    }

    /// ('storage', torch.XStorage, key, location, number of elements)
    fn persistent(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        match self.tuple(id)? {
            [
                Object::Text("storage"),
                Object::Global(Global::Storage(storage_type)),
                Object::Text(key),
                _,
                Object::Int(len),
            ] => {
                let storage = Storage { storage_type, key, len: size(len)? };
                self.stack.push(Object::Storage(self.storages.len()));
                self.storages.push(storage);
                Ok(())
            }
            _ => Err("refers to something that is not a storage".into()),
        }
    }

    fn reduce(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Object::Global(function) = function else { return Err("calls something that is not a function".into()) };
        match (function, self.tuple(arguments)?) {
            (Global::OrderedDict, []) => self.push_dict(),
            (Global::RebuildParameter, [Object::Tensor(tensor), ..]) => {
                let tensor = Object::Tensor(*tensor);
                self.stack.push(tensor);
            }
            // (storage, offset, shape, strides, requires_grad, hooks, …)
            (
                Global::RebuildTensor,
                &[
                    Object::Storage(storage),
                    Object::Int(offset),
                    shape @ Object::Tuple(_),
                    strides @ Object::Tuple(_),
                    ..,
                ],
            ) => {
                let sizes = |tuple| -> Result<Vec<usize>, String> {
                    let items = self.tuple(tuple)?.iter();
                    items.map(|item| if let Object::Int(value) = item { size(value) } else { size(&-1) }).collect()
                };
                let (shape, strides) = (sizes(shape)?, sizes(strides)?);
                let Storage { storage_type, key, len } = self.storages[storage];
                let offset = size(&offset)?;
                self.stack.push(Object::Tensor(self.tensors.len()));
                self.tensors.push(PickledTensor { storage_type, key, storage_len: len, offset, shape, strides });
            }
            _ => return Err("calls a function with arguments that it does not take".into()),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Object<'a>]) -> Result<(), String> {
        let Some(Object::Dict(dict)) = self.stack.last() else {
            return Err("puts entries into something that is not a dictionary".into());
        };
        let (pairs, rest) = items.as_chunks();
        if !rest.is_empty() {
            return Err("has a key without a value".into());
        }
        self.dicts[*dict].extend(pairs.iter().map(|&[key, value]| (key, value)));
        Ok(())
    }

    fn tuple(&self, object: Object<'a>) -> Result<&[Object<'a>], String> {
        match object {
            Object::Tuple(tuple) => Ok(&self.tuples[tuple]),
            _ => Err("has something else where a tuple belongs".into()),
        }
    }

    fn push_tuple(&mut self, items: Vec<Object<'a>>) {
        self.stack.push(Object::Tuple(self.tuples.len()));
        self.tuples.push(items);
    }

    fn push_dict(&mut self) {
        self.stack.push(Object::Dict(self.dicts.len()));
        self.dicts.push(Vec::new());
    }

    fn push_int(&mut self, bytes: usize) -> Result<(), String> {
        let value = self.little(bytes)?;
        self.stack.push(Object::Int(value as i64));
        Ok(())
    }

    fn push_text(&mut self, length: usize) -> Result<(), String> {
        let text = str::from_utf8(self.bytes(length)?).map_err(|_| "holds text that is not UTF-8")?;
        self.stack.push(Object::Text(text));
        Ok(())
    }

    fn pop(&mut self) -> Result<Object<'a>, String> {
        // Objects below the last mark belong to an outer container.
        if self.marks.last().is_some_and(|&mark| self.stack.len() <= mark) {
            return Err(underflow());
        }
        self.stack.pop().ok_or_else(underflow)
    }

    fn pop_marked(&mut self) -> Result<Vec<Object<'a>>, String> {
        let mark = self.marks.pop().filter(|&mark| mark <= self.stack.len()).ok_or_else(underflow)?;
        Ok(self.stack.split_off(mark))
    }

    fn put(&mut self, index: u32) -> Result<(), String> {
        let object = *self.stack.last().ok_or_else(underflow)?;
        self.memo.insert(index, object);
        Ok(())
    }

    fn get(&mut self, index: u32) -> Result<(), String> {
        let object = *self.memo.get(&index).ok_or("recalls something that was not put away")?;
        self.stack.push(object);
        Ok(())
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.bytes(1)?[0])
    }

    fn little(&mut self, count: usize) -> Result<u64, String> {
        let mut eight = [0; 8];
        eight[..count].copy_from_slice(self.bytes(count)?);
        Ok(u64::from_le_bytes(eight))
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or("is truncated")?;
        self.rest = rest;
        Ok(bytes)
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let end = self.rest.iter().position(|&byte| byte == b'\n').ok_or("is truncated")?;
        let line = self.bytes(end + 1)?;
        str::from_utf8(&line[..end]).map_err(|_| "holds text that is not UTF-8".into())
    }
}

fn underflow() -> String {
    "takes more from its stack than it put there".into()
}

fn size(value: &i64) -> Result<usize, String> {
    usize::try_from(*value).map_err(|_| "has a tensor whose sizes are not whole numbers of at least 0".into())
}

fn global<'a>(module: &'a str, name: &'a str) -> Result<Global<'a>, String> {
    match (module, name) {
        ("collections", "OrderedDict") => Ok(Global::OrderedDict),
        ("torch._utils", "_rebuild_tensor_v2") => Ok(Global::RebuildTensor),
        ("torch._utils", "_rebuild_parameter") => Ok(Global::RebuildParameter),
        ("torch", name) if STORAGES.contains(&name) => Ok(Global::Storage(name)),
        ("torch._utils", "_rebuild_tensor_v3") | ("torch.storage", "UntypedStorage") => {
            Err(format!("uses `{module}.{name}`, which is not supported; save the model as safetensors"))
        }
        _ => Err(format!("names `{module}.{name}`, which is not part of a state dict; dunlin runs no code from files")),
    }
}
