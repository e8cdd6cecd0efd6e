// 32 weights of a row, q5_1: w = d · q + m; bit 4 of q is in a separate word.
fn weight32(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let q = codes[place(row, params.weight_blocks, block)];
    let dm = unpack2x16float(scales[place(row, 2u * params.weight_blocks, block)]);
    let high = scales[place(row, 2u * params.weight_blocks, params.weight_blocks + block)];
    return array<vec4<f32>, 8>(
        dm.x * nibbles(q.x, high) + dm.y,
        dm.x * nibbles(q.y, high >> 1u) + dm.y,
        dm.x * nibbles(q.z, high >> 2u) + dm.y,
        dm.x * nibbles(q.w, high >> 3u) + dm.y,
        dm.x * nibbles(q.x >> 4u, high >> 4u) + dm.y,
        dm.x * nibbles(q.y >> 4u, high >> 5u) + dm.y,
        dm.x * nibbles(q.z >> 4u, high >> 6u) + dm.y,
        dm.x * nibbles(q.w >> 4u, high >> 7u) + dm.y,
    );
}

// Four codes of 5 bits: the low halves of the bytes of `word`, and bit 0 of the bytes of `high`.
fn nibbles(word: u32, high: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8((word & 0x0f0f0f0fu) | ((high & 0x01010101u) << 4u)));
}
