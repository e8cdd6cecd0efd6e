// Tiles of matrix products hold float32.
alias Tile4 = vec4<f32>;
