//! A team of threads that runs a closure in step: woken once, meeting at barriers, sharing items of work.
//!
//! A waiting thread spins for some ten microseconds, then yields, then sleeps. If another program takes a core, the
//! waiting members give up their cores, so that the interrupted member gets one.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Checks before a waiting thread yields: 10 to 20 µs.
const SPINS: u32 = 300;
/// The number of yields before a thread sleeps.
const YIELDS: u32 = 4;

/// Threads that work together. The caller of [`Team::run`] is a member; the other members wait for work.
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<std::thread::JoinHandle<()>>,
    /// Serialises the runs of several callers.
    turn: Mutex<()>,
}

/// One thread's view of a run.
pub struct Member<'a> {
    shared: &'a Shared,
    pub index: usize,
    pub count: usize,
    /// Calls of [`Member::each`] so far; every member makes the same calls.
    calls: Cell<u32>,
}

struct Shared {
    begun: Gate,
    passed: Gate,
    finished: Gate,
    job: Job,
    /// Members that have reached the barrier.
    arrived: AtomicUsize,
    /// Workers that have not yet finished the run.
    left: AtomicUsize,
    /// For each member, the current call of [`Member::each`] in the upper half, and in the lower half how many of the
    /// items that are the member's are taken.
    claims: Vec<Claims>,
    /// Whether a member panicked: the others then stop at the next barrier.
    broken: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    closing: AtomicBool,
}

/// Alone in its cache lines, because its member writes it for every item.
#[derive(Default)]
#[repr(align(128))]
struct Claims(AtomicU64);

/// The work of the current run.
struct Job(UnsafeCell<Option<Work>>);

/// The closure of a run, and how many members run it.
type Work = (&'static (dyn Fn(&Member) + Sync), usize);

// SAFETY: written by the caller of a run while all workers wait for `begun`, and only read until they have `finished`.
unsafe impl Sync for Job {}
// SAFETY: the closure that it points at is `Sync`.
unsafe impl Send for Job {}

/// The panic payload of a member that stops because another one panicked.
struct Stopped;

impl Team {
    /// A team of `count` threads, or fewer if the system starts no more.
    pub fn new(count: usize) -> Self {
        let shared = Arc::new(Shared {
            begun: Gate::default(),
            passed: Gate::default(),
            finished: Gate::default(),
            job: Job(UnsafeCell::new(None)),
            arrived: AtomicUsize::new(0),
            left: AtomicUsize::new(0),
            claims: (0..count.max(1)).map(|_| Claims::default()).collect(),
            broken: AtomicBool::new(false),
            panic: Mutex::new(None),
            closing: AtomicBool::new(false),
        });
        let several = cfg!(all(feature = "threads", not(target_family = "wasm")));
        let spawn = |index| {
            let shared = shared.clone();
            // The epoch is read before the thread starts, because a run may begin before the thread does.
            let seen = shared.begun.epoch();
            std::thread::Builder::new().name("dunlin".into()).spawn(move || shared.work(index, seen)).ok()
        };
        let wanted = if several { 1..count.max(1) } else { 1..1 };
        let workers = wanted.map_while(spawn).collect();
        Team { shared, workers, turn: Mutex::new(()) }
    }

    /// A team with as many members as the machine can run in parallel.
    pub fn of_cores() -> Self {
        Team::new(std::thread::available_parallelism().map_or(1, usize::from))
    }

    pub fn count(&self) -> usize {
        self.workers.len() + 1
    }

    /// Every member runs `work` once, in parallel. If one panics, the others stop at their next barrier, and this call
    /// panics too. A member of the same team must not call it.
    pub fn run(&self, work: impl Fn(&Member) + Sync) {
        let turn = locked(&self.turn);
        let shared = &*self.shared;
        let count = self.count();
        let job: &(dyn Fn(&Member) + Sync) = &work;
        // SAFETY: only the lifetime changes, and no worker uses the job after this function returns.
        let job: &'static (dyn Fn(&Member) + Sync) = unsafe { std::mem::transmute(job) };
        // SAFETY: all workers wait for `begun`.
        unsafe { *shared.job.0.get() = Some((job, count)) };
        shared.arrived.store(0, SeqCst);
        shared.left.store(count - 1, SeqCst);
        shared.claims.iter().for_each(|claims| claims.0.store(0, SeqCst));
        shared.broken.store(false, SeqCst);
        let seen = shared.finished.epoch();
        if count > 1 {
            shared.begun.open();
        }
        shared.take_part(0);
        if count > 1 {
            shared.finished.wait(seen);
        }
        let panic = locked(&shared.panic).take();
        drop(turn);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.closing.store(true, SeqCst);
        self.shared.begun.open();
        for worker in self.workers.drain(..) {
            // Members catch their panics, so this never fails.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// The life of a worker.
    fn work(&self, index: usize, mut seen: u32) {
        loop {
            self.begun.wait(seen);
            seen = seen.wrapping_add(1);
            if self.closing.load(SeqCst) {
                return;
            }
            self.take_part(index);
            if self.left.fetch_sub(1, SeqCst) == 1 {
                self.finished.open();
            }
        }
    }

    /// One member's part of a run.
    fn take_part(&self, index: usize) {
        // SAFETY: no thread writes it during a run.
        let (job, count) = unsafe { *self.job.0.get() }.expect("a run has a job");
        let member = Member { shared: self, index, count, calls: Cell::new(0) };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(&member))) {
            if !panic.is::<Stopped>() {
                locked(&self.panic).get_or_insert(panic);
            }
            self.broken.store(true, SeqCst);
            self.passed.open();
        }
    }
}

impl Member<'_> {
    /// Waits until every member has arrived: writes before the barrier are visible to all members after it.
    pub fn barrier(&self) {
        if self.count == 1 {
            return;
        }
        let shared = self.shared;
        // The epoch is read before `broken`, because a panicking member sets `broken` and then opens the gate.
        let seen = shared.passed.epoch();
        if !shared.broken.load(SeqCst) {
            if shared.arrived.fetch_add(1, SeqCst) + 1 == self.count {
                shared.arrived.store(0, SeqCst);
                shared.passed.open();
            } else {
                shared.passed.wait(seen);
            }
        }
        if shared.broken.load(SeqCst) {
            // This member did not panic itself, so no message is printed.
            resume_unwind(Box::new(Stopped));
        }
    }

    /// Calls `work(i)` for `i` in 0 .. count. Each member takes neighbouring items in order, so that it reads what lies
    /// together, and then what is left of the others'. All members call this with the same count. It returns when all
    /// items are taken, which may be before other members finish theirs.
    pub fn each(&self, count: usize, mut work: impl FnMut(usize)) {
        let call = self.calls.get() + 1;
        self.calls.set(call);
        for member in (self.index..self.count).chain(0..self.index) {
            let items = member * count / self.count..(member + 1) * count / self.count;
            while let Some(i) = self.claim(member, call, items.len()) {
                work(items.start + i);
            }
        }
    }

    /// The next of a member's items.
    fn claim(&self, member: usize, call: u32, count: usize) -> Option<usize> {
        let claims = &self.shared.claims[member].0;
        let mut now = claims.load(SeqCst);
        loop {
            let next = match ((now >> 32) as u32).cmp(&call) {
                std::cmp::Ordering::Less => 0,
                std::cmp::Ordering::Equal => now as u32,
                // Another member found all items of this call taken.
                std::cmp::Ordering::Greater => return None,
            };
            if next as usize >= count {
                return None;
            }
            match claims.compare_exchange_weak(now, u64::from(call) << 32 | u64::from(next + 1), SeqCst, SeqCst) {
                Ok(_) => return Some(next as usize),
                Err(found) => now = found,
            }
        }
    }
}

/// A counter, and threads that wait until it increases.
#[derive(Default)]
struct Gate {
    epoch: AtomicU32,
    /// Threads that sleep or are about to sleep.
    sleepers: AtomicU32,
    lock: Mutex<()>,
    opened: Condvar,
}

impl Gate {
    fn epoch(&self) -> u32 {
        self.epoch.load(SeqCst)
    }

    fn open(&self) {
        self.epoch.fetch_add(1, SeqCst);
        // Either a sleeper sees the new epoch, or it is counted here.
        if self.sleepers.load(SeqCst) > 0 {
            drop(locked(&self.lock));
            self.opened.notify_all();
        }
    }

    /// Waits until the epoch differs from `seen`.
    fn wait(&self, seen: u32) {
        for turn in 0..SPINS + YIELDS {
            if self.epoch() != seen {
                return;
            }
            if turn < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        let mut guard = locked(&self.lock);
        self.sleepers.fetch_add(1, SeqCst);
        while self.epoch() == seen {
            guard = self.opened.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, SeqCst);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A slice whose parts the members of a team write.
#[derive(Clone, Copy)]
pub struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: elements move between threads, and the user of a part promises that no other thread has it.
unsafe impl<T: Send> Send for Parts<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Self {
        Parts { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// # Safety
    ///
    /// `start` points at `len` elements, which only these parts read or write during `'a`.
    pub unsafe fn from_raw(start: *mut T, len: usize) -> Self {
        Parts { start, len, slice: PhantomData }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Elements `range`.
    ///
    /// # Safety
    ///
    /// While the part is used, no other part overlaps it.
    pub unsafe fn part(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "part {range:?} of {} elements", self.len);
        // SAFETY: the range is within the slice, and by the caller's promise no other part overlaps it.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

/// Calls `work(r, memory, row)` for each row of `out`, `width` elements each, with a team of its own. Every member has
/// its own `memory()`.
pub fn rows<T: Send, M>(
    out: &mut [T],
    width: usize,
    memory: impl Fn() -> M + Sync,
    work: impl Fn(usize, &mut M, &mut [T]) + Sync,
) {
    /// The number of rows in an item of work.
    const SOME: usize = 16;
    let count = out.len() / width;
    let parts = Parts::new(out);
    let run = |member: &Member| {
        let mut memory = memory();
        member.each(count.div_ceil(SOME), |i| {
            for r in i * SOME..count.min((i + 1) * SOME) {
                // SAFETY: each row is in one item, and each item is taken once.
                work(r, &mut memory, unsafe { parts.part(r * width..(r + 1) * width) });
            }
        });
    };
    if count <= SOME { Team::new(1).run(run) } else { Team::of_cores().run(run) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(values: &[AtomicUsize]) -> usize {
        values.iter().map(|value| value.load(SeqCst)).sum()
    }

    #[test]
    fn items_are_taken_once_and_barriers_hold() {
        for count in [1, 2, 5] {
            let team = Team::new(count);
            for _ in 0..50 {
                let done: Vec<AtomicUsize> = (0..100).map(|_| AtomicUsize::new(0)).collect();
                team.run(|member| {
                    for round in 1..=20 {
                        member.each(60, |i| {
                            let _ = done[i].fetch_add(1, SeqCst);
                        });
                        member.each(40, |i| {
                            let _ = done[60 + i].fetch_add(1, SeqCst);
                        });
                        member.barrier();
                        assert_eq!(sum(&done), 100 * round);
                        member.barrier();
                    }
                });
                assert!(done.iter().all(|done| done.load(SeqCst) == 20));
            }
        }
    }

    #[test]
    fn a_panic_ends_the_run_and_the_team_goes_on() {
        let team = Team::new(3);
        for bad in 0..team.count() {
            let run = || {
                team.run(|member| {
                    member.barrier();
                    assert!(member.index != bad, "member {bad} is bad");
                    member.barrier();
                    member.barrier();
                });
            };
            let panic = catch_unwind(AssertUnwindSafe(run)).expect_err("a member panicked");
            let text = panic.downcast_ref::<String>().expect("its own message");
            assert_eq!(text, &format!("member {bad} is bad"));
            let done = AtomicUsize::new(0);
            team.run(|_| {
                let _ = done.fetch_add(1, SeqCst);
            });
            assert_eq!(done.load(SeqCst), team.count());
        }
    }

    #[test]
    fn callers_take_turns_and_sleepers_wake() {
        let team = Team::new(2);
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for i in 0..20 {
                        team.run(|member| {
                            // Long enough for the other member to fall asleep.
                            if member.index == i % 2 && i % 5 == 0 {
                                std::thread::sleep(std::time::Duration::from_millis(2));
                            }
                            member.barrier();
                            member.each(10, |_| {
                                let _ = total.fetch_add(1, SeqCst);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(total.load(SeqCst), 4 * 20 * 10);
    }

    #[test]
    fn rows_are_written_by_their_numbers() {
        for count in [0, 3, 100] {
            let mut out = vec![0; 3 * count];
            rows(&mut out, 3, || 7, |r, _, row| row.fill(r));
            assert_eq!(out, (0..3 * count).map(|i| i / 3).collect::<Vec<_>>());
        }
    }
}
