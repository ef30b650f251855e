//! The Python package: built as pip builds it, tested in environments of its own under `target/`.

use crate::succeeds;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What the light tests need.
const LIGHT: [&str; 2] = ["numpy", "pytest"];

/// PyTorch, the libraries whose numbers are ours, and type checkers. The versions are those that presets
/// were held against.
const HEAVY: [&str; 11] = [
    "numpy",
    "pytest",
    "torch==2.15.0",
    "info-nce-pytorch==0.1.4",
    "lightly==1.6.0",
    "pytorch-metric-learning==2.9.0",
    "open-clip-torch==3.3.0",
    "sentence-transformers==6.2.0",
    "model2vec==0.10.0",
    "mypy>=2",
    "pyright[nodejs]>=1.1.414",
];

/// A wheel for glibc 2.17 and later where zig links it, or else for what this machine has.
const MATURIN: &str = "maturin[zig]>=1.9,<2";

/// The tests with NumPy alone, of what a source distribution installs.
pub(crate) fn test() -> ExitCode {
    run(|| {
        let python = environment("python", &LIGHT)?;
        let sources = source_distribution()?;
        installed(&python, &sources)?;
        tested("Python", Command::new(&python))
    })
}

/// All tests of the package, with PyTorch: in an environment of its own, or by an interpreter that has
/// what is needed, in which nothing is changed.
pub(crate) fn test_torch(interpreter: Option<&str>) -> ExitCode {
    run(|| {
        let Some(interpreter) = interpreter else {
            let python = environment("python-torch", &HEAVY)?;
            installed(&python, &root())?;
            let mut python = Command::new(&python);
            python.env("KINFOLD_COMMAND", command()?);
            return tested("Python with PyTorch", python);
        };
        // Beside what the interpreter has, in a folder that it looks into first.
        let beside = target().join("python-beside");
        let mut install = Command::new(interpreter);
        install.args(["-m", "pip", "install", "--quiet", "--upgrade", "--target"]);
        install.arg(&beside).args(["pytest", "."]);
        done("install", &mut install)?;
        let mut python = Command::new(interpreter);
        python.env("PYTHONPATH", &beside);
        tested("Python with PyTorch", python)
    })
}

/// A wheel in `target/wheels`.
pub(crate) fn wheel() -> ExitCode {
    run(|| {
        let python = environment("python-maturin", &[MATURIN])?;
        let mut build = Command::new(&python);
        build.args(["-m", "maturin", "build", "--release", "--out"]).arg(target().join("wheels"));
        if cfg!(all(target_os = "linux", target_env = "gnu")) {
            build.args(["--zig", "--compatibility", "manylinux_2_17"]);
            // The linker asks the first Python on the path for zig.
            let mut path = python
                .parent()
                .expect("an interpreter lies in a folder")
                .to_owned()
                .into_os_string();
            if let Some(others) = std::env::var_os("PATH") {
                path.push(":");
                path.push(others);
            }
            build.env("PATH", path);
        }
        done("wheel", &mut build)
    })
}

fn run(work: impl FnOnce() -> Option<()>) -> ExitCode {
    match work() {
        Some(()) => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    }
}

/// The command, with which models are made that Python's libraries load.
fn command() -> Option<PathBuf> {
    done(
        "command",
        Command::new("cargo").args(["build", "--release", "--package", "kinfold-cli"]),
    )?;
    Some(target().join("release").join(format!("kinfold{}", std::env::consts::EXE_SUFFIX)))
}

fn tested(name: &str, mut python: Command) -> Option<()> {
    // Not from the working tree: what is tested is what has been installed.
    done(name, python.args(["-m", "pytest", "-q", "-rs", "--durations=5"]))
}

/// The package, as `pip install` makes it of a checkout or a source distribution.
fn installed(python: &Path, sources: &Path) -> Option<()> {
    let mut install = Command::new(python);
    install
        .args(["-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall"])
        .arg(sources);
    // A source distribution is unpacked somewhere new each time; what it is built of stays here, but not
    // what was built of its own crates: all files of such a distribution bear the same old date, by which
    // cargo, and pip by the name, would take changed ones for those of the last time.
    if sources.is_file() {
        let folder = target().join("sdist");
        let mut clean = Command::new("cargo");
        clean.args(["clean", "--quiet", "--release", "--package", "kinfold", "--package"]);
        done("clean", clean.args(["kinfold-python", "--target-dir"]).arg(&folder))?;
        install.arg("--no-cache-dir").env("CARGO_TARGET_DIR", folder);
    }
    done("install", &mut install)
}

/// What PyPI would have for machines without a wheel: the package, and the part of the workspace that it is
/// built of.
fn source_distribution() -> Option<PathBuf> {
    let python = environment("python-maturin", &[MATURIN])?;
    let folder = target().join("sdist");
    let mut build = Command::new(&python);
    done("sdist", build.args(["-m", "maturin", "sdist", "--out"]).arg(&folder))?;
    Some(folder.join(concat!("kinfold-", env!("CARGO_PKG_VERSION"), ".tar.gz")))
}

/// The interpreter of an environment under `target/` that has `packages`; made where there is none.
fn environment(name: &str, packages: &[&str]) -> Option<PathBuf> {
    let folder = target().join(name);
    let python = match cfg!(windows) {
        true => folder.join("Scripts/python.exe"),
        false => folder.join("bin/python"),
    };
    if !python.is_file() {
        let here = if cfg!(windows) { "python" } else { "python3" };
        done("environment", Command::new(here).args(["-m", "venv"]).arg(&folder))?;
    }
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    done("packages", install.args(packages))?;
    Some(python)
}

fn done(name: &str, command: &mut Command) -> Option<()> {
    succeeds(name, command.current_dir(root())).then_some(())
}

/// The checkout.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The folder of everything that is built.
fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => folder.into(),
        None => root().join("target"),
    }
}
