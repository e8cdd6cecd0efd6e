//! Work over the rows of a result, on every core where the feature `threads` allows.

/// Elements at a time, where an operator goes element by element.
pub const PIECE: usize = 4096;

/// Calls `work(r, row)` for each row of `out`, `width` elements each.
pub fn rows<T: Send>(out: &mut [T], width: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    // One row is not worth waking a thread for.
    #[cfg(feature = "threads")]
    if out.len() > width {
        use rayon::prelude::*;
        out.par_chunks_mut(width).enumerate().for_each(|(r, row)| work(r, row));
        return;
    }
    out.chunks_mut(width).enumerate().for_each(|(r, row)| work(r, row));
}
