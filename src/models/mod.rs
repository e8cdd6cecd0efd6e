//! Models: each file follows its paper from top to bottom and builds a graph. No weight formats, devices or fusion.

mod angles;
mod blocks;
mod clip;
pub mod known;
mod projector;
mod recipe;

pub use angles::{AngleTable, angle_bytes, angles};
pub use blocks::IMAGES;
pub use recipe::Recipe;

use crate::checkpoint::Config;
use crate::checkpoint::vision::Projector;
use crate::error::{Error, Result};
use crate::graph::{Graph, GraphBuilder};
use crate::ops::TensorType;
use crate::work::{Family, MOST_ROWS, Row, ValueId};

/// The models: each word is the name of an architecture and of a module with `fn hidden(&mut Decoder) -> ValueId`.
macro_rules! models {
    ($($name:ident)*) => {
        $(mod $name;)*

        /// The architectures that can be run.
        pub const ARCHITECTURES: &[&str] = &[$(stringify!($name)),*];

        fn hidden(architecture: &str, decoder: &mut blocks::Decoder) -> Result<ValueId> {
            match architecture {
                $(stringify!($name) => Ok($name::hidden(decoder)),)*
                other => Err(Error::unsupported(format!(
                    "the architecture `{other}` is not one that dunlin runs: {}",
                    ARCHITECTURES.join(", "),
                ))),
            }
        }
    };
}

models! {
    mobilellm
    llama
    llama4_text
    qwen2
    qwen3
    smollm3
    gemma3_text
    mobilevlm
    qwen
}

/// One pass over some rows, and the outputs that it produces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pass {
    pub rows: usize,
    pub family: Family,
    pub want: Want,
    /// Whether ids ≥ `vocab` may occur: they refer to rows of the state [`IMAGES`].
    pub images: bool,
}

impl Pass {
    /// A pass that computes the next token of `rows` sequences.
    pub fn decode(rows: usize) -> Self {
        Pass { rows, family: Family::Few, want: Want::Token, images: false }
    }

    /// A pass over `rows` consecutive rows of one sequence.
    pub fn prompt(rows: usize, want: Want) -> Self {
        Pass { rows, family: Family::Many, want, images: false }
    }
}

/// The outputs of a pass, which always fills the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Want {
    Nothing,
    /// The next token of every row in decoding, and of the last row in a prompt: outputs `sampled` (m, 2) = id, bits of
    /// its logprob, and `logits` (m, vocab).
    Token,
    /// Output `logits` (rows, vocab).
    Logits,
    /// Outputs `embeddings`, `layers.0`, … (rows, hidden).
    Hidden,
    /// Outputs of [`Want::Hidden`], and `logits` (rows, vocab).
    Trace,
}

impl Want {
    /// Whether hidden states are outputs.
    pub fn hidden(self) -> bool {
        matches!(self, Want::Hidden | Want::Trace)
    }
}

/// The graph of a model, built with `b`. `angles` is the model's [`AngleTable`].
pub fn build(config: &Config, b: GraphBuilder, angles: &AngleTable, pass: Pass) -> Result<Graph> {
    let mut decoder = blocks::Decoder::new(config, b, angles, pass);
    let x = hidden(&config.architecture, &mut decoder)?;
    match pass.want {
        Want::Nothing | Want::Hidden => {}
        Want::Token => {
            let x = if pass.family == Family::Many && pass.rows > 1 { decoder.b.last_row(x) } else { x };
            // The head, too, has one row per sequence.
            decoder.b.family(Family::Few);
            let logits = decoder.head(x);
            let table = decoder.b.state(TABLE, TensorType::u32([MOST_ROWS, size_of::<Row>() / 4]));
            let sampled = decoder.b.sample(logits, decoder.tokens, table, pass.rows);
            decoder.b.output("sampled", sampled);
            decoder.b.output("logits", logits);
        }
        Want::Logits | Want::Trace => {
            let logits = decoder.head(x);
            decoder.b.output("logits", logits);
        }
    }
    Ok(decoder.b.finish())
}

/// The graph that converts a picture into tokens: input `pixels` (3, S, S), outputs `vision.features` (N, width) and
/// `vision.projected` (M, hidden). `None` where the model has no vision half.
pub fn build_vision(config: &Config, mut b: GraphBuilder) -> Option<Graph> {
    let vision = config.vision.as_ref()?;
    match vision.projector {
        Projector::Ldp { .. } | Projector::Ldpv2 => mobilevlm::image(&mut b, vision, config.hidden),
        Projector::Resampler { heads } => qwen::image(&mut b, vision, config.hidden, heads),
    }
    Some(b.finish())
}

/// Ids that refer to rows of pictures: row i has the id vocab + i.
#[derive(Clone, Copy, Debug)]
pub struct PictureIds {
    pub vocab: usize,
}

impl PictureIds {
    /// The id of a row.
    pub fn id(self, row: usize) -> u32 {
        (self.vocab + row) as u32
    }

    /// The row that an id refers to, or `None` for an id of the vocabulary.
    pub fn row(self, id: u32) -> Option<usize> {
        (id as usize).checked_sub(self.vocab)
    }
}

/// The state that holds the rows of the pass.
pub const TABLE: &str = "table";

/// The state that holds the ids of all sequences, each sequence from its slot on: (capacity).
pub const TOKENS: &str = "tokens";

/// The input of [`build_vision`].
pub const PIXELS: &str = "pixels";

/// The output of [`build_vision`] that the language model reads.
pub const PROJECTED: &str = "vision.projected";
