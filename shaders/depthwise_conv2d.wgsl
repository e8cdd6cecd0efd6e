// y[(i, j), c] = bias[c] + Σ_{a, b < 3} taps[c, a, b] · x[(stride·i + a − 1, stride·j + b − 1), c]
//
// Pixels outside the picture are 0. One thread per element: neighbours have neighbouring channels of one pixel.

struct Params {
    count: u32,     // elements of y
    height: u32,
    width: u32,
    channels: u32,
    out_width: u32,
    stride: u32,
    bias: u32,      // 0: there is none, and its binding is not read
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>; // (height · width, channels)
@group(0) @binding(1) var<storage, read> taps: array<f32>;    // (channels · 9)
@group(0) @binding(2) var<storage, read> bias: array<f32>;    // (channels)
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // (out height · out width, channels)
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn depthwise_conv2d(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var i = id.x; i < params.count; i += 64u * groups.x) {
        let c = i % params.channels;
        let pixel = i / params.channels;
        // Indices start from 1: row and column 0 are the padding.
        let top = params.stride * (pixel / params.out_width);
        let left = params.stride * (pixel % params.out_width);
        var sum = 0.0;
        if params.bias != 0u {
            sum = bias[c];
        }
        for (var t = 0u; t < 9u; t++) {
            let row = top + t / 3u;
            let col = left + t % 3u;
            if row >= 1u && row <= params.height && col >= 1u && col <= params.width {
                sum += taps[9u * c + t] * x[((row - 1u) * params.width + col - 1u) * params.channels + c];
            }
        }
        y[i] = sum;
    }
}
