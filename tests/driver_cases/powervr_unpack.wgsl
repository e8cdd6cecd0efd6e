// device: PowerVR BXS-4-64
// result: crashed
// The compiler has no conversion of 8-bit integers (`u2u8`), which naga writes for unpack4xU8 where a driver has shaderInt8.

@group(0) @binding(0) var<storage, read_write> words: array<u32>;

@compute @workgroup_size(32)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let bytes = unpack4xU8(words[id.x]);
    words[id.x] = bytes.x + bytes.y + bytes.z + bytes.w;
}
