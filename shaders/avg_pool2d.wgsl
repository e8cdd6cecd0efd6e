// y[(i, j), c] = mean of x[(a, b), c] over the window of cell (i, j):
//     a = ⌊i·height/out_height⌋ .. ⌈(i + 1)·height/out_height⌉, b likewise
//
// A workgroup computes 64 channels of one cell. PARTS threads share a channel: each sums every PARTS-th pixel of the
// window, then the first thread adds the partial sums.

struct Params {
    height: u32,
    width: u32,
    channels: u32,
    out_height: u32,
    out_width: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>; // (height · width, channels)
@group(0) @binding(1) var<storage, read_write> y: array<f32>; // (out_height · out_width, channels)
@group(1) @binding(0) var<uniform> params: Params;

override PARTS: u32 = 1u;
const CHANNELS: u32 = 64u;

var<workgroup> sums: array<f32, CHANNELS * PARTS>;

@compute @workgroup_size(CHANNELS, PARTS)
fn avg_pool2d(@builtin(local_invocation_id) thread: vec3<u32>, @builtin(workgroup_id) group: vec3<u32>) {
    let c = CHANNELS * group.x + thread.x;
    let i = group.y / params.out_width;
    let j = group.y % params.out_width;
    let top = i * params.height / params.out_height;
    let left = j * params.width / params.out_width;
    let bottom = ((i + 1u) * params.height + params.out_height - 1u) / params.out_height;
    let right = ((j + 1u) * params.width + params.out_width - 1u) / params.out_width;
    let across = right - left;
    let pixels = (bottom - top) * across;

    var sum = 0.0;
    if c < params.channels {
        for (var p = thread.y; p < pixels; p += PARTS) {
            let pixel = (top + p / across) * params.width + left + p % across;
            sum += x[pixel * params.channels + c];
        }
    }
    sums[CHANNELS * thread.y + thread.x] = sum;
    workgroupBarrier();
    if thread.y == 0u && c < params.channels {
        for (var part = 1u; part < PARTS; part++) {
            sum += sums[CHANNELS * part + thread.x];
        }
        y[group.y * params.channels + c] = sum / f32(pixels);
    }
}
