//! Whether the results of a kernel are right, element by element and on the whole.

use super::report::Wrong;
use crate::backend::check::gpu::UNTOUCHED;
use crate::backend::check::{Prepared, is_id, nmse};
use crate::ops::TensorType;

/// An element may be wrong by this multiple of the root mean square error that a case allows: no sum of rounding errors
/// comes so far. It finds a wrong element that drowns in the mean over thousands of right ones.
const OUTLIER: f64 = 32.0;

/// Where dunlin's kernel left a part of a result as it was: the reference need not agree there. A kernel that left a whole
/// result did not run, and that excuses none.
pub fn untouched(ours: &[Vec<u32>]) -> Vec<Vec<bool>> {
    let left = |result: &Vec<u32>| -> Vec<bool> {
        let all = result.iter().all(|&word| word == UNTOUCHED);
        result.iter().map(|&word| word == UNTOUCHED && !all).collect()
    };
    ours.iter().map(left).collect()
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
    assert!(sum.is_finite(), "{name}: the reference is not finite, so every error would be allowed");
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
    use crate::ops::add::Add;
    use crate::ops::{Case, Given};

    #[test]
    fn only_a_part_of_a_result_may_be_left_as_it_was() {
        let prepared = Prepared::new(&Case::new(Add, vec![Given::f32([3, 2]), Given::f32([3, 2])]));
        let one = 1f32.to_bits();
        let wanted = vec![vec![one; 6]];
        let judge = |ours: &[u32; 6], found: &[u32; 6]| {
            wrong(&prepared, &wanted, &[found.to_vec()], &untouched(&[ours.to_vec()]), 1e-10)
        };
        let (none, all) = ([UNTOUCHED; 6], [one; 6]);
        let some = [one, one, UNTOUCHED, UNTOUCHED, one, one];
        assert_eq!((judge(&all, &all), judge(&some, &some), judge(&some, &all)), (None, None, None));
        let early = judge(&some, &[one, UNTOUCHED, UNTOUCHED, UNTOUCHED, one, one]).expect("wrong");
        assert_eq!(early.element, Some(vec![0, 1]));
        // Neither ours nor yours is right if it left all of it.
        for found in [&none, &some] {
            let left = judge(&none, found).expect("wrong");
            assert!(left.what.contains("as it was before the kernel ran"), "{}", left.what);
        }
        assert_eq!(judge(&none, &all), None);
    }

    #[test]
    #[should_panic(expected = "result0: the reference is not finite")]
    fn a_reference_is_finite() {
        let wanted = [f32::INFINITY.to_bits(), 0];
        wrong_in("result0", &TensorType::f32([2]), &wanted, &wanted, 1e-10);
    }

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
