//! The CPU's kernels agree with the references on the operators' cases, at every level that the processor supports:
//! AVX-512, AVX2, and the plain target.

use dunlin::backend::check::{Prepared, nmse};
use dunlin::cpu::{self, Level};
use dunlin::ops;
use dunlin::threads::Team;

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
    for case in ops::cases().into_iter().flat_map(|(_, cases)| cases) {
        let prepared = Prepared::new(&case);
        let wanted = prepared.reference(&case);
        let mut hold = |level: Level, team: &Team, members: usize| {
            cpu::limit(level);
            let results = prepared.on_cpu(&case, team);
            for ((_, id), (found, wanted)) in prepared.results.iter().zip(results.iter().zip(&wanted)) {
                let share = nmse(prepared.graph.ty(*id), found, wanted) / case.nmse;
                // NaN is wrong too.
                if share.is_nan() || share > 1.0 {
                    let at = format!("{} at {level:?}, a team of {members}", case.label());
                    wrong.push(format!("{at}: {share:.1e} times its tolerance"));
                }
            }
            results
        };
        let forms: Vec<_> = levels.iter().map(|&level| hold(level, &alone, 1)).collect();
        for (differ, pair) in differ.iter_mut().zip(forms.windows(2)) {
            *differ += usize::from(pair[0] != pair[1]);
        }
        // Large shapes are for benches; one run of them is enough here.
        if !case.bench {
            hold(widest, &team, 3);
        }
        count += 1;
    }
    cpu::limit(widest);
    assert!(count > 250, "{count} cases");
    assert!(differ.iter().all(|&cases| cases > 0), "{levels:?}: {differ:?} cases differ from one to the next");
    assert!(wrong.is_empty(), "{} of {count} cases are wrong:\n{}", wrong.len(), wrong.join("\n"));
}
