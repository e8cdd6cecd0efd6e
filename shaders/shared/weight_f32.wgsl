// 32 weights of a row, float32: 8 quads of 4.
fn weight32(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let at = block * 8u * params.weight_rows + row;
    let step = params.weight_rows;
    return array<vec4<f32>, 8>(
        bitcast<vec4<f32>>(codes[at]),
        bitcast<vec4<f32>>(codes[at + step]),
        bitcast<vec4<f32>>(codes[at + 2u * step]),
        bitcast<vec4<f32>>(codes[at + 3u * step]),
        bitcast<vec4<f32>>(codes[at + 4u * step]),
        bitcast<vec4<f32>>(codes[at + 5u * step]),
        bitcast<vec4<f32>>(codes[at + 6u * step]),
        bitcast<vec4<f32>>(codes[at + 7u * step]),
    );
}
