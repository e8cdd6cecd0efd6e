//! Reports and comparisons as text for a terminal, or as Markdown.

use crate::measure::compare::{Comparison, Line};
use crate::measure::report::{DeviceReport, Floors, ModelTimes, Peaks, Report};
use crate::measure::runs::{QUIET, Runs};

/// The form of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Terminal,
    Markdown,
}

/// A whole report.
pub fn report(report: &Report, form: Form) -> String {
    let machine = &report.machine;
    let what = report.model.as_ref().map_or("operators".to_owned(), |model| {
        let millions = model.parameters as f64 / 1e6;
        format!("{} ({}, {millions:.1} M parameters, {})", model.name, model.architecture, bytes(model.tensor_bytes))
    });
    let mut text = format!("{what}; dunlin {}; {}, {}\n", report.dunlin, machine.processor, machine.system);
    for device in &report.devices {
        text += &of_device(device, form);
    }
    for warning in &report.warnings {
        text += &match form {
            Form::Terminal => format!("warning: {warning}\n"),
            Form::Markdown => format!("\n> warning: {warning}\n"),
        };
    }
    text
}

fn of_device(device: &DeviceReport, form: Form) -> String {
    let mut text = match form {
        Form::Terminal => format!("\n{} ({})\n", device.device, device.driver),
        Form::Markdown => format!("\n### {}\n\n{}\n\n", device.device, device.driver),
    };
    let mut note = |what: &str, line: String| {
        text += &match form {
            Form::Terminal => format!("  {what:<8} {line}\n"),
            Form::Markdown => format!("- {what}: {line}\n"),
        };
    };
    note("floors", floors(&device.floors));
    if let Some(model) = &device.model {
        note("load", format!("{} s in a new process", plus_minus(&model.load_s)));
        let (cold, warm) = (plus_minus(&model.first_token_cold_ms), plus_minus(&model.first_token_warm_ms));
        let tokens = model.prompts.first().map_or(0, |prompt| prompt.tokens);
        note("first", format!("token after a prompt of {tokens}: {cold} ms cold, {warm} ms warm"));
        note("memory", memory(model));
    }
    if let Some(model) = &device.model {
        text += &table(&model_lines(model), form);
    }
    if !device.operators.is_empty() {
        text += &table(&operator_lines(device), form);
    }
    text
}

fn floors(floors: &Floors) -> String {
    let mut parts = vec![format!("copy {:.1} GB/s", floors.copy_bytes_per_s / 1e9)];
    parts.extend(floors.peak_flop_per_s.named().map(|(kind, peak)| format!("{:.0} GFLOP/s {kind}", peak / 1e9)));
    if let (Some(dispatch), Some(record), Some(submission), Some(clock)) =
        (floors.dispatch_us, floors.record_us, floors.submission_us, &floors.clock)
    {
        parts.push(format!("empty dispatch {dispatch:.2} µs ({clock}), {record:.2} µs to record"));
        parts.push(format!("submission {submission:.0} µs"));
    }
    parts.join(", ")
}

fn memory(model: &ModelTimes) -> String {
    let memory = &model.memory;
    let mut parts = Vec::new();
    if let (Some(loading), Some(first)) = (memory.host_peak_loading_bytes, memory.host_peak_bytes) {
        parts.push(format!("host at most {} while loading, {} with a prompt", bytes(loading), bytes(first)));
    }
    let (weights, cache) = (bytes(memory.device_weight_bytes), bytes(memory.device_cache_bytes));
    let (positions, arena) = (memory.device_positions, bytes(memory.device_arena_bytes));
    parts.push(format!("device {weights} of weights, {cache} of cache for {positions} positions, {arena} of arena"));
    if let Some(allocated) = memory.device_allocated_bytes {
        parts.push(format!("{} allocated", bytes(allocated)));
    }
    parts.join("; ")
}

fn model_lines(model: &ModelTimes) -> Vec<Vec<String>> {
    let head = ["", "tokens/s", "of the copy floor", "of the dispatch floor", "of the peak", "a token"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for prompt in &model.prompts {
        let (rate, peak) = (plus_minus(&prompt.tokens_per_s), shares(&prompt.share_of_peak));
        let flop = format!("{:.1} MFLOP", prompt.flop as f64 / prompt.tokens as f64 / 1e6);
        lines.push(vec![prompt.name(), rate, String::new(), String::new(), peak, flop]);
    }
    for decode in &model.decodes {
        let rate = plus_minus(&decode.tokens_per_s);
        let dispatch = decode.dispatch_floor_share.map_or(String::new(), percent);
        let mut each = vec![bytes(decode.bytes_per_token as u64)];
        if decode.dispatch_floor_us.is_some() {
            each.push(format!("{} dispatches", short(decode.dispatches_per_token)));
            each.push(format!("{} submissions", short(decode.submissions_per_token)));
        }
        if let Some(host) = &decode.host_us_per_token {
            each.push(format!("host {:.0} µs", host.mean));
        }
        lines.push(vec![
            decode.name(),
            rate,
            percent(decode.copy_floor_share),
            dispatch,
            String::new(),
            each.join(", "),
        ]);
    }
    if let Some(picture) = &model.picture {
        let rate = format!("{} ms", plus_minus(&picture.encode_ms));
        let name = format!("picture of {} px", picture.side);
        let all = format!("{} tokens, {:.1} GFLOP in all", picture.tokens, picture.flop as f64 / 1e9);
        lines.push(vec![name, rate, String::new(), String::new(), shares(&picture.share_of_peak), all]);
    }
    lines
}

fn operator_lines(device: &DeviceReport) -> Vec<Vec<String>> {
    let head = ["operator", "µs", "GB/s", "GFLOP/s", "of the roofline", "clock"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for case in &device.operators {
        let gflops = case.gflop_per_s.map_or(String::new(), |rate| format!("{rate:.2}"));
        let roofline = format!("{} ({})", percent(case.roofline_share), case.bound);
        let (time, clock) = (plus_minus(&case.time_us), case.clock.clone());
        lines.push(vec![case.case.clone(), time, format!("{:.2}", case.gb_per_s), gflops, roofline, clock]);
    }
    lines
}

/// A comparison; `allowed` is the share that a measurement may be slower.
pub fn comparison(comparison: &Comparison, allowed: f64, form: Form) -> String {
    let head = ["device", "", "unit", "before", "after", "speedup", "noise", ""];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for line in &comparison.lines {
        let (before, after) = (&line.before, &line.after);
        lines.push(vec![
            before.device.clone(),
            before.what.clone(),
            before.unit.to_owned(),
            plus_minus(&before.runs),
            plus_minus(&after.runs),
            format!("{:.3}", line.speedup),
            format!("± {:.3}", line.noise),
            verdict(line, allowed).to_owned(),
        ]);
    }
    let mut text = table(&lines, form);
    let notes = [("differs", &comparison.changes), ("no pair", &comparison.alone)];
    for (what, notes) in notes {
        for note in notes {
            text += &match form {
                Form::Terminal => format!("{what}: {note}\n"),
                Form::Markdown => format!("\n- {what}: {note}\n"),
            };
        }
    }
    text
}

fn verdict(line: &Line, allowed: f64) -> &'static str {
    match (line.differs(), line.speedup > 1.0) {
        _ if line.slower(allowed) => "slower than allowed",
        (false, _) => "within the noise",
        (true, true) => "faster",
        (true, false) => "slower, as allowed",
    }
}

/// Lines of equally many cells; the first line is the head. The last cell of a line is not filled up.
fn table(lines: &[Vec<String>], form: Form) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    if form == Form::Markdown {
        let cell = |cell: &String| cell.replace('\n', " ").replace('|', "\\|");
        let row = |cells: &[String]| format!("| {} |\n", cells.iter().map(cell).collect::<Vec<_>>().join(" | "));
        let rule = format!("|{}\n", "---|".repeat(columns));
        let body = lines.iter().skip(1).map(|cells| row(cells)).collect::<String>();
        return format!("\n{}{rule}{body}", row(&lines[0]));
    }
    let width = |column: usize| lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::from("\n");
    for cells in lines {
        let filled: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text += &format!("  {}\n", filled.join("  ").trim_end());
    }
    text
}

/// `41.25 ± 0.31`, with a mark if the runs spread over more than [`QUIET`].
fn plus_minus(runs: &Runs) -> String {
    let mark = if runs.spread() > QUIET { " (!)" } else { "" };
    runs.deviation.map_or(digits(runs.mean), |deviation| format!("{} ± {}{mark}", digits(runs.mean), digits(deviation)))
}

/// Four significant digits.
fn digits(value: f64) -> String {
    let before = if value.abs() >= 1.0 { value.abs().log10().floor() as usize + 1 } else { 1 };
    format!("{value:.0$}", 4usize.saturating_sub(before).min(3))
}

/// A count that is whole if one sequence decodes.
fn short(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value}") } else { format!("{value:.2}") }
}

fn percent(share: f64) -> String {
    if share < 0.0995 { format!("{:.1} %", 100.0 * share) } else { format!("{:.0} %", 100.0 * share) }
}

fn shares(shares: &Peaks) -> String {
    shares.named().map(|(kind, share)| format!("{} {kind}", percent(share))).collect::<Vec<_>>().join(", ")
}

/// Bytes in the unit that fits, a thousand of one being the next.
fn bytes(count: u64) -> String {
    let count = count as f64;
    match count {
        _ if count >= 1e9 => format!("{:.2} GB", count / 1e9),
        _ if count >= 1e6 => format!("{:.1} MB", count / 1e6),
        _ => format!("{:.1} kB", count / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(plus_minus(&Runs::new(vec![41.0, 42.0, 43.0])), "42.00 ± 1.000");
        assert_eq!(plus_minus(&Runs::new(vec![5.0, 15.0])), "10.00 ± 7.071 (!)");
        assert_eq!(plus_minus(&Runs::new(vec![1234.5])), "1234");
        assert_eq!((digits(0.0123), digits(99.5), digits(123456.0)), ("0.012".into(), "99.50".into(), "123456".into()));
        assert_eq!((percent(0.123), percent(0.0123), percent(1.5)), ("12 %".into(), "1.2 %".into(), "150 %".into()));
        assert_eq!(
            (bytes(2_500_000_000), bytes(98_900_000), bytes(1200)),
            ("2.50 GB".into(), "98.9 MB".into(), "1.2 kB".into())
        );
        assert_eq!((short(154.0), short(19.25)), ("154".into(), "19.25".into()));
    }

    #[test]
    fn tables_have_both_forms() {
        let lines =
            vec![vec!["a".to_owned(), "µs".into(), String::new()], vec!["linear".into(), "1.5".into(), "x".into()]];
        assert_eq!(table(&lines, Form::Terminal), "\n  a       µs\n  linear  1.5  x\n");
        assert_eq!(table(&lines, Form::Markdown), "\n| a | µs |  |\n|---|---|---|\n| linear | 1.5 | x |\n");
        let lines = vec![vec!["device".to_owned()], vec!["GPU | Pro\n2".into()]];
        assert_eq!(table(&lines, Form::Markdown), "\n| device |\n|---|\n| GPU \\| Pro 2 |\n");
    }
}
