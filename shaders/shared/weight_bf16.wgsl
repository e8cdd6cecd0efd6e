// 32 weights of a row, bfloat16 (the upper half of a float32): 4 quads of 8.
fn weight32(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let at = place(row, 4u * params.weight_blocks, 4u * block);
    let a = codes[at];
    let b = codes[at + 8u];
    let c = codes[at + 16u];
    let d = codes[at + 24u];
    return array<vec4<f32>, 8>(
        halves(a.xy), halves(a.zw), halves(b.xy), halves(b.zw), halves(c.xy), halves(c.zw), halves(d.xy), halves(d.zw),
    );
}

fn halves(v: vec2<u32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4<u32>(v.x << 16u, v.x & 0xffff0000u, v.y << 16u, v.y & 0xffff0000u));
}
