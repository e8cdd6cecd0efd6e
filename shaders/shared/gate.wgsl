// The function of a gated unit: silu, or GELU by tanh.
override GELU: u32 = 0u;

fn gated(z: f32) -> f32 {
    if GELU == 0u {
        return z / (1.0 + exp(-z));
    }
    // 1 + tanh(u) = 2 / (1 + exp(−2u)), without cancellation. The bound keeps exp finite; the result is about 0 there.
    let u = 0.7978845608 * z * (1.0 + 0.044715 * z * z);
    return z / (1.0 + exp(min(-2.0 * u, 80.0)));
}
