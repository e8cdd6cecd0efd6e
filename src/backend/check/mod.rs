//! Runs one case of an operator with the reference and on a device. Tests and `dunlin check` compare the results;
//! benches time the device.

mod report;

use std::collections::HashMap;
use std::sync::Arc;

use crate::backend::cpu::{Runner, Weights};
use crate::graph::{Graph, GraphBuilder, ValueKind};
use crate::ops::{Case, Elem, Fill, Matrix, TensorType};
use crate::tensor::Tensor;
use crate::threads::Team;
use crate::work::ValueId;
pub use report::{Check, OperatorCheck, WrongCase, check, check_with};

/// A case as a graph of one node, with its contents.
pub struct Prepared {
    pub graph: Graph,
    /// Inputs and state, which the host writes: name and bits.
    pub filled: Vec<(ValueId, String, Vec<u32>)>,
    pub weights: HashMap<String, Tensor>,
    /// State and results, which are compared.
    pub results: Vec<(String, ValueId)>,
}

impl Prepared {
    pub fn new(case: &Case) -> Self {
        let names: Vec<String> = (0..case.reads.len()).map(|i| format!("read{i}")).collect();
        let formats = |name: &str| {
            let i = names.iter().position(|n| n == name).expect("a weight of the case");
            case.reads[i].ty.dtype()
        };
        let mut b = GraphBuilder::new(&formats);
        b.family(case.family);
        let (mut filled, mut weights, mut results) = (Vec::new(), HashMap::new(), Vec::new());
        let mut reads = Vec::new();
        for (i, (given, name)) in case.reads.iter().zip(&names).enumerate() {
            let seed = i as u64 + 1;
            reads.push(match given.ty.elem {
                Elem::Weight(_) => {
                    let (rows, cols) = given.ty.matrix();
                    weights.insert(name.clone(), given.tensor(seed));
                    b.weight(name, rows, cols)
                }
                // Gains and angles are constants of a model, and are bound as constants.
                Elem::F32 if given.ty.shape.len() == 1 || given.fill == Fill::Angles => {
                    let data = given.data(seed).into_iter().map(f32::from_bits).collect();
                    b.table(name, given.ty.clone(), Arc::new(data))
                }
                elem => {
                    let ty = given.ty.clone();
                    let id = if elem == Elem::F32 { b.input(name, ty) } else { b.state(name, ty) };
                    filled.push((id, name.clone(), given.data(seed)));
                    id
                }
            });
        }
        let mut state = Vec::new();
        for (i, given) in case.state.iter().enumerate() {
            let name = format!("state{i}");
            let id = b.state(&name, given.ty.clone());
            filled.push((id, name.clone(), given.data(100 + i as u64)));
            results.push((name, id));
            state.push(id);
        }
        for (i, id) in b.apply_shared(case.op.clone(), &reads, &state).into_iter().enumerate() {
            b.output(format!("result{i}"), id);
            results.push((format!("result{i}"), id));
        }
        Prepared { graph: b.finish(), filled, weights, results }
    }

    /// The results by the operators' references, as bits.
    pub fn reference(&self, case: &Case) -> Vec<Vec<u32>> {
        let mut host = self.on_host();
        let outputs = host.runner().run(&case.rows);
        self.bits(&host, outputs)
    }

    /// The results by the CPU's kernels, as bits; with `rounds` by rounded activations, where weights are integers.
    pub fn on_cpu(&self, case: &Case, rounds: bool, team: &Team) -> Vec<Vec<u32>> {
        let mut host = self.on_host();
        let outputs = host.runner().run_kernels(&case.rows, rounds, team);
        self.bits(&host, outputs)
    }

    fn bits(&self, host: &OnHost, outputs: Vec<(String, Vec<f32>)>) -> Vec<Vec<u32>> {
        let outputs: HashMap<String, Vec<f32>> = outputs.into_iter().collect();
        let results = self.results.iter().map(|(name, _)| outputs.get(name).or(host.state.get(name)));
        results.map(|data| data.expect("a result").iter().map(|v| v.to_bits()).collect()).collect()
    }

    /// The case on the CPU with its inputs written; [`OnHost::runner`] runs it repeatedly.
    pub fn on_host(&self) -> OnHost<'_> {
        let floats = |bits: &[u32]| bits.iter().map(|&bits| f32::from_bits(bits)).collect::<Vec<f32>>();
        let (mut state, mut inputs) = (HashMap::new(), HashMap::new());
        for (id, name, bits) in &self.filled {
            let map = if matches!(self.graph.value(*id).kind, ValueKind::State(_)) { &mut state } else { &mut inputs };
            map.insert(name.clone(), floats(bits));
        }
        let mut weights = Weights::default();
        for (name, tensor) in &self.weights {
            weights.matrices.insert(vec![name.clone()], Matrix::new(vec![tensor.clone()]));
        }
        OnHost { graph: &self.graph, weights, state, inputs }
    }
}

/// A case on the CPU.
pub struct OnHost<'a> {
    graph: &'a Graph,
    weights: Weights,
    state: HashMap<String, Vec<f32>>,
    inputs: HashMap<String, Vec<f32>>,
}

impl OnHost<'_> {
    /// One run of it.
    pub fn runner(&mut self) -> Runner<'_> {
        let OnHost { graph, weights, state, inputs } = self;
        Runner { graph, weights, state, inputs: inputs.clone() }
    }
}

/// Whether a word of a result is an id, and not the bits of a float. Words of ids may also hold those of a logprob, which
/// is a normal float.
pub fn is_id(ty: &TensorType, bits: u32) -> bool {
    ty.elem == Elem::U32 && !f32::from_bits(bits).is_normal()
}

/// Σ(found − wanted)² / Σ wanted² for floats, NaN if a value is NaN. Ids are equal (0) or not (infinite).
pub fn nmse(ty: &TensorType, found: &[u32], wanted: &[u32]) -> f64 {
    assert_eq!(found.len(), wanted.len());
    let id = |&bits: &u32| is_id(ty, bits);
    if found.iter().zip(wanted).any(|(found, wanted)| (id(found) || id(wanted)) && found != wanted) {
        return f64::INFINITY;
    }
    let float = |bits: &u32| f64::from(f32::from_bits(*bits));
    let pairs = || found.iter().zip(wanted).filter(|(_, wanted)| !id(wanted));
    let error: f64 = pairs().map(|(found, wanted)| (float(found) - float(wanted)).powi(2)).sum();
    let size: f64 = pairs().map(|(_, wanted)| float(wanted).powi(2)).sum();
    if error == 0.0 { 0.0 } else { error / size }
}

#[cfg(feature = "gpu")]
pub mod gpu {
    use super::{Prepared, TensorType, nmse};
    use crate::backend::wgpu::device::Gpu;
    use crate::backend::wgpu::session::Runner;
    use crate::backend::wgpu::upload::Uploads;
    use crate::error::{Error, Result};
    use crate::graph::ValueKind;
    use crate::ops::{Case, Elem, head_stride};
    use crate::plan::{Fusion, Plan};
    use crate::work::{DeviceProfile, ValueId};

    /// Bytes after each result that are bound with it and that a kernel must not change. Some devices drop a write past
    /// the end of a binding and some move it to the last element: the guard detects such a write on all of them.
    const GUARD: u64 = 256;

    /// The content of guards: NaN, so that a kernel that reads a guard is detected.
    pub const UNTOUCHED: u32 = 0x7fc1_2345;

    /// f16 storage of tiles and KV cache: an error of about 2⁻¹¹ a value, squared, over values of similar size.
    const HALF_NMSE: f64 = 1e-6;

    /// The tolerance of a case on a device: the largest normalised mean squared error.
    pub fn limit(case: &Case, profile: &DeviceProfile) -> f64 {
        if profile.kv_f16() { HALF_NMSE.max(case.nmse) } else { case.nmse }
    }

    /// The error of a device in a case, relative to its tolerance: right up to 1, infinite if a result is NaN or
    /// another id.
    pub fn deviation(case: &Case, gpu: &Gpu, profile: &DeviceProfile) -> Result<f64> {
        let prepared = Prepared::new(case);
        prepared.deviation(case, &prepared.reference(case), gpu, profile)
    }

    impl Prepared {
        /// [`deviation`] from given results of the reference, which are the same for every device.
        pub fn deviation(&self, case: &Case, wanted: &[Vec<u32>], gpu: &Gpu, profile: &DeviceProfile) -> Result<f64> {
            let found = self.on_device(case, gpu, profile)?;
            let limit = limit(case, profile);
            let results = self.results.iter().zip(found.iter().zip(wanted));
            let shares = results.map(|((_, id), (found, wanted))| match nmse(self.graph.ty(*id), found, wanted) {
                0.0 => 0.0,
                error if error.is_nan() => f64::INFINITY,
                error => error / limit,
            });
            Ok(shares.fold(0.0, f64::max))
        }

        /// The case on a device with its inputs written; [`Runner::run`] runs it repeatedly.
        pub fn runner<'a>(&self, gpu: &'a Gpu, profile: &'a DeviceProfile) -> Result<Runner<'a>> {
            let mut plan = Plan::new(self.graph.clone(), profile, Fusion::Off)?;
            for (_, id) in &self.results {
                if let Some((offset, bytes)) = plan.places.get_mut(id) {
                    (*offset, *bytes) = (plan.arena, *bytes + GUARD);
                    plan.arena = (plan.arena + *bytes).next_multiple_of(profile.offset_alignment.max(256));
                }
            }
            let mut uploads = Uploads::default();
            for stored in &plan.groups.stored {
                let take = |name: &str, _: &[usize]| {
                    self.weights.get(name).cloned().ok_or_else(|| Error::checkpoint(format!("{name} is missing")))
                };
                gpu.block_on(uploads.weight(gpu, stored, profile.max_binding, take))?;
            }
            for value in &plan.graph.values {
                if let ValueKind::Table(name, data) = &value.kind {
                    gpu.block_on(uploads.table(gpu, name, data))?;
                }
            }
            let runner = Runner::with_guards(gpu, profile, plan, &uploads, GUARD)?;
            self.begin(&runner, 0);
            Ok(runner)
        }

        /// Writes inputs, state and guards, and `word` into every element of the results.
        pub fn begin(&self, runner: &Runner, word: u32) {
            for (_, id) in &self.results {
                let (count, all) = self.words(runner, *id);
                let mut words = vec![word; count];
                words.resize(all, UNTOUCHED);
                runner.write(*id, bytemuck::cast_slice(&words));
            }
            for (id, _, bits) in &self.filled {
                runner.write(*id, &to_device(self.graph.ty(*id), bits, runner.profile));
            }
        }

        /// The first word past the end of a result that a kernel wrote: the result, the word, and the words of the result.
        pub fn overrun(&self, runner: &Runner) -> Result<Option<(ValueId, usize, usize)>> {
            for (_, id) in &self.results {
                let (count, all) = self.words(runner, *id);
                let words: Vec<u32> = bytemuck::pod_collect_to_vec(&runner.read_bytes(*id, 4 * all as u64)?);
                if let Some(at) = words[count..].iter().position(|&word| word != UNTOUCHED) {
                    return Ok(Some((*id, count + at, count)));
                }
            }
            Ok(None)
        }

        /// The name of an input that a kernel changed.
        pub fn changed_input(&self, runner: &Runner) -> Result<Option<&str>> {
            let inputs = self.filled.iter().filter(|(id, ..)| self.results.iter().all(|(_, result)| result != id));
            for (id, name, bits) in inputs {
                let found = from_device(self.graph.ty(*id), &runner.read(*id)?, runner.profile);
                let written = to_device(self.graph.ty(*id), bits, runner.profile);
                if found != from_device(self.graph.ty(*id), &written, runner.profile) {
                    return Ok(Some(name));
                }
            }
            Ok(None)
        }

        /// The results of the last run, as bits.
        pub fn read(&self, runner: &Runner) -> Result<Vec<Vec<u32>>> {
            let read = |(_, id): &(String, _)| Ok(from_device(self.graph.ty(*id), &runner.read(*id)?, runner.profile));
            self.results.iter().map(read).collect()
        }

        /// The words of a result, and those of its guard with them.
        fn words(&self, runner: &Runner, id: ValueId) -> (usize, usize) {
            let bytes = self.graph.ty(id).bytes(runner.profile).next_multiple_of(4);
            // A state has a buffer of its own, with room for the guard.
            let all = runner.bound.plan.places.get(&id).map_or(bytes + GUARD, |(_, all)| *all);
            (bytes as usize / 4, all as usize / 4)
        }

        /// The results on a device, as bits.
        pub fn on_device(&self, case: &Case, gpu: &Gpu, profile: &DeviceProfile) -> Result<Vec<Vec<u32>>> {
            let profile = &case.profile(profile);
            let runner = self.runner(gpu, profile)?;
            runner.run(&case.rows);
            if let Some((_, word, count)) = self.overrun(&runner)? {
                return Err(Error::device(format!("{} writes word {word} of {count} words", case.label())));
            }
            self.read(&runner)
        }
    }

    /// The bytes of a value in a device's layout: a KV cache has padded heads, in f16 if the profile says so.
    fn to_device(ty: &TensorType, bits: &[u32], profile: &DeviceProfile) -> Vec<u8> {
        if ty.elem != Elem::Kv {
            return bytemuck::cast_slice(bits).to_vec();
        }
        let head_dim = ty.shape[2];
        let mut bytes = Vec::new();
        for head in bits.chunks_exact(head_dim) {
            for i in 0..head_stride(head_dim) {
                let value = f32::from_bits(head.get(i).copied().unwrap_or(0));
                if profile.kv_f16() {
                    bytes.extend(half::f16::from_f32(value).to_le_bytes());
                } else {
                    bytes.extend(value.to_le_bytes());
                }
            }
        }
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn from_device(ty: &TensorType, bytes: &[u8], profile: &DeviceProfile) -> Vec<u32> {
        if ty.elem != Elem::Kv {
            return bytemuck::pod_collect_to_vec(&bytes[..4 * ty.count()]);
        }
        let values: Vec<f32> = if profile.kv_f16() {
            bytemuck::pod_collect_to_vec::<u8, u16>(bytes)
                .into_iter()
                .map(|bits| half::f16::from_bits(bits).to_f32())
                .collect()
        } else {
            bytemuck::pod_collect_to_vec(bytes)
        };
        let heads = values.chunks_exact(head_stride(ty.shape[2]));
        heads.flat_map(|head| head[..ty.shape[2]].iter().map(|v| v.to_bits())).collect()
    }
}
