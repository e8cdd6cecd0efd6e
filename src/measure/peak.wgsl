// y[t] = Σ of 12 numbers, each after 8 · rounds steps z ← z · a + b
//
// One thread a result. Nothing but multiply-adds in registers: 12 that do not wait for each other, 8 times a round. Row t
// of x and the three behind it give thread t its numbers, a and b, so no compiler can know them; a is between −1 and 1,
// so nothing overflows. The 8 steps are written out: a compiler that keeps a loop of them counts and jumps between them,
// and its peak would be too low. Tile4 (shared/tile_f32, shared/tile_f16) says in which type.

struct Params {
    rounds: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>; // (64, 4)
@group(0) @binding(1) var<storage, read_write> y: array<f32>;       // (threads)
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn peak(@builtin(global_invocation_id) id: vec3<u32>) {
    let last = x[(id.x + 3u) % 64u];
    let a = Tile4(last.xxxx);
    let b = Tile4(last.yyyy);
    var z0 = Tile4(x[id.x % 64u]);
    var z1 = Tile4(x[(id.x + 1u) % 64u]);
    var z2 = Tile4(x[(id.x + 2u) % 64u]);
    for (var i = 0u; i < params.rounds; i++) {
        z0 = fma(z0, a, b);
        z1 = fma(z1, a, b);
        z2 = fma(z2, a, b);
        z0 = fma(z0, a, b);
        z1 = fma(z1, a, b);
        z2 = fma(z2, a, b);
        z0 = fma(z0, a, b);
        z1 = fma(z1, a, b);
        z2 = fma(z2, a, b);
        z0 = fma(z0, a, b);
        z1 = fma(z1, a, b);
        z2 = fma(z2, a, b);
        z0 = fma(z0, a, b);
        z1 = fma(z1, a, b);
        z2 = fma(z2, a, b);
        z0 = fma(z0, a, b);
        z1 = fma(z1, a, b);
        z2 = fma(z2, a, b);
        z0 = fma(z0, a, b);
        z1 = fma(z1, a, b);
        z2 = fma(z2, a, b);
        z0 = fma(z0, a, b);
        z1 = fma(z1, a, b);
        z2 = fma(z2, a, b);
    }
    y[id.x] = dot(vec4<f32>(z0) + vec4<f32>(z1) + vec4<f32>(z2), vec4<f32>(1.0));
}
