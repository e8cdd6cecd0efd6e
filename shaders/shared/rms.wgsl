// 1 / sqrt(mean(v²) + eps) of the `cols` elements v of x from `first` on. All threads must call it.
fn rms_factor(thread: u32, first: u32) -> f32 {
    var squares = 0.0;
    for (var c = thread; c < params.cols; c += WG) {
        squares += x[first + c] * x[first + c];
    }
    return inverseSqrt(group_sum(thread, squares) / f32(params.cols) + params.eps);
}
