//! The tests of several processes, which need an MPI and, to build against it, libclang.

use crate::{holds, succeeds};
use std::process::{Command, ExitCode, Stdio};

/// Debian's packages, and those of its descendants.
const PACKAGES: [&str; 3] = ["libopenmpi-dev", "openmpi-bin", "libclang-dev"];

const FEATURES: &str = "--features=kinfold-cli/mpi";

/// Installs what is missing where that can be done without asking anybody, and runs the tests.
pub(crate) fn test() -> ExitCode {
    if !is_there() && !installed() {
        eprintln!(
            "MPI's compiler wrapper (mpicc) or launcher (mpirun) is missing: install an MPI and libclang, on Debian \
             or Ubuntu by: sudo apt-get install {}",
            PACKAGES.join(" ")
        );
        return ExitCode::FAILURE;
    }
    // The whole workspace, as the other tests are built, so that one build of the dependencies serves all.
    let checks: [(&str, &[&str]); 2] = [
        (
            "clippy with MPI",
            &[
                "clippy",
                "--release",
                "--workspace",
                "--all-targets",
                FEATURES,
                "--",
                "--deny",
                "warnings",
            ],
        ),
        (
            "tests with MPI",
            &["test", "--release", "--workspace", FEATURES, "--test=mpi", "--no-fail-fast"],
        ),
    ];
    match checks.iter().all(|(name, arguments)| holds(name, arguments, &[])) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Whether there is an MPI to build against and to start processes with.
fn is_there() -> bool {
    ["mpicc", "mpirun"].iter().all(|program| {
        let mut asked = Command::new(program);
        asked.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        asked.status().is_ok()
    })
}

/// Whether it could be installed: by apt-get, as root.
fn installed() -> bool {
    let root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n");
    if !root || Command::new("apt-get").arg("--version").output().is_err() {
        return false;
    }
    let apt = |arguments: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.args(["-qq", "-y"]).args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        succeeds("install MPI", apt.stdout(Stdio::null()))
    };
    let install = [&["install"][..], &PACKAGES].concat();
    // The list of packages may be old, or there may be none.
    (apt(&install) || (apt(&["update"]) && apt(&install))) && is_there()
}
