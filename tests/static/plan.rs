//! Plans, without a device: properties that hold for every model, format and device profile, checked independently of
//! the code that makes plans; the number of dispatches a token; and the text of one plan.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::constants;
use crate::support::bindings::binding;
use crate::support::configs::{self, Random};
use dunlin::checkpoint::Config;
use dunlin::checkpoint::vision::{Activation, Projector, VisionConfig};
use dunlin::graph::{Graph, GraphBuilder, ValueKind};
use dunlin::models::{self, AngleTable, Pass, Want};
use dunlin::ops::activation::Kind;
use dunlin::ops::{Elem, TensorType};
use dunlin::plan::{Cost, Fusion, Plan, PlannedDispatch};
use dunlin::tensor::DType;
use dunlin::work::layout::WeightLayout;
use dunlin::work::{Access, DeviceProfile, MOST_ROWS, Plane, Row, Slot, ValueId};

/// Plans use only the shape of the table of angles.
fn graph(config: &Config, formats: &dyn Fn(&str) -> DType, pass: Pass) -> Graph {
    let angles = AngleTable::blank(config, config.context);
    models::build(config, GraphBuilder::new(formats), &angles, pass).expect("a known architecture")
}

fn decode(config: &Config, formats: &dyn Fn(&str) -> DType, profile: &DeviceProfile) -> Plan {
    Plan::new(graph(config, formats, Pass::decode(1)), profile, Fusion::On).expect("a plan")
}

fn profiles() -> Vec<DeviceProfile> {
    let baseline = DeviceProfile::baseline();
    let half = DeviceProfile { name: "f16".into(), f16: true, reduced_precision: true, ..baseline.clone() };
    let small = DeviceProfile { name: "small bindings".into(), max_binding: 4 << 20, ..baseline.clone() };
    let narrow = DeviceProfile { name: "narrow".into(), max_invocations: 128, ..baseline.clone() };
    vec![baseline, half, small, narrow]
}

fn passes() -> Vec<Pass> {
    let all = [Want::Nothing, Want::Token, Want::Logits, Want::Trace];
    let prompts = all.into_iter().flat_map(|want| [1, 7].map(|rows| Pass::prompt(rows, want)));
    prompts.chain([1, 2, 5, 9].map(Pass::decode)).collect()
}

// ---- properties of every plan ----

#[test]
fn plans_of_real_models_keep_the_rules() {
    for (name, config) in configs::named() {
        for mut profile in profiles() {
            // Caches and activations are not split.
            let least = |&pass: &Pass| configs::least_binding(&graph(&config, &|_| DType::F16, pass), &profile);
            let least = passes().iter().filter(|pass| pass.want == Want::Token).map(least).max().unwrap_or(0);
            profile.max_binding = profile.max_binding.max(least);
            for dtype in [DType::F16, DType::Q4_0, DType::Q8_0] {
                for pass in passes().into_iter().filter(|pass| pass.want != Want::Trace) {
                    let at = format!("{name}, {dtype}, {}, {pass:?}", profile.name);
                    check_both(&at, &config, &|_| dtype, &profile, pass);
                }
            }
        }
    }
}

#[test]
fn plans_of_random_models_keep_the_rules() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let mut config = configs::random_config(&mut random);
        config.context = 16 + random.below(40);
        let formats = configs::random_formats(&config, &mut random);
        let pass = random.one_of(&passes());
        let mut profile = random_profile(&mut random);
        let least = configs::least_binding(&graph(&config, &|name| formats[name], pass), &profile);
        profile.max_binding = profile.max_binding.max(least);
        let at = format!("seed {seed}: {config:?}, {formats:?}, {profile:?}, {pass:?}");
        check_both(&at, &config, &|name| formats[name], &profile, pass);
    }
}

fn random_profile(random: &mut Random) -> DeviceProfile {
    DeviceProfile {
        max_binding: (1000 << random.below(11)) + random.below(1000) as u64,
        offset_alignment: random.one_of(&[32, 64, 256]),
        max_invocations: random.one_of(&[128, 256, 1024]),
        f16: random.below(2) == 0,
        reduced_precision: random.below(2) == 0,
        ..DeviceProfile::baseline()
    }
}

/// Checks the rules for the fused plan and for the unfused one, and that both have the same outputs and weights.
fn check_both(at: &str, config: &Config, formats: &dyn Fn(&str) -> DType, profile: &DeviceProfile, pass: Pass) {
    let plan = |fusion| Plan::new(graph(config, formats, pass), profile, fusion).expect("a plan");
    let (fused, plain) = (plan(Fusion::On), plan(Fusion::Off));
    for (plan, again, fusion) in [(&fused, plan(Fusion::On), "fused"), (&plain, plan(Fusion::Off), "unfused")] {
        let at = format!("{at}, {fusion}");
        assert_eq!(plan.to_string(), again.to_string(), "{at}: the plan made again is another one");
        memory_is_never_shared(&at, plan, profile);
        values_are_written_before_they_are_read(&at, plan);
        dispatches_serve_their_nodes(&at, plan, profile);
        plan.steps.iter().for_each(|step| dispatch_is_well_formed(&at, plan, step, profile));
        costs_add_up(&at, plan, profile);
    }
    let flops = |plan: &Plan| plan.cost(&Row::at(0).follow(pass.rows), profile).flops;
    assert_eq!(flops(&fused), flops(&plain), "{at}: fusion changes the number of operations");
    let outputs = |plan: &Plan| -> Vec<(String, String)> {
        plan.graph.outputs.iter().map(|(name, id)| (name.clone(), plan.graph.ty(*id).to_string())).collect()
    };
    assert_eq!(outputs(&fused), outputs(&plain), "{at}: fusion changes the outputs");
    let (own, more) = fused.groups.stored.split_at(plain.groups.stored.len());
    assert_eq!(own, plain.groups.stored, "{at}: all plans of a model read one copy of its weights");
    assert!(more.iter().all(|stored| stored.dtype.is_none()), "{at}: only vectors are stored once more");
    assert!(fused.steps.len() <= plain.steps.len(), "{at}: fusion makes more dispatches");
}

/// The dispatches of a plan together cost what its nodes cost, and each matrix is read at least once.
fn costs_add_up(at: &str, plan: &Plan, profile: &DeviceProfile) {
    let rows = Row::at(3).follow(MOST_ROWS);
    let costs = plan.dispatch_costs(&rows, profile);
    assert_eq!(costs.len(), plan.steps.len(), "{at}: each dispatch has a cost");
    assert_eq!(costs.into_iter().sum::<Cost>(), plan.cost(&rows, profile), "{at}: dispatches add up to nodes");
    let matrix = |&id: &ValueId| match plan.graph.ty(id) {
        TensorType { elem: Elem::Weight(dtype), shape } => (shape[0] * dtype.row_bytes(shape[1])) as u64,
        _ => 0,
    };
    for (i, node) in plan.graph.nodes.iter().enumerate().filter(|(_, node)| node.op.name() != "embedding") {
        let cost = plan.node_cost(i, &rows, profile);
        let (rows, least) = (node.writes.last().map_or(0, |&id| plan.graph.ty(id).shape[0]), node.reads.iter());
        let least: u64 = least.map(matrix).sum();
        assert!(cost.bytes > least, "{at}: {} moves {} bytes of {least}", node.op.name(), cost.bytes);
        assert!(least == 0 || cost.flops >= 2 * rows as u64, "{at}: {} multiplies", node.op.name());
    }
}

/// Lifetimes follow from the graph alone: from the first node that names a value to the last; inputs and outputs live
/// to the end.
fn memory_is_never_shared(at: &str, plan: &Plan, profile: &DeviceProfile) {
    let graph = &plan.graph;
    let mut alive: BTreeMap<ValueId, (usize, usize)> = BTreeMap::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        for id in node.reads.iter().chain(&node.writes) {
            match graph.value(*id).kind {
                ValueKind::Temp => alive.entry(*id).or_insert((i, i)).1 = i,
                ValueKind::Input(_) => _ = alive.insert(*id, (0, usize::MAX)),
                _ => {}
            }
        }
    }
    for (_, id) in &graph.outputs {
        if let Some(lifetime) = alive.get_mut(id) {
            lifetime.1 = usize::MAX;
        }
    }
    for id in alive.keys() {
        let (offset, bytes) = plan.places[id];
        assert!(bytes >= graph.ty(*id).bytes(profile), "{at}: {id:?} has {bytes} bytes, it is {}", graph.ty(*id));
        assert_eq!(offset % profile.offset_alignment.max(256), 0, "{at}: {id:?} at {offset} is not aligned");
        assert!(offset + bytes <= plan.arena, "{at}: {id:?} ends behind the arena of {} bytes", plan.arena);
    }
    let list: Vec<_> = alive.iter().map(|(id, lifetime)| (id, lifetime, plan.places[id])).collect();
    for (i, (a, a_alive, a_place)) in list.iter().enumerate() {
        for (b, b_alive, b_place) in &list[i + 1..] {
            let together = a_alive.0 <= b_alive.1 && b_alive.0 <= a_alive.1;
            let overlap = a_place.0 < b_place.0 + b_place.1 && b_place.0 < a_place.0 + a_place.1;
            assert!(!(together && overlap), "{at}: {a:?} at {a_place:?} and {b:?} at {b_place:?} are alive together");
        }
    }
}

fn values_are_written_before_they_are_read(at: &str, plan: &Plan) {
    let mut written: BTreeSet<ValueId> = BTreeSet::new();
    for node in &plan.graph.nodes {
        for id in node.reads.iter().filter(|id| matches!(plan.graph.value(**id).kind, ValueKind::Temp)) {
            assert!(written.contains(id), "{at}: {} reads {id:?} before it is written", node.op.name());
        }
        written.extend(node.writes.iter().copied());
    }
    for (name, id) in &plan.graph.outputs {
        assert!(written.contains(id), "{at}: output {name} is never written");
    }
}

/// The steps are the dispatches of the nodes, in order. The dispatches of a node bind only its values: all that it
/// writes, and every chunk that has rows of its weights.
fn dispatches_serve_their_nodes(at: &str, plan: &Plan, profile: &DeviceProfile) {
    let mut steps = &plan.steps[..];
    for node in &plan.graph.nodes {
        let own = |id: &ValueId| node.reads.contains(id) || node.writes.contains(id);
        let value = |slot: &Slot| match *slot {
            Slot::Value(id) | Slot::Plane { value: id, .. } => id,
        };
        let serves = |step: &PlannedDispatch| {
            step.op == node.op.name() && step.dispatch.slots.iter().all(|slot| own(&value(slot)))
        };
        let count = steps.iter().take_while(|step| serves(step)).count();
        let (mine, rest) = steps.split_at(count);
        steps = rest;
        let slots: Vec<Slot> = mine.iter().flat_map(|step| step.dispatch.slots.clone()).collect();
        for id in &node.writes {
            assert!(slots.contains(&Slot::Value(*id)), "{at}: no dispatch of {} writes {id:?}", node.op.name());
        }
        for &id in &node.reads {
            let Some(&(index, place)) = plan.groups.places.get(&id) else { continue };
            let stored = &plan.groups.stored[index];
            let Some(dtype) = stored.dtype else { continue };
            let rows = place.first..place.first + plan.graph.ty(id).matrix().0;
            let layout = WeightLayout::new(dtype, stored.rows.iter().sum(), stored.cols, profile.max_binding);
            for (chunk, lies) in layout.chunks.iter().enumerate() {
                for plane in [Plane::Codes, Plane::Scales] {
                    let bound = slots.contains(&Slot::Plane { value: id, chunk, plane });
                    let wanted = lies.start < rows.end && rows.start < lies.end;
                    let what = format!("{plane:?} of rows {lies:?} for rows {rows:?}");
                    assert_eq!(bound, wanted, "{at}: {} and the {what}", node.op.name());
                }
            }
        }
    }
    assert!(steps.is_empty(), "{at}: no node wants {:?}", steps[0]);
}

fn dispatch_is_well_formed(at: &str, plan: &Plan, step: &PlannedDispatch, profile: &DeviceProfile) {
    let dispatch = &step.dispatch;
    let kernel = dispatch.kernel.0;
    let at = format!("{at}: {} by {}", step.op, kernel.name());

    assert!(dispatch.groups.iter().all(|&n| (1..=65535).contains(&n)), "{at}: workgroups {:?}", dispatch.groups);
    assert_eq!(dispatch.params.len(), kernel.params, "{at}: bytes of params");
    assert_eq!(dispatch.slots.len(), kernel.bindings.len(), "{at}: slots");
    assert!(profile.f16 || !kernel.requires.f16, "{at}: needs f16");
    assert!(profile.reduced_precision || !kernel.requires.f16, "{at}: f16 where full precision is wanted");
    assert!(profile.subgroups.is_some() || !kernel.requires.subgroups, "{at}: needs subgroups");
    let cooperative = kernel.requires.cooperative;
    assert!(cooperative.is_none() || cooperative == profile.cooperative, "{at}: needs matrices of {cooperative:?}");

    let named: Vec<&str> = dispatch.constants.iter().map(|(name, _)| *name).collect();
    let known: Vec<&str> = kernel.constants.iter().map(|(name, _)| *name).collect();
    assert_eq!(named, known, "{at}: constants");
    for (name, value) in &dispatch.constants {
        let validated = constants::values(name).contains(value);
        assert!(validated, "{at}: {name}={value} is not validated; list it in tests/static/constants.rs");
        if *name == "SPLIT" {
            let lanes = dispatch.constants.iter().find(|(name, _)| *name == "LANES").expect("LANES beside SPLIT").1;
            let most = f64::from(profile.max_invocations.min(256));
            assert!(lanes * value <= most, "{at}: {name}={value} is too wide for {lanes} lanes");
        }
    }

    let mut buffers: BTreeMap<String, Access> = BTreeMap::new();
    for (i, (slot, &access)) in dispatch.slots.iter().zip(kernel.bindings).enumerate() {
        let (buffer, bytes) = binding(plan, slot, profile);
        assert!(bytes > 0 && bytes <= profile.max_binding, "{at}: binding {i} has {bytes} bytes");
        let before = *buffers.entry(buffer.clone()).or_insert(access);
        assert_eq!(before, access, "{at}: {buffer} is bound both ways");
        assert!(!dispatch.slots[..i].contains(slot), "{at}: {slot:?} is bound twice");
    }
}

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

/// The vision half at full size: every weight, cache and activation fits a binding of WebGPU's default limits.
#[test]
fn the_vision_half_of_qwen_vl_stays_within_bindings() {
    let (_, config) = configs::named().into_iter().find(|(name, _)| *name == "Qwen-VL").expect("Qwen-VL");
    let vision = VisionConfig {
        image_size: 448,
        patch: 14,
        width: 1664,
        heads: 16,
        ffn: 8192,
        blocks: 48,
        norm_eps: 1e-6,
        activation: Activation::Gelu,
        projector: Projector::Resampler { heads: 32 },
        mean: [0.5; 3],
        std: [0.5; 3],
        image_start: None,
    };
    let config = Config { vision: Some(vision), ..config };
    for profile in profiles().into_iter().filter(|profile| profile.max_binding >= 128 << 20) {
        for dtype in [DType::BF16, DType::Q4_0] {
            let graph = models::build_vision(&config, GraphBuilder::new(&|_| dtype)).expect("a vision half");
            let tokens = graph.outputs.iter().find(|(name, _)| name == models::PROJECTED).expect("tokens").1;
            assert_eq!(graph.ty(tokens).shape, [256, 4096]);
            let plan = Plan::new(graph, &profile, Fusion::On).expect("a plan");
            let at = format!("{}, {dtype}", profile.name);
            memory_is_never_shared(&at, &plan, &profile);
            plan.steps.iter().for_each(|step| dispatch_is_well_formed(&at, &plan, step, &profile));
        }
    }
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

/// Half of an odd grid is rounded up, as in PyTorch's convolution of stride 2.
#[test]
fn the_projector_of_mobilevlm_1_takes_an_odd_grid() {
    for grid in [1, 4, 5, 7] {
        let vision = VisionConfig {
            image_size: 14 * grid,
            patch: 14,
            width: 32,
            heads: 2,
            ffn: 64,
            blocks: 1,
            norm_eps: 1e-5,
            activation: Activation::QuickGelu,
            projector: Projector::Ldp { squeeze: 8 },
            mean: [0.5; 3],
            std: [0.5; 3],
            image_start: None,
        };
        let config = Config { vision: Some(vision), ..configs::uniform("mobilevlm", 64, 1, [4, 4], 128, 100) };
        let graph = models::build_vision(&config, GraphBuilder::new(&|_| DType::F32)).expect("a vision half");
        let tokens = graph.outputs.iter().find(|(name, _)| name == models::PROJECTED).expect("tokens").1;
        assert_eq!(graph.ty(tokens).shape, [grid.div_ceil(2) * grid.div_ceil(2), 64], "a grid of {grid}");
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

// ---- the text of a plan ----

/// After an intended change, update the text with `DUNLIN_UPDATE=1 cargo test --test static plan::`, and read the diff.
#[test]
fn the_text_of_a_plan_is_as_it_was() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots/plan_decode.txt");
    let mut config = configs::uniform("mobilellm", 64, 2, [4, 2], 160, 96);
    config.context = 32;
    // Formats that allow every fusion in the first layer, and only some in the second.
    let format = |name: &str| match name {
        "model.layers.1.self_attn.v_proj.weight" => DType::Q8_0,
        "model.layers.1.mlp.gate_proj.weight" => DType::F16,
        _ => DType::Q4_0,
    };
    let found = decode(&config, &format, &DeviceProfile::baseline()).to_string();
    if std::env::var_os("DUNLIN_UPDATE").is_some() {
        std::fs::write(&path, &found).expect("tests/snapshots");
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = found.lines().zip(wanted.lines()).position(|(found, wanted)| found != wanted);
    let line = differs.unwrap_or(found.lines().count().min(wanted.lines().count()));
    assert!(
        found == wanted,
        "the plan differs from tests/snapshots/plan_decode.txt in line {}:\n  was {}\n  is  {}\n\
         If that is meant: DUNLIN_UPDATE=1 cargo test --test static plan::, and commit the file.",
        line + 1,
        wanted.lines().nth(line).unwrap_or("(no such line)"),
        found.lines().nth(line).unwrap_or("(no such line)"),
    );
}
