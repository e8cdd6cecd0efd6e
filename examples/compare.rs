//! CPU against GPU, step by step of one plan: shows the first step whose results differ.
//!
//! cargo run --release --example compare -- MODEL [DEVICE [f32|auto [PROMPT]]]
//!
//! DEVICE is `gpu`, an index of `dunlin info` or a part of BACKEND:NAME. The CPU runs the plan that was made for the
//! device: a prompt, then a first token as decoding runs it. Under `f32` the results of a step must agree to 1e-4,
//! relative; under `auto`, where caches and tiles may be f16, to 1e-2. The exit code is 1 if one does not.

use std::process::ExitCode;
use std::sync::Arc;

use dunlin::backend;
use dunlin::backend::cpu::{Bound, Memory, load_weights};
use dunlin::backend::wgpu::device::Gpu;
use dunlin::backend::wgpu::engine::upload;
use dunlin::backend::wgpu::session::Runner;
use dunlin::checkpoint::Checkpoint;
use dunlin::graph::{Graph, ValueKind};
use dunlin::models::{Pass, Recipe, TOKENS, Want};
use dunlin::ops::Elem;
use dunlin::plan::{Fusion, Plan};
use dunlin::threads::Team;
use dunlin::work::{DeviceProfile, Row, ValueId};
use dunlin::{Device, Model, Prompt, Result};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |index: usize, default| arguments.get(index).map_or(default, String::as_str);
    let Some(path) = arguments.first() else {
        eprintln!("usage: compare MODEL [DEVICE [f32|auto [PROMPT]]]");
        return ExitCode::from(2);
    };
    let Some(adapter) = adapter(argument(1, "gpu")) else {
        eprintln!("no adapter is `{}`; `dunlin info` lists them", argument(1, "gpu"));
        return ExitCode::from(2);
    };
    let half = argument(2, "f32") == "auto";
    match compare(path, adapter, half, argument(3, "The capital of France is")) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(step)) => {
            println!("{step} is the first to diverge");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The index of an adapter.
fn adapter(wanted: &str) -> Option<usize> {
    let adapters = backend::devices();
    let label = |i: usize| format!("{}:{}", adapters[i].backend, adapters[i].name).to_lowercase();
    let fits = |&i: &usize| match wanted {
        "gpu" => !adapters[i].software,
        _ => wanted.parse() == Ok(i) || label(i).contains(&wanted.to_lowercase()),
    };
    (0..adapters.len()).find(fits)
}

/// Prints the error of each step. Returns the first step above the limit.
fn compare(path: &str, adapter: usize, half: bool, prompt: &str) -> Result<Option<String>> {
    let ids = Model::load(path, &Device::cpu())?.encode(&Prompt::raw(prompt))?;
    let checkpoint = Checkpoint::open(path)?;
    let gpu = Gpu::open(adapter)?;
    let profile = DeviceProfile { reduced_precision: half, ..gpu.profile.clone() };
    let recipe = Recipe::new(&checkpoint, ids.len() + 1)?;
    println!("{} against cpu, {} tokens", profile.name, ids.len());
    let prompt = (Pass::prompt(ids.len(), Want::Logits), Row::at(0).follow(ids.len()));
    for (pass, rows) in [prompt, (Pass::decode(1), vec![Row::at(0)])] {
        let plan = Plan::new(recipe.graph(pass)?, &profile, Fusion::On)?;
        if let Some(step) = steps(&checkpoint, &gpu, &profile, plan, &ids, &rows)? {
            return Ok(Some(step));
        }
    }
    Ok(None)
}

/// Runs one plan step by step on both devices.
fn steps(
    checkpoint: &Checkpoint,
    gpu: &Gpu,
    profile: &DeviceProfile,
    plan: Plan,
    ids: &[u32],
    rows: &[Row],
) -> Result<Option<String>> {
    let limit = if profile.kv_f16() { 1e-2 } else { 1e-4 };
    let uploads = gpu.block_on(upload(gpu, profile, &plan, checkpoint, &|_, _| ()))?;
    let runner = Runner::new(gpu, profile, plan.clone(), &uploads)?;
    runner.write(tokens(&plan.graph), bytemuck::cast_slice(ids));

    let team = Team::of_cores();
    let mut memory = Memory::new(&team);
    for value in &plan.graph.values {
        if let ValueKind::State(name) = &value.kind {
            memory.reserve_state(name, value.ty.shape[0], value.ty.shape[1..].iter().product());
        }
    }
    let words = memory.state_mut(TOKENS);
    words.iter_mut().zip(ids).for_each(|(word, id)| *word = f32::from_bits(*id));
    let (weights, _) = load_weights(&plan, checkpoint, &|_, _| ())?;
    let plan = Arc::new(plan);
    let bound = Bound::new(plan.clone(), &weights, false, &mut memory);

    println!("\n{:>4} {:<16} {:>14} {:>14}", "", "", "relative error", "largest value");
    for (i, node) in plan.graph.nodes.iter().enumerate() {
        let of_node = |(at, step): (usize, &dunlin::plan::PlannedDispatch)| (step.node == i).then_some(at);
        let mut part = plan.steps.iter().enumerate().filter_map(of_node);
        let first = part.next().unwrap_or(0);
        runner.run_part(rows, first..part.next_back().unwrap_or(first) + 1);
        bound.run(&mut memory, &team, rows, i..i + 1);
        for &id in node.writes.iter().filter(|&&id| is_read(&plan.graph, id)) {
            let found: Vec<f32> = bytemuck::pod_collect_to_vec(&runner.read(id)?);
            let wanted = memory.read(&plan, id);
            let error = relative_error(&found, wanted);
            let largest = wanted.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            let mark = if error <= limit { "" } else { "  ←" };
            println!("{i:>4} {:<16} {error:>14.1e} {largest:>14.1e}{mark}", node.op.name());
            // NaN is above any limit.
            if !mark.is_empty() {
                let reads = node.reads.iter().map(|id| plan.graph.ty(*id).to_string()).collect::<Vec<_>>();
                return Ok(Some(format!("step {i}, {:?} of ({}),", node.op, reads.join(", "))));
            }
        }
    }
    Ok(None)
}

/// Whether a value is a float temporary that a later step reads.
fn is_read(graph: &Graph, id: ValueId) -> bool {
    let value = graph.value(id);
    let read = graph.nodes.iter().any(|node| node.reads.contains(&id)) || graph.outputs.iter().any(|(_, o)| *o == id);
    matches!(value.kind, ValueKind::Temp) && value.ty.elem == Elem::F32 && read
}

fn tokens(graph: &Graph) -> ValueId {
    let is = |kind: &ValueKind| matches!(kind, ValueKind::State(name) if name == TOKENS);
    let index = graph.values.iter().position(|value| is(&value.kind)).expect("every model reads tokens");
    ValueId(index as u32)
}

/// sqrt(Σ(found − wanted)² / Σ wanted²)
fn relative_error(found: &[f32], wanted: &[f32]) -> f64 {
    let square = |value: f32| f64::from(value) * f64::from(value);
    let error: f64 = found.iter().zip(wanted).map(|(found, wanted)| square(found - wanted)).sum();
    if error == 0.0 { 0.0 } else { (error / wanted.iter().copied().map(square).sum::<f64>()).sqrt() }
}
