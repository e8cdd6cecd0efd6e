//! Changes beyond the context length a model was trained for, as Qwen applies them: dynamic NTK and logn scaling.
//!
//! Dynamic NTK (`bloc97`, 2023): the number of prompt tokens n determines α, and α stays the same for the whole answer.
//! The model was trained with S tokens, and R elements of each head are rotated:
//! ```text
//! α = 2^(j + 1) − 1 where S · 2^(j − 1) < n ≤ S · 2^j, 1 where n ≤ S        θ_i = (base · α^(R / (R − 2)))^(−2i / R)
//! ```
//! logn: the query at position t is multiplied by ln(t + 1) / ln(S) where t + 1 > S.

/// The changes beyond the trained length. The default changes nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Beyond {
    /// S
    pub trained: usize,
    pub ntk: Option<Ntk>,
    /// Whether queries are multiplied by the logn factor.
    pub logn: bool,
}

/// Dynamic NTK.
#[derive(Clone, Debug, PartialEq)]
pub struct Ntk {
    pub base: f64,
    /// R
    pub rotated: usize,
}

impl Beyond {
    /// j for a prompt of `tokens` tokens and its answer. It determines the angles.
    pub fn stretch(&self, tokens: usize) -> usize {
        if self.ntk.is_none() {
            return 0;
        }
        // Number of times S must be doubled until the prompt fits.
        tokens.div_ceil(self.trained.max(1)).max(1).next_power_of_two().trailing_zeros() as usize
    }

    /// θ_i of all pairs for `stretch`, or `None` where they equal those of the trained length.
    pub fn inv_freq(&self, stretch: usize) -> Option<Vec<f32>> {
        let ntk = self.ntk.as_ref().filter(|_| stretch > 0)?;
        let alpha = ((1u64 << (stretch + 1)) - 1) as f64;
        let rotated = ntk.rotated as f64;
        let base = ntk.base * alpha.powf(rotated / (rotated - 2.0));
        Some((0..ntk.rotated / 2).map(|i| base.powf(-2.0 * i as f64 / rotated) as f32).collect())
    }

    /// The factor by which the query at a position is multiplied.
    pub fn logn(&self, position: usize) -> f32 {
        let p = position + 1;
        if !self.logn || p <= self.trained {
            return 1.0;
        }
        ((p as f64).ln() / (self.trained as f64).ln()) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_multiples_belong_to_the_lower_step() {
        let beyond = Beyond { trained: 320, ntk: Some(Ntk { base: 10_000.0, rotated: 32 }), logn: true };
        let of = |tokens| beyond.stretch(tokens);
        assert_eq!([1, 320, 321, 640, 641, 1061, 1280, 1281].map(of), [0, 0, 1, 1, 2, 2, 2, 3]);
        // α = 3 and 7.
        let base = |alpha: f64| (10_000.0 * alpha.powf(32.0 / 30.0)).powf(-2.0 / 32.0) as f32;
        assert_eq!(beyond.inv_freq(1).unwrap()[1], base(3.0));
        assert_eq!(beyond.inv_freq(2).unwrap()[1], base(7.0));
        assert_eq!((beyond.inv_freq(0), Beyond::default().stretch(9999)), (None, 0));
        // Positions count from 1.
        assert_eq!((beyond.logn(319), beyond.logn(639)), (1.0, (640f64.ln() / 320f64.ln()) as f32));
        assert_eq!(Beyond::default().logn(9999), 1.0);
    }
}
