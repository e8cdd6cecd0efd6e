// Quads of eight neighbouring rows of q, read by 8 lanes and broadcast: for a rasteriser on the CPU (quads_subgroup).
// Subgroups are 8 to 32 neighbouring threads, which share their rows.
fn query_quads(thread: u32, i: u32) -> array<vec4<f32>, 8> {
    let mine = queries[i + thread % 8u];
    return array<vec4<f32>, 8>(
        subgroupBroadcast(mine, 0u),
        subgroupBroadcast(mine, 1u),
        subgroupBroadcast(mine, 2u),
        subgroupBroadcast(mine, 3u),
        subgroupBroadcast(mine, 4u),
        subgroupBroadcast(mine, 5u),
        subgroupBroadcast(mine, 6u),
        subgroupBroadcast(mine, 7u),
    );
}
