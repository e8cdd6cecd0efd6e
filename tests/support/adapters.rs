//! The adapters that tests run on: every one of this machine. Says which, and what is missing.

use std::sync::Once;

use dunlin::backend;

/// An adapter that tests can open.
#[derive(Clone, Debug)]
pub struct Adapter {
    pub index: usize,
    pub name: String,
    pub backend: String,
}

impl Adapter {
    pub fn label(&self) -> String {
        format!("{}:{}", self.backend, self.name)
    }
}

/// Every usable adapter. None at all is a failure with `CI=true`, and said otherwise.
pub fn all() -> Vec<Adapter> {
    static SAY: Once = Once::new();
    let mut found = Vec::new();
    for (index, adapter) in backend::devices().into_iter().enumerate() {
        let label = format!("{}:{}", adapter.backend, adapter.name);
        match adapter.unusable {
            Some(why) => SAY.call_once(|| println!("skipped: {label}: {why}")),
            None => found.push(Adapter { index, name: adapter.name, backend: adapter.backend }),
        }
    }
    SAY.call_once(|| match &found[..] {
        [] => println!("skipped: no adapter"),
        found => found.iter().for_each(|adapter| println!("adapter {}: {}", adapter.index, adapter.label())),
    });
    if std::env::var("CI").is_ok_and(|ci| ci == "true") {
        for wanted in ["vulkan:llvmpipe", "gl:llvmpipe"] {
            assert!(found.iter().any(|a| a.label().starts_with(wanted)), "CI installs {wanted}, and it is not there");
        }
    }
    found
}
