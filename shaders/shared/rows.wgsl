// A row of a pass: where it stands, and how a token is chosen from its logits. The Rust twin is `kernel::Row`.
struct Row {
    slot: u32,          // where its sequence begins in the KV cache and in `tokens`
    position: u32,      // in its sequence
    seed: u32,
    temperature: f32,   // 0: greedy
    top_k: u32,         // the lower 24 bits; 0: all. The upper 8: which angles turn it
    top_p: f32,         // 1: all
    min_p: f32,         // 0: all
    repeat_penalty: f32, // 1: none
}
