//! A progress bar on a terminal; nothing anywhere else.

use std::io::IsTerminal;

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

#[derive(Clone)]
pub struct Bar {
    bar: Option<ProgressBar>,
    /// Nothing is shown before.
    from: Option<Instant>,
}

impl Bar {
    /// Shows how much is done.
    pub fn share(what: &'static str) -> Self {
        Self::new(what, "{msg} {bar:30} {percent}%")
    }

    /// Counts tokens.
    pub fn tokens(what: &'static str) -> Self {
        Self::new(what, "{msg} {bar:30} {pos}/{len} tokens")
    }

    /// Shows nothing before so much time has passed: what is done sooner needs no bar.
    pub fn after(mut self, time: Duration) -> Self {
        if let Some(bar) = &self.bar {
            bar.set_draw_target(ProgressDrawTarget::hidden());
            self.from = Some(Instant::now() + time);
        }
        self
    }

    /// Counts items, with a note and the time that is left.
    pub fn items(what: &'static str) -> Self {
        Self::new(what, "{msg} {bar:30} {pos}/{len} {prefix} {eta} left")
    }

    /// Shows how much is done, with a note and the time that is left.
    pub fn estimate(what: &'static str) -> Self {
        Self::new(what, "{msg} {bar:30} {percent}% {prefix} {eta} left")
    }

    /// What the bar says beside the numbers.
    pub fn note(&self, text: String) {
        if let Some(bar) = &self.bar {
            bar.set_prefix(text);
        }
    }

    fn new(what: &'static str, template: &str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { bar: None, from: None };
        }
        let bar = ProgressBar::new(0).with_message(what);
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style);
        Self { bar: Some(bar), from: None }
    }

    pub fn set(&self, done: usize, all: usize) {
        let Some(bar) = &self.bar else { return };
        if self.from.is_some_and(|from| Instant::now() >= from) && bar.is_hidden() {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    }

    /// Like [`Self::set`], where all but `computed` of what is done took no time.
    pub fn advance(&self, done: usize, all: usize, computed: usize) {
        self.set(done, all);
        if let Some(bar) = self.bar.as_ref().filter(|_| computed == 0) {
            bar.reset_eta();
        }
    }

    /// Leaves nothing behind.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
