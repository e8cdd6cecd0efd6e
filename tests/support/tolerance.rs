//! The tolerances of `tests/golden/README.md`, and comparisons with them.

/// The tolerances of `tests/golden/README.md` for one precision.
#[derive(Clone, Copy)]
pub struct Tolerance {
    pub hidden_absolute: f32,
    pub hidden_relative: f32,
    pub logits: f32,
    pub mean_nll: f64,
    pub exact_ids: bool,
    pub smollm2_logits: f32,
}

pub const F32: Tolerance = Tolerance {
    hidden_absolute: 1e-3,
    hidden_relative: f32::INFINITY,
    logits: 2e-3,
    mean_nll: 1e-4,
    exact_ids: true,
    smollm2_logits: 5e-3,
};

pub const F16: Tolerance = Tolerance {
    hidden_absolute: f32::INFINITY,
    hidden_relative: 1e-2,
    logits: 0.3,
    mean_nll: 1e-2,
    exact_ids: false,
    smollm2_logits: 0.1,
};

/// The reference's greedy continuation.
pub struct Greedy {
    pub ids: Vec<u32>,
    /// The logit margin of each id over the second best id.
    pub margins: Vec<f32>,
    /// The logits of the steps, one row a step, if they are known.
    pub logits: Vec<f32>,
}

/// Compares greedy ids: all are equal, or under f16 equal up to the first step whose margin is below twice the logit
/// error.
///
/// The margins are the reference's: margins of the tested logits could hide an error in them.
pub fn same_ids(at: &str, found: &[(u32, Vec<f32>)], wanted: &Greedy, tolerance: Tolerance) {
    assert_eq!(wanted.margins.len(), wanted.ids.len(), "{at}: number of margins");
    for (step, ((id, logits), &expected)) in found.iter().zip(&wanted.ids).enumerate() {
        if *id == expected {
            continue;
        }
        let margin = wanted.margins[step];
        assert!(!tolerance.exact_ids, "{at}: step {step} chose {id}, expected {expected}, which leads by {margin}");
        let mut error = tolerance.logits;
        if let Some(row) = wanted.logits.chunks_exact(logits.len()).nth(step) {
            close(&format!("{at}: logits of step {step}"), logits, row, tolerance.logits, f32::INFINITY);
            error = farthest(logits, row);
        }
        assert!(
            margin < 2.0 * error,
            "{at}: step {step} chose {id}, expected {expected}, which leads by {margin} where logits are off by {error}"
        );
        return;
    }
    assert_eq!(found.len(), wanted.ids.len(), "{at}: number of tokens");
}

/// The largest difference; infinite or NaN if a difference is.
pub fn farthest(found: &[f32], wanted: &[f32]) -> f32 {
    found.iter().zip(wanted).map(|(f, w)| (f - w).abs()).fold(0.0, |a: f32, b| if b <= a { a } else { b })
}

pub fn close(at: &str, found: &[f32], wanted: &[f32], absolute: f32, relative: f32) {
    assert_eq!(found.len(), wanted.len(), "{at}");
    let worst = farthest(found, wanted);
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v) * f64::from(v)).sum::<f64>();
    let error = square(&mut found.iter().zip(wanted).map(|(f, w)| f - w));
    let ratio = (error / square(&mut wanted.iter().copied())).sqrt() as f32;
    assert!(
        worst <= absolute && ratio <= relative,
        "{at}: off by {worst} (at most {absolute}), {ratio} of the whole (at most {relative})"
    );
}
