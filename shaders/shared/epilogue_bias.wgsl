// The result of a product for row m and column n of y: f(bias + sum), f by ACTIVATION (shared/activation).
override ACTIVATION: u32 = 0u;

@group(0) @binding(4) var<storage, read> bias: array<f32>;           // (stride)

fn epilogue(m: u32, n: u32, sum: f32) -> f32 {
    return activate(ACTIVATION, bias[n] + sum);
}
