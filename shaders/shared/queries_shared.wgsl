// Quads of eight neighbouring rows of q, read from workgroup memory by every thread.
fn query_quads(thread: u32, i: u32) -> array<vec4<f32>, 8> {
    return array<vec4<f32>, 8>(
        queries[i],
        queries[i + 1u],
        queries[i + 2u],
        queries[i + 3u],
        queries[i + 4u],
        queries[i + 5u],
        queries[i + 6u],
        queries[i + 7u],
    );
}
