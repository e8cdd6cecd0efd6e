//! Runs the program with arguments, and checks its output and its failures.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Runs the program. Its standard error is not a terminal, so it may hold only errors.
pub fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dunlin")).args(arguments).output().expect("the program starts")
}

/// The standard output of a command that must succeed.
pub fn stdout(arguments: &[&str]) -> String {
    succeeded(run(arguments), arguments)
}

/// [`stdout`] of a command that reads `input`.
pub fn stdout_for(arguments: &[&str], input: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dunlin"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    // The pipe is closed after writing, so that the program sees the end of its input. Its output meanwhile fits a
    // pipe.
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("the program reads");
    succeeded(child.wait_with_output().expect("the program ends"), arguments)
}

fn succeeded(output: Output, arguments: &[&str]) -> String {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {errors}");
    assert!(complaints(&errors).is_empty(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Standard output as JSON, line by line.
pub fn json_lines(arguments: &[&str]) -> Vec<Value> {
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{arguments:?}: {error} in {line}"));
    stdout(arguments).lines().map(parse).collect()
}

/// Checks that a command fails with code 1 and exactly one sentence, which has all `parts` in it. Returns the sentence,
/// with the list that may follow it.
pub fn fails(arguments: &[&str], parts: &[&str]) -> String {
    fails_as(&run(arguments), &format!("{arguments:?}"), parts)
}

pub fn fails_as(output: &Output, what: &str, parts: &[&str]) -> String {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{what}: {errors}");
    assert!(output.stdout.is_empty(), "{what} printed {:?}", String::from_utf8_lossy(&output.stdout));
    let [sentence] = &complaints(&errors)[..] else { panic!("{what}: not one sentence but:\n{errors}") };
    let sentence = sentence.strip_prefix("error: ").unwrap_or_else(|| panic!("{what}: {sentence}"));
    let missing: Vec<&&str> = parts.iter().filter(|part| !sentence.contains(**part)).collect();
    assert!(missing.is_empty(), "{what}: {missing:?} is not in: {sentence}");
    sentence.to_string()
}

/// The complaints of the program: a line each, with the indented lines of a list after it. Without the message of
/// Mesa's EGL that appears if no folder for sockets is set.
fn complaints(errors: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in errors.lines().filter(|line| !line.starts_with("error: XDG_RUNTIME_DIR is invalid")) {
        match found.last_mut().filter(|_| line.starts_with("  ")) {
            Some(complaint) => *complaint += &format!("\n{line}"),
            None => found.push(line.to_string()),
        }
    }
    found
}
