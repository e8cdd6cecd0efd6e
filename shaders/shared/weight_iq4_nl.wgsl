// 32 weights of a row, iq4_nl: w = d · codebook[q]; byte j of the quad holds elements j and j + 16.
fn weight32(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let q = codes[place(row, params.weight_blocks, block)];
    let d = unpack2x16float(scales[place(row, (params.weight_blocks + 1u) / 2u, block / 2u)])[block % 2u];
    return array<vec4<f32>, 8>(
        d * codebook(q.x),
        d * codebook(q.y),
        d * codebook(q.z),
        d * codebook(q.w),
        d * codebook(q.x >> 4u),
        d * codebook(q.y >> 4u),
        d * codebook(q.z >> 4u),
        d * codebook(q.w >> 4u),
    );
}

// The values of four codes of 4 bits, from the low halves of the bytes. The 16 values are the bytes of four words: the
// upper two bits of a code choose the word, the lower two the byte.
fn codebook(word: u32) -> vec4<f32> {
    let q = unpack4xU8(word & 0x0f0f0f0fu);
    let odd = (q & vec4<u32>(4u)) != vec4<u32>(0u);
    let low = select(vec4<u32>(0xbfad9881u), vec4<u32>(0xf6eaddcfu), odd); // −127 −104 −83 −65, −49 −35 −22 −10
    let high = select(vec4<u32>(0x26190d01u), vec4<u32>(0x71594535u), odd); // 1 13 25 38, 53 69 89 113
    let four = select(low, high, q >= vec4<u32>(8u));
    return vec4<f32>(bitcast<vec4<i32>>(four << (vec4<u32>(24u) - 8u * (q & vec4<u32>(3u)))) >> vec4<u32>(24u));
}
