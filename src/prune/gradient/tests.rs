//! Gradients against finite differences of the function, for each operator and for the whole model.

use std::ops::ControlFlow;

use super::attention::Attention;
use super::block::Block;
use super::decoder::Decoder;
use super::layer::{Layer, Matrices};
use crate::checkpoint::Checkpoint;
use crate::cpu::gradient::{add_rms_norm_gradient, gated, rms_norm, silu_times_gradient, softmax_gradient};
use crate::ops::rope::{Angles, Rope};
use crate::ops::swiglu::Gate;
use crate::threads::Team;

/// Numbers within −size .. size, reproducible from the seed.
fn numbers(count: usize, seed: u32, size: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| size * next()).collect()
}

/// The dot product `dy · y`.
fn along(dy: &[f32], y: &[f32]) -> f64 {
    dy.iter().zip(y).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// Compares a gradient with central differences of `loss` at `x`, for some elements.
///
/// The loss is computed in f32, so a step h has a rounding error of 1e-7 / h and a curvature error of h²: at 1e-2 both
/// are far below the tolerance, 3e-3 of the largest element.
fn differences(what: &str, x: &[f32], gradient: &[f32], mut loss: impl FnMut(&[f32]) -> f64) {
    const STEP: f32 = 1e-2;
    assert_eq!(x.len(), gradient.len(), "{what}");
    let largest = gradient.iter().fold(0f32, |largest, g| largest.max(g.abs()));
    assert!(largest > 0.0, "{what}: the gradient is zero");
    let mut moved = x.to_vec();
    for i in (0..x.len()).step_by(x.len().div_ceil(40)) {
        let mut at = |step: f32| {
            moved[i] = x[i] + step;
            let loss = loss(&moved);
            moved[i] = x[i];
            loss
        };
        let expected = ((at(STEP) - at(-STEP)) / f64::from(2.0 * STEP)) as f32;
        let error = (gradient[i] - expected).abs();
        assert!(error <= 3e-3 * largest, "{what}, {i}: {}, by differences {expected}", gradient[i]);
    }
}

#[test]
fn rms_norm_goes_back() {
    for width in [5, 48] {
        let (x, gain, dy) = (numbers(3 * width, 1, 1.0), numbers(width, 2, 1.0), numbers(3 * width, 3, 1.0));
        let mut dx = vec![0.25; x.len()];
        add_rms_norm_gradient(&x, &gain, 1e-5, &dy, &mut dx);
        dx.iter_mut().for_each(|dx| *dx -= 0.25);
        differences("rms_norm", &x, &dx, |x| {
            let mut y = vec![0.0; x.len()];
            rms_norm(x, &gain, 1e-5, &mut y);
            along(&dy, &y)
        });
    }
}

#[test]
fn swiglu_goes_back() {
    let [g, u, dy] = [1, 2, 3].map(|seed| numbers(37, seed, 2.0));
    let (mut dg, mut du) = (vec![0.0; 37], vec![0.0; 37]);
    silu_times_gradient(&g, &u, &dy, &mut dg, &mut du);
    let loss = |g: &[f32], u: &[f32]| {
        let mut y = vec![0.0; 37];
        gated(Gate::Silu, g, u, &mut y);
        along(&dy, &y)
    };
    differences("gate", &g, &dg, |g| loss(g, &u));
    differences("up", &u, &du, |u| loss(&g, u));
}

#[test]
fn cross_entropy_goes_back() {
    let logits = numbers(101, 4, 3.0);
    let loss = |logits: &[f32]| {
        let mut gradient = logits.to_vec();
        let (sum, most) = softmax_gradient(&mut gradient, 7, 0.5);
        (0.5 * f64::from(most + sum.ln() - logits[7]), gradient)
    };
    differences("logits", &logits, &loss(&logits).1, |logits| loss(logits).0);
}

#[test]
fn attention_goes_back() {
    let team = Team::new(2);
    for (heads, kv_heads, head_dim, window) in [(4, 2, 6, 5), (2, 2, 8, 33), (3, 1, 4, 7)] {
        let attention = Attention { window, heads, kv_heads, head_dim };
        let (queries, keys) = (2 * window * heads * head_dim, 2 * window * kv_heads * head_dim);
        let [q, dy] = [1, 2].map(|seed| numbers(queries, seed, 1.0));
        let [k, v] = [3, 4].map(|seed| numbers(keys, seed, 1.0));
        let (p, _) = attention.forward(&q, &k, &v, &team);
        let (dq, dk, dv) = attention.backward(&q, &k, &v, &p, &dy, &team);
        let loss = |q: &[f32], k: &[f32], v: &[f32]| along(&dy, &attention.forward(q, k, v, &team).1);
        differences("q", &q, &dq, |q| loss(q, &k, &v));
        differences("k", &k, &dk, |k| loss(&q, k, &v));
        differences("v", &v, &dv, |v| loss(&q, &k, v));
    }
}

/// A layer of hidden size 10, with 4 query heads and 2 key/value heads of 6, and 9 channels.
fn layer(biases: bool) -> Layer {
    let (hidden, q, kv, ffn) = (10, 24, 12, 9);
    let bias = |size: usize, seed| if biases { numbers(size, seed, 0.5) } else { Vec::new() };
    Layer {
        matrices: Matrices {
            q: numbers(q * hidden, 1, 0.5),
            k: numbers(kv * hidden, 2, 0.5),
            v: numbers(kv * hidden, 3, 0.5),
            o: numbers(hidden * q, 4, 0.5),
            gate: numbers(ffn * hidden, 5, 0.5),
            up: numbers(ffn * hidden, 6, 0.5),
            down: numbers(hidden * ffn, 7, 0.5),
        },
        attention_norm: numbers(hidden, 8, 1.0),
        mlp_norm: numbers(hidden, 9, 1.0),
        q_bias: bias(q, 10),
        k_bias: bias(kv, 11),
        v_bias: bias(kv, 12),
    }
}

fn small_block<'a>(layer: &'a Layer, angles: &'a [f32], rope: Option<Rope>, qk_norm: Option<f32>) -> Block<'a> {
    let (hidden, heads, kv_heads, head_dim, ffn) = (10, 4, 2, 6, 9);
    Block { layer, window: 7, hidden, heads, kv_heads, head_dim, ffn, eps: 1e-5, angles, rope, qk_norm }
}

#[test]
fn a_block_goes_back() {
    let team = Team::new(2);
    let angles: Vec<f32> = (0..7 * 3).flat_map(|i| [(i as f32 * 0.3).cos(), (i as f32 * 0.3).sin()]).collect();
    let rope = |interleaved| Some(Rope { heads: 1, head_dim: 6, interleaved, angles: Angles::default() });
    for (rope, qk_norm, biases) in
        [(rope(false), None, false), (rope(true), Some(1e-5), false), (None, None, true), (rope(false), None, true)]
    {
        let (x, dy) = (numbers(2 * 7 * 10, 20, 1.0), numbers(2 * 7 * 10, 21, 1.0));
        let weights = layer(biases);
        let block = |layer| small_block(layer, &angles, rope.clone(), qk_norm);
        let (activations, _) = block(&weights).forward(&x, &team);
        let mut gradients = weights.matrices.zeros();
        let dx = block(&weights).backward(&x, &activations, dy.clone(), &mut gradients, &team);
        differences("x", &x, &dx, |x| along(&dy, &block(&weights).forward(x, &team).1));

        type Field = fn(&mut Matrices) -> &mut Vec<f32>;
        let fields: [(&str, Field); 7] = [
            ("q", |m| &mut m.q),
            ("k", |m| &mut m.k),
            ("v", |m| &mut m.v),
            ("o", |m| &mut m.o),
            ("gate", |m| &mut m.gate),
            ("up", |m| &mut m.up),
            ("down", |m| &mut m.down),
        ];
        for (name, field) in fields {
            let mut moved = layer(biases);
            let w = field(&mut moved.matrices).clone();
            differences(name, &w, field(&mut gradients), |w| {
                field(&mut moved.matrices).copy_from_slice(w);
                along(&dy, &small_block(&moved, &angles, rope.clone(), qk_norm).forward(&x, &team).1)
            });
        }
        // A second call adds to the gradients.
        let once = gradients.clone();
        let _ = block(&weights).backward(&x, &activations, dy, &mut gradients, &team);
        assert!(once.k.iter().zip(&gradients.k).all(|(once, twice)| (2.0 * once - twice).abs() < 1e-4));
    }
}

/// The whole model: its loss, a model whose layers are executed twice, and independence from the memory limit.
#[test]
fn a_model_goes_back() {
    let team = Team::new(2);
    for name in ["mobilellm_ls", "mobilellm_r1", "prune_taylor"] {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        let mut decoder = Decoder::load(&Checkpoint::open(folder).unwrap(), 6).unwrap();
        let windows: Vec<Vec<u32>> =
            (0..3).map(|row| (0..6).map(|i| 3 + (7 * i + 13 * row * row) % 90).collect()).collect();
        let run = |decoder: &Decoder, limit: usize| {
            let memory = decoder.memory(3, 6, limit);
            let mut gradients = decoder.gradients();
            let loss = decoder
                .batch(&windows, memory, &team, &mut gradients, &mut |_, _, _| (), &mut |_| ControlFlow::Continue(()));
            let ControlFlow::Continue(loss) = loss else { panic!("nobody stopped it") };
            (loss, gradients, memory)
        };
        let (loss, gradients, memory) = run(&decoder, 1 << 30);
        assert_eq!((memory.windows, memory.recomputed), (3, 0), "{name}");
        // Losses are about ln(vocab); the error of the differences comes from their last digits.
        let w = decoder.layers[1].matrices.v.clone();
        assert!(loss > 1.0, "{name}: a loss of {loss}");
        differences(name, &w, &gradients[1].v, |w| {
            decoder.layers[1].matrices.v.copy_from_slice(w);
            run(&decoder, 1 << 30).0
        });
        decoder.layers[1].matrices.v.copy_from_slice(&w);

        // One window at a time, and every activation recomputed: another order of sums, the same results.
        let (again, small, memory) = run(&decoder, 1);
        assert_eq!(memory.windows, 1, "{name}");
        assert!(memory.recomputed >= decoder.layers.len(), "{name}: {memory:?}");
        assert!((again - loss).abs() < 1e-5 * loss, "{name}: {again}, {loss}");
        let largest = gradients[0].q.iter().fold(0f32, |largest, g| largest.max(g.abs()));
        for (a, b) in gradients[0].q.iter().zip(&small[0].q) {
            assert!((a - b).abs() <= 1e-4 * largest, "{name}: {a}, {b}");
        }
    }
}
