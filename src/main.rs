//! The `dunlin` program. Everything is in the library's `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    dunlin::cli::main()
}
