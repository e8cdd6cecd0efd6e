// The vector of a product as it is: columns 4·quad.. of x, zero past its end.
fn activation(quad: u32) -> vec4<f32> {
    let k = vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u);
    if 4u * quad >= params.cols {
        return vec4<f32>(0.0);
    }
    return select(vec4<f32>(0.0), x[quad], k < vec4<u32>(params.cols));
}
