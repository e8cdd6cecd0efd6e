// The keys of a prompt's rows, which follow each other in one slot.

// The slot, where the keys begin, and the position of the first row.
fn place() -> vec2<u32> {
    return vec2<u32>(batch[0].slot, batch[0].position);
}

// The first keys that each of four rows attends to with the window.
fn first_keys(row: u32) -> vec4<u32> {
    let ends = vec4<u32>(place().y + row + 1u) + vec4<u32>(0u, 1u, 2u, 3u);
    return ends - min(ends, vec4<u32>(params.window));
}
