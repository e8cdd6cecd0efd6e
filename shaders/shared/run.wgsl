// What changes from one run of a plan to the next; the Rust twin is `kernel::Run`.
struct Run {
    position: u32,      // of the first row in its sequence
    seed: u32,
    temperature: f32,   // 0: greedy
    top_k: u32,         // 0: all
    top_p: f32,         // 1: all
    min_p: f32,         // 0: all
    repeat_penalty: f32, // 1: none
    reserved: u32,
}
