// Cooperative matrices of 8 × 8: float16 times float16, summed in float32.
const SIZE: u32 = 8u;
alias MatrixA = coop_mat8x8<f16, A>;
alias MatrixB = coop_mat8x8<f16, B>;
alias MatrixC = coop_mat8x8<f32, C>;
