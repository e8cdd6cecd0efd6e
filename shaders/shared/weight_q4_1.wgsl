// 32 weights of a row, q4_1: w = d · q + m; byte j of the quad holds elements j and j + 16.
fn weight32(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let q = codes[place(row, params.weight_blocks, block)];
    let dm = unpack2x16float(scales[place(row, params.weight_blocks, block)]);
    return array<vec4<f32>, 8>(
        dm.x * nibbles(q.x) + dm.y,
        dm.x * nibbles(q.y) + dm.y,
        dm.x * nibbles(q.z) + dm.y,
        dm.x * nibbles(q.w) + dm.y,
        dm.x * nibbles(q.x >> 4u) + dm.y,
        dm.x * nibbles(q.y >> 4u) + dm.y,
        dm.x * nibbles(q.z >> 4u) + dm.y,
        dm.x * nibbles(q.w >> 4u) + dm.y,
    );
}

// Four codes of 4 bits, from the low halves of the bytes.
fn nibbles(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8(word & 0x0f0f0f0fu));
}
