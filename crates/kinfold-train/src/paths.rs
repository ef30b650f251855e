//! Paths as they are written down: in the files of a run, and in the commands that messages propose.

use std::path::{Component, Path, PathBuf};

/// A path as a shell takes it: as it is where it can stand so, else in quotes.
pub fn shell_word(path: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+=@:,".contains(c);
    match !path.is_empty() && path.chars().all(plain) {
        true => path.to_owned(),
        false => format!("'{}'", path.replace('\'', "'\\''")),
    }
}

/// An absolute path as seen from the current folder, so that what is written down says nothing of where
/// on a machine that is; others stay as they are.
pub fn relative_path(path: &Path) -> PathBuf {
    match std::env::current_dir() {
        Ok(here) if path.is_absolute() => seen_from(&here, path),
        _ => path.to_path_buf(),
    }
}

fn seen_from(here: &Path, path: &Path) -> PathBuf {
    let (from, to): (Vec<Component<'_>>, Vec<Component<'_>>) =
        (here.components().collect(), path.components().collect());
    let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    // Another drive.
    if shared == 0 {
        return path.to_path_buf();
    }
    let up = from[shared..].iter().map(|_| Component::ParentDir);
    let relative: PathBuf = up.chain(to[shared..].iter().copied()).collect();
    if relative.as_os_str().is_empty() { ".".into() } else { relative }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_quoted_where_a_shell_needs_it() {
        assert_eq!(shell_word("runs/a-1/config.toml"), "runs/a-1/config.toml");
        assert_eq!(shell_word("my run"), "'my run'");
        assert_eq!(shell_word("a'b"), "'a'\\''b'");
    }

    #[cfg(unix)]
    #[test]
    fn a_path_is_seen_from_where_one_is() {
        let seen = |path: &str| seen_from(Path::new("/home/a"), Path::new(path));
        assert_eq!(seen("/home/a/photos"), Path::new("photos"));
        assert_eq!(seen("/home/b/photos"), Path::new("../b/photos"));
        assert_eq!(seen("/data"), Path::new("../../data"));
        assert_eq!(seen("/home/a"), Path::new("."));
        assert_eq!(relative_path(Path::new("photos")), Path::new("photos"));
    }
}
