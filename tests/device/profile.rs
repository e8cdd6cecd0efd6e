//! Measuring a model on each adapter, with each clock that the adapter offers: every dispatch of every pass has a time,
//! and the tokens are those of an undisturbed run.

use std::path::Path;

use dunlin::backend::DeviceChoice;
use dunlin::backend::measured::{Clock, HostWork, Measured, Phase};
use dunlin::backend::wgpu::device::Gpu;
use dunlin::backend::wgpu::timing;
use dunlin::generate::workload::Workload;
use dunlin::measure::floors;
use dunlin::{Model, Prompt, Sampler};

use crate::support::adapters::say;
use crate::support::golden::root;
use crate::support::runtimes;

#[test]
fn every_dispatch_has_a_time() {
    let folder = root().join("mobilevlm_v2_grid16");
    let picture = root().join("mobilevlm_v2_grid16/image_0.png");
    for runtime in runtimes::full() {
        let model = runtime.model(&folder, &Default::default());
        let prompt = || Prompt::user("What is this?").image(picture.as_path());
        let undisturbed = model.generate(prompt(), &Sampler::greedy()).expect("a prompt").max_tokens(4);
        let undisturbed: Vec<u32> = undisturbed.map(|piece| piece.expect("a token").id).collect();
        let clocks: &[Option<Clock>] = match runtime.is_gpu() {
            true => &[None, Some(Clock::InPass), Some(Clock::Passes), Some(Clock::Submissions)],
            false => &[None],
        };
        let stamps = writes_timestamps(&runtime.choice);
        for &clock in clocks {
            let at = format!("{} with {clock:?}", model.device());
            let runs = Workload::new(&model, prompt(), 3).and_then(|workload| workload.run(clock, &|_, _| ()));
            let runs = match runs {
                Ok(runs) => runs,
                // An adapter need not offer a clock, but the clock that is taken without a wish must work.
                Err(error) if clock.is_some() && error.to_string().contains("cannot be measured by") => {
                    say(&format!("{at}: {error}"));
                    continue;
                }
                Err(error) => panic!("{at}: {error}"),
            };
            assert_eq!(runs.ids[..undisturbed.len()], undisturbed, "{at}: measuring changes the tokens");
            let phases: Vec<Phase> = runs.phases.iter().map(|(phase, _)| *phase).collect();
            assert_eq!(phases, [Phase::Picture, Phase::Prompt, Phase::Decode], "{at}");
            runs.measured.iter().for_each(|measured| check(&at, measured, clock, runtime.is_gpu()));
            let by_host = |measured: &Measured| measured.clock == Clock::Submissions;
            let stamped = !runs.measured.iter().any(by_host);
            assert!(clock.is_some() || !stamps || stamped, "{at}: the device's timestamps are not used");
            let of = |phase| runs.measured.iter().filter(move |measured| measured.phase == phase);
            // The picture makes the prompt longer than one chunk.
            assert_eq!((of(Phase::Prompt).count(), of(Phase::Decode).count()), (2, 3), "{at}");
            // The slices of a picture, and each other pass by itself, are a whole plan.
            whole(&at, &of(Phase::Picture).collect::<Vec<_>>());
            of(Phase::Prompt).chain(of(Phase::Decode)).for_each(|measured| whole(&at, &[measured]));
        }
    }
}

/// Whether a device writes timestamps around a pass: then the profiler must use them.
fn writes_timestamps(device: &DeviceChoice) -> bool {
    let DeviceChoice::Adapter(index) = *device else { return false };
    let gpu = Gpu::open(index).expect("an adapter");
    floors::floor(&gpu).expect("an empty dispatch").clock == timing::Clock::Timestamps
}

/// The times of one pass are possible.
fn check(at: &str, measured: &Measured, asked: Option<Clock>, gpu: bool) {
    let at = format!("{at}, {}", measured.phase);
    assert!(asked.is_none_or(|clock| clock == measured.clock), "{at}: measured by {}", measured.clock);
    let begin = measured.host.first().expect("the host worked").1.begin;
    let done = |work: HostWork| work == HostWork::Wait || work == HostWork::Run;
    let end = measured.host.iter().filter(|(work, _)| done(*work)).map(|(_, span)| span.end).max();
    let end = end.expect("the host waited or ran");
    let mut last = begin;
    for timed in &measured.work {
        assert!(timed.span.begin >= last && timed.span.end >= timed.span.begin, "{at}: {:?} after {last}", timed.span);
        assert!(timed.span.end <= end, "{at}: {:?} ends after {end}", timed.span);
        assert!(timed.cost.bytes > 0, "{at}: a dispatch moves something");
        assert_eq!(timed.dispatch.is_some(), gpu, "{at}");
        last = timed.span.end;
    }
    assert!(measured.work.iter().any(|timed| timed.span.length() > 0), "{at}: no dispatch takes time");
    let mut last = 0;
    for (work, span) in &measured.host {
        assert!(span.begin >= last && span.end >= span.begin, "{at}: {work} {span:?} after {last}");
        last = span.end;
    }
}

/// Some measurements together have each dispatch of their plan once, in order; on the CPU, each node.
fn whole(at: &str, measured: &[&Measured]) {
    let plan = &measured[0].plan;
    let work = || measured.iter().flat_map(|measured| &measured.work);
    match work().next().expect("some work").dispatch {
        Some(_) => {
            let found: Vec<usize> = work().filter_map(|timed| timed.dispatch).collect();
            assert_eq!(found, (0..plan.steps.len()).collect::<Vec<_>>(), "{at}");
            assert!(work().all(|timed| plan.steps[timed.dispatch.unwrap_or(0)].node == timed.node), "{at}");
        }
        None => {
            let found: Vec<usize> = work().map(|timed| timed.node).collect();
            assert_eq!(found, (0..plan.graph.nodes.len()).collect::<Vec<_>>(), "{at}");
        }
    }
}

#[test]
fn a_workload_that_does_not_fit_is_refused() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/mobilellm_gqa");
    let model = Model::load(folder, &dunlin::Device::cpu()).expect("a model");
    let context = model.context();
    let of = |tokens| Workload::new(&model, Prompt::tokens([1, 2, 3]), tokens).map(drop);
    assert!(of(context - 3).is_ok());
    let error = of(context - 2).expect_err("one more token than the context").to_string();
    assert!(error.contains(&format!("context of {context}")) && error.contains("--context"), "{error}");
}
