// Tiles of matrix products hold float16; products and sums are still computed in float32.
alias Tile4 = vec4<f16>;

// A value past the range of float16 would become infinite, and a product with infinity makes a whole row NaN.
fn tile4(v: vec4<f32>) -> Tile4 {
    return Tile4(clamp(v, vec4<f32>(-65504.0), vec4<f32>(65504.0)));
}
