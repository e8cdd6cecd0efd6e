// 32 weights of a row, q6_k: w = d · sc · (q − 32); sc an i8 for each 16 columns, d for 256; bits 4 and 5 in other
// words.
fn weight32(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let q = codes[place(row, params.weight_blocks, block)];
    let first = ((params.weight_blocks + 7u) / 8u + 1u) / 2u; // words of d
    let halves = (params.weight_blocks + 1u) / 2u;
    let words = first + halves + 2u * params.weight_blocks;
    let supers = block / 8u;
    let d = unpack2x16float(scales[place(row, words, supers / 2u)])[supers % 2u];
    let packed = unpack4xI8(scales[place(row, words, first + block / 2u)] >> (16u * (block % 2u)));
    let a = d * f32(packed.x);
    let b = d * f32(packed.y);
    let at = place(row, words, first + halves + 2u * block);
    let low = scales[at];
    let high = scales[at + 8u];
    return array<vec4<f32>, 8>(
        a * sixes(q.x, low),
        a * sixes(q.y, low >> 2u),
        a * sixes(q.z, low >> 4u),
        a * sixes(q.w, low >> 6u),
        b * sixes(q.x >> 4u, high),
        b * sixes(q.y >> 4u, high >> 2u),
        b * sixes(q.z >> 4u, high >> 4u),
        b * sixes(q.w >> 4u, high >> 6u),
    );
}

// Four codes of 6 bits minus 32: the low halves of the bytes of `word`, and bits 0 and 1 of the bytes of `high`.
fn sixes(word: u32, high: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8((word & 0x0f0f0f0fu) | ((high & 0x03030303u) << 4u))) - 32.0;
}
