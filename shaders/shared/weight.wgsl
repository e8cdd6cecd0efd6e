// Where element `i` of a row's `count` lies in a plane (kernel/layout): tiles of 32 rows, in a tile the row fastest.
fn place(row: u32, count: u32, i: u32) -> u32 {
    return ((row / 32u) * count + i) * 32u + row % 32u;
}
