// 32 weights of a row, q5_k: w = (d · sc) · q − dmin · m, as q4_k with the fifth bit in a separate word.
fn weight32(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let q = codes[place(row, params.weight_blocks, block)];
    let supers = (params.weight_blocks + 7u) / 8u;
    let halves = (params.weight_blocks + 1u) / 2u;
    let words = supers + halves + params.weight_blocks;
    let d = unpack2x16float(scales[place(row, words, block / 8u)]);
    let packed = scales[place(row, words, supers + block / 2u)] >> (16u * (block % 2u));
    let scale = d.x * f32(packed & 255u);
    let minimum = d.y * f32((packed >> 8u) & 255u);
    let high = scales[place(row, words, supers + halves + block)];
    return array<vec4<f32>, 8>(
        scale * nibbles(q.x, high) - minimum,
        scale * nibbles(q.y, high >> 1u) - minimum,
        scale * nibbles(q.z, high >> 2u) - minimum,
        scale * nibbles(q.w, high >> 3u) - minimum,
        scale * nibbles(q.x >> 4u, high >> 4u) - minimum,
        scale * nibbles(q.y >> 4u, high >> 5u) - minimum,
        scale * nibbles(q.z >> 4u, high >> 6u) - minimum,
        scale * nibbles(q.w >> 4u, high >> 7u) - minimum,
    );
}

// Four codes of 5 bits: the low halves of the bytes of `word`, and bit 0 of the bytes of `high`.
fn nibbles(word: u32, high: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8((word & 0x0f0f0f0fu) | ((high & 0x01010101u) << 4u)));
}
