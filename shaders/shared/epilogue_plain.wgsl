// The result of a product for row m and column n of y: f(sum), f by ACTIVATION (shared/activation).
override ACTIVATION: u32 = 0u;

fn epilogue(m: u32, n: u32, sum: f32) -> f32 {
    return activate(ACTIVATION, sum);
}
