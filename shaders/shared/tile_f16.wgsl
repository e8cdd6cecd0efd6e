// Tiles of matrix products hold float16; products and sums are float32 all the same.
alias Tile4 = vec4<f16>;
