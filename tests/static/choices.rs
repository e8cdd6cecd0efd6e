//! What fusion and the choice among kernels make of a graph: the number of dispatches a token, and which kernel runs where.

use dunlin::graph::GraphBuilder;
use dunlin::models::{Pass, Want};
use dunlin::ops::TensorType;
use dunlin::ops::activation::Kind;
use dunlin::plan::{Fusion, Plan};
use dunlin::tensor::DType;
use dunlin::work::DeviceProfile;

use crate::plan::{check_both, decode, graph, profiles};
use crate::support::configs;

// ---- the dispatches of a token after fusion ----

#[test]
fn a_layer_is_five_dispatches() {
    let count = |name: &str, dtype, profile: &DeviceProfile| {
        let (_, config) = configs::named().into_iter().find(|(n, _)| *n == name).expect(name);
        decode(&config, &|_| dtype, profile).steps.len()
    };
    let baseline = DeviceProfile::baseline();
    // Embedding, 5 a layer, norm with head, sample.
    for dtype in DType::ALL.into_iter().filter(|dtype| dtype.block().0 <= 32) {
        assert_eq!(count("MobileLLM-125M", dtype, &baseline), 5 * 30 + 3, "{dtype}");
    }
    for profile in profiles().into_iter().filter(|profile| profile.max_binding == baseline.max_binding) {
        assert_eq!(count("MobileLLM-125M", DType::Q4_0, &profile), 153, "{}", profile.name);
        assert_eq!(count("MobileLLM-LS-125M", DType::Q4_0, &profile), 5 * 2 * 30 + 3, "{}", profile.name);
        assert_eq!(count("MobileLLM-350M", DType::F16, &profile), 5 * 32 + 3, "{}", profile.name);
        assert_eq!(count("MobileLLM-R1-140M", DType::Q8_0, &profile), 5 * 15 + 3, "{}", profile.name);
        assert_eq!(count("SmolLM2-135M", DType::Q4_1, &profile), 5 * 30 + 3, "{}", profile.name);
        assert_eq!(count("Qwen2.5-0.5B", DType::Q4_0, &profile), 5 * 24 + 3, "{}", profile.name);
        assert_eq!(count("SmolLM3-3B", DType::Q4_K, &profile), 5 * 36 + 3, "{}", profile.name);
        // Heads of 128 need workgroups of 128 threads; heads of 256 need 256, the limit of WebGPU.
        assert_eq!(count("Qwen3-0.6B", DType::Q4_0, &profile), 5 * 28 + 3, "{}", profile.name);
        let gemma = if profile.max_invocations < 256 { 15 } else { 7 };
        assert_eq!(count("Gemma-3-270M", DType::Q4_0, &profile), gemma * 18 + 3, "{}", profile.name);
    }
    // 262144 × 640 bytes take two bindings too.
    assert_eq!(count("Gemma-3-270M", DType::Q8_0, &baseline), 7 * 18 + 5);
    // 32000 × 1600 floats take two bindings of 128 MiB: embedding and head are two dispatches each.
    assert_eq!(count("MobileLLM-1.5B", DType::Q4_0, &baseline), 5 * 54 + 3);
    assert_eq!(count("MobileLLM-1.5B", DType::F32, &baseline), 5 * 54 + 5);
}

/// Biases, angles that depend on the length, and factors of queries cost no dispatch. The head of 151860 rows takes
/// three bindings, and so does the embedding.
#[test]
fn qwen_is_five_dispatches_a_layer() {
    let (_, config) = configs::named().into_iter().find(|(name, _)| *name == "Qwen-VL").expect("Qwen-VL");
    let plan = decode(&config, &|_| DType::Q4_0, &DeviceProfile::baseline());
    assert_eq!(plan.steps.len(), 5 * 32 + 3 + 3 + 1, "{plan}");
}

/// The operators of a one-layer model's decode step between embedding and head. `formats` are selected by parts of
/// tensor names.
fn layer(formats: &[(&str, DType)], profile: &DeviceProfile) -> Vec<&'static str> {
    let config = configs::uniform("llama", 256, 1, [4, 2], 512, 100);
    let format =
        |name: &str| formats.iter().find(|(part, _)| name.contains(part)).map_or(DType::Q4_0, |(_, dtype)| *dtype);
    let steps = decode(&config, &format, profile).steps;
    let ops: Vec<&str> = steps.iter().map(|step| step.op).collect();
    let [first, layer @ .., head, last] = &ops[..] else { panic!("{ops:?}") };
    assert_eq!((*first, *head, *last), ("embedding", "norm_matmul", "sample"));
    layer.to_vec()
}

#[test]
fn formats_that_differ_are_fused_as_far_as_they_go() {
    let profile = DeviceProfile::baseline();
    let whole = ["norm_qkv_rope", "attention", "linear", "norm_swiglu", "linear"];
    assert_eq!(layer(&[], &profile), whole);
    assert_eq!(layer(&[("o_proj", DType::F32), ("down", DType::Q6_K)], &profile), whole);
    // As in llama.cpp's Q4_K_M, v has a finer format.
    let parts = ["norm_qkv_rope", "norm_qkv_rope", "attention", "linear", "norm_swiglu", "linear"];
    assert_eq!(layer(&[("v_proj", DType::Q6_K)], &profile), parts);
    assert_eq!(layer(&[("q_proj", DType::F16)], &profile), parts);
    let three = [&["norm_qkv_rope"], &parts[..]].concat();
    assert_eq!(layer(&[("k_proj", DType::F16)], &profile), three, "q and v do not lie side by side");
    let apart = ["norm_qkv_rope", "attention", "linear", "norm_matmul", "norm_matmul", "swiglu", "linear"];
    assert_eq!(layer(&[("gate", DType::F16), ("up", DType::Q8_0)], &profile), apart);
}

#[test]
fn weights_that_do_not_fit_one_binding_are_not_fused() {
    // f32 rows of 256 columns are 1 KiB: q is 256 rows, k and v 128, gate and up 512.
    let formats = [("proj", DType::F32)];
    let small = |kib: u64| DeviceProfile { max_binding: kib << 10, ..DeviceProfile::baseline() };
    let whole = ["norm_qkv_rope", "attention", "linear", "norm_swiglu", "linear"];
    assert_eq!(layer(&formats, &small(1024)), whole);
    // The limit is exactly a matrix, and no multiple of 64 rows: still one binding.
    assert_eq!(layer(&formats, &small(1030)), whole);
    // Gate and up joined no longer fit.
    let apart = ["norm_qkv_rope", "attention", "linear", "norm_matmul", "norm_matmul", "swiglu", "linear"];
    assert_eq!(layer(&formats, &small(1023)), apart);
    // q no longer fits; k with v still does: products and rope are separate.
    let ops = layer(&formats, &small(255));
    assert_eq!(ops.iter().filter(|op| **op == "norm_qkv_rope").count(), 0, "{ops:?}");
    assert_eq!(ops.iter().filter(|op| **op == "rope").count(), 2, "{ops:?}");
}

/// A value that is read as an output is written, even if other nodes read it too.
#[test]
fn an_output_is_a_use() {
    let mut b = GraphBuilder::new(&|_| DType::F16);
    let (x, residual) = (b.input("x", TensorType::f32([3, 64])), b.input("residual", TensorType::f32([3, 32])));
    let w = b.weight("w", 32, 64);
    let product = b.linear(x, w, None);
    let sum = b.add(residual, product);
    let bent = b.activation(sum, Kind::Gelu);
    b.output("product", product);
    b.output("bent", bent);
    let graph = b.finish();
    for fusion in [Fusion::On, Fusion::Off] {
        let plan = Plan::new(graph.clone(), &DeviceProfile::baseline(), fusion).expect("a plan");
        let written = |id| plan.graph.nodes.iter().any(|node| node.writes.contains(&id));
        assert!(written(product) && written(bent), "{fusion:?}:\n{plan}");
    }
}

// ---- kernel choice ----

#[test]
fn products_of_a_prompt_take_the_tiles_that_suit_the_device() {
    let tiles = |rows, profile: &DeviceProfile| -> (String, Option<f64>) {
        let config = configs::uniform("mobilellm", 64, 1, [4, 2], 160, 96);
        let pass = if rows == 1 { Pass::decode(1) } else { Pass::prompt(rows, Want::Token) };
        check_both(&format!("{rows} rows, {profile:?}"), &config, &|_| DType::Q4_0, profile, pass);
        let plan = Plan::new(graph(&config, &|_| DType::Q4_0, pass), profile, Fusion::On).expect("a plan");
        let step = plan.steps.iter().find(|step| step.op == "linear").expect("a projection").dispatch.clone();
        let names: Vec<&str> = step.kernel.0.modules.iter().map(|module| module.name).collect();
        let told = ["tile_f32", "tile_f16", "gemm_subgroup", "cooperative_8", "cooperative_16"];
        let found = told.into_iter().find(|told| names.contains(told)).expect("one of the ways");
        (found.to_string(), step.constants.iter().find(|(name, _)| *name == "STRIPS").map(|(_, value)| *value))
    };
    let hardware = |size, threads| DeviceProfile {
        f16: true,
        reduced_precision: true,
        subgroups: Some((threads, threads)),
        cooperative: Some(size),
        ..DeviceProfile::baseline()
    };
    // The strips of a subgroup. 64 threads share the 64 / size strips of a tile; a subgroup takes at most half of the
    // tile.
    assert_eq!(tiles(16, &hardware(16, 16)), ("cooperative_16".into(), Some(1.0)));
    assert_eq!(tiles(16, &hardware(16, 32)), ("cooperative_16".into(), Some(2.0)));
    assert_eq!(tiles(16, &hardware(16, 64)), ("cooperative_16".into(), Some(2.0)));
    assert_eq!(tiles(100, &hardware(8, 8)), ("cooperative_8".into(), Some(1.0)));
    assert_eq!(tiles(100, &hardware(8, 32)), ("cooperative_8".into(), Some(4.0)));
    assert_eq!(tiles(100, &hardware(8, 64)), ("cooperative_8".into(), Some(4.0)));
    // The tile does not depend on the number of rows, and so neither do a row's bits. Then: exact arithmetic, a
    // rasteriser.
    assert_eq!(tiles(2, &hardware(16, 32)), ("cooperative_16".into(), Some(2.0)));
    let exact = DeviceProfile { reduced_precision: false, ..hardware(16, 32) };
    assert_eq!(tiles(16, &exact), ("tile_f32".into(), None));
    assert_eq!(tiles(16, &DeviceProfile { rasteriser: true, ..hardware(8, 8) }), ("gemm_subgroup".into(), None));
    assert_eq!(tiles(16, &DeviceProfile { cooperative: None, ..hardware(8, 8) }), ("tile_f16".into(), None));
}

#[test]
fn the_next_best_takes_the_place_of_a_refused_kernel() {
    let config = configs::uniform("mobilellm", 64, 1, [4, 2], 160, 96);
    let rasteriser = DeviceProfile {
        rasteriser: true,
        subgroups: Some((8, 8)),
        f16: true,
        reduced_precision: true,
        ..DeviceProfile::baseline()
    };
    let plan = |pass, refused: &[&str]| {
        let refused = refused.iter().map(|name| name.to_string()).collect();
        let profile = DeviceProfile { refused, ..rasteriser.clone() };
        Plan::new(graph(&config, &|_| DType::Q4_0, pass), &profile, Fusion::On)
    };
    let kernel = |pass, op: &str, refused: &[&str]| {
        let plan = plan(pass, refused).expect("a plan");
        plan.steps.iter().find(|step| step.op == op).expect(op).dispatch.kernel.0.name()
    };
    let (decode, prompt) = (Pass::decode(1), Pass::prompt(7, Want::Logits));
    let gemv = |quads: &str| format!("linear/gemv+epilogue_residual+quads_{quads}+weight_q4_0");
    assert_eq!(kernel(decode, "linear", &[]), gemv("subgroup"));
    // By the whole name, by a part that several kernels have, and by a part that only others have.
    assert_eq!(kernel(decode, "linear", &[&gemv("subgroup")]), gemv("shared"));
    assert_eq!(kernel(decode, "linear", &["quads_subgroup"]), gemv("shared"));
    assert_eq!(kernel(decode, "norm_swiglu", &["quads_subgroup"]), "norm_swiglu+quads_shared+weight_q4_0");
    assert_eq!(kernel(decode, "linear", &["norm_swiglu+quads_subgroup", "quads"]), gemv("subgroup"));
    let ways = ["broadcast", "tile", "row"].map(|way| format!("attention/{way}+kv_f16"));
    let names: Vec<&str> = ways.iter().map(String::as_str).collect();
    for (i, way) in ways.iter().enumerate() {
        assert_eq!(&kernel(prompt, "attention", &names[..i]), way);
    }
    let error = plan(prompt, &["gemm_subgroup", "tile_f16", "tile_f32"]).expect_err("nothing is left").to_string();
    for part in
        ["`linear`", "baseline", "gemm_subgroup", "tile_f16", "tile_f32", "cooperative matrices of 8 × 8", "refused"]
    {
        assert!(error.contains(part), "{part} in {error}");
    }
    let choices = plan(decode, &["linear/gemv+quads_subgroup"]).expect("a plan").choices();
    let line = format!("   2 × linear         {}: a GPU loads", gemv("shared"));
    assert!(choices.contains(&line), "{choices}");
    assert!(choices.contains(&format!("not {}: it is refused", gemv("subgroup"))), "{choices}");
    let plain = plan(decode, &[]).expect("a plan").choices();
    assert!(plain.contains(&format!("not {}: it comes after", gemv("shared"))), "{plain}");
}
