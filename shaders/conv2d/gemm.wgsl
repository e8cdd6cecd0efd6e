// y[p, n] = Σ_k W[n, k] · patch_p[k], for the rows n of one chunk of W: patches of the picture in a matrix product.
//
// Patch p is the square at (p / grid, p % grid); k counts its channels, then its rows, then its columns, as W does.
// One workgroup computes a tile of y: 32 × 64 (shared/gemm), 16 × 128 (gemm_subgroup) or 64 × 64
// (gemm_cooperative).

struct Params {
    weight_blocks: u32, // blocks of 32 columns
    cols: u32,          // k = channels · patch²
    first: u32,         // first row of W within the chunk
    rows: u32,          // rows n to compute
    out: u32,           // first column of y to write
    m: u32,             // patches: grid²
    stride: u32,        // columns of y
    size: u32,          // S, pixels of a side
    side: u32,          // side of a patch in pixels
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;        // (channels, S, S)
@group(0) @binding(1) var<storage, read> codes: array<vec4<u32>>;    // W, (rows, cols)
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;        // (m, stride)
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn gemm(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3<u32>) {
    tile_product(thread, group);
}

// Pixels from 4·quad on of a patch, zero past its end.
fn x_quad(row: u32, quad: u32) -> vec4<f32> {
    let grid = params.size / params.side;
    let corner = (row / grid * params.size + row % grid) * params.side;
    var v = vec4<f32>(0.0);
    for (var i = 0u; i < 4u; i++) {
        let k = 4u * quad + i;
        if k < params.cols {
            let line = k / params.side; // line of pixels, counted over all channels
            let channel = line / params.side;
            v[i] = x[(channel * params.size + line % params.side) * params.size + corner + k % params.side];
        }
    }
    return v;
}

fn store(m: u32, n: u32, value: f32) {
    y[m * params.stride + params.out + n] = value;
}
