//! Rows of logits on the host: probabilities, and the most probable ids.

/// Logarithms of probabilities, summed in f64. `None` if a logit is NaN.
pub(super) fn log_softmax(logits: &[f32]) -> Option<Vec<f32>> {
    let offset = log_sum_exp(logits)?;
    Some(logits.iter().map(|&logit| (f64::from(logit) - offset) as f32).collect())
}

/// ln Σ exp(logit). `None` if it is NaN.
pub(super) fn log_sum_exp(logits: &[f32]) -> Option<f64> {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
    Some(largest + sum.ln()).filter(|value| value.is_finite())
}

/// The `count` largest, best first; equal ones by id.
pub(super) fn best(logprobs: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut all: Vec<(u32, f32)> = (0..).zip(logprobs.iter().copied()).collect();
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if count < all.len() {
        all.select_nth_unstable_by(count, order);
        all.truncate(count);
    }
    all.sort_unstable_by(order);
    all
}
