//! SentencePiece BPE: text → ids by merging the best-scored neighbours, in O(n log n).
//!
//! SentencePiece treats the text as one word, however long it is, so no merge may scan the whole text: neighbours are
//! in a linked list, candidates in a heap.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use tokenizers::normalizers::Precompiled;
use tokenizers::{NormalizedString, Normalizer};

use crate::checkpoint::sentencepiece::{PieceKind, SentencePiece};
use crate::error::{Error, Result};

/// U+2581, which stands for a space in pieces.
pub const SPACE: &str = "▁";

/// A vocabulary, indexed for encoding.
pub struct Encoder {
    pub model: SentencePiece,
    charsmap: Option<Precompiled>,
    /// Pieces that merging may produce.
    ids: HashMap<Box<str>, u32>,
    /// Pieces that are cut out of the text before anything is merged, longest first.
    user_defined: Vec<u32>,
    bytes: [Option<u32>; 256],
    has_unused: bool,
}

impl Encoder {
    pub fn new(model: SentencePiece) -> Result<Self> {
        let charsmap =
            match model.charsmap.as_slice() {
                [] => None,
                map => Some(Precompiled::from(map).map_err(|error| {
                    Error::checkpoint("the tokenizer's character map is malformed").caused_by(error)
                })?),
            };
        let mut ids = HashMap::with_capacity(model.pieces.len());
        let mut bytes = [None; 256];
        let mut user_defined = Vec::new();
        for (id, piece) in (0..).zip(&model.pieces) {
            match piece.kind {
                PieceKind::Normal | PieceKind::Unused => {
                    ids.entry(piece.text.as_str().into()).or_insert(id);
                }
                PieceKind::UserDefined if !piece.text.is_empty() => user_defined.push(id),
                PieceKind::Byte => {
                    if let Some(byte) = piece.byte() {
                        bytes[usize::from(byte)] = Some(id);
                    }
                }
                _ => {}
            }
        }
        user_defined.sort_by_key(|&id| Reverse(model.pieces[id as usize].text.len()));
        let has_unused = model.pieces.iter().any(|piece| piece.kind == PieceKind::Unused);
        Ok(Self { model, charsmap, ids, user_defined, bytes, has_unused })
    }

    /// Appends the ids of `text`, with one space in front if `prefix`. An empty text has no ids.
    pub fn encode(&self, text: &str, prefix: bool, out: &mut Vec<u32>) {
        let text = self.prepare(text, prefix);
        let mut plain = 0;
        let mut at = 0;
        while !self.user_defined.is_empty() && at < text.len() {
            let here = self.user_defined.iter().find(|&&id| text[at..].starts_with(self.text(id)));
            if let Some(&id) = here {
                self.merge(&text[plain..at], out);
                out.push(id);
                at += self.text(id).len();
                plain = at;
            } else {
                at += text[at..].chars().next().map_or(1, char::len_utf8);
            }
        }
        self.merge(&text[plain..], out);
    }

    /// The text in the spelling of pieces: mapped characters, one space in front, spaces as U+2581.
    fn prepare(&self, text: &str, prefix: bool) -> String {
        let mapped = self.charsmap.as_ref().map(|charsmap| {
            let mut mapped = NormalizedString::from(text);
            // The only possible error is an offset outside the string, and the function computes the offsets itself.
            let _ = charsmap.normalize(&mut mapped);
            mapped.get().to_owned()
        });
        let text = mapped.as_deref().unwrap_or(text);
        let mut out = String::with_capacity(text.len() + text.len() / 4 + SPACE.len());
        if self.model.remove_extra_whitespaces {
            for word in text.split(' ').filter(|word| !word.is_empty()) {
                if prefix || !out.is_empty() {
                    out.push_str(SPACE);
                }
                out.push_str(word);
            }
        } else if !text.is_empty() {
            if prefix {
                out.push_str(SPACE);
            }
            for char in text.chars() {
                if char == ' ' { out.push_str(SPACE) } else { out.push(char) }
            }
        }
        out
    }

    /// Merges the neighbours with the highest score, leftmost first, until no two form a piece.
    fn merge(&self, text: &str, out: &mut Vec<u32>) {
        let mut symbols: Vec<Symbol> = text
            .char_indices()
            .enumerate()
            .map(|(index, (start, char))| Symbol {
                start,
                end: start + char.len_utf8(),
                previous: index.wrapping_sub(1),
                next: index + 1,
            })
            .collect();
        let count = symbols.len();
        let mut heap = BinaryHeap::new();
        for left in 1..count {
            self.propose(text, &symbols, left - 1, left, &mut heap);
        }
        // The two parts of each unused piece, which is split again at the end.
        let mut splits: HashMap<&str, usize> = HashMap::new();
        while let Some(Candidate { left: Reverse(left), right, len, .. }) = heap.pop() {
            let (a, b) = (symbols[left], symbols[right]);
            // Either side may have been merged into another symbol since.
            if a.start == a.end || b.start == b.end || a.next != right || b.end - a.start != len {
                continue;
            }
            if self.has_unused {
                splits.entry(&text[a.start..b.end]).or_insert(a.end - a.start);
            }
            symbols[left].end = b.end;
            symbols[left].next = b.next;
            symbols[right].end = b.start;
            if b.next < count {
                symbols[b.next].previous = left;
                self.propose(text, &symbols, left, b.next, &mut heap);
            }
            if a.previous < count {
                self.propose(text, &symbols, a.previous, left, &mut heap);
            }
        }
        let start = out.len();
        let mut index = 0;
        while index < count {
            let symbol = symbols[index];
            self.emit(&text[symbol.start..symbol.end], &splits, start, out);
            index = symbol.next;
        }
    }

    fn propose(&self, text: &str, symbols: &[Symbol], left: usize, right: usize, heap: &mut BinaryHeap<Candidate>) {
        let piece = &text[symbols[left].start..symbols[right].end];
        if let Some(&id) = self.ids.get(piece) {
            let score = Score(self.model.pieces[id as usize].score);
            heap.push(Candidate { score, left: Reverse(left), right, len: piece.len() });
        }
    }

    /// The id of a finished symbol, or of its parts, or of its bytes. `start` is where this text's ids begin.
    fn emit(&self, symbol: &str, splits: &HashMap<&str, usize>, start: usize, out: &mut Vec<u32>) {
        match self.ids.get(symbol) {
            Some(&id) if self.model.pieces[id as usize].kind == PieceKind::Unused => match splits.get(symbol) {
                Some(&len) => {
                    self.emit(&symbol[..len], splits, start, out);
                    self.emit(&symbol[len..], splits, start, out);
                }
                None => out.push(id),
            },
            Some(&id) => out.push(id),
            None => {
                let bytes: Option<Vec<u32>> = symbol.bytes().map(|byte| self.bytes[usize::from(byte)]).collect();
                match bytes {
                    Some(bytes) if self.model.byte_fallback => out.extend(bytes),
                    // Neighbouring unknown characters are one unknown token.
                    _ if out.len() > start && out.last() == Some(&self.model.unk) => {}
                    _ => out.push(self.model.unk),
                }
            }
        }
    }

    fn text(&self, id: u32) -> &str {
        &self.model.pieces[id as usize].text
    }
}

/// A run of bytes of the text, linked to its neighbours. Empty after it was merged into its left neighbour.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    end: usize,
    previous: usize,
    next: usize,
}

/// Two neighbours that form a piece: the best score first, then the leftmost.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    score: Score,
    left: Reverse<usize>,
    right: usize,
    len: usize,
}

#[derive(Clone, Copy)]
struct Score(f32);

impl Ord for Score {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Score {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Score {}
