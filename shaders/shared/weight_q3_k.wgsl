// 32 weights of a row, q3_k: w = d · sc · (q − 4); sc an i8 for each 16 columns, d for each 256; bits 0 and 1 as in
// q2_k, bit 2 in a separate word.
fn weight32(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let pairs = (params.weight_blocks + 1u) / 2u;
    let quad = codes[place(row, pairs, block / 2u)];
    let q = select(quad.xy, quad.zw, block % 2u == 1u);
    let first = ((params.weight_blocks + 7u) / 8u + 1u) / 2u; // words of d
    let words = first + pairs + params.weight_blocks;
    let supers = block / 8u;
    let d = unpack2x16float(scales[place(row, words, supers / 2u)])[supers % 2u];
    let packed = unpack4xI8(scales[place(row, words, first + block / 2u)] >> (16u * (block % 2u)));
    let a = d * f32(packed.x);
    let b = d * f32(packed.y);
    let high = scales[place(row, words, first + pairs + block)];
    return array<vec4<f32>, 8>(
        a * threes(q.x, high),
        a * threes(q.x >> 2u, high >> 1u),
        a * threes(q.x >> 4u, high >> 2u),
        a * threes(q.x >> 6u, high >> 3u),
        b * threes(q.y, high >> 4u),
        b * threes(q.y >> 2u, high >> 5u),
        b * threes(q.y >> 4u, high >> 6u),
        b * threes(q.y >> 6u, high >> 7u),
    );
}

// Four codes of 3 bits minus 4: the lowest two bits of the bytes of `word`, and bit 0 of the bytes of `high`.
fn threes(word: u32, high: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8((word & 0x03030303u) | ((high & 0x01010101u) << 2u))) - 4.0;
}
