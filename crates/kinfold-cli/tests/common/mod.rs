//! The command, run as somebody runs it.

#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

pub(crate) fn kinfold(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kinfold")).args(arguments).output().unwrap()
}

/// Succeeds; what it printed.
pub(crate) fn succeeds(arguments: &[&str]) -> String {
    let output = kinfold(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Fails with this code; what it said of it.
pub(crate) fn fails(code: i32, arguments: &[&str]) -> String {
    let output = kinfold(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}
