// Where element `i` of a row's `count` lies in a plane (kernel/layout): tiles of 8 rows, in a tile the row fastest.
fn place(row: u32, count: u32, i: u32) -> u32 {
    return ((row / 8u) * count + i) * 8u + row % 8u;
}
