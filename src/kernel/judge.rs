//! Whether the results of a kernel are right, element by element and on the whole.

use super::report::Wrong;
use crate::backend::check::gpu::UNTOUCHED;
use crate::backend::check::{Prepared, is_id, nmse};
use crate::ops::TensorType;

/// An element may be wrong by this multiple of the root mean square error that a case allows: no sum of rounding errors
/// comes so far. It finds a wrong element that drowns in the mean over thousands of right ones.
const OUTLIER: f64 = 32.0;

/// Where dunlin's kernel left a result as it was: the reference need not agree there.
pub fn untouched(ours: &[Vec<u32>]) -> Vec<Vec<bool>> {
    ours.iter().map(|result| result.iter().map(|&word| word == UNTOUCHED).collect()).collect()
}

/// What is wrong with results, if anything: `limit` is the largest normalised mean squared error.
pub fn wrong(
    prepared: &Prepared,
    wanted: &[Vec<u32>],
    found: &[Vec<u32>],
    untouched: &[Vec<bool>],
    limit: f64,
) -> Option<Wrong> {
    let mut all = prepared.results.iter().zip(wanted).zip(found.iter().zip(untouched));
    all.find_map(|(((name, id), wanted), (found, untouched))| {
        let ours = found.iter().zip(untouched).zip(wanted);
        let found: Vec<u32> = ours.map(|((&found, &left), &wanted)| if left { wanted } else { found }).collect();
        wrong_in(name, prepared.graph.ty(*id), wanted, &found, limit)
    })
}

fn wrong_in(name: &str, ty: &TensorType, wanted: &[u32], found: &[u32], limit: f64) -> Option<Wrong> {
    let float = |bits: u32| f64::from(f32::from_bits(bits));
    let floats = wanted.iter().filter(|&&bits| !is_id(ty, bits)).map(|&bits| float(bits).powi(2));
    let (sum, count) = floats.fold((0.0, 0usize), |(sum, count), square| (sum + square, count + 1));
    let allowed = (limit * sum / count.max(1) as f64).sqrt();
    let first = |most: f64| {
        let differs = |(found, wanted): (u32, u32)| {
            if is_id(ty, found) || is_id(ty, wanted) {
                return found != wanted;
            }
            let (found, wanted) = (float(found), float(wanted));
            let same = found == wanted || found.is_nan() && wanted.is_nan();
            let difference = (found - wanted).abs();
            !same && (difference.is_nan() || difference > most)
        };
        let at = found.iter().copied().zip(wanted.iter().copied()).position(differs)?;
        Some((at, most))
    };
    let (at, most) = first(OUTLIER * allowed).or_else(|| {
        let error = nmse(ty, found, wanted);
        if error <= limit { None } else { first(allowed) }
    })?;
    let place = place(ty, at);
    let number = |bits: u32| if is_id(ty, wanted[at]) { f64::from(bits) } else { float(bits) };
    let (got, expected) = (number(found[at]), number(wanted[at]));
    let more = if found[at] == UNTOUCHED { ", as it was before the kernel ran" } else { "" };
    let what = format!("{name}{place:?} is {}{more}, expected {}, tolerance {most:.1e}", short(got), short(expected));
    Some(Wrong { what, element: Some(place), expected: Some(expected), got: Some(got), tolerance: Some(most) })
}

/// The place of an element in its tensor.
fn place(ty: &TensorType, mut at: usize) -> Vec<usize> {
    let mut place = vec![0; ty.shape.len()];
    for (index, &size) in place.iter_mut().zip(&ty.shape).rev() {
        (*index, at) = (at % size, at / size);
    }
    place
}

fn short(value: f64) -> String {
    let size = value.abs();
    if value == value.trunc() || !value.is_finite() || (1e-3..1e6).contains(&size) {
        format!("{}", value as f32)
    } else {
        format!("{value:.5e}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wrong_element_is_told() {
        let ty = TensorType::f32([2, 1000]);
        let wanted: Vec<u32> = (0..2000).map(|i| (1.0 + (i % 7) as f32).to_bits()).collect();
        let judge = |change: &dyn Fn(&mut Vec<u32>)| {
            let mut found = wanted.clone();
            change(&mut found);
            wrong_in("result0", &ty, &wanted, &found, 1e-10)
        };
        assert_eq!(judge(&|_| {}), None);
        // Rounding.
        assert_eq!(judge(&|found| found.iter_mut().for_each(|bits| *bits += 1)), None);
        // One element by a thousandth: below the mean's tolerance, and no rounding error.
        let change = |found: &mut Vec<u32>| found[1999] = (f32::from_bits(found[1999]) + 0.0015).to_bits();
        assert_eq!(judge(&change).expect("wrong").element, Some(vec![1, 999]));
        let mut found = wanted.clone();
        change(&mut found);
        assert!(nmse(&ty, &found, &wanted) < 1e-10, "the mean hides it");
        // All elements by little.
        let all = judge(&|found| {
            found.iter_mut().for_each(|bits| *bits = (f32::from_bits(*bits) * 1.00002).to_bits());
        });
        assert!(all.expect("wrong").element.is_some());
        let nan = judge(&|found| found[3] = f32::NAN.to_bits()).expect("wrong");
        assert!(nan.what.contains("result0[0, 3] is NaN, expected 4"), "{}", nan.what);
        let left = judge(&|found| found[0] = UNTOUCHED).expect("wrong");
        assert!(left.what.contains("as it was"), "{}", left.what);
        let ids = wrong_in("ids", &TensorType::u32([2]), &[7, 8], &[7, 9], 1e-10).expect("wrong");
        assert_eq!((ids.expected, ids.got), (Some(8.0), Some(9.0)));
    }
}
