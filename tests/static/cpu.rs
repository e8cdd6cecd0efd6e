//! The CPU's kernels agree with the references on the operators' cases, at every level that the processor supports:
//! AVX-512 with and without VNNI, AVX2, and the plain target.

use dunlin::backend::check::{Prepared, nmse};
use dunlin::cpu::{self, Level};
use dunlin::ops;
use dunlin::threads::Team;

/// The error of rounded activations: a step of max / 127 has an error of max / 440 (1 / √12 of a step), and an element is
/// about max / 2, so the square of the ratio is 2e-5. A factor of 5 is for blocks with one large element, and one of 4 for
/// SwiGLU, which multiplies two such sums.
const ROUNDED: f64 = 4e-4;

/// One test for all levels, because the limit applies to all threads of the process.
#[test]
fn kernels_compute_what_references_say() {
    let levels = cpu::levels();
    let widest = *levels.last().expect("the plain target");
    let (alone, team) = (Team::new(1), Team::new(3));
    let mut wrong = Vec::new();
    let mut count = 0;
    // For each level and the next, the number of cases whose bits differ. If there is none, the limit has no effect.
    let mut differ = vec![0; levels.len() - 1];
    let mut rounded = 0;
    for case in ops::cases().into_iter().flat_map(|(_, cases)| cases) {
        let prepared = Prepared::new(&case);
        let wanted = prepared.reference(&case);
        let mut hold = |level: Level, rounds: bool, team: &Team, members: usize| {
            cpu::limit(level);
            let results = prepared.on_cpu(&case, rounds, team);
            let most = if rounds { case.nmse.max(ROUNDED) } else { case.nmse };
            for ((_, id), (found, wanted)) in prepared.results.iter().zip(results.iter().zip(&wanted)) {
                let share = nmse(prepared.graph.ty(*id), found, wanted) / most;
                // NaN is wrong too.
                if share.is_nan() || share > 1.0 {
                    let how = if rounds { "rounded" } else { "not rounded" };
                    let at = format!("{} at {level:?}, a team of {members}, {how}", case.label());
                    wrong.push(format!("{at}: {share:.1e} times its tolerance"));
                }
            }
            results
        };
        let forms: Vec<_> =
            levels.iter().map(|&level| [false, true].map(|rounds| hold(level, rounds, &alone, 1))).collect();
        for (differ, pair) in differ.iter_mut().zip(forms.windows(2)) {
            *differ += usize::from(pair[0] != pair[1]);
        }
        rounded += usize::from(forms.iter().all(|[exact, rounded]| exact != rounded));
        // Large shapes are for benches; one run of them is enough here.
        if !case.bench {
            hold(widest, false, &team, 3);
            hold(widest, true, &team, 3);
        }
        count += 1;
    }
    cpu::limit(widest);
    assert!(rounded > 0, "no case differs with rounded activations");
    assert!(count > 250, "{count} cases");
    assert!(differ.iter().all(|&cases| cases > 0), "{levels:?}: {differ:?} cases differ from one to the next");
    assert!(wrong.is_empty(), "{} of {count} cases are wrong:\n{}", wrong.len(), wrong.join("\n"));
}
