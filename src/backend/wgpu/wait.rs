//! Waiting for a device: asynchronous inside, and blocking in one place only.

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::backend::wgpu::counters::count_waited;
use crate::backend::wgpu::device::Gpu;
use crate::clock::Instant;
use crate::error::{Error, Result};

/// A future that a callback of the device completes.
pub struct Told<T>(Arc<Mutex<State<T>>>);

/// The callback's side of a [`Told`].
pub struct Teller<T>(Arc<Mutex<State<T>>>);

struct State<T> {
    told: Option<T>,
    waker: Option<Waker>,
}

/// A future, and the handle that completes it.
pub fn told<T>() -> (Teller<T>, Told<T>) {
    let state = Arc::new(Mutex::new(State { told: None, waker: None }));
    (Teller(state.clone()), Told(state))
}

impl<T> Teller<T> {
    pub fn tell(self, what: T) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.told = Some(what);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }
}

impl<T> Future for Told<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.told.take() {
            Some(told) => Poll::Ready(told),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Submitted work that can be waited for.
pub struct Submission {
    index: wgpu::SubmissionIndex,
    done: Told<()>,
}

impl Gpu {
    /// Submits work; [`Gpu::wait`] waits for it, and not for later submissions.
    pub fn submit_to_wait(&self, commands: impl IntoIterator<Item = wgpu::CommandBuffer>) -> Submission {
        let index = self.queue.submit(commands);
        let (teller, done) = told();
        self.queue.on_submitted_work_done(move || teller.tell(()));
        Submission { index, done }
    }

    /// Completes when a submission is done.
    pub async fn wait(&self, submission: Submission) -> Result<()> {
        self.expect(submission.index);
        submission.done.await;
        self.check()
    }

    /// Sets the submission that the future on this thread is going to wait for.
    pub fn expect(&self, index: wgpu::SubmissionIndex) {
        EXPECTED.replace(Some(index));
    }

    /// Runs a future of this device to its end, and blocks the thread while the device works. A browser must not block
    /// its thread, so there the page's executor runs the future.
    pub fn block_on<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        let mut future = pin!(future);
        let mut context = Context::from_waker(Waker::noop());
        let unfinished = || Error::device(format!("{} did not finish its work", self.profile.name));
        let (mut awaited, mut since) = (None, Instant::now());
        loop {
            if let Poll::Ready(result) = future.as_mut().poll(&mut context) {
                return result;
            }
            if let Some(index) = EXPECTED.take() {
                (awaited, since) = (Some(index), Instant::now());
            }
            let submission_index = Some(awaited.clone().ok_or_else(unfinished)?);
            let wait = wgpu::PollType::Wait { submission_index, timeout: self.patience };
            let begin = Instant::now();
            self.device.poll(wait).map_err(|error| unfinished().caused_by(error))?;
            // The work is done, but another thread that polls the device may be about to run the callback.
            std::thread::yield_now();
            count_waited(begin.elapsed());
            if since.elapsed() > MOST_WAIT {
                return Err(unfinished());
            }
        }
    }
}

/// The time after which a callback is no longer expected.
const MOST_WAIT: Duration = Duration::from_secs(600);

thread_local! {
    /// The submission that the future on this thread waits for. Threads share a device, so each has its own.
    static EXPECTED: RefCell<Option<wgpu::SubmissionIndex>> = const { RefCell::new(None) };
}
