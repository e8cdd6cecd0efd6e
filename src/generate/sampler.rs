//! Options for choosing tokens. The device makes the choice.

use std::hash::{BuildHasher, Hasher};

use crate::error::{Error, Result};
use crate::work::{MOST_TOP_K, Row};

/// The rule that chooses the next token from the logits: first the repeat penalty, then a draw among the tokens that
/// top-k, min-p and top-p keep, with probabilities at the temperature.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampler {
    sampling: Sampling,
    seed: Option<u64>,
}

/// The checked options of a [`Sampler`]. `temperature` 0 is greedy.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sampling {
    temperature: f32,
    top_k: u32,
    top_p: f32,
    min_p: f32,
    repeat_penalty: f32,
    seed: u64,
}

impl Sampling {
    /// Always the most probable token.
    pub const GREEDY: Sampling =
        Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repeat_penalty: 1.0, seed: 0 };

    /// The row at `position` of the sequence at `slot`. A seed of 64 bits is folded into the 32 that shaders hash.
    pub fn row(&self, slot: usize, position: usize) -> Row {
        let &Sampling { temperature, top_k, top_p, min_p, repeat_penalty, seed } = self;
        let seed = (seed ^ (seed >> 32)) as u32;
        // More than the size of any vocabulary means all tokens.
        let top_k = if top_k > MOST_TOP_K { 0 } else { top_k };
        Row { slot: slot as u32, position: position as u32, seed, temperature, top_k, top_p, min_p, repeat_penalty }
    }
}

impl Sampler {
    /// Always the most probable token.
    pub fn greedy() -> Self {
        Self { sampling: Sampling::GREEDY, seed: None }
    }

    /// Divides logits by `temperature` before drawing. 0 is greedy.
    pub fn temperature(mut self, temperature: f32) -> Self {
        self.sampling.temperature = temperature;
        self
    }

    /// Draws from the k most probable tokens; 0 means all.
    pub fn top_k(mut self, k: u32) -> Self {
        self.sampling.top_k = k;
        self
    }

    /// Draws from the fewest tokens that together reach this probability, 0 to 1; 1 means all.
    pub fn top_p(mut self, p: f32) -> Self {
        self.sampling.top_p = p;
        self
    }

    /// Draws from tokens at least this fraction as probable as the most probable one, 0 to 1; 0 means all.
    pub fn min_p(mut self, p: f32) -> Self {
        self.sampling.min_p = p;
        self
    }

    /// Makes the last 64 tokens less probable: their logits are divided by this, or multiplied if negative. 1 is off.
    pub fn repeat_penalty(mut self, penalty: f32) -> Self {
        self.sampling.repeat_penalty = penalty;
        self
    }

    /// The same seed draws the same tokens on the same device. Without a seed, every generation draws from its own.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Checks the options, and returns them in the form that the device reads.
    pub(super) fn resolve(&self) -> Result<Sampling> {
        let Sampling { temperature, top_p, min_p, repeat_penalty, .. } = self.sampling;
        let checks = [
            ("temperature", temperature, temperature >= 0.0, "0 or more"),
            ("top-p", top_p, top_p > 0.0 && top_p <= 1.0, "above 0 and at most 1"),
            ("min-p", min_p, (0.0..=1.0).contains(&min_p), "between 0 and 1"),
            ("repeat penalty", repeat_penalty, repeat_penalty > 0.0, "above 0"),
        ];
        for (name, value, good, range) in checks {
            if !good || !value.is_finite() {
                return Err(Error::prompt(format!("{name} is {value}, but must be {range}")));
            }
        }
        // The standard library's only source of entropy.
        let entropy = || std::hash::RandomState::new().build_hasher().finish();
        Ok(Sampling { seed: self.seed.unwrap_or_else(entropy), ..self.sampling.clone() })
    }
}

impl Default for Sampler {
    fn default() -> Self {
        Self::greedy()
    }
}
