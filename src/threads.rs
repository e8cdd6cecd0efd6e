//! Work over the rows of a result, on every core where the feature `threads` allows.

/// Calls `work(r, row)` for each row of `out`, `width` elements each.
pub fn rows(out: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    #[cfg(feature = "threads")]
    {
        use rayon::prelude::*;
        out.par_chunks_mut(width).enumerate().for_each(|(r, row)| work(r, row));
    }
    #[cfg(not(feature = "threads"))]
    out.chunks_mut(width).enumerate().for_each(|(r, row)| work(r, row));
}
