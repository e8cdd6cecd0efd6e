// Tiles of matrix products hold float32.
alias Tile4 = vec4<f32>;

fn tile4(v: vec4<f32>) -> Tile4 {
    return v;
}
