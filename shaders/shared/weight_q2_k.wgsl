// 32 weights of a row, q2_k: w = (d · sc) · q − dmin · m; sc and m are halves of a byte for each 16 columns, d and dmin
// for each 8 blocks; a quad holds two blocks, and a word 16 elements.
fn weight32(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let pairs = (params.weight_blocks + 1u) / 2u;
    let quad = codes[place(row, pairs, block / 2u)];
    let q = select(quad.xy, quad.zw, block % 2u == 1u);
    let supers = (params.weight_blocks + 7u) / 8u;
    let words = supers + pairs;
    let d = unpack2x16float(scales[place(row, words, block / 8u)]);
    let packed = scales[place(row, words, supers + block / 2u)] >> (16u * (block % 2u));
    let a = d * vec2<f32>(f32(packed & 15u), f32((packed >> 4u) & 15u));
    let b = d * vec2<f32>(f32((packed >> 8u) & 15u), f32((packed >> 12u) & 15u));
    return array<vec4<f32>, 8>(
        a.x * twos(q.x) - a.y,
        a.x * twos(q.x >> 2u) - a.y,
        a.x * twos(q.x >> 4u) - a.y,
        a.x * twos(q.x >> 6u) - a.y,
        b.x * twos(q.y) - b.y,
        b.x * twos(q.y >> 2u) - b.y,
        b.x * twos(q.y >> 4u) - b.y,
        b.x * twos(q.y >> 6u) - b.y,
    );
}

// Four codes of 2 bits, from the lowest bits of the bytes.
fn twos(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8(word & 0x03030303u));
}
