//! `dunlin profile`: its files can be read, agree with each other and with the table, and hold no markup of a prompt;
//! paths that cannot be written are refused before anything runs.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::support::golden::root;
use crate::support::program::{fails, stdout};
use crate::support::scratch::Scratch;

const PROMPT: &str = "</script><b>\"what\"</b> & <!--DATA-->";

#[test]
fn the_files_agree_with_the_table() {
    let scratch = Scratch::new();
    let path = |name: &str| scratch.path(name).to_str().expect("UTF-8").to_owned();
    let (out, html, plot) = (path("trace.json"), path("report.html"), path("roofline.svg"));
    // A file that exists is replaced.
    std::fs::write(&plot, "before").expect("a file");
    let picture = root().join("mobilevlm_v2_grid16/image_0.png");
    let picture = picture.to_str().expect("UTF-8");
    let table = stdout(&[
        "profile", "demo", "--device", "cpu", "--prompt", PROMPT, "--image", picture, "-n", "3", "--out", &out,
        "--html", &html, "--plot", &plot,
    ]);
    let read = |path: &str| std::fs::read_to_string(path).expect("a file that was written");
    let sums = trace(&serde_json::from_str(&read(&out)).expect("JSON"));
    let lines = page(&read(&html), &sums);
    svg(&read(&plot), &lines);

    // The table has each operator of each phase with the time of the trace, to three digits.
    assert!(table.contains("all threads meet"), "the clock is named: {table}");
    let mut phase = String::new();
    let mut found = BTreeSet::new();
    for line in table.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [name, "dispatches", "time", ..] => phase = name.to_owned(),
            [op, _, value, unit, ..] if !phase.is_empty() && op != "all" && !op.contains('/') => {
                let factor =
                    [("ns", 1.0), ("µs", 1e3), ("ms", 1e6), ("s", 1e9)].into_iter().find(|(name, _)| *name == unit);
                let Some((_, factor)) = factor else { panic!("{line}: a time has a unit") };
                let told = value.parse::<f64>().expect("a number") * factor;
                let ns =
                    *sums.get(&(phase.clone(), op.to_owned())).unwrap_or_else(|| panic!("{line}: not in the trace"));
                assert!((told - ns as f64).abs() <= 0.006 * ns as f64 + 0.01, "{line}: the trace has {ns} ns");
                // The share of the roof is the least time over the time.
                let sum = |what: &str| -> f64 {
                    let own = lines.iter().filter(|line| line["phase"] == *phase && line["op"] == op);
                    own.map(|line| line[what].as_f64().expect("a number")).sum()
                };
                let share = words.iter().rev().nth(1).and_then(|word| word.parse::<f64>().ok()).expect("a share");
                assert!(
                    (share - 100.0 * sum("least") / sum("ns")).abs() <= 0.501,
                    "{line}: {} ns at least",
                    sum("least")
                );
                assert!(sum("least") > 0.0, "{line}: everything moves something");
                found.insert((phase.clone(), op.to_owned()));
            }
            _ => {}
        }
    }
    assert_eq!(found, sums.into_keys().collect(), "the table and the trace have the same operators");
}

/// Checks a trace against the Trace Event Format. Returns the nanoseconds of each phase and operator.
fn trace(trace: &Value) -> BTreeMap<(String, String), u64> {
    let events = trace["traceEvents"].as_array().expect("events");
    let (names, events): (Vec<&Value>, Vec<&Value>) = events.iter().partition(|event| event["ph"] == "M");
    let named = |what: &str| names.iter().filter(|event| event["name"] == what).count();
    assert_eq!((named("process_name"), named("thread_name")), (1, 2));
    assert!(trace["otherData"]["clock"].as_str().is_some_and(|clock| !clock.is_empty()));
    let mut sums = BTreeMap::new();
    let (mut last, mut device_end) = (0.0, 0.0);
    // The ends of the host's events that are open: inner ones end first.
    let mut open: Vec<f64> = Vec::new();
    let mut categories = BTreeSet::new();
    for event in events {
        let number = |key: &str| event[key].as_f64().unwrap_or_else(|| panic!("{key} of {event}"));
        let text = |value: &Value| {
            value.as_str().filter(|text| !text.is_empty()).unwrap_or_else(|| panic!("{event}")).to_owned()
        };
        assert_eq!((event["ph"].as_str(), event["pid"].as_u64()), (Some("X"), Some(1)), "{event}");
        let (ts, dur, name, category) = (number("ts"), number("dur"), text(&event["name"]), text(&event["cat"]));
        assert!(ts >= last && dur >= 0.0, "events are in order: {event}");
        last = ts;
        categories.insert(category.clone());
        match event["tid"].as_u64() {
            Some(1) => {
                while open.last().is_some_and(|&end| end <= ts + 1e-6) {
                    open.pop();
                }
                assert!(open.last().is_none_or(|&end| ts + dur <= end + 1e-6), "events overlap: {event}");
                open.push(ts + dur);
                let known = ["encode", "submit", "wait", "run", "sample"].contains(&name.as_str());
                assert_eq!(known, category == "host", "{event}");
            }
            Some(2) => {
                assert!(ts >= device_end - 1e-6, "dispatches overlap: {event}");
                device_end = ts + dur;
                let args = &event["args"];
                for key in ["operator", "kernel", "shape", "layer", "phase"] {
                    text(&args[key]);
                }
                assert_eq!(args["operator"], event["name"]);
                assert!(args["bytes"].as_u64().is_some_and(|bytes| bytes > 0) && args["flop"].is_u64(), "{event}");
                *sums.entry((text(&args["phase"]), name)).or_insert(0) += (dur * 1e3).round() as u64;
            }
            _ => panic!("a thread without a name: {event}"),
        }
    }
    assert_eq!(categories, ["dispatch", "host", "pass"].map(String::from).into());
    sums
}

/// Checks a page against a trace's sums. Returns its dispatches.
fn page(page: &str, sums: &BTreeMap<(String, String), u64>) -> Vec<Value> {
    // Nothing is fetched, and no text of the prompt is markup.
    for part in ["src=", "href=", "@import", "url(", "<b>", "<!--"] {
        assert!(!page.contains(part), "`{part}` in the page");
    }
    assert!(page.contains("default-src 'none'"));
    let (_, rest) = page.split_once("id=\"data\">").expect("data");
    let (data, _) = rest.split_once("</script>").expect("the end of the data");
    let data: Value = serde_json::from_str(data).expect("JSON");
    assert_eq!(data["subject"]["prompt"], PROMPT);
    let lines = data["lines"].as_array().expect("dispatches").clone();
    let mut found: BTreeMap<(String, String), u64> = BTreeMap::new();
    for line in &lines {
        let text = |key: &str| line[key].as_str().expect("text").to_owned();
        *found.entry((text("phase"), text("op"))).or_default() += line["ns"].as_u64().expect("a time");
    }
    assert_eq!(found, *sums, "the page and the trace");
    for phase in data["phases"].as_array().expect("phases") {
        let of = lines.iter().filter(|line| line["phase"] == phase["name"]);
        assert_eq!(
            of.map(|line| line["ns"].as_u64().unwrap_or(0)).sum::<u64>(),
            phase["work"].as_u64().expect("a sum")
        );
        assert!(phase["undisturbed"].as_u64().is_some_and(|ns| ns > 0));
    }
    let layers: BTreeSet<&str> = lines.iter().filter_map(|line| line["layer"].as_str()).collect();
    let wanted = ["patches", "block 0", "projector", "embedding", "layer 0", "layer 3", "head"];
    assert!(wanted.iter().all(|layer| layers.contains(layer)), "{layers:?}");
    lines
}

/// Checks that a drawing is balanced markup with a point for each kernel of each phase.
fn svg(svg: &str, lines: &[Value]) {
    let mut open: Vec<&str> = Vec::new();
    for tag in svg.split('<').skip(1).map(|part| part.split_once('>').expect("a tag ends").0) {
        let name = tag.trim_start_matches('/').split(|c: char| c.is_whitespace() || c == '/').next().unwrap_or("");
        match tag {
            _ if tag.starts_with('?') || tag.ends_with('/') => {}
            _ if tag.starts_with('/') => assert_eq!(open.pop(), Some(name), "{tag}"),
            _ => open.push(name),
        }
    }
    assert!(open.is_empty(), "{open:?}");
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "coordinates are numbers");
    let kernels: BTreeSet<String> = lines.iter().map(|line| format!("{} {}", line["phase"], line["kernel"])).collect();
    assert_eq!(svg.matches("class=\"point ").count(), kernels.len(), "{kernels:?}");
}

#[test]
fn paths_that_cannot_be_written_are_refused() {
    let scratch = Scratch::new();
    let path = |name: &str| scratch.path(name).to_str().expect("UTF-8").to_owned();
    let (kept, folder) = (path("kept.json"), path(""));
    std::fs::write(&kept, "kept").expect("a file");
    let beneath = format!("{kept}/trace.json");
    let missing = path("no folder/trace.json");
    for (option, bad) in [("--out", &missing), ("--html", &folder), ("--plot", &beneath)] {
        // The path is refused first: the model is not even looked for.
        fails(&["profile", "no model", "--device", "cpu", option, bad], &["cannot be written"]);
    }
    fails(&["profile", "demo", "--out", &kept, "--html", &kept], &["kept.json", "twice"]);
    fails(&["profile", "no model", "--device", "cpu", "--out", &kept], &["no model"]);
    fails(&["profile", "demo", "--device", "cpu", "-n", "100000", "--out", &kept], &["100000", "--context"]);
    fails(&["profile", "demo", "--device", "cpu", "--clock", "passes", "--out", &kept], &["the CPU is measured by"]);
    assert_eq!(std::fs::read_to_string(&kept).expect("a file"), "kept", "a run that fails changes no file");
    let names: Vec<_> =
        std::fs::read_dir(&folder).expect("a folder").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["kept.json"], "a run that fails leaves no file");
}
