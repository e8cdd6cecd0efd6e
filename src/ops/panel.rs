//! Products of float32 rows with panels of 32 columns, in tiles of sums that stay in registers.

/// Columns of a panel: two registers of AVX-512, four of AVX2, eight of NEON.
pub const COLS: usize = 32;

/// A row of a panel, or 32 columns of a result.
pub type Lanes = [f32; COLS];

/// y[r, :] += Σ_i x[r · stride + i] · panel[i, :]
///
/// panel: (k, 32)   y: (rows, 32)   x: rows of k, `stride` apart
pub fn add_products(x: &[f32], stride: usize, panel: &[Lanes], y: &mut [Lanes]) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has it.
            return unsafe { x86::avx512(x, stride, panel, y) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has both.
            return unsafe { x86::avx2(x, stride, panel, y) };
        }
    }
    tiles::<{ cfg!(any(target_arch = "aarch64", target_feature = "fma")) }, 2>(x, stride, panel, y);
}

/// The same loops for processors with more and wider registers, as many rows at a time as leave no sum in memory.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Lanes, tiles};

    #[target_feature(enable = "avx512f,avx2,fma")]
    pub fn avx512(x: &[f32], stride: usize, panel: &[Lanes], y: &mut [Lanes]) {
        tiles::<true, 4>(x, stride, panel, y);
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn avx2(x: &[f32], stride: usize, panel: &[Lanes], y: &mut [Lanes]) {
        tiles::<true, 2>(x, stride, panel, y);
    }
}

/// `FMA`: whether `mul_add` is one instruction.
#[inline(always)]
fn tiles<const FMA: bool, const ROWS: usize>(x: &[f32], stride: usize, panel: &[Lanes], y: &mut [Lanes]) {
    let (groups, rest) = y.as_chunks_mut::<ROWS>();
    let whole = groups.len() * ROWS;
    for (g, y) in groups.iter_mut().enumerate() {
        tile::<FMA, ROWS>(&x[g * ROWS * stride..], stride, panel, y);
    }
    for (r, y) in rest.iter_mut().enumerate() {
        tile::<FMA, 1>(&x[(whole + r) * stride..], stride, panel, std::array::from_mut(y));
    }
}

#[inline(always)]
fn tile<const FMA: bool, const ROWS: usize>(x: &[f32], stride: usize, panel: &[Lanes], y: &mut [Lanes; ROWS]) {
    let x: [&[f32]; ROWS] = std::array::from_fn(|r| &x[r * stride..]);
    // Cut here, where the compiler sees it: a check in the loop takes half the speed.
    let x = x.map(|x| &x[..panel.len()]);
    let mut sums = *y;
    for (i, w) in panel.iter().enumerate() {
        for r in 0..ROWS {
            let x = x[r][i];
            for c in 0..COLS {
                sums[r][c] = if FMA { x.mul_add(w[c], sums[r][c]) } else { x * w[c] + sums[r][c] };
            }
        }
    }
    *y = sums;
}

#[cfg(test)]
mod tests {
    use super::{COLS, add_products, tiles};

    #[test]
    fn tiles_are_plain_sums() {
        for (rows, k, stride) in [(1, 1, 1), (2, 3, 5), (7, 33, 40), (9, 300, 300)] {
            // Small integers: every order of summation gives the same.
            let x: Vec<f32> = (0..rows * stride).map(|i| (i * 7 % 11) as f32 - 5.0).collect();
            let panel: Vec<[f32; COLS]> =
                (0..k).map(|i| std::array::from_fn(|c| ((i * 5 + c * 3) % 13) as f32 - 6.0)).collect();
            let mut wanted = vec![[1.0; COLS]; rows];
            for r in 0..rows {
                for c in 0..COLS {
                    wanted[r][c] += (0..k).map(|i| x[r * stride + i] * panel[i][c]).sum::<f32>();
                }
            }
            for add_products in [add_products, tiles::<false, 2>, tiles::<false, 4>, tiles::<true, 2>] {
                let mut y = vec![[1.0; COLS]; rows];
                add_products(&x, stride, &panel, &mut y);
                assert_eq!(y, wanted, "{rows} rows of {k}, {stride} apart");
            }
        }
    }
}
