//! What was measured, in the form that tables, traces and pages show.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use crate::backend::measured::{Clock, HostWork, Measured, Phase, Span};
use crate::generate::workload::Runs;
use crate::graph::ValueKind;
use crate::measure::operators::roofline;
use crate::measure::report::Floors;
use crate::plan::{Cost, Plan};

/// What was run, and where.
#[derive(Clone, Debug, Serialize)]
pub struct Subject {
    /// The model as it was named.
    pub model: String,
    /// The device's name; for the CPU path that of the processor.
    pub device: String,
    pub backend: String,
    pub prompt: String,
    pub prompt_tokens: usize,
    pub images: usize,
    pub version: &'static str,
}

/// The times of a run, by phase, by dispatch and in their order.
#[derive(Clone, Debug)]
pub struct Report {
    pub subject: Subject,
    pub clock: Clock,
    /// What the device can do at best.
    pub floors: Floors,
    pub phases: Vec<Total>,
    /// The dispatches of the plans, in order, each with all of its executions.
    pub lines: Vec<Line>,
    /// Each pass: its name, and its time from the first work of the host to the last.
    pub passes: Vec<(String, Phase, Span)>,
    /// Each execution of a line: its index, its time on the device, and its cost.
    pub work: Vec<(usize, Span, Cost)>,
    pub host: Vec<(HostWork, Span)>,
}

/// The times of a phase, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Total {
    pub phase: Phase,
    pub passes: usize,
    pub dispatches: usize,
    /// From its first call to its last result, as it always runs.
    pub undisturbed: u64,
    /// The same while it was measured.
    pub measured: u64,
    /// The sum of its dispatches.
    pub work: u64,
    /// The sum of their least times.
    pub least: f64,
    pub cost: Cost,
}

/// A dispatch of a plan (on the CPU a step), and what its executions took together.
#[derive(Clone, Debug)]
pub struct Line {
    pub phase: Phase,
    pub op: &'static str,
    pub kernel: String,
    /// Types of inputs and results.
    pub shape: String,
    /// The layer of the model, or what is before and after its layers.
    pub layer: String,
    /// Whether the kernel multiplies cooperative matrices: their peak bounds it, not that of f32.
    pub matrices: bool,
    pub runs: usize,
    pub ns: u64,
    /// Nanoseconds that the executions take at least: each its bytes at the rate of a copy, or its operations at the peak
    /// of the kernel's arithmetic, whichever is longer.
    pub least: f64,
    pub cost: Cost,
}

impl Line {
    /// Adds an execution.
    fn add(&mut self, ns: u64, cost: Cost, floors: &Floors) {
        let (least, _) = roofline(cost.bytes, Some(cost.flops), self.matrices, floors);
        self.runs += 1;
        self.ns += ns;
        self.least += 1e9 * least;
        self.cost = [self.cost, cost].into_iter().sum();
    }

    /// Adds the executions of another line.
    fn join(&mut self, other: &Line) {
        self.runs += other.runs;
        self.ns += other.ns;
        self.least += other.least;
        self.cost = [self.cost, other.cost].into_iter().sum();
    }

    /// The share of the roofline that it reaches: its least time over its time. Data in a cache may pass 1.
    pub fn reached(&self) -> f64 {
        self.least / self.ns.max(1) as f64
    }

    /// Seconds of all executions.
    pub fn seconds(&self) -> f64 {
        self.ns as f64 / 1e9
    }
}

impl Report {
    /// # Panics
    ///
    /// If nothing was measured.
    pub fn new(subject: Subject, runs: &Runs, floors: Floors) -> Self {
        let clock = runs.measured.first().expect("a prompt was measured").clock;
        let mut report = Report {
            subject,
            clock,
            floors,
            phases: Vec::new(),
            lines: Vec::new(),
            passes: Vec::new(),
            work: Vec::new(),
            host: Vec::new(),
        };
        let mut known: HashMap<(Phase, *const Plan, usize, Option<usize>), usize> = HashMap::new();
        let mut layers: HashMap<*const Plan, Vec<String>> = HashMap::new();
        for measured in &runs.measured {
            let plan = &measured.plan;
            let layers = layers.entry(Arc::as_ptr(plan)).or_insert_with(|| plan_layers(plan, measured.phase));
            for timed in &measured.work {
                let key = (measured.phase, Arc::as_ptr(plan), timed.node, timed.dispatch);
                let lines = &mut report.lines;
                let index = *known.entry(key).or_insert_with(|| {
                    lines.push(line(measured, timed.node, timed.dispatch, &layers[timed.node]));
                    lines.len() - 1
                });
                report.lines[index].add(timed.span.length(), timed.cost, &report.floors);
                report.work.push((index, timed.span, timed.cost));
            }
            report.host.extend(&measured.host);
            let spans = || measured.host.iter().map(|(_, span)| span);
            let (begin, end) = (spans().map(|s| s.begin).min(), spans().map(|s| s.end).max());
            let span = Span { begin: begin.unwrap_or(0), end: end.unwrap_or(0) };
            report.passes.push((name(measured), measured.phase, span));
        }
        report.phases = runs.phases.iter().map(|&(phase, times)| report.total(phase, times)).collect();
        report
    }

    fn total(&self, phase: Phase, [undisturbed, measured]: [std::time::Duration; 2]) -> Total {
        let lines = || self.lines.iter().filter(|line| line.phase == phase);
        Total {
            phase,
            passes: self.passes.iter().filter(|(_, other, _)| *other == phase).count(),
            dispatches: lines().map(|line| line.runs).sum(),
            undisturbed: undisturbed.as_nanos() as u64,
            measured: measured.as_nanos() as u64,
            work: lines().map(|line| line.ns).sum(),
            least: lines().map(|line| line.least).sum(),
            cost: lines().map(|line| line.cost).sum(),
        }
    }

    /// The lines of a phase, joined where `key` is the same, the longest first.
    pub fn joined<K: PartialEq>(&self, phase: Phase, key: impl Fn(&Line) -> K) -> Vec<(K, Line)> {
        let mut found: Vec<(K, Line)> = Vec::new();
        for line in self.lines.iter().filter(|line| line.phase == phase) {
            let own = key(line);
            match found.iter_mut().find(|(key, _)| *key == own) {
                Some((_, sum)) => sum.join(line),
                None => found.push((own, line.clone())),
            }
        }
        found.sort_by_key(|(_, line)| std::cmp::Reverse(line.ns));
        found
    }

    /// The operators of all phases, the longest first. Their order chooses their colours.
    pub fn operators(&self) -> Vec<&'static str> {
        let mut sums: Vec<(&'static str, u64)> = Vec::new();
        for line in &self.lines {
            match sums.iter_mut().find(|(op, _)| *op == line.op) {
                Some((_, ns)) => *ns += line.ns,
                None => sums.push((line.op, line.ns)),
            }
        }
        sums.sort_by_key(|&(_, ns)| std::cmp::Reverse(ns));
        sums.into_iter().map(|(op, _)| op).collect()
    }
}

fn line(measured: &Measured, node: usize, dispatch: Option<usize>, layer: &str) -> Line {
    let (graph, step) = (&measured.plan.graph, dispatch.map(|i| &measured.plan.steps[i]));
    let node = &graph.nodes[node];
    let types = |ids: &[crate::work::ValueId]| {
        let types = ids.iter().filter(|&&id| !matches!(graph.value(id).kind, ValueKind::Table(..)));
        types.map(|&id| graph.ty(id).to_string()).collect::<Vec<_>>().join(", ")
    };
    let results = node.writes.iter().copied().filter(|&id| !matches!(graph.value(id).kind, ValueKind::State(_)));
    let results: Vec<_> = results.collect();
    let written = if results.is_empty() { &node.writes } else { &results };
    Line {
        phase: measured.phase,
        op: node.op.name(),
        kernel: step.map_or_else(|| format!("cpu/{}", node.op.name()), |step| step.dispatch.kernel.0.name()),
        shape: format!("{} → {}", types(&node.reads), types(written)),
        layer: layer.to_owned(),
        matrices: step.is_some_and(|step| step.dispatch.kernel.0.requires.cooperative.is_some()),
        runs: 0,
        ns: 0,
        least: 0.0,
        cost: Cost::default(),
    }
}

/// The name of a pass.
fn name(measured: &Measured) -> String {
    let position = |row: Option<&crate::work::Row>| row.map_or(0, |row| row.position);
    let (first, last) = (position(measured.rows.first()), position(measured.rows.last()));
    match measured.phase {
        Phase::Picture => "picture".into(),
        Phase::Prompt => format!("prompt {first}–{last}"),
        Phase::Decode => format!("token {first}"),
    }
}

/// The layer of each node: that of the weights it reads; a node without weights belongs to the layer before it.
fn plan_layers(plan: &Plan, phase: Phase) -> Vec<String> {
    let (word, before, after) = match phase {
        Phase::Picture => ("block", "patches", "projector"),
        Phase::Prompt | Phase::Decode => ("layer", "embedding", "head"),
    };
    let mut layer = before.to_owned();
    let mut begun = false;
    let each = plan.graph.nodes.iter().map(|node| {
        let mut weights = node.reads.iter().filter_map(|&id| match &plan.graph.value(id).kind {
            ValueKind::Weight(names) => names.first(),
            _ => None,
        });
        match weights.clone().find_map(|name| index(name)) {
            Some(index) => {
                begun = true;
                layer = format!("{word} {index}");
            }
            None if weights.next().is_some() => layer = if begun { after.into() } else { before.into() },
            None => {}
        }
        layer.clone()
    });
    each.collect()
}

/// The number of the layer in a weight's name: 3 in `model.layers.3.mlp.up_proj.weight`.
fn index(name: &str) -> Option<usize> {
    let mut words = name.split('.').skip_while(|word| !["layers", "blocks", "resblocks"].contains(word));
    words.nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line without executions.
    fn line(matrices: bool) -> Line {
        let (phase, layer) = (Phase::Prompt, String::new());
        let (kernel, shape) = (String::new(), String::new());
        let cost = Cost::default();
        Line { phase, op: "linear", kernel, shape, layer, matrices, runs: 0, ns: 0, least: 0.0, cost }
    }

    #[test]
    fn a_kernel_is_held_to_the_peak_of_its_own_arithmetic() {
        // Copies at 10 GB/s; 100 GFLOP/s in f32, 200 in f16, 1000 in matrices.
        let floors = Floors::example();
        let reached = |matrices, cost| {
            let mut line = line(matrices);
            // A millisecond.
            line.add(1_000_000, cost, &floors);
            line.reached()
        };
        let near = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-9, "{found}, not {wanted}");
        // 50 GFLOP/s are half of what f32 allows, and a twentieth of what matrices do.
        let product = Cost { bytes: 1000, flops: 50_000_000 };
        near(reached(false, product), 0.5);
        near(reached(true, product), 0.05);
        // 8 GB/s.
        near(reached(true, Cost { bytes: 8_000_000, flops: 50_000_000 }), 0.8);
        near(reached(false, Cost { bytes: 8_000_000, flops: 0 }), 0.8);
        // Two kernels of one operator, each at its own roof: neither the bytes nor the operations of both are at one.
        let (mut both, mut other) = (line(false), line(true));
        both.add(1_000_000, Cost { bytes: 10_000_000, flops: 1000 }, &floors);
        other.add(1_000_000, Cost { bytes: 1000, flops: 1_000_000_000 }, &floors);
        both.join(&other);
        near(both.reached(), 1.0);
        assert_eq!((both.runs, both.ns, both.cost), (2, 2_000_000, Cost { bytes: 10_001_000, flops: 1_000_001_000 }));
    }

    #[test]
    fn weights_name_their_layer() {
        assert_eq!(index("model.layers.12.self_attn.q_proj.weight"), Some(12));
        assert_eq!(index("model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"), Some(0));
        assert_eq!(index("transformer.visual.transformer.resblocks.7.ln_1.weight"), Some(7));
        assert_eq!(index("model.mm_projector.model.mlp.0.weight"), None);
        assert_eq!(index("model.norm.weight"), None);
    }
}
