// The activations of a product: rows of x.

// Whether rows of x begin on a quad: the number of columns is a multiple of 4.
override ALIGNED: u32 = 1u;

// Columns from 4·quad on of a row of x, zero past the end. Rows that do not begin on a quad are read float by float.
fn x_quad(row: u32, quad: u32) -> vec4<f32> {
    let k = 4u * quad;
    let at = row * params.cols + k;
    if k >= params.cols {
        return vec4<f32>(0.0);
    }
    if ALIGNED != 0u {
        return x[at / 4u];
    }
    var v = vec4<f32>(0.0);
    for (var i = 0u; i < 4u; i++) {
        if k + i < params.cols {
            v[i] = x[(at + i) / 4u][(at + i) % 4u];
        }
    }
    return v;
}
