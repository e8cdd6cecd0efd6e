// Maximum and sum over the threads of a workgroup, returned to every thread. WG is a power of two. The halves are added in
// one order, so that a sum depends on nothing else. All threads must call them.

var<workgroup> reduced: array<f32, WG>;

fn group_max(thread: u32, value: f32) -> f32 {
    workgroupBarrier();
    reduced[thread] = value;
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        if thread < half {
            reduced[thread] = max(reduced[thread], reduced[thread + half]);
        }
        workgroupBarrier();
    }
    return reduced[0];
}

fn group_sum(thread: u32, value: f32) -> f32 {
    workgroupBarrier();
    reduced[thread] = value;
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        if thread < half {
            reduced[thread] += reduced[thread + half];
        }
        workgroupBarrier();
    }
    return reduced[0];
}
