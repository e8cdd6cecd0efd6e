//! The memory of a session, and plans bound to it: the kernel of each step and the positions of its operands.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::backend::cpu::weights::Weights;
use crate::clock::Instant;
use crate::cpu::{self, Call, Floats, Kernel, MOST_OPERANDS, Scratch};
use crate::graph::{Node, ValueKind};
use crate::ops::{Elem, Matrix, Operator, Read, TensorType};
use crate::plan::Plan;
use crate::threads::{Member, Parts, Team};
use crate::work::{Family, Row, ValueId};

/// Arena, workspace, state, and scratch memory of each member of the team.
pub struct Memory {
    /// The arena, then the workspace, which the members of a team share while a step runs, then the states.
    regions: Vec<Region>,
    /// The index of each state in `regions`.
    state: HashMap<String, usize>,
    scratch: Vec<Mutex<Scratch>>,
    /// The addresses of the regions during a run.
    bases: Vec<Base>,
}

#[derive(Default)]
struct Region {
    data: Floats,
    /// Floats in use.
    len: usize,
    /// Floats of a position, if the region is a state.
    each: usize,
}

const ARENA: usize = 0;
const WORKSPACE: usize = 1;

/// The floats of a region.
#[derive(Clone, Copy)]
struct Base(*mut f32, usize);

// SAFETY: only steps of a run use the pointer; `Step::run` explains why there are no races.
unsafe impl Send for Base {}
// SAFETY: as above.
unsafe impl Sync for Base {}

/// A plan, and the positions in a [`Memory`] of all that its steps read and write.
pub struct Bound {
    pub plan: Arc<Plan>,
    steps: Vec<Step>,
    /// Whether activations are rounded: see [`Call::rounds`].
    rounds: bool,
}

struct Step {
    op: Arc<dyn Operator>,
    kernel: Kernel,
    family: Family,
    /// Rows of the last result.
    m: usize,
    reads: Vec<Operand>,
    writes: Vec<Place>,
    /// Floats that its members share.
    workspace: usize,
    /// Whether a barrier is needed: the step reads or overwrites data of steps since the last barrier.
    barrier: bool,
    /// Multiply-adds of its product, if it is one.
    work: usize,
}

/// An input of a step.
enum Operand {
    F32(Place),
    U32(Place),
    Vector(Vec<f32>),
    Table(Arc<Vec<f32>>),
    Weight(Matrix),
}

/// A range of a region's floats; `None` is all of them.
#[derive(Clone, PartialEq)]
struct Place {
    region: usize,
    range: Option<Range<usize>>,
}

impl Place {
    fn overlaps(&self, other: &Place) -> bool {
        self.region == other.region
            && match (&self.range, &other.range) {
                (Some(some), Some(other)) => some.start < other.end && other.start < some.end,
                _ => true,
            }
    }

    fn of(&self, bases: &[Base]) -> Base {
        let Base(start, len) = bases[self.region];
        let range = self.range.clone().unwrap_or(0..len);
        assert!(range.start <= range.end && range.end <= len, "floats {range:?} of {len}");
        // SAFETY: the range is within the region.
        Base(unsafe { start.add(range.start) }, range.len())
    }
}

impl Memory {
    pub fn new(team: &Team) -> Self {
        let scratch = (0..team.count()).map(|_| Mutex::default()).collect();
        let regions = vec![Region::default(), Region::default()];
        Memory { regions, state: HashMap::new(), scratch, bases: Vec::new() }
    }

    /// Makes room for `positions` positions of a state, `each` floats each; its content stays.
    pub fn reserve_state(&mut self, name: &str, positions: usize, each: usize) {
        let next = self.regions.len();
        let index = *self.state.entry(name.into()).or_insert(next);
        if index == next {
            self.regions.push(Region { each, ..Region::default() });
        }
        self.reserve(index, positions * each);
    }

    fn reserve(&mut self, region: usize, len: usize) {
        let region = &mut self.regions[region];
        region.len = region.len.max(len);
        region.data.grow(region.len);
    }

    #[track_caller]
    pub fn state_mut(&mut self, name: &str) -> &mut [f32] {
        let region = &mut self.regions[self.state[name]];
        &mut region.data[..region.len]
    }

    /// Copies `count` positions of every state but `except`.
    pub fn copy_state(&mut self, from: usize, to: usize, count: usize, except: &[&str]) {
        for (name, &index) in self.state.iter().filter(|(name, _)| !except.contains(&name.as_str())) {
            let Region { data, len, each } = &mut self.regions[index];
            assert!((from.max(to) + count) * *each <= *len, "positions of {name}");
            data.copy_within(from * *each..(from + count) * *each, to * *each);
        }
    }

    /// Writes an input of a plan.
    pub fn write(&mut self, plan: &Plan, id: ValueId, data: &[f32]) {
        self.regions[ARENA].data[range(plan, id)].copy_from_slice(data);
    }

    /// The content of a temporary of a plan, to be changed.
    pub fn read_mut(&mut self, plan: &Plan, id: ValueId) -> &mut [f32] {
        &mut self.regions[ARENA].data[range(plan, id)]
    }

    /// The content of an input or a temporary of a plan.
    pub fn read(&self, plan: &Plan, id: ValueId) -> &[f32] {
        &self.regions[ARENA].data[range(plan, id)]
    }

    /// The addresses of the regions for a run, and the scratch memory of the members.
    fn begin(&mut self) -> (&[Base], &[Mutex<Scratch>]) {
        self.bases.clear();
        self.bases.extend(self.regions.iter_mut().map(|region| Base(region.data.start(), region.len)));
        (&self.bases, &self.scratch)
    }
}

impl Bound {
    /// Finds the operands of a plan. The state must have been reserved. `rounds`: see [`Call::rounds`].
    pub fn new(plan: Arc<Plan>, weights: &Weights, rounds: bool, memory: &mut Memory) -> Self {
        let graph = &plan.graph;
        let types = |node: &Node| -> Vec<TensorType> { node.reads.iter().map(|id| graph.ty(*id).clone()).collect() };
        let shared: Vec<usize> = (graph.nodes.iter())
            .map(|node| cpu::workspace(&*node.op, &types(node).iter().collect::<Vec<_>>()))
            .collect();
        memory.reserve(ARENA, plan.arena as usize / 4);
        memory.reserve(WORKSPACE, shared.iter().copied().max().unwrap_or(0));
        let place = |id: &ValueId| match &graph.value(*id).kind {
            ValueKind::State(name) => Place { region: memory.state[name], range: None },
            _ => Place { region: ARENA, range: Some(range(&plan, *id)) },
        };

        // The places that steps since the last barrier read and wrote.
        let (mut read, mut written): (Vec<Place>, Vec<Place>) = (Vec::new(), Vec::new());
        let mut steps = Vec::with_capacity(graph.nodes.len());
        for (node, &shared) in graph.nodes.iter().zip(&shared) {
            let operand = |id: &ValueId| {
                let value = graph.value(*id);
                match &value.kind {
                    ValueKind::Weight(names) if matches!(value.ty.elem, Elem::Weight(_)) => {
                        Operand::Weight(weights.matrix(names))
                    }
                    ValueKind::Weight(names) => Operand::Vector(weights.vectors[names].clone()),
                    ValueKind::Table(_, data) => Operand::Table(data.clone()),
                    _ if value.ty.elem == Elem::U32 => Operand::U32(place(id)),
                    _ => Operand::F32(place(id)),
                }
            };
            let reads: Vec<Operand> = node.reads.iter().map(operand).collect();
            let writes: Vec<Place> = node.writes.iter().map(place).collect();

            let reading = reads.iter().filter_map(|read| match read {
                Operand::F32(place) | Operand::U32(place) => Some(place.clone()),
                _ => None,
            });
            let reading: Vec<Place> = reading.collect();
            let mut writing = writes.clone();
            if shared > 0 {
                writing.push(Place { region: WORKSPACE, range: None });
            }
            let meet = |some: &[Place], others: &[Place]| some.iter().any(|a| others.iter().any(|b| a.overlaps(b)));
            let barrier = meet(&reading, &written) || meet(&writing, &written) || meet(&writing, &read);
            if barrier {
                read.clear();
                written.clear();
            }
            read.extend(reading);
            written.extend(writing);

            let m = node.writes.last().map_or(1, |id| graph.ty(*id).shape[0]);
            let weight = reads.iter().find_map(|read| if let Operand::Weight(w) = read { Some(w) } else { None });
            steps.push(Step {
                op: node.op.clone(),
                kernel: cpu::kernel(node.op.name()),
                family: node.family,
                m,
                work: weight.map_or(0, |w| m * w.rows() * w.cols),
                reads,
                writes,
                workspace: shared,
                barrier,
            });
        }
        Bound { plan, steps, rounds }
    }

    /// The number of steps.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Multiply-adds of a step's product.
    pub fn work(&self, step: usize) -> usize {
        self.steps[step].work
    }

    /// Runs some steps on all members of the team at once.
    pub fn run(&self, memory: &mut Memory, team: &Team, rows: &[Row], part: Range<usize>) {
        let (steps, (bases, scratch)) = (&self.steps[part], memory.begin());
        team.run(|member| {
            let mut scratch = scratch[member.index].lock().unwrap_or_else(PoisonError::into_inner);
            for (i, step) in steps.iter().enumerate() {
                if step.barrier && i > 0 {
                    member.barrier();
                }
                step.run(bases, self.rounds, member, rows, &mut scratch);
            }
        });
    }

    /// [`Bound::run`] with the times between its steps, one more than there are steps. All members meet after each
    /// step, which ends when the last of them is done.
    pub fn run_timed(&self, memory: &mut Memory, team: &Team, rows: &[Row], part: Range<usize>) -> Vec<Instant> {
        let (steps, (bases, scratch)) = (&self.steps[part], memory.begin());
        let begin = Instant::now();
        // Nanoseconds since `begin`.
        let ends: Vec<AtomicU64> = steps.iter().map(|_| AtomicU64::new(0)).collect();
        team.run(|member| {
            let mut scratch = scratch[member.index].lock().unwrap_or_else(PoisonError::into_inner);
            for (step, end) in steps.iter().zip(&ends) {
                step.run(bases, self.rounds, member, rows, &mut scratch);
                end.fetch_max(begin.elapsed().as_nanos() as u64, Ordering::Relaxed);
                member.barrier();
            }
        });
        let ends = ends.into_iter().map(|end| begin + Duration::from_nanos(end.into_inner()));
        std::iter::once(begin).chain(ends).collect()
    }
}

impl Step {
    /// One member's part of the step.
    #[allow(clippy::undocumented_unsafe_blocks, reason = "one argument holds for all of them")]
    fn run(&self, bases: &[Base], rounds: bool, member: &Member, rows: &[Row], scratch: &mut Scratch) {
        // SAFETY of all: the memory is borrowed for the whole run, and only steps use it. Between two barriers no step
        // writes what another one reads or writes, and each member takes its own parts of a step's results.
        let parts = |Base(start, len)| unsafe { Parts::from_raw(start, len) };
        let reads: [Read; MOST_OPERANDS] = std::array::from_fn(|i| match self.reads.get(i) {
            Some(Operand::F32(place)) => {
                let Base(start, len) = place.of(bases);
                Read::F32(unsafe { std::slice::from_raw_parts(start, len) })
            }
            Some(Operand::U32(place)) => {
                let Base(start, len) = place.of(bases);
                Read::U32(unsafe { std::slice::from_raw_parts(start.cast(), len) })
            }
            Some(Operand::Vector(data)) => Read::F32(data),
            Some(Operand::Table(data)) => Read::F32(data),
            Some(Operand::Weight(matrix)) => Read::Weight(matrix),
            None => Read::F32(&[]),
        });
        let writes: [Parts<f32>; MOST_OPERANDS] = std::array::from_fn(|i| match self.writes.get(i) {
            Some(place) => parts(place.of(bases)),
            None => Parts::new(&mut []),
        });
        let call = Call {
            reads: &reads[..self.reads.len()],
            writes: &writes[..self.writes.len()],
            rows,
            family: self.family,
            rounds,
            m: self.m,
            workspace: parts(Base(bases[WORKSPACE].0, self.workspace)),
        };
        (self.kernel)(&*self.op, &call, member, scratch);
    }
}

/// The position of a temporary or an input in the arena, in floats.
fn range(plan: &Plan, id: ValueId) -> Range<usize> {
    let (offset, _) = plan.places[&id];
    let start = offset as usize / 4;
    start..start + plan.graph.ty(id).count()
}
