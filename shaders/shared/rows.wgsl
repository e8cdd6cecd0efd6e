// A row of a pass: its place, and how a token is sampled from its logits. The Rust struct is `work::Row`.
struct Row {
    slot: u32,          // first index of its sequence in the KV cache and in `tokens`
    position: u32,      // in its sequence
    seed: u32,
    temperature: f32,   // 0: greedy
    top_k: u32,         // the lower 24 bits; 0: all. The upper 8 bits: index of its table of angles
    top_p: f32,         // 1: all
    min_p: f32,         // 0: all
    repeat_penalty: f32, // 1: none
}
