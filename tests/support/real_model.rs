//! The real model that tests run: SmolLM2-135M-Instruct, Q4_1. On a new machine the first test that needs it downloads
//! it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const BYTES: u64 = 98_362_432;

/// The model's path, or nothing if it cannot be downloaded, which is a failure with `CI=true`.
///
/// The folder is `$DUNLIN_MODELS` or `./models`; `scripts/fetch_models.sh` downloads the file and verifies it.
pub fn smollm2() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOUND.get_or_init(find_or_fetch).as_deref()
}

fn find_or_fetch() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // A relative folder is relative to the repository, as in the script.
    let folder = root.join(std::env::var_os("DUNLIN_MODELS").unwrap_or_else(|| "models".into()));
    let path = folder.join(FILE);
    // The script verified the whole file after the download; here the size detects an incomplete copy.
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
    // `cargo test` would not show `eprintln!` of a test that passes. A closed stderr fails no test.
    let _ = std::io::stderr().write_all(format!("skipped: {message}\n").as_bytes());
    None
}
