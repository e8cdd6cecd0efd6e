// Tiles of matrix products hold float16; products and sums are still computed in float32.
alias Tile4 = vec4<f16>;
