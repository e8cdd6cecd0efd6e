// A block of the staged vector: every thread reads its 8 quads from workgroup memory.
fn block_quads(thread: u32, i: u32) -> array<vec4<f32>, 8> {
    return array<vec4<f32>, 8>(
        staged[i],
        staged[i + 1u],
        staged[i + 2u],
        staged[i + 3u],
        staged[i + 4u],
        staged[i + 5u],
        staged[i + 6u],
        staged[i + 7u],
    );
}
