//! The choice of the parts to remove, from the importance of layers and groups.

/// The largest sparsity of a layer.
const MOST: f64 = 0.99;

/// z: importance of layers relative to their mean, within −1 .. 1. Zeros where all layers are equal.
///
/// z = c − mean(c), divided by max |z|
pub fn normalised(c: &[f64]) -> Vec<f64> {
    /// The mean of equal numbers differs from them by some 1e-16 of their size.
    const EQUAL: f64 = 1e-12;
    let largest = |c: &mut dyn Iterator<Item = f64>| c.map(f64::abs).fold(0.0, f64::max);
    let mean = c.iter().sum::<f64>() / c.len() as f64;
    let most = largest(&mut c.iter().map(|c| c - mean));
    let equal = most <= EQUAL * largest(&mut c.iter().copied());
    c.iter().map(|c| if equal { 0.0 } else { (c - mean) / most }).collect()
}

/// S of a layer after another of T steps: clamp(S + ρ / T − A z, 0, 0.99)
pub fn sparsity(before: f64, ratio: f64, steps: usize, amplitude: f64, z: f64) -> f64 {
    (before + ratio / steps as f64 - amplitude * z).clamp(0.0, MOST)
}

/// S of every layer after `step` of T steps without layer importance, in the authors' order of operations: step / T · ρ
pub fn uniform(step: usize, steps: usize, ratio: f64) -> f64 {
    step as f64 / steps as f64 * ratio
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
pub fn lowest(scores: &[f64], count: usize) -> (Vec<usize>, f64) {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    // A stable sort keeps equal scores in index order.
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    let margin = match (count.checked_sub(1), order.get(count)) {
        (Some(last), Some(&kept)) => (scores[kept] - scores[order[last]]) / scores[kept].abs().max(f64::MIN_POSITIVE),
        _ => f64::INFINITY,
    };
    let mut removed = order[..count].to_vec();
    removed.sort_unstable();
    (removed, margin)
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
        // The mean of these is 0.10000000000000002.
        assert_eq!(normalised(&[0.1; 3]), [0.0; 3]);
        assert_eq!(normalised(&[1.0, 1.0 + 1e-9]), [-1.0, 1.0]);
    }

    #[test]
    fn sparsity_stays_within_its_bounds() {
        assert_eq!(sparsity(0.5, 1.0, 50, 0.02, 0.0), 0.52);
        assert_eq!(sparsity(0.01, 1.0, 50, 0.05, 1.0), 0.0);
        assert_eq!(sparsity(0.98, 1.0, 50, 0.02, -1.0), 0.99);
    }

    #[test]
    fn a_uniform_share_is_rounded_as_the_authors_do() {
        // 50 · (1 − 3 / 5 · 0.8) is 26; with 0.8 · 3 / 5 it would be 25.99….
        assert_eq!(removals(50, 1, 50, uniform(3, 5, 0.8)), 24);
        assert_eq!(removals(100, 1, 100, uniform(4, 5, 0.8)), 65);
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
        let (removed, margin) = lowest(&[3.0, 1.0, 2.0, 1.0, 4.0], 2);
        assert_eq!((removed, margin), (vec![1, 3], 0.5));
        assert_eq!(lowest(&[1.0, 1.0, 1.0], 1), (vec![0], 0.0));
        assert_eq!(lowest(&[1.0], 0), (vec![], f64::INFINITY));
        assert_eq!(others(5, &[1, 3]), [0, 2, 4]);
    }
}
