//! The tables of a terminal: phases, and the operators of each.

use std::fmt::Write as _;

use crate::plan::Cost;
use crate::profile::report::{Report, Total};
use crate::profile::text::{digits, scaled, time};

/// What was measured and how, the phases beside their undisturbed run, and the operators of each phase.
pub fn table(report: &Report) -> String {
    let subject = &report.subject;
    let mut text = format!("{} on {}:{}\n", subject.model, subject.backend, subject.device);
    let _ = writeln!(text, "times by {}", report.clock);
    let floors = &report.floors;
    let _ = write!(text, "at most {}B/s of a copy", scaled(floors.copy_bytes_per_s));
    for (kind, rate) in floors.peak_flop_per_s.named() {
        let _ = write!(text, ", {}FLOP/s of {kind}", scaled(rate));
    }
    let _ = match floors.dispatch_us {
        Some(us) => writeln!(text, "; an empty dispatch {}", time(1e3 * us)),
        None => writeln!(text),
    };

    let _ = writeln!(
        text,
        "\n{:<9} {:>7} {:>11} {:>12} {:>12} {:>9} {:>13}",
        "phase", "passes", "dispatches", "undisturbed", "measured", "", "in dispatches"
    );
    for total in &report.phases {
        let _ = writeln!(
            text,
            "{:<9} {:>7} {:>11} {:>12} {:>12} {:>9} {:>13}",
            total.phase.to_string(),
            total.passes,
            total.dispatches,
            time(total.undisturbed as f64),
            time(total.measured as f64),
            format!("{:+.0} %", 100.0 * (total.measured as f64 / total.undisturbed.max(1) as f64 - 1.0)),
            time(total.work as f64),
        );
    }
    report.phases.iter().for_each(|total| text += &operators(report, total));
    text
}

fn operators(report: &Report, total: &Total) -> String {
    let rows = report.joined(total.phase, |line| line.op);
    let mut text = format!(
        "\n{:<16} {:>10} {:>10} {:>7} {:>10} {:>8} {:>9} {:>7}\n",
        total.phase.to_string(),
        "dispatches",
        "time",
        "share",
        "each",
        "GB/s",
        "GFLOP/s",
        "of roof"
    );
    let mut row = |name: &str, runs: usize, ns: u64, least: f64, Cost { bytes, flops }: Cost| {
        // Bytes and operations a nanosecond are their billions a second.
        let all = ns.max(1) as f64;
        let _ = writeln!(
            text,
            "{name:<16} {runs:>10} {:>10} {:>7} {:>10} {:>8} {:>9} {:>7}",
            time(ns as f64),
            format!("{:.1} %", 100.0 * ns as f64 / total.work.max(1) as f64),
            time(ns as f64 / runs.max(1) as f64),
            digits(bytes as f64 / all),
            if flops == 0 { String::new() } else { digits(flops as f64 / all) },
            format!("{:.0} %", 100.0 * least / all),
        );
    };
    for (name, line) in &rows {
        row(name, line.runs, line.ns, line.least, line.cost);
    }
    row("all", total.dispatches, total.work, total.least, total.cost);
    text
}
