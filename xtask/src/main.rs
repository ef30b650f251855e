//! `cargo xtask test`: everything that must hold, in the order in which it fails fastest.
//! `cargo xtask sanitize`: the unsafe parts of the engine and of the operations for Burn under AddressSanitizer.
//! `cargo xtask test-torch`: the Python package with PyTorch and the libraries that it may replace.
//! `cargo xtask test-mpi`: runs of several processes; installs the MPI that they need, or says what is missing.
//! `cargo xtask wheel`: the Python package, for machines without Rust.
//!
//! Tests are built in release, as the command is, so that one build of the dependencies serves both.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command for developers")]

mod mpi;
mod python;

use std::path::Path;
use std::process::{Command, ExitCode};

const USAGE: &str =
    "usage: cargo xtask test | sanitize | test-torch [--python PATH] | test-mpi | wheel";

const CHECKS: [(&str, &[&str]); 7] = [
    ("format", &["fmt", "--all", "--check"]),
    (
        "clippy",
        &["clippy", "--release", "--workspace", "--all-targets", "--", "--deny", "warnings"],
    ),
    ("docs", &["doc", "--release", "--workspace", "--no-deps"]),
    ("tests", &["test", "--release", "--workspace", "--all-targets", "--no-fail-fast"]),
    ("doc tests", &["test", "--release", "--workspace", "--doc"]),
    (
        "packages",
        &[
            "package",
            "--quiet",
            "--allow-dirty",
            "--no-verify",
            "--workspace",
            "--exclude=kinfold-benchmarks",
            "--exclude=kinfold-python",
            "--exclude=xtask",
        ],
    ),
    // Those without Burn are built from their packages, too.
    ("a package builds", &["package", "--quiet", "--allow-dirty", "-p=kinfold", "-p=kinfold-data"]),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["test"] => test(),
        ["sanitize"] => sanitize(),
        ["test-torch"] => python::test_torch(None),
        ["test-torch", "--python", path] => python::test_torch(Some(path)),
        ["test-mpi"] => mpi::test(),
        ["wheel"] => python::wheel(),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn test() -> ExitCode {
    for (name, arguments) in CHECKS {
        if !holds(name, arguments, &[("RUSTDOCFLAGS", "--deny warnings")]) {
            return ExitCode::FAILURE;
        }
    }
    let tested = python::test();
    if tested == ExitCode::SUCCESS {
        println!("everything holds");
    }
    tested
}

/// The tests that reach every kernel and every buffer, with each access to memory checked: the engine's, and
/// those of the operations for Burn. The stable toolchain ships the runtime library, and takes the flag when
/// told that it is the bootstrap's.
fn sanitize() -> ExitCode {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    const TESTED: [(&str, &[&str]); 2] = [
        ("kinfold", &["--test=losses", "--test=family"]),
        ("kinfold-nn", &["--test=ops", "--test=ops_dense", "--test=step"]),
    ];
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        println!("skipped: this is not {TARGET}");
        return ExitCode::SUCCESS;
    }
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let asked = ["--print", "target-libdir", "--target", TARGET];
    let folder = Command::new(rustc).args(asked).output().map(|output| output.stdout);
    let folder = folder.unwrap_or_default();
    let folder = String::from_utf8_lossy(&folder);
    let runtime = Path::new(folder.trim()).join("librustc-stable_rt.asan.a");
    if !runtime.is_file() {
        println!("skipped: there is no {}", runtime.display());
        return ExitCode::SUCCESS;
    }
    let environment = [("RUSTC_BOOTSTRAP", "1"), ("RUSTFLAGS", "-Zsanitizer=address")];
    for (package, tests) in TESTED {
        let arguments =
            ["test", "--release", "--lib", "--no-fail-fast", "--target", TARGET, "-p", package];
        if !holds("address sanitizer", &[&arguments[..], tests].concat(), &environment) {
            return ExitCode::FAILURE;
        }
    }
    println!("no address is wrong");
    ExitCode::SUCCESS
}

/// Whether cargo succeeds with `arguments`; if not, says so.
fn holds(name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> bool {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    succeeds(name, Command::new(cargo).args(arguments).envs(environment.iter().copied()))
}

/// Whether a command succeeds; if not, says so.
fn succeeds(name: &str, command: &mut Command) -> bool {
    let program = Path::new(command.get_program()).file_stem().unwrap_or_default();
    let arguments: Vec<_> = command.get_args().map(|x| x.to_string_lossy()).collect();
    println!("── {name}: {} {}", program.to_string_lossy(), arguments.join(" "));
    match command.status() {
        Ok(status) if status.success() => true,
        Ok(_) => {
            eprintln!("{name} failed");
            false
        }
        Err(error) => {
            eprintln!("{} cannot be run: {error}", command.get_program().to_string_lossy());
            false
        }
    }
}
