// The activations by code, as in `ops::activation::Kind` of Rust. Code 0 leaves x unchanged.
fn activate(kind: u32, x: f32) -> f32 {
    switch kind {
        case 1u: { return gelu(x); }
        // The bound prevents overflow of exp, where σ is practically 0.
        case 2u: { return x / (1.0 + exp(min(-1.702 * x, 80.0))); }
        case 3u: { return max(x, 0.0); }
        case 4u: { return x * clamp(x + 3.0, 0.0, 6.0) / 6.0; }
        case 5u: { return clamp(x + 3.0, 0.0, 6.0) / 6.0; }
        default: { return x; }
    }
}

// x/2 · (1 + erf(x / √2)), computed with erfc(z) = exp(−z²) · (1 + v · R(v)), v = z / (2 + z), for z = |x| / √2:
// smooth, exact at 0, and accurate in the lower tail. R is a Chebyshev fit for z in 0 .. 12; erfc is within 1e-7.
fn gelu(x: f32) -> f32 {
    let z = min(abs(x) * 0.70710678, 12.0);
    let v = z / (2.0 + z);
    var r = 0.041664157;
    r = r * v - 0.17926504;
    r = r * v + 0.22687964;
    r = r * v - 0.029157907;
    r = r * v + 0.046123527;
    r = r * v - 0.31877387;
    r = r * v - 0.2739341;
    r = r * v + 1.7432011;
    r = r * v - 2.2567577;
    let tail = 0.5 * x * exp(-z * z) * (1.0 + v * r);
    return select(x - tail, tail, x < 0.0);
}
