// Chooses the next token from a row of logits and writes it where the next step reads it.
//
//     l'     = logits, those of the last 64 tokens divided by the repeat penalty (multiplied where negative)
//     greedy : argmax l', the lowest id among equals
//     else   : among tokens kept by top-k, top-p and min-p: argmax l' / T − ln(−ln u(seed, position, id))
//     logprob = logits[id] − ln Σ exp logits
//
// The Gumbel maximum draws from softmax(l' / T) without a running sum. Filters are thresholds on l', found by
// bisection over the ordered bits of a float, so nothing is sorted; equals of the last one kept are kept too.
// One workgroup.

struct Params {
    vocab: u32,
    rows: u32,    // rows of this step: the token goes to tokens[position + rows]
}

@group(0) @binding(0) var<storage, read_write> logits: array<f32>;   // (1, vocab); penalties are undone on the way out
@group(0) @binding(1) var<storage, read_write> tokens: array<u32>;   // (capacity + 1)
@group(0) @binding(2) var<storage, read_write> sampled: array<u32>;  // (2): id, bits of its logprob
@group(1) @binding(0) var<uniform> params: Params;
@group(1) @binding(1) var<uniform> run: Run;

const WG: u32 = 256u;
const WINDOW: u32 = 64u;

var<workgroup> values: array<f32, WG>;
var<workgroup> ids: array<u32, WG>;

@compute @workgroup_size(WG)
fn sample(@builtin(local_invocation_index) thread: u32) {
    let position = run.position + params.rows;
    let raw_largest = largest(thread);
    let mass = total(thread, raw_largest, 0u, 1.0);

    let penalise = run.repeat_penalty != 1.0;
    var penalised = false;
    var before = 0.0;
    var token = 0u;
    if penalise {
        let window = min(WINDOW, position);
        if thread < window {
            token = tokens[position - window + thread];
            penalised = token < params.vocab;
            for (var i = 0u; i < thread; i++) {
                penalised = penalised && tokens[position - window + i] != token;
            }
        }
        if penalised {
            before = logits[token];
            logits[token] = select(before * run.repeat_penalty, before / run.repeat_penalty, before > 0.0);
        }
        storageBarrier();
        workgroupBarrier();
    }

    var threshold = 0u;
    if run.temperature > 0.0 {
        threshold = kept(thread);
    }
    var best = -3.4e38;
    var choice = 0xffffffffu;
    for (var i = thread; i < params.vocab; i += WG) {
        let v = logits[i];
        if ordered(v) >= threshold {
            var score = v;
            if run.temperature > 0.0 {
                score = v / run.temperature + gumbel(i, position);
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
        logits[token] = before;
    }
    storageBarrier();
    workgroupBarrier();
    if thread == 0u {
        let id = ids[0];
        tokens[position] = id;
        sampled[0] = id;
        sampled[1] = bitcast<u32>(logits[min(id, params.vocab - 1u)] - raw_largest - log(mass));
    }
}

// The smallest ordered key that top-k, top-p and min-p keep.
fn kept(thread: u32) -> u32 {
    let most = largest(thread);
    var threshold = 0u;
    if run.min_p > 0.0 {
        threshold = max(threshold, ordered(most + run.temperature * log(run.min_p)));
    }
    if run.top_k > 0u && run.top_k < params.vocab {
        // The largest key that at least k logits reach.
        var key = 0u;
        for (var bit = 0x80000000u; bit > 0u; bit >>= 1u) {
            if count(thread, key | bit) >= run.top_k {
                key |= bit;
            }
        }
        threshold = max(threshold, key);
    }
    if run.top_p < 1.0 {
        let need = run.top_p * total(thread, most, threshold, run.temperature);
        var key = 0u;
        for (var bit = 0x80000000u; bit > 0u; bit >>= 1u) {
            if total(thread, most, max(key | bit, threshold), run.temperature) >= need {
                key |= bit;
            }
        }
        threshold = max(threshold, key);
    }
    return min(threshold, ordered(most));
}

// Keys in the order of the floats.
fn ordered(v: f32) -> u32 {
    let bits = bitcast<u32>(v);
    return select(bits | 0x80000000u, ~bits, (bits & 0x80000000u) != 0u);
}

fn largest(thread: u32) -> f32 {
    var v = -3.4e38;
    for (var i = thread; i < params.vocab; i += WG) {
        v = max(v, logits[i]);
    }
    workgroupBarrier();
    values[thread] = v;
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        if thread < half {
            values[thread] = max(values[thread], values[thread + half]);
        }
        workgroupBarrier();
    }
    return values[0];
}

// Σ exp((logit − most) / temperature) over logits whose key reaches the threshold.
fn total(thread: u32, most: f32, threshold: u32, temperature: f32) -> f32 {
    var v = 0.0;
    for (var i = thread; i < params.vocab; i += WG) {
        if ordered(logits[i]) >= threshold {
            v += exp((logits[i] - most) / temperature);
        }
    }
    return sum(thread, v);
}

// How many logits' keys reach the threshold.
fn count(thread: u32, threshold: u32) -> u32 {
    var v = 0.0;
    for (var i = thread; i < params.vocab; i += WG) {
        v += select(0.0, 1.0, ordered(logits[i]) >= threshold);
    }
    return u32(sum(thread, v));
}

// The sum of all threads' values; the same in all of them.
fn sum(thread: u32, value: f32) -> f32 {
    workgroupBarrier();
    values[thread] = value;
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        if thread < half {
            values[thread] += values[thread + half];
        }
        workgroupBarrier();
    }
    return values[0];
}

// −ln(−ln u), u in (0, 1) from a hash of seed, position and id.
fn gumbel(id: u32, position: u32) -> f32 {
    let bits = hash(id ^ hash(position ^ hash(run.seed)));
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
