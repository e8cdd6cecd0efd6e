//! The CPU's kernels are held to the references by the operators' cases, and a row's bits to the row alone.

use dunlin::backend::check::{Prepared, nmse};
use dunlin::ops::{self, Case};
use dunlin::threads::Team;

/// The worst error of a case's results, as a share of its tolerance.
fn share(case: &Case, team: &Team) -> f64 {
    let prepared = Prepared::new(case);
    let (found, wanted) = (prepared.on_cpu(case, team), prepared.reference(case));
    let errors = prepared.results.iter().zip(found.iter().zip(&wanted));
    errors.map(|((_, id), (found, wanted))| nmse(prepared.graph.ty(*id), found, wanted) / case.nmse).fold(
        0.0,
        |a, b| {
            // Not a number is worse than any.
            if b <= a { a } else { b }
        },
    )
}

#[test]
fn kernels_compute_what_references_say() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for members in [1, 3] {
        let team = Team::new(members);
        for (_, cases) in ops::cases() {
            // Benches time large shapes; once is enough for the plain loops.
            for case in cases.iter().filter(|case| members == 1 || !case.bench) {
                count += 1;
                let share = share(case, &team);
                if share > 1.0 || share.is_nan() {
                    wrong.push(format!("{}, a team of {members}: {share:.1e} times its tolerance", case.label()));
                }
            }
        }
    }
    assert!(count > 500, "{count} cases");
    assert!(wrong.is_empty(), "{} of {count} cases are wrong:\n{}", wrong.len(), wrong.join("\n"));
}
