// The result of a product for row m and column n of y: residual + f(sum), f by ACTIVATION (shared/activation).
override ACTIVATION: u32 = 0u;

@group(0) @binding(4) var<storage, read_write> residual: array<f32>; // (m, stride)

fn epilogue(m: u32, n: u32, sum: f32) -> f32 {
    return residual[m * params.stride + n] + activate(ACTIVATION, sum);
}
