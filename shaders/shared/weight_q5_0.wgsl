// 32 weights of a row, q5_0: w = d · (q − 16); bit 4 of q is in a separate word.
fn weight32(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let q = codes[place(row, params.weight_blocks, block)];
    let halves = (params.weight_blocks + 1u) / 2u;
    let words = halves + params.weight_blocks;
    let d = unpack2x16float(scales[place(row, words, block / 2u)])[block % 2u];
    let high = scales[place(row, words, halves + block)];
    return array<vec4<f32>, 8>(
        d * (nibbles(q.x, high) - 16.0),
        d * (nibbles(q.y, high >> 1u) - 16.0),
        d * (nibbles(q.z, high >> 2u) - 16.0),
        d * (nibbles(q.w, high >> 3u) - 16.0),
        d * (nibbles(q.x >> 4u, high >> 4u) - 16.0),
        d * (nibbles(q.y >> 4u, high >> 5u) - 16.0),
        d * (nibbles(q.z >> 4u, high >> 6u) - 16.0),
        d * (nibbles(q.w >> 4u, high >> 7u) - 16.0),
    );
}

// Four codes of 5 bits: the low halves of the bytes of `word`, and bit 0 of the bytes of `high`.
fn nibbles(word: u32, high: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8((word & 0x0f0f0f0fu) | ((high & 0x01010101u) << 4u)));
}
