// 32 weights of a row, q4_0: w = d · (q − 8); byte j of the quad holds elements j and j + 16.
fn weight32(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let q = codes[place(row, params.weight_blocks, block)];
    let d = unpack2x16float(scales[place(row, (params.weight_blocks + 1u) / 2u, block / 2u)])[block % 2u];
    return array<vec4<f32>, 8>(
        d * (nibbles(q.x) - 8.0),
        d * (nibbles(q.y) - 8.0),
        d * (nibbles(q.z) - 8.0),
        d * (nibbles(q.w) - 8.0),
        d * (nibbles(q.x >> 4u) - 8.0),
        d * (nibbles(q.y >> 4u) - 8.0),
        d * (nibbles(q.z >> 4u) - 8.0),
        d * (nibbles(q.w >> 4u) - 8.0),
    );
}

// Four codes of 4 bits, from the low halves of the bytes.
fn nibbles(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8(word & 0x0f0f0f0fu));
}
