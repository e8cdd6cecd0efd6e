//! A progress bar on a terminal; without a terminal nothing is shown.

use std::io::IsTerminal;

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

#[derive(Clone)]
pub struct Bar {
    bar: Option<ProgressBar>,
    /// The bar is hidden before this time.
    from: Option<Instant>,
}

impl Bar {
    /// Shows the share that is done.
    pub fn share(what: &'static str) -> Self {
        Self::new(what, "{msg} {bar:30} {percent}%")
    }

    /// Counts tokens.
    pub fn tokens(what: &'static str) -> Self {
        Self::new(what, "{msg} {bar:30} {pos}/{len} tokens")
    }

    /// Hides the bar for this time, because shorter work needs no bar.
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

    /// Shows the share that is done, with a note and the time that is left.
    pub fn estimate(what: &'static str) -> Self {
        Self::new(what, "{msg} {bar:30} {percent}% {prefix} {eta} left")
    }

    /// Sets the text beside the numbers.
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

    /// Like [`Self::set`], but only `computed` of the finished items took time.
    pub fn advance(&self, done: usize, all: usize, computed: usize) {
        self.set(done, all);
        if let Some(bar) = self.bar.as_ref().filter(|_| computed == 0) {
            bar.reset_eta();
        }
    }

    /// Removes the bar.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
