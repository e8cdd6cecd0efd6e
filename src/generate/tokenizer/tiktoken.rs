//! Qwen's tokenizer: byte-level BPE whose merges follow from ranks, special ids after the ranks, and spans of ids for
//! pictures.
//!
//! NFC · special tokens cut out · a pattern cuts the rest into pieces · a piece in the vocabulary is one token;
//! in others the adjacent pair whose joined bytes have the lowest rank is merged, the leftmost first, until no joined
//! pair is a token · spans.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    SplitDelimiterBehavior,
};

use super::byte_level::QWEN2;
use super::{Added, Part};
use crate::checkpoint::text::AddedToken;
use crate::checkpoint::tiktoken::{TAGS, Tiktoken};
use crate::error::{Error, Result};

/// The number of ids of a picture between `<img>` and `</img>`.
pub const SPAN: usize = 256;

/// The special tokens that text may contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    All,
    /// The tokens of regions and pictures, which the content of a message may contain.
    Tags,
}

pub struct Encoder {
    /// The tokens by rank.
    tokens: Vec<Vec<u8>>,
    ranks: HashMap<Vec<u8>, u32>,
    pieces: Split,
    all: Added,
    tags: Added,
    /// The id of `<img>`, if the model has pictures; `</img>` and `<imgpad>` follow it.
    image: Option<u32>,
}

impl Encoder {
    pub fn new(name: &str, model: &Tiktoken) -> Result<Self> {
        let pieces = Split::new(SplitPattern::Regex(QWEN2.to_owned()), SplitDelimiterBehavior::Isolated, false)
            .map_err(|error| Error::checkpoint(format!("{name}: the pattern of words")).caused_by(error))?;
        let first = model.tokens.len() as u32;
        let specials: Vec<AddedToken> =
            (first..).zip(model.specials()).map(|(id, text)| AddedToken::special(id, text)).collect();
        let tags: Vec<AddedToken> =
            specials.iter().filter(|token| TAGS.contains(&token.text.as_str())).cloned().collect();
        let image = tags.iter().find(|token| token.text == "<img>").map(|token| token.id);
        let ranks = (0..).zip(&model.tokens).map(|(rank, token)| (token.clone(), rank)).collect();
        Ok(Self {
            tokens: model.tokens.clone(),
            ranks,
            pieces,
            all: Added::new(&specials),
            tags: Added::new(&tags),
            image,
        })
    }

    /// The id of `<|endoftext|>`; `<|im_start|>` and `<|im_end|>` follow it.
    pub fn end_of_text(&self) -> u32 {
        self.tokens.len() as u32
    }

    /// The id of `<img>`.
    pub fn image(&self) -> Option<u32> {
        self.image
    }

    /// The ids of a text, with the spans of its pictures.
    pub fn encode(&self, text: &str, allowed: Allowed) -> Result<Vec<u32>> {
        let failed = |error: tokenizers::Error| Error::prompt("the text cannot be tokenized").caused_by(error);
        let mut normal = NormalizedString::from(text);
        tokenizers::normalizers::NFC.normalize(&mut normal).map_err(failed)?;
        let mut ids = Vec::new();
        let mut outcome = Ok(());
        let added = if allowed == Allowed::All { &self.all } else { &self.tags };
        added.split(normal.get(), |_, part| match part {
            Part::Token(id) => ids.push(id),
            Part::Text(text) => {
                let mut pieces = PreTokenizedString::from(text);
                match self.pieces.pre_tokenize(&mut pieces) {
                    Ok(()) => {
                        for (piece, ..) in pieces.get_splits(OffsetReferential::Original, OffsetType::Byte) {
                            self.piece(piece.as_bytes(), &mut ids);
                        }
                    }
                    Err(error) => outcome = Err(failed(error)),
                }
            }
        });
        outcome?;
        self.with_spans(&ids)
    }

    /// Appends the ids of a piece.
    fn piece(&self, piece: &[u8], ids: &mut Vec<u32>) {
        if let Some(&rank) = self.ranks.get(piece) {
            ids.push(rank);
            return;
        }
        let count = piece.len();
        // Part i begins at byte i if end[i] > i; `start` gives the part that ends at a byte.
        let mut end: Vec<usize> = (1..=count).collect();
        let mut start: Vec<usize> = (0..=count).map(|at| at.saturating_sub(1)).collect();
        let mut pairs = BinaryHeap::new();
        let offer = |pairs: &mut BinaryHeap<_>, left: usize, middle: usize, right: usize| {
            if let Some(&rank) = self.ranks.get(&piece[left..right]) {
                pairs.push(Reverse((rank, left, middle, right)));
            }
        };
        for at in 1..count {
            offer(&mut pairs, at - 1, at, at + 1);
        }
        while let Some(Reverse((_, left, middle, right))) = pairs.pop() {
            // One of the two parts was merged before.
            if end[left] != middle || end.get(middle) != Some(&right) {
                continue;
            }
            (end[left], end[middle], start[right]) = (right, 0, left);
            if left > 0 {
                offer(&mut pairs, start[left], left, right);
            }
            if right < count {
                offer(&mut pairs, left, right, end[right]);
            }
        }
        let mut at = 0;
        while at < count {
            ids.push(self.ranks[&piece[at..end[at]]]);
            at = end[at];
        }
    }

    /// Between `<img>` and `</img>` the ids are the values of the bytes of the text between the tags, then `<imgpad>`,
    /// up to the number of ids of a picture.
    fn with_spans(&self, ids: &[u32]) -> Result<Vec<u32>> {
        let Some(image) = self.image else { return Ok(ids.to_vec()) };
        let mut out = Vec::with_capacity(ids.len());
        let mut rest = ids;
        while let Some(at) = rest.iter().position(|&id| id == image) {
            let (before, inside) = rest.split_at(at + 1);
            let length = inside.iter().position(|&id| id == image + 1);
            let length = length.ok_or_else(|| Error::prompt("the text has <img> without </img> behind it"))?;
            let mut path = Vec::new();
            for &id in &inside[..length] {
                let token = self.tokens.get(id as usize).ok_or_else(|| {
                    Error::prompt("the text has a special token between <img> and </img>, where a path belongs")
                })?;
                path.extend(token.iter().map(|&byte| u32::from(byte)));
            }
            if path.len() > SPAN {
                return Err(Error::prompt(format!(
                    "the path between <img> and </img> has {} bytes, at most {SPAN} fit; give a shorter one, or <image>",
                    path.len()
                )));
            }
            out.extend_from_slice(before);
            path.resize(SPAN, image + 2);
            out.extend(path);
            rest = &inside[length..];
        }
        out.extend_from_slice(rest);
        Ok(out)
    }

    /// Ids whose spans are paths again, for decoding: what [`Encoder::with_spans`] made of them.
    pub fn without_spans(&self, ids: &[u32]) -> Vec<u32> {
        let Some(image) = self.image else { return ids.to_vec() };
        let mut out = Vec::with_capacity(ids.len());
        let mut rest = ids;
        while let Some(at) = rest.iter().position(|&id| id == image) {
            let (before, inside) = rest.split_at(at + 1);
            out.extend_from_slice(before);
            rest = inside;
            // A longer span is not one of a picture, and looking further for each tag would take quadratic time.
            let Some(length) = inside.iter().take(SPAN + 1).position(|&id| id == image + 1) else { continue };
            let path = inside[..length].split(|&id| id == image + 2).next().unwrap_or_default();
            if path.len() < length && path.iter().all(|&id| id < 256) {
                out.extend(path.iter().map(|&byte| self.ranks[&[byte as u8][..]]));
                rest = &inside[length..];
            }
        }
        out.extend_from_slice(rest);
        out
    }

    /// The bytes of an ordinary token.
    pub fn bytes(&self, id: u32) -> Option<&[u8]> {
        self.tokens.get(id as usize).map(Vec::as_slice)
    }

    /// The text of a special token.
    pub fn special(&self, id: u32) -> Option<&str> {
        self.all.token(id).map(|token| token.text.as_str())
    }
}

#[cfg(test)]
mod tests {
    use crate::generate::Tokenizer;

    /// Only a span of the length of a picture is a path again.
    #[test]
    fn spans_of_other_lengths_stay_as_they_are() {
        let tokenizer = Tokenizer::load(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/qwenvl_a")).unwrap();
        let text = "<img>a.png</img> and <img>b</img>.";
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(tokenizer.decode_with_special(&ids), text);
        let image = ids[0];
        let longer = [&ids[..7], &[image + 2; 9], &ids[7..]].concat();
        let shown = tokenizer.decode_with_special(&longer);
        assert!(!shown.contains("a.png") && shown.ends_with(" and <img>b</img>."), "{shown}");
        // Of many tags that stay open, each is looked behind for the length of a span only.
        let open = vec![image; 300_000];
        assert_eq!(tokenizer.decode_with_special(&open).len(), "<img>".len() * open.len());
    }
}
