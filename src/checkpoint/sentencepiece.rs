//! `tokenizer.model`: a SentencePiece model, a protobuf (proto2) message that is parsed by field number.

use crate::error::{Error, Result};

/// A SentencePiece BPE vocabulary and the rules that normalise text for it.
#[derive(Clone, Debug, PartialEq)]
pub struct SentencePiece {
    /// The piece of each id.
    pub pieces: Vec<Piece>,
    /// Characters outside the vocabulary become the pieces of their UTF-8 bytes instead of `unk`.
    pub byte_fallback: bool,
    pub unk: u32,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    /// Whether text gets one space in front.
    pub add_dummy_prefix: bool,
    /// Whether leading, trailing and repeated spaces are dropped.
    pub remove_extra_whitespaces: bool,
    /// A compiled table of character replacements; empty for `identity`.
    pub charsmap: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// Spaces are written as U+2581.
    pub text: String,
    /// Pieces with higher scores are merged first.
    pub score: f32,
    pub kind: PieceKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceKind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl PieceKind {
    /// The kind with the number `code` in SentencePiece and GGUF (`tokenizer.ggml.token_type`).
    pub fn from_code(code: u64) -> Option<Self> {
        Some(match code {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

impl Piece {
    /// The byte that a byte piece (`<0x0A>`) stands for.
    pub fn byte(&self) -> Option<u8> {
        let digits = self.text.strip_prefix("<0x")?.strip_suffix('>')?;
        if self.kind == PieceKind::Byte && digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
    }
}

/// Parses the bytes of a `tokenizer.model`; `name` is the file name for error messages.
pub fn read(name: &str, bytes: &[u8]) -> Result<SentencePiece> {
    let broken = |what: &str| Error::checkpoint(format!("{name} is not a whole SentencePiece model: {what}"));
    let mut model = SentencePiece {
        pieces: Vec::new(),
        byte_fallback: false,
        unk: 0,
        bos: Some(1),
        eos: Some(2),
        add_dummy_prefix: true,
        remove_extra_whitespaces: true,
        charsmap: Vec::new(),
    };
    let mut model_type = 1;
    for field in Fields(bytes) {
        match field.map_err(|what| broken(&what))? {
            (1, Wire::Bytes(piece)) => {
                let id = model.pieces.len();
                model.pieces.push(read_piece(piece).map_err(|what| broken(&format!("piece {id}: {what}")))?);
            }
            (2, Wire::Bytes(trainer)) => {
                for field in Fields(trainer) {
                    match field.map_err(|what| broken(&what))? {
                        (3, Wire::Varint(kind)) => model_type = kind,
                        (24, Wire::Varint(1)) => {
                            return Err(Error::unsupported(format!(
                                "{name} treats whitespace as a suffix, which dunlin does not support"
                            )));
                        }
                        (35, Wire::Varint(flag)) => model.byte_fallback = flag != 0,
                        (40, Wire::Varint(id)) => model.unk = piece_id(id).unwrap_or(0),
                        (41, Wire::Varint(id)) => model.bos = piece_id(id),
                        (42, Wire::Varint(id)) => model.eos = piece_id(id),
                        _ => {}
                    }
                }
            }
            (3, Wire::Bytes(normalizer)) => {
                for field in Fields(normalizer) {
                    match field.map_err(|what| broken(&what))? {
                        (2, Wire::Bytes(charsmap)) => model.charsmap = charsmap.to_vec(),
                        (3, Wire::Varint(flag)) => model.add_dummy_prefix = flag != 0,
                        (4, Wire::Varint(flag)) => model.remove_extra_whitespaces = flag != 0,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if model.pieces.is_empty() {
        return Err(broken("it holds no pieces"));
    }
    if model_type != 2 {
        return Err(Error::unsupported(format!(
            "{name} is a SentencePiece model of type {model_type} (1 is unigram); dunlin reads type 2, BPE"
        )));
    }
    Ok(model)
}

fn read_piece(bytes: &[u8]) -> Result<Piece, String> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: PieceKind::Normal };
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Bytes(text)) => {
                piece.text = std::str::from_utf8(text).map_err(|_| "its text is not UTF-8")?.to_owned();
            }
            (2, Wire::Fixed32(bits)) => piece.score = f32::from_bits(bits),
            (3, Wire::Varint(code)) => {
                piece.kind = PieceKind::from_code(code).ok_or_else(|| format!("unknown type {code}"))?;
            }
            _ => {}
        }
    }
    Ok(piece)
}

/// Ids are int32; −1 (ten bytes of varint) means that the piece does not exist.
fn piece_id(value: u64) -> Option<u32> {
    u32::try_from(value).ok().filter(|&id| id <= i32::MAX as u32)
}

/// The value of a protobuf field, by its wire type.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wire<'a> {
    Varint(u64),
    Fixed64,
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// The fields of a protobuf message: (number, value), in file order.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Wire<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Result<(u64, Wire<'a>), String> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => self.take(8).map(|_| Wire::Fixed64)?,
            2 => {
                let len = self.varint()?;
                Wire::Bytes(self.take(usize::try_from(len).unwrap_or(usize::MAX))?)
            }
            5 => {
                let bytes = self.take(4)?;
                Wire::Fixed32(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            }
            wire => return Err(format!("field {} has wire type {wire}", key >> 3)),
        };
        Ok((key >> 3, value))
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number is longer than ten bytes".into())
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (head, tail) =
            self.0.split_at_checked(len).ok_or_else(|| format!("a field of {len} bytes goes past the end"))?;
        self.0 = tail;
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden() -> Vec<u8> {
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/mobilellm_gqa/tokenizer.model")).unwrap()
    }

    #[test]
    fn reads_pieces_scores_and_kinds() {
        let model = read("tokenizer.model", &golden()).unwrap();
        assert_eq!(model.pieces.len(), 512);
        assert_eq!((model.unk, model.bos, model.eos), (0, Some(1), Some(2)));
        assert!(model.byte_fallback && model.add_dummy_prefix && !model.remove_extra_whitespaces);
        assert_eq!(model.pieces[0].kind, PieceKind::Unknown);
        assert_eq!(model.pieces[2].kind, PieceKind::Control);
        assert_eq!(model.pieces[13].byte(), Some(b'\n'));
        assert_eq!(model.pieces[259].kind, PieceKind::Normal);
    }

    #[test]
    fn every_truncation_is_an_error_or_a_smaller_model_and_never_a_panic() {
        let bytes = golden();
        for len in 0..bytes.len() {
            if let Err(error) = read("tokenizer.model", &bytes[..len]) {
                assert!(error.to_string().contains("tokenizer.model"), "{error}");
            }
        }
        assert!(read("x", &[]).is_err());
        assert!(read("x", &[0xff; 64]).is_err());
    }
}
