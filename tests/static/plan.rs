//! Plans, without a device: properties that hold for every model, format and device profile, checked independently of
//! the code that makes plans; and the text of one plan.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::constants;
use crate::support::bindings::binding;
use crate::support::configs::{self, Random};
use dunlin::checkpoint::Config;
use dunlin::checkpoint::vision::{Activation, Projector, VisionConfig};
use dunlin::graph::{Graph, GraphBuilder, ValueKind};
use dunlin::models::{self, AngleTable, Pass, Want};
use dunlin::ops::{Elem, TensorType};
use dunlin::plan::{Cost, Fusion, Plan, PlannedDispatch};
use dunlin::tensor::DType;
use dunlin::work::layout::WeightLayout;
use dunlin::work::{Access, DeviceProfile, MOST_ROWS, Plane, Row, Slot, ValueId};

/// Plans use only the shape of the table of angles.
pub fn graph(config: &Config, formats: &dyn Fn(&str) -> DType, pass: Pass) -> Graph {
    let angles = AngleTable::blank(config, config.context);
    models::build(config, GraphBuilder::new(formats), &angles, pass).expect("a known architecture")
}

pub fn decode(config: &Config, formats: &dyn Fn(&str) -> DType, profile: &DeviceProfile) -> Plan {
    Plan::new(graph(config, formats, Pass::decode(1)), profile, Fusion::On).expect("a plan")
}

pub fn profiles() -> Vec<DeviceProfile> {
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
pub fn check_both(at: &str, config: &Config, formats: &dyn Fn(&str) -> DType, profile: &DeviceProfile, pass: Pass) {
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

// ---- the vision half ----

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
