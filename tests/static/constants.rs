//! The values of `override` constants that dispatches use. tests/static/translation.rs validates every kernel with each
//! of them, and tests/static/plan.rs checks that plans use no others.

/// The name of each constant, and its values.
pub const USED: &[(&str, &[f64])] = &[
    // Threads that share a row of a matrix-vector product: depends on the rows and on the device's limit of
    // invocations.
    ("SPLIT", &[2.0, 4.0, 8.0]),
    // Rows of x that a workgroup of few rows takes at a time.
    ("ROWS", &[1.0, 2.0, 4.0, 8.0]),
    // Pairs of rows of W for each thread of a kernel for few rows.
    ("PAIRS", &[1.0, 2.0]),
    // Whether rows of activations begin at a multiple of four elements.
    ("ALIGNED", &[0.0, 1.0]),
    // The function that a product applies to its sums: none, or one of the codes of `ops::activation::Kind`.
    ("ACTIVATION", &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
    // The function of a gated unit: SiLU, or GELU by tanh.
    ("GELU", &[0.0, 1.0]),
    // Pairs of rows that a workgroup takes, and whether they are heads that need a norm.
    ("LANES", &[32.0, 64.0, 128.0]),
    ("QK_NORM", &[0.0, 1.0]),
    // Strips of a tile that a subgroup holds in registers: depends on the smallest subgroup and on the size of its
    // matrices.
    ("STRIPS", &[1.0, 2.0, 4.0]),
    // Query heads that a workgroup of attention takes.
    ("HEADS", &[1.0, 2.0, 3.0, 4.0]),
    // Threads of an attention workgroup.
    ("WG", &[64.0]),
    // Threads that share a column of a pooling window: for a window of few pixels, and for a whole picture.
    ("PARTS", &[1.0, 4.0]),
];

/// The values of a constant. An unlisted constant is a failure, because its kernels would not be validated.
pub fn values(name: &str) -> &'static [f64] {
    let known = USED.iter().find(|(known, _)| *known == name);
    known
        .unwrap_or_else(|| {
            panic!("override `{name}`: list the values that dispatches use in tests/static/constants.rs")
        })
        .1
}
