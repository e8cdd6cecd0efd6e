//! The real model that tests run: SmolLM2-135M-Instruct, Q4_1. On a fresh machine the first test that asks fetches it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const BYTES: u64 = 98_362_432;

/// The model's path, or nothing where it cannot be had; with `CI=true` that is a failure.
///
/// It is looked for in `$DUNLIN_MODELS` or `./models`, and fetched by `scripts/fetch_models.sh`, which checks it.
pub fn smollm2() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOUND.get_or_init(find_or_fetch).as_deref()
}

fn find_or_fetch() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // A relative folder counts from the repository, as it does for the script.
    let folder = root.join(std::env::var_os("DUNLIN_MODELS").unwrap_or_else(|| "models".into()));
    let path = folder.join(FILE);
    // The script compared the whole file when it put it there; here its size tells a cut copy.
    let complete = || path.metadata().is_ok_and(|file| file.len() == BYTES);
    if complete() {
        return Some(path);
    }
    let fetched = Command::new("bash").arg(root.join("scripts/fetch_models.sh")).current_dir(root).output();
    if complete() {
        return Some(path);
    }
    let why = match fetched {
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_string(),
        Err(error) => format!("bash did not start: {error}"),
    };
    let message = format!("{} is not there and could not be fetched: {why}", path.display());
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{message}");
    // `eprintln!` would be captured from a test that passes. A closed stderr fails no test.
    let _ = std::io::stderr().write_all(format!("skipped: {message}\n").as_bytes());
    None
}
