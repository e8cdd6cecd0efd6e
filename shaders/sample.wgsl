// Chooses the next token from each row of logits and writes it where the next step reads it.
//
//     l'     = logits, those of the last 64 tokens divided by the repeat penalty (multiplied where negative)
//     greedy : argmax l', the lowest id among equals
//     else   : among tokens kept by top-k, top-p and min-p: argmax l' / T − ln(−ln u(seed, position, id))
//     logprob = logits[id] − ln Σ exp logits
//
// The Gumbel maximum draws from softmax(l' / T) without a running sum. Filters are thresholds on l', found by bisection
// over the ordered bits of a float, so nothing is sorted; logits equal to the last one kept are also kept. One
// workgroup per row of logits. It also advances its row of the table to the new token, so that a decoding step needs
// nothing from the host. (The table is bound for writing here, and so not as the uniform `batch`.)

struct Params {
    vocab: u32,
    first: u32,   // the row of the table that the first row of logits belongs to
}

@group(0) @binding(0) var<storage, read_write> logits: array<f32>;   // (m, vocab); penalties are undone at the end
@group(0) @binding(1) var<storage, read_write> tokens: array<u32>;   // (capacity)
@group(0) @binding(2) var<storage, read_write> table: array<Row>;    // (512)
@group(0) @binding(3) var<storage, read_write> sampled: array<u32>;  // (m, 2): id, bits of its logprob
@group(1) @binding(0) var<uniform> params: Params;

const WG: u32 = 256u;
const WINDOW: u32 = 64u;

var<workgroup> values: array<f32, WG>;
var<workgroup> ids: array<u32, WG>;
var<workgroup> mine: Row;

@compute @workgroup_size(WG)
fn sample(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3<u32>) {
    if thread == 0u {
        mine = table[params.first + group.x];
    }
    let row = workgroupUniformLoad(&mine);
    let base = group.x * params.vocab;
    let position = row.position + 1u;
    let raw_largest = largest(thread, base);
    let mass = total(thread, base, raw_largest, 0u, 1.0);

    let penalise = row.repeat_penalty != 1.0;
    var penalised = false;
    var before = 0.0;
    var token = 0u;
    if penalise {
        let window = min(WINDOW, position);
        if thread < window {
            token = tokens[row.slot + position - window + thread];
            penalised = token < params.vocab;
            for (var i = 0u; i < thread; i++) {
                penalised = penalised && tokens[row.slot + position - window + i] != token;
            }
        }
        if penalised {
            before = logits[base + token];
            logits[base + token] = select(before * row.repeat_penalty, before / row.repeat_penalty, before > 0.0);
        }
        storageBarrier();
        workgroupBarrier();
    }

    var threshold = 0u;
    if row.temperature > 0.0 {
        threshold = kept(thread, base, row);
    }
    var best = -3.4e38;
    var choice = 0xffffffffu;
    for (var i = thread; i < params.vocab; i += WG) {
        let v = logits[base + i];
        if ordered(v) >= threshold {
            var score = v;
            if row.temperature > 0.0 {
                score = v / row.temperature + gumbel(i, position, row.seed);
            }
            if choice == 0xffffffffu || score > best {
                best = score;
                choice = i;
            }
        }
    }
    workgroupBarrier();
    values[thread] = best;
    ids[thread] = choice;
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        if thread < half {
            let other = values[thread + half];
            let id = ids[thread + half];
            let mine = ids[thread];
            if id != 0xffffffffu && (mine == 0xffffffffu || other > values[thread] || (other == values[thread] && id < mine)) {
                values[thread] = other;
                ids[thread] = id;
            }
        }
        workgroupBarrier();
    }
    if penalised {
        logits[base + token] = before;
    }
    storageBarrier();
    workgroupBarrier();
    if thread == 0u {
        let id = ids[0];
        tokens[row.slot + position] = id;
        table[params.first + group.x].position = position;
        sampled[2u * group.x] = id;
        sampled[2u * group.x + 1u] =
            bitcast<u32>(logits[base + min(id, params.vocab - 1u)] - raw_largest - log(mass));
    }
}

// The smallest ordered key that top-k, top-p and min-p keep.
fn kept(thread: u32, base: u32, row: Row) -> u32 {
    let most = largest(thread, base);
    var threshold = 0u;
    if row.min_p > 0.0 {
        threshold = max(threshold, ordered(most + row.temperature * log(row.min_p)));
    }
    let top_k = row.top_k & 0xffffffu;
    if top_k > 0u && top_k < params.vocab {
        // Finds the largest key that the keys of at least k logits equal or exceed.
        var key = 0u;
        for (var bit = 0x80000000u; bit > 0u; bit >>= 1u) {
            if count(thread, base, key | bit) >= top_k {
                key |= bit;
            }
        }
        threshold = max(threshold, key);
    }
    if row.top_p < 1.0 {
        let need = row.top_p * total(thread, base, most, threshold, row.temperature);
        var key = 0u;
        for (var bit = 0x80000000u; bit > 0u; bit >>= 1u) {
            if total(thread, base, most, max(key | bit, threshold), row.temperature) >= need {
                key |= bit;
            }
        }
        threshold = max(threshold, key);
    }
    return min(threshold, ordered(most));
}

// Maps a float to a key with the same order.
fn ordered(v: f32) -> u32 {
    let bits = bitcast<u32>(v);
    return select(bits | 0x80000000u, ~bits, (bits & 0x80000000u) != 0u);
}

fn largest(thread: u32, base: u32) -> f32 {
    var v = -3.4e38;
    for (var i = thread; i < params.vocab; i += WG) {
        v = max(v, logits[base + i]);
    }
    return group_max(thread, v);
}

// Σ exp((logit − most) / temperature) over the logits whose key is at least the threshold.
fn total(thread: u32, base: u32, most: f32, threshold: u32, temperature: f32) -> f32 {
    var v = 0.0;
    for (var i = thread; i < params.vocab; i += WG) {
        if ordered(logits[base + i]) >= threshold {
            v += exp((logits[base + i] - most) / temperature);
        }
    }
    return group_sum(thread, v);
}

// The number of logits whose key is at least the threshold.
fn count(thread: u32, base: u32, threshold: u32) -> u32 {
    var v = 0.0;
    for (var i = thread; i < params.vocab; i += WG) {
        v += select(0.0, 1.0, ordered(logits[base + i]) >= threshold);
    }
    return u32(group_sum(thread, v));
}

// −ln(−ln u), u in (0, 1) from a hash of seed, position and id.
fn gumbel(id: u32, position: u32, seed: u32) -> f32 {
    let bits = hash(id ^ hash(position ^ hash(seed)));
    let u = (f32(bits >> 9u) + 0.5) / 8388608.0;
    return -log(-log(u));
}

// Wellons' lowbias32.
fn hash(v: u32) -> u32 {
    var x = v;
    x ^= x >> 16u;
    x *= 0x7feb352du;
    x ^= x >> 15u;
    x *= 0x846ca68bu;
    x ^= x >> 16u;
    return x;
}
