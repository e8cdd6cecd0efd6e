//! Decoding steps of the CPU path allocate no memory on the heap. This test has a binary of its own because it counts
//! the allocations of the whole process.

#[path = "../support/mod.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::forward;
use crate::support::golden::Golden;
use dunlin::backend::{self, DeviceChoice, EngineOptions, Session, Want};
use dunlin::checkpoint::Checkpoint;
use dunlin::work::Row;

#[global_allocator]
static HEAP: Counting = Counting;

static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator with a count of allocations.
struct Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        TAKEN.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract, which is the same for the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(start, layout) }
    }
}

/// ARCHITECTURE.md, invariant 11: for one sequence, and for three that decode together.
#[test]
fn a_decoding_step_of_the_cpu_path_takes_nothing_from_the_heap() {
    for name in ["mobilellm_gqa", "mobilellm_pruned"] {
        let golden = Golden::open(name);
        let checkpoint = Checkpoint::open(&golden.folder).expect("a checkpoint");
        let options = EngineOptions { threads: Some(2), ..EngineOptions::default() };
        let engine = backend::load(&checkpoint, &DeviceChoice::Cpu, &options, &|_, _| {}).expect("an engine");
        let prompt = golden.ids("p0.input_ids");
        for sequences in [1, 3] {
            let size = prompt.len() + 40;
            let mut session = engine.session(sequences * size).expect("a session");
            let row = |position, i: usize| Row { slot: (i * size) as u32, ..Row::at(position) };
            let mut rows: Vec<Row> = (0..sequences).map(|i| row(prompt.len(), i)).collect();
            for i in 0..sequences {
                session.set_tokens(i * size, &prompt).expect("tokens");
                forward::prompt(&mut *session, row(0, i), prompt.len(), Want::Token);
                forward::sampled(&mut *session);
            }
            let mut chosen = Vec::new();
            let mut steps = |session: &mut dyn Session, count| {
                for _ in 0..count {
                    forward::decode(session, &rows);
                    session.sampled(&mut chosen).expect("tokens");
                    rows.iter_mut().for_each(|row| row.position += 1);
                }
                assert_eq!(chosen.len(), sequences);
            };
            // The first steps make plans and grow buffers that later steps reuse.
            steps(&mut *session, 2);
            let before = TAKEN.load(Ordering::Relaxed);
            assert!(before > 0, "nothing is counted");
            steps(&mut *session, 32);
            let taken = TAKEN.load(Ordering::Relaxed) - before;
            assert_eq!(taken, 0, "{name}, {sequences} sequences: allocations in 32 steps");
        }
    }
}
