// The index in a plane (kernel/layout) of element `i` of a row's `count`: tiles of 8 rows, in which the row is the
// fastest index.
fn place(row: u32, count: u32, i: u32) -> u32 {
    return ((row / 8u) * count + i) * 8u + row % 8u;
}
