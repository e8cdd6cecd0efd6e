// 32 weights of a row, float16: 4 quads of 8.
fn weight32(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let at = block * 4u * params.weight_rows + row;
    let step = params.weight_rows;
    let a = codes[at];
    let b = codes[at + step];
    let c = codes[at + 2u * step];
    let d = codes[at + 3u * step];
    return array<vec4<f32>, 8>(
        halves(a.xy), halves(a.zw), halves(b.xy), halves(b.zw), halves(c.xy), halves(c.zw), halves(d.xy), halves(d.zw),
    );
}

fn halves(v: vec2<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(v.x), unpack2x16float(v.y));
}
