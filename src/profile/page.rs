//! One HTML page that shows a report, and needs nothing else: no network, no other file.
//!
//! Its text comes from `page/`: the page, its style and its script. Names and prompts reach it as JSON, which the script
//! shows as text, or escaped.

use serde_json::{Value, json};

use crate::profile::report::Report;
use crate::profile::roofline::{COLOURS, drawing, style};
use crate::profile::text::escaped;

/// The text of the page.
pub fn page(report: &Report) -> String {
    // A path says less than its last part.
    let model = report.subject.model.trim_end_matches('/');
    let title = escaped(model.rsplit(['/', '\\']).next().unwrap_or(model));
    let style = format!("{}\n{}", style(), include_str!("page/page.css"));
    // `<` could end the element of the data, or begin a comment in it.
    let data = data(report).to_string().replace('<', "\\u003c");
    fill(
        include_str!("page/page.html"),
        &[
            ("TITLE", &title),
            ("STYLE", &style),
            ("ROOFLINE", &drawing(report, model, None)),
            ("DATA", &data),
            ("SCRIPT", include_str!("page/page.js")),
        ],
    )
}

/// The template with `<!--NAME-->` replaced by the text of each name. Text that was filled in is not searched again.
fn fill(template: &str, texts: &[(&str, &str)]) -> String {
    let mut page = String::with_capacity(template.len() + texts.iter().map(|(_, text)| text.len()).sum::<usize>());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("<!--") {
        let (name, after) = after.split_once("-->").expect("a mark ends");
        let (_, text) = texts.iter().find(|(known, _)| *known == name).expect("a known mark");
        page += before;
        page += text;
        rest = after;
    }
    page + rest
}

/// What the script reads.
fn data(report: &Report) -> Value {
    let lines = report.lines.iter().map(|line| {
        json!({
            "phase": line.phase.to_string(), "op": line.op, "kernel": line.kernel, "shape": line.shape,
            "layer": line.layer, "runs": line.runs, "ns": line.ns, "least": line.least, "bytes": line.cost.bytes,
            "flop": line.cost.flops,
        })
    });
    let phases = report.phases.iter().map(|total| {
        json!({
            "name": total.phase.to_string(), "passes": total.passes, "dispatches": total.dispatches,
            "undisturbed": total.undisturbed, "measured": total.measured, "work": total.work,
            "bytes": total.cost.bytes, "flop": total.cost.flops,
        })
    });
    let passes =
        report.passes.iter().map(|(name, phase, span)| json!([name, phase.to_string(), span.begin, span.length()]));
    let host = report.host.iter().map(|(work, span)| json!([work.to_string(), span.begin, span.length()]));
    let work = report.work.iter().map(|(line, span, _)| json!([line, span.begin, span.length()]));
    json!({
        "subject": report.subject,
        "clock": report.clock.to_string(),
        "colours": COLOURS.len(),
        "operators": report.operators(),
        "dispatch": report.floors.dispatch_us.map(|us| 1e3 * us),
        "phases": phases.collect::<Vec<_>>(),
        "lines": lines.collect::<Vec<_>>(),
        "passes": passes.collect::<Vec<_>>(),
        "host": host.collect::<Vec<_>>(),
        "work": work.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    /// Browsers take some ten thousand arguments, and a run has more dispatches.
    #[test]
    fn the_script_passes_no_list_as_arguments() {
        let script = include_str!("page/page.js");
        for call in ["Math.max(...", "Math.min(...", ".push(..."] {
            assert!(!script.contains(call), "`{call}` in page.js");
        }
    }
}
