// 32 weights of a row, float32: 8 quads of 4.
fn weight32(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let at = place(row, 8u * params.weight_blocks, 8u * block);
    return array<vec4<f32>, 8>(
        bitcast<vec4<f32>>(codes[at]),
        bitcast<vec4<f32>>(codes[at + 8u]),
        bitcast<vec4<f32>>(codes[at + 16u]),
        bitcast<vec4<f32>>(codes[at + 24u]),
        bitcast<vec4<f32>>(codes[at + 32u]),
        bitcast<vec4<f32>>(codes[at + 40u]),
        bitcast<vec4<f32>>(codes[at + 48u]),
        bitcast<vec4<f32>>(codes[at + 56u]),
    );
}
