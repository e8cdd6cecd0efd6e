//! The adapters that tests run on: all adapters of this machine. Prints their names, and what is missing.

use std::io::Write;
use std::sync::{Arc, Once, OnceLock};

use dunlin::backend;
use dunlin::backend::wgpu::device::Gpu;

/// An adapter that tests can open.
#[derive(Clone, Debug)]
pub struct Adapter {
    pub index: usize,
    pub name: String,
    pub backend: String,
    /// Whether the adapter can compute in f16.
    pub f16: bool,
    /// Whether the adapter can multiply cooperative matrices in f16.
    pub cooperative: bool,
}

impl Adapter {
    pub fn label(&self) -> String {
        format!("{}:{}", self.backend, self.name)
    }
}

/// Every usable adapter. If there is none, tests fail with `CI=true`, and print a line otherwise.
pub fn all() -> Vec<Adapter> {
    static SAY: Once = Once::new();
    let (mut found, mut features, mut lines) = (Vec::new(), Vec::new(), Vec::new());
    for (index, adapter) in backend::devices().into_iter().enumerate() {
        let label = format!("{}:{}", adapter.backend, adapter.name);
        match adapter.unusable {
            Some(why) => lines.push(format!("skipped: {label}: {why}")),
            None => {
                lines.push(format!("adapter {index}: {label}"));
                let has = |feature: &str| adapter.features.iter().any(|name| name == feature);
                let (f16, cooperative) = (has("f16"), has("cooperative-matrix"));
                features.extend(adapter.features.iter().cloned());
                found.push(Adapter { index, name: adapter.name, backend: adapter.backend, f16, cooperative });
            }
        }
    }
    if found.is_empty() {
        lines.push("skipped: no adapter".into());
    }
    SAY.call_once(|| lines.iter().for_each(|line| say(line)));
    stay_open(&found);
    if let Some(feature) = expected() {
        assert!(features.contains(&feature), "no adapter here has {feature}, which DUNLIN_EXPECT_FEATURE promises");
    }
    if std::env::var("CI").is_ok_and(|ci| ci == "true") {
        let mut wanted = vec!["vulkan:llvmpipe", "gl:llvmpipe"];
        // The loader omits a driver that it cannot load, without an error: check that all drivers of the variable are
        // there.
        let drivers = |name| std::env::var(name).is_ok_and(|files| files.to_ascii_lowercase().contains("swiftshader"));
        if ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].into_iter().any(drivers) {
            wanted.push("vulkan:SwiftShader");
        }
        for wanted in wanted {
            assert!(found.iter().any(|a| a.label().starts_with(wanted)), "CI installs {wanted}, and it is not there");
        }
    }
    found
}

/// Keeps the devices open until the program ends: models share the kernels that a device has compiled, and compiling is
/// most of the time of a test.
fn stay_open(adapters: &[Adapter]) {
    static OPEN: OnceLock<Vec<Arc<Gpu>>> = OnceLock::new();
    OPEN.get_or_init(|| adapters.iter().filter_map(|adapter| Gpu::open(adapter.index).ok()).collect());
}

/// The feature for which a script has prepared an adapter. Without such an adapter the tests would pass without testing
/// it.
pub fn expected() -> Option<String> {
    std::env::var("DUNLIN_EXPECT_FEATURE").ok()
}

/// Prints a line that `cargo test` shows: unlike `eprintln!`, a write to stderr is not captured from tests that pass.
pub fn say(line: &str) {
    // One write, so that lines of tests that run side by side do not mix. A closed stderr fails no test.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}
