// A block of the staged vector: 8 lanes read its 8 quads and broadcast them. This suits CPU rasterisers, which run a
// load once per lane and a broadcast as one instruction. A subgroup is 8 to 32 neighbouring threads, which share a
// block.
fn block_quads(thread: u32, i: u32) -> array<vec4<f32>, 8> {
    let mine = staged[i + thread % 8u];
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
