//! Several runs of one measurement: their mean and deviation, and how two of them compare.

use serde::{Deserialize, Serialize};

/// The spread above which a machine is not quiet.
pub const QUIET: f64 = 0.1;

/// The runs of one measurement, with one unit. There is at least one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Runs {
    pub mean: f64,
    /// The standard deviation of the runs (of the sample, so divided by n − 1); `None` for a single run.
    pub deviation: Option<f64>,
    pub runs: Vec<f64>,
}

impl Runs {
    pub fn new(runs: Vec<f64>) -> Self {
        let count = runs.len() as f64;
        let mean = runs.iter().sum::<f64>() / count;
        let squares: f64 = runs.iter().map(|run| (run - mean).powi(2)).sum();
        let deviation = (runs.len() > 1).then(|| (squares / (count - 1.0)).sqrt());
        Runs { mean, deviation, runs }
    }

    /// The same runs in another unit, or another quantity of each.
    pub fn map(&self, to: impl Fn(f64) -> f64) -> Self {
        Runs::new(self.runs.iter().map(|&run| to(run)).collect())
    }

    /// The deviation as a share of the mean; 0 for a single run.
    pub fn spread(&self) -> f64 {
        self.deviation.map_or(0.0, |deviation| deviation / self.mean)
    }
}

/// How far two means may differ without a cause: half of the interval that holds the difference of two samples of the
/// same distribution in 95 of 100 cases (Welch's t-test). A single run has no deviation, so the spread of a quiet
/// machine is taken: [`QUIET`] of the mean.
pub fn noise(before: &Runs, after: &Runs) -> f64 {
    let (Some(a), Some(b)) = (before.deviation, after.deviation) else { return QUIET * before.mean.abs() };
    let (n, m) = (before.runs.len() as f64, after.runs.len() as f64);
    let (a, b) = (a * a / n, b * b / m);
    if a + b == 0.0 {
        return 0.0;
    }
    let freedom = (a + b).powi(2) / (a * a / (n - 1.0) + b * b / (m - 1.0));
    student(freedom) * (a + b).sqrt()
}

/// The 97.5 % quantile of Student's distribution, for the next smaller whole number of degrees of freedom.
fn student(freedom: f64) -> f64 {
    const QUANTILES: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
        2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
    ];
    // A rounding error may leave the freedom just below a whole number.
    let whole = (freedom + 1e-9) as usize;
    QUANTILES.get(whole.max(1) - 1).copied().unwrap_or(1.96)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, wanted: f64) {
        assert!((found - wanted).abs() < 1e-3 * wanted.abs().max(1.0), "{found}, not {wanted}");
    }

    #[test]
    fn mean_and_deviation_are_those_of_the_sample() {
        let runs = Runs::new(vec![2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        near(runs.mean, 5.0);
        // The squares of the differences add up to 32, over 7.
        near(runs.deviation.unwrap(), (32.0f64 / 7.0).sqrt());
        near(runs.spread(), (32.0f64 / 7.0).sqrt() / 5.0);
        let one = Runs::new(vec![3.0]);
        assert_eq!((one.mean, one.deviation, one.spread()), (3.0, None, 0.0));
        assert_eq!(runs.map(|run| 1.0 / run).runs[0], 0.5);
    }

    #[test]
    fn noise_is_that_of_the_test_of_welch() {
        // Equal deviations of 1 in five runs each: 8 degrees of freedom, a standard error of √(2/5).
        let five = |mean: f64| {
            let step = (2.0f64 / 5.0).sqrt();
            Runs::new([-2.0, -1.0, 0.0, 1.0, 2.0].map(|i| mean + i * step).to_vec())
        };
        near(five(7.0).deviation.unwrap(), 1.0);
        near(noise(&five(10.0), &five(20.0)), 2.306 * (2.0f64 / 5.0).sqrt());
        // One side does not vary: the 4 degrees of freedom of the other.
        let still = Runs::new(vec![3.0; 5]);
        near(noise(&five(10.0), &still), 2.776 * (1.0f64 / 5.0).sqrt());
        near(noise(&still, &five(10.0)), 2.776 * (1.0f64 / 5.0).sqrt());
        assert_eq!(noise(&still, &still), 0.0);
        // A single run: a tenth of the value before.
        near(noise(&Runs::new(vec![50.0]), &five(10.0)), 5.0);
        near(noise(&five(10.0), &Runs::new(vec![50.0])), 1.0);
        near(student(1.5), 12.706);
        near(student(1000.0), 1.96);
    }
}
