//! e^x as sums and products, which vectorise; the standard library's function is a call for each x.

use crate::cpu::simd::mul_add;

/// e^x within 2e-7 of its value for x in −87 .. 88; e^−87 below that, infinite soon above. NaN stays NaN. `FMA`:
/// whether `mul_add` is one instruction.
#[inline(always)]
pub fn exp<const FMA: bool>(x: f32) -> f32 {
    // Comparisons are used because `clamp` is slower, and `max` would drop a NaN.
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    // x = n · ln 2 + r, |r| ≤ ½ ln 2. Adding 1.5 · 2²³ rounds, and leaves n in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let shifted = mul_add::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    // ln 2 in two parts; the first has few digits, so that n times it is exact.
    let r = mul_add::<FMA>(n, 2.121_944_4e-4, mul_add::<FMA>(n, -0.693_359_4, x));
    // Taylor's series; the first omitted term is r⁸ / 40320 < 6e-9.
    const TERMS: [f32; 7] = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    let series = TERMS.iter().fold(1.0 / 5040.0, |series, &term| mul_add::<FMA>(series, r, term));
    series * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn exp_is_that_of_the_library() {
        is_that_of_the_library(exp::<false>);
        is_that_of_the_library(exp::<true>);
    }

    fn is_that_of_the_library(exp: fn(f32) -> f32) {
        for i in -8700..8800 {
            let x = i as f32 / 100.0 + 1e-3;
            let (found, wanted) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((found - wanted).abs() <= 2e-7 * wanted, "exp({x}) is {found:e}, expected {wanted:e}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(-1e30) < 1e-37 && exp(f32::NEG_INFINITY) < 1e-37 && exp(1e30) == f32::INFINITY);
    }
}
