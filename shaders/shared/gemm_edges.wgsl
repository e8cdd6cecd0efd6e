// The edge of a matrix product: results past the last row or column are dropped.

fn store4(m: u32, n: u32, v: vec4<f32>) {
    if n < params.rows {
        for (var i = 0u; i < 4u; i++) {
            if m + i < params.m {
                store(m + i, n, v[i]);
            }
        }
    }
}
