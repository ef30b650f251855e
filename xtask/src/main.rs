//! `cargo xtask test`: everything that must hold, in the order in which it fails fastest.
//!
//! Tests are built in release, as the command is, so that one build of the dependencies serves both.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command for developers")]

use std::process::{Command, ExitCode};

const USAGE: &str = "usage: cargo xtask test";

const CHECKS: [(&str, &[&str]); 5] = [
    ("format", &["fmt", "--all", "--check"]),
    (
        "clippy",
        &["clippy", "--release", "--workspace", "--all-targets", "--", "--deny", "warnings"],
    ),
    ("docs", &["doc", "--release", "--workspace", "--no-deps"]),
    ("tests", &["test", "--release", "--workspace", "--all-targets", "--no-fail-fast"]),
    ("doc tests", &["test", "--release", "--workspace", "--doc"]),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["test"] => test(),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn test() -> ExitCode {
    for (name, arguments) in CHECKS {
        println!("── {name}: cargo {}", arguments.join(" "));
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status =
            Command::new(cargo).args(arguments).env("RUSTDOCFLAGS", "--deny warnings").status();
        match status {
            Ok(status) if status.success() => {}
            Ok(_) => {
                eprintln!("{name} failed");
                return ExitCode::FAILURE;
            }
            Err(error) => {
                eprintln!("cargo cannot be run: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("everything holds");
    ExitCode::SUCCESS
}
