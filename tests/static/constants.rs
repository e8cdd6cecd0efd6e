//! The values of `override` constants that dispatches use: tests/static/translation.rs validates every kernel with each of
//! them, and tests/static/plan.rs holds plans to them.

/// Name of the constant, its values.
pub const USED: &[(&str, &[f64])] = &[
    // Threads that share a row of a matrix-vector product: by rows, and by how many invocations the device allows.
    ("SPLIT", &[2.0, 4.0, 8.0]),
    // Rows of x that a workgroup of few rows takes at a time.
    ("ROWS", &[1.0, 2.0, 4.0, 8.0]),
    // Pairs of rows of W that a thread of few rows has.
    ("PAIRS", &[1.0, 2.0]),
    // Whether rows of activations begin on a quad.
    ("ALIGNED", &[0.0, 1.0]),
    // The function that a product applies to its sums: none, then the codes of `ops::activation::Kind`.
    ("ACTIVATION", &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
    // Strips of a tile that a subgroup has in registers: by the least threads of a subgroup, and the size of its matrices.
    ("STRIPS", &[1.0, 2.0, 4.0]),
    // Query heads that a workgroup of attention takes.
    ("HEADS", &[1.0, 2.0, 3.0, 4.0]),
    // Threads of an attention workgroup.
    ("WG", &[64.0]),
    // Threads that share a column of a pooling window: of a few pixels, of a whole picture.
    ("PARTS", &[1.0, 4.0]),
];

/// The values of a constant. A kernel whose constant is not listed is not validated, so that is a failure.
pub fn values(name: &str) -> &'static [f64] {
    let known = USED.iter().find(|(known, _)| *known == name);
    known
        .unwrap_or_else(|| {
            panic!("override `{name}`: list the values that dispatches use in tests/static/constants.rs")
        })
        .1
}
