// device: RDNA2
// result: crashed
// pipelines: 3000
// RADV with the fake kernel interface dies after some thousand pipelines of one process, destroyed ones among them, whatever
// the shader. Nothing says that it does so with a real GPU.

@group(0) @binding(0) var<storage, read_write> words: array<u32>;

@compute @workgroup_size(32)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    words[id.x] = words[id.x] + 1u;
}
