// 32 weights of a row, q4_k: w = (d · sc) · q − dmin · m; sc and m are bytes for each block, d and dmin for 8 blocks.
fn weight32(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let q = codes[place(row, params.weight_blocks, block)];
    let supers = (params.weight_blocks + 7u) / 8u;
    let halves = (params.weight_blocks + 1u) / 2u;
    let words = supers + halves;
    let d = unpack2x16float(scales[place(row, words, block / 8u)]);
    let packed = scales[place(row, words, supers + block / 2u)] >> (16u * (block % 2u));
    let scale = d.x * f32(packed & 255u);
    let minimum = d.y * f32((packed >> 8u) & 255u);
    return array<vec4<f32>, 8>(
        scale * nibbles(q.x) - minimum,
        scale * nibbles(q.y) - minimum,
        scale * nibbles(q.z) - minimum,
        scale * nibbles(q.w) - minimum,
        scale * nibbles(q.x >> 4u) - minimum,
        scale * nibbles(q.y >> 4u) - minimum,
        scale * nibbles(q.z >> 4u) - minimum,
        scale * nibbles(q.w >> 4u) - minimum,
    );
}

// Four codes of 4 bits, from the low halves of the bytes.
fn nibbles(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8(word & 0x0f0f0f0fu));
}
