// 32 weights of a row, q8_0: w = d · q, q an i8; 2 quads of 16.
fn weight32(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let at = place(row, 2u * params.weight_blocks, 2u * block);
    let a = codes[at];
    let b = codes[at + 8u];
    let d = unpack2x16float(scales[place(row, (params.weight_blocks + 1u) / 2u, block / 2u)])[block % 2u];
    return array<vec4<f32>, 8>(
        d * vec4<f32>(unpack4xI8(a.x)),
        d * vec4<f32>(unpack4xI8(a.y)),
        d * vec4<f32>(unpack4xI8(a.z)),
        d * vec4<f32>(unpack4xI8(a.w)),
        d * vec4<f32>(unpack4xI8(b.x)),
        d * vec4<f32>(unpack4xI8(b.y)),
        d * vec4<f32>(unpack4xI8(b.z)),
        d * vec4<f32>(unpack4xI8(b.w)),
    );
}
