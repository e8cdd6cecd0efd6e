// Cooperative matrices of 16 × 16: float16 times float16, summed in float32.
const SIZE: u32 = 16u;
alias MatrixA = coop_mat16x16<f16, A>;
alias MatrixB = coop_mat16x16<f16, B>;
alias MatrixC = coop_mat16x16<f32, C>;
