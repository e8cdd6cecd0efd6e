//! `Device::check` reports the kernels that are wrong, and no others.

use crate::support::adapters;
use dunlin::backend::check::check;
use dunlin::ops::add::Add;
use dunlin::ops::{Case, Given, Operand, Operator, Read, TensorType};
use dunlin::work::{Access, Candidate, DeviceProfile, Family, Kernel, KernelRef, Requires, Row};

#[test]
fn what_is_wrong_is_found_and_nothing_else() {
    let ones = || Given::floats([3], &[1.0; 3]);
    let wrong = |values: [f32; 3]| Case::new(Faulty::Reference, vec![ones(), Given::floats([3], &values)]);
    let right = || Case::new(Add, vec![ones(), ones()]);
    let cases = vec![
        wrong([0.0, 0.0, 0.0]),
        wrong([0.0, 0.1, 0.0]),
        right(),
        wrong([0.0, f32::NAN, 0.0]),
        Case::new(Faulty::Shader, vec![ones(), ones()]),
        right(),
    ];
    for adapter in adapters::all() {
        let found =
            check(adapter.index, &[("add", cases.clone()), ("more", vec![right()])], &|_, _| ()).expect("a check");
        let [add, more] = &found.operators[..] else { panic!("{found:?}") };
        let precisions = if adapter.f16 { 2 } else { 1 };
        assert_eq!((add.cases, add.wrong.len()), (6 * precisions, 3 * precisions), "{found:?}");
        let [slightly, no_number, broken] = [0, 1, 2].map(|i| &add.wrong[i * precisions]);
        assert!(slightly.error > 1.0 && slightly.error.is_finite() && slightly.precision == "f32", "{found:?}");
        assert_eq!((no_number.error, &no_number.failure), (f64::INFINITY, &None), "{found:?}");
        assert!(broken.error.is_infinite() && broken.failure.is_some(), "{found:?}");
        assert_eq!((more.wrong.len(), more.worst_f32, &found.stopped), (0, 0.0, &None), "{found:?}");
    }
}

/// `add` with a deliberate fault.
#[derive(Debug)]
enum Faulty {
    /// The reference is wrong: it copies x.
    Reference,
    /// The shader is not valid WGSL.
    Shader,
}

static BROKEN: Kernel = Kernel {
    file: "broken.wgsl",
    source: "fn broken( {",
    entry: "broken",
    modules: &[],
    bindings: &[Access::ReadWrite; 3],
    params: 0,
    constants: &[],
    requires: Requires::NOTHING,
    replaces: None,
};

impl Operator for Faulty {
    fn name(&self) -> &'static str {
        Add.name()
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        Add.infer(reads)
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], rows: &[Row]) {
        match self {
            Faulty::Reference => writes[0].copy_from_slice(reads[0].f32()),
            Faulty::Shader => Add.reference(reads, writes, rows),
        }
    }

    fn candidates(
        &self,
        reads: &[Operand],
        writes: &[Operand],
        family: Family,
        profile: &DeviceProfile,
    ) -> Vec<Candidate> {
        let mut candidates = Add.candidates(reads, writes, family, profile);
        if let Faulty::Shader = self {
            for dispatch in candidates.iter_mut().flat_map(|candidate| &mut candidate.dispatches) {
                (dispatch.kernel, dispatch.params) = (KernelRef(&BROKEN), Vec::new());
            }
        }
        candidates
    }
}
