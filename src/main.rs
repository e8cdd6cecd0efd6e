//! The `dunlin` program. Everything is in the library's `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    if cfg!(target_os = "linux") && std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // Without it the GL loader prints an error of its own on machines that have no desktop.
        // SAFETY: nothing else runs yet.
        unsafe { std::env::set_var("XDG_RUNTIME_DIR", std::env::temp_dir()) };
    }
    dunlin::cli::main()
}
