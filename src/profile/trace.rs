//! A trace in the Trace Event Format (JSON), which Perfetto and `chrome://tracing` open.
//!
//! Complete events (`ph: "X"`) with `ts` and `dur` in microseconds, on two threads of one process: the host's passes
//! with its work inside them, and the device's dispatches. Metadata events name process and threads. `otherData` holds
//! what was run.

use serde_json::{Value, json};

use crate::backend::measured::Span;
use crate::profile::report::Report;

const PROCESS: u32 = 1;
const HOST: u32 = 1;
const DEVICE: u32 = 2;

/// The text of the trace.
pub fn trace(report: &Report) -> String {
    let about = |what: &str, thread: u32, args: Value| json!({"name": what, "ph": "M", "ts": 0, "pid": PROCESS, "tid": thread, "args": args});
    let name = |what, thread, name: &str| about(what, thread, json!({"name": name}));
    let order = |thread, place: u32| about("thread_sort_index", thread, json!({"sort_index": place}));
    let mut events = vec![
        name("process_name", HOST, &format!("dunlin profile {}", report.subject.model)),
        name("thread_name", HOST, "host"),
        name("thread_name", DEVICE, &format!("device: {}", report.subject.device)),
        order(HOST, 0),
        order(DEVICE, 1),
    ];
    // Of two events that begin together the longer one is the outer one.
    let mut timed: Vec<(Span, Value)> = Vec::new();
    let mut push = |span: Span, thread: u32, name: &str, category: &str, args: Value| {
        let event = json!({
            "name": name, "cat": category, "ph": "X", "pid": PROCESS, "tid": thread,
            "ts": microseconds(span.begin), "dur": microseconds(span.length()), "args": args,
        });
        timed.push((span, event));
    };
    for (name, phase, span) in &report.passes {
        push(*span, HOST, name, "pass", json!({"phase": phase.to_string()}));
    }
    for (work, span) in &report.host {
        push(*span, HOST, &work.to_string(), "host", json!({}));
    }
    for &(index, span, cost) in &report.work {
        let line = &report.lines[index];
        let args = json!({
            "operator": line.op, "kernel": line.kernel, "shape": line.shape, "layer": line.layer,
            "phase": line.phase.to_string(), "dispatch": index,
            "bytes": cost.bytes, "flop": cost.flops,
        });
        push(span, DEVICE, line.op, "dispatch", args);
    }
    timed.sort_by_key(|(span, _)| (span.begin, std::cmp::Reverse(span.end)));
    events.extend(timed.into_iter().map(|(_, event)| event));
    let subject = serde_json::to_value(&report.subject).expect("strings and numbers");
    let other = json!({"subject": subject, "clock": report.clock.to_string()});
    json!({"displayTimeUnit": "ns", "otherData": other, "traceEvents": events}).to_string()
}

/// Nanoseconds as microseconds.
fn microseconds(ns: u64) -> f64 {
    ns as f64 / 1e3
}
