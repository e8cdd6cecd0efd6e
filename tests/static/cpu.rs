//! The CPU's kernels are held to the references by the operators' cases, in every form that the processor can run: compiled
//! for AVX-512, for AVX2, and for the plain target.

use dunlin::backend::check::{Prepared, nmse};
use dunlin::cpu::{self, Level};
use dunlin::ops;
use dunlin::threads::Team;

/// One test for all levels: a limit holds for all threads of the process.
#[test]
fn kernels_compute_what_references_say() {
    let levels = cpu::levels();
    let widest = *levels.last().expect("the plain target");
    let (alone, team) = (Team::new(1), Team::new(3));
    let mut wrong = Vec::new();
    let mut count = 0;
    // Of each level and the next: cases whose bits differ. Where none do, the limit limits nothing.
    let mut differ = vec![0; levels.len() - 1];
    for case in ops::cases().into_iter().flat_map(|(_, cases)| cases) {
        let prepared = Prepared::new(&case);
        let wanted = prepared.reference(&case);
        let mut hold = |level: Level, team: &Team, members: usize| {
            cpu::limit(level);
            let results = prepared.on_cpu(&case, team);
            for ((_, id), (found, wanted)) in prepared.results.iter().zip(results.iter().zip(&wanted)) {
                let share = nmse(prepared.graph.ty(*id), found, wanted) / case.nmse;
                // Not a number is wrong too.
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
        // Benches time large shapes; once is enough for them.
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
