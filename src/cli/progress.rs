//! A progress bar on a terminal; nothing anywhere else.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

#[derive(Clone)]
pub struct Bar(Option<ProgressBar>);

impl Bar {
    /// Counts bytes.
    pub fn bytes(what: &'static str) -> Self {
        Self::new(what, "{msg} {bar:30} {bytes}/{total_bytes}")
    }

    /// Counts tokens.
    pub fn tokens(what: &'static str) -> Self {
        Self::new(what, "{msg} {bar:30} {pos}/{len} tokens")
    }

    fn new(what: &'static str, template: &str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::new(0).with_message(what);
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style);
        Self(Some(bar))
    }

    pub fn set(&self, done: u64, all: u64) {
        if let Some(bar) = &self.0 {
            bar.set_length(all);
            bar.set_position(done);
        }
    }

    /// Leaves nothing behind.
    pub fn clear(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
