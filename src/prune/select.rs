//! The choice of the parts to remove, from the importance of layers and groups.

use crate::error::{Error, Result};

/// The largest sparsity of a layer.
const MOST: f64 = 0.99;

/// z: importance of layers relative to their mean, within −1 .. 1. Zeros where all layers are equal.
///
/// z = c − mean(c), divided by max |z|
pub fn normalised(c: &[f64]) -> Vec<f64> {
    let mean = c.iter().sum::<f64>() / c.len() as f64;
    let most = c.iter().map(|c| (c - mean).abs()).fold(0.0, f64::max);
    c.iter().map(|c| if most > 0.0 { (c - mean) / most } else { 0.0 }).collect()
}

/// S of a layer after another of T steps: clamp(S + ρ / T − A z, 0, 0.99)
pub fn sparsity(before: f64, ratio: f64, steps: usize, amplitude: f64, z: f64) -> f64 {
    (before + ratio / steps as f64 - amplitude * z).clamp(0.0, MOST)
}

/// The number of groups to remove, of `now` groups of `size`, so that a share S of the `first` elements at the
/// beginning of the run is removed in total.
///
/// m = now·size − int(first · (1 − S)) elements, m / size groups. 0 where all of them would be removed.
pub fn removals(now: usize, size: usize, first: usize, sparsity: f64) -> usize {
    let kept = (first as f64 * (1.0 - sparsity)) as usize;
    let groups = (now * size).saturating_sub(kept) / size;
    if groups >= now { 0 } else { groups }
}

/// The indices of the `count` groups with the lowest scores, in ascending order; the first ones where scores are equal.
/// Also the margin: how far the highest of these scores is below the lowest of the others, relative to the latter.
pub fn lowest(scores: &[f64], count: usize) -> Result<(Vec<usize>, f64)> {
    if scores.iter().any(|score| !score.is_finite()) {
        return Err(Error::checkpoint(
            "scores of heads or channels are not numbers: the model overflows on the calibration, or its weights are broken",
        ));
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    // A stable sort keeps equal scores in index order.
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    let margin = match (count.checked_sub(1), order.get(count)) {
        (Some(last), Some(&kept)) => (scores[kept] - scores[order[last]]) / scores[kept].abs().max(f64::MIN_POSITIVE),
        _ => f64::INFINITY,
    };
    let mut removed = order[..count].to_vec();
    removed.sort_unstable();
    Ok((removed, margin))
}

/// The numbers in 0 .. count that are not in `removed`, which is in ascending order.
pub fn others(count: usize, removed: &[usize]) -> Vec<usize> {
    (0..count).filter(|index| removed.binary_search(index).is_err()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn importance_is_relative() {
        assert_eq!(normalised(&[1.0, 2.0, 6.0]), [-2.0 / 3.0, -1.0 / 3.0, 1.0]);
        assert_eq!(normalised(&[0.5, 0.5]), [0.0, 0.0]);
    }

    #[test]
    fn sparsity_stays_within_its_bounds() {
        assert_eq!(sparsity(0.5, 1.0, 50, 0.02, 0.0), 0.52);
        assert_eq!(sparsity(0.01, 1.0, 50, 0.05, 1.0), 0.0);
        assert_eq!(sparsity(0.98, 1.0, 50, 0.02, -1.0), 0.99);
    }

    #[test]
    fn whole_groups_go_and_never_all() {
        // int() truncates: 64 · 0.95 = 60.8 channels stay as 60.
        assert_eq!(removals(64, 1, 64, 0.05), 4);
        // A head of 8 is removed when 16 of 24 elements are to stay: 24 · 0.7 = 16.8.
        assert_eq!((removals(3, 8, 24, 0.29), removals(3, 8, 24, 0.3)), (0, 1));
        assert_eq!(removals(2, 8, 24, 0.3), 0);
        assert_eq!((removals(1, 8, 24, 0.99), removals(1, 1, 64, 0.99), removals(2, 1, 8, 0.99)), (0, 0, 0));
    }

    #[test]
    fn the_lowest_go() {
        let (removed, margin) = lowest(&[3.0, 1.0, 2.0, 1.0, 4.0], 2).unwrap();
        assert_eq!((removed, margin), (vec![1, 3], 0.5));
        assert_eq!(lowest(&[1.0, 1.0, 1.0], 1).unwrap(), (vec![0], 0.0));
        assert_eq!(lowest(&[1.0], 0).unwrap(), (vec![], f64::INFINITY));
        assert!(lowest(&[1.0, f64::NAN], 1).is_err());
        assert_eq!(others(5, &[1, 3]), [0, 2, 4]);
    }
}
