//! The invariants of ARCHITECTURE.md that a machine can check.

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Who may know whom, among our own crates.
const MAY_KNOW: [(&str, &[&str]); 10] = [
    ("kinfold", &[]),
    ("kinfold-burn", &["kinfold"]),
    ("kinfold-nn", &[]),
    ("kinfold-data", &[]),
    ("kinfold-train", &["kinfold", "kinfold-burn", "kinfold-data", "kinfold-nn"]),
    ("kinfold-report", &["kinfold", "kinfold-data", "kinfold-nn", "kinfold-train"]),
    ("kinfold-cli", &["kinfold", "kinfold-data", "kinfold-report", "kinfold-train"]),
    ("kinfold-python", &["kinfold"]),
    (
        "kinfold-benchmarks",
        &["kinfold", "kinfold-burn", "kinfold-data", "kinfold-nn", "kinfold-train"],
    ),
    ("xtask", &[]),
];

#[test]
fn crates_know_only_whom_they_may() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert_eq!(packages.len(), MAY_KNOW.len());
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let (_, allowed) = MAY_KNOW.iter().find(|(crate_name, _)| *crate_name == name).unwrap();
        let normal = package["dependencies"].as_array().unwrap().iter();
        let normal = normal.filter(|dependency| dependency["kind"].is_null());
        let known: BTreeSet<&str> = normal.map(|d| d["name"].as_str().unwrap()).collect();
        let ours: BTreeSet<&str> =
            known.iter().copied().filter(|d| d.starts_with("kinfold")).collect();
        assert_eq!(ours, allowed.iter().copied().collect(), "{name}");
        if name == "kinfold" {
            for framework in ["burn", "pyo3", "clap", "image", "toml"] {
                assert!(!known.contains(framework), "kinfold knows {framework}");
            }
        }
    }
}

/// What goes to crates.io has its licences and a page of its own, and nothing but sources and examples.
#[test]
fn packages_are_complete() {
    for (name, _) in MAY_KNOW {
        if ["kinfold-python", "kinfold-benchmarks", "xtask"].contains(&name) {
            continue;
        }
        let output = Command::new(env!("CARGO"))
            .args(["package", "--list", "--allow-dirty", "--offline", "-p", name])
            .current_dir(root())
            .output()
            .unwrap();
        let list = String::from_utf8(output.stdout).unwrap();
        let files: Vec<&str> = list.lines().collect();
        for needed in ["LICENSE-APACHE", "LICENSE-MIT", "README.md", "Cargo.toml"] {
            assert!(files.contains(&needed), "{name} is packaged without {needed}");
        }
        let text = std::fs::read_to_string(root().join("crates").join(name).join("LICENSE-MIT"));
        assert!(text.unwrap().contains("Permission is hereby granted"), "{name}");
        let golden = |file: &str| file.starts_with("tests/golden/") && !file.ends_with(".py");
        let foreign = files.iter().find(|file| file.starts_with("tests/") && !golden(file));
        assert_eq!(foreign, None, "{name}");
        // What unit tests read must be there for them.
        for file in files.iter().filter(|file| file.starts_with("src/") && file.ends_with(".rs")) {
            let path = root().join("crates").join(name).join(file);
            let text = std::fs::read_to_string(&path).unwrap();
            for read in text.split("tests/golden/").skip(1) {
                let golden = format!("tests/golden/{}", read.split('"').next().unwrap());
                let is_read = text.contains(&format!("../{golden}\""));
                assert!(!is_read || files.contains(&&*golden), "{name}: {file} reads {golden}");
            }
        }
    }
}

/// The lints deny `unsafe`; only the engine allows it, the operations over raw images and `gemm`, and
/// the files that read Python's memory and call PyTorch's threads.
#[test]
fn unsafe_stays_in_its_rooms() {
    let mut allowing = Vec::new();
    let mut folders = vec![root().join("crates"), root().join("xtask/src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                if text.contains("allow(unsafe_code") || text.contains("expect(unsafe_code") {
                    allowing.push(path);
                }
            }
        }
    }
    let engine = root().join("crates/kinfold/src/engine");
    let operations = root().join("crates/kinfold-nn/src/ops");
    let tests = root().join("crates/kinfold/tests");
    let python = root().join("crates/kinfold-python/src");
    let (memory, threads) = (python.join("memory.rs"), python.join("threads.rs"));
    for path in allowing {
        let allowed = [&engine, &operations, &tests, &memory, &threads];
        assert!(allowed.iter().any(|room| path.starts_with(room)), "{}", path.display());
    }
}

/// The code map and every other path in ARCHITECTURE.md exist.
#[test]
fn the_map_names_what_is_there() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let map = text.split("```").nth(1).unwrap();
    let (mut room, mut missing) = (root(), Vec::new());
    for line in map.lines().filter(|line| !line.trim().is_empty()) {
        let depth = line.len() - line.trim_start().len();
        let names = line.trim_start().split("  ").next().unwrap().split(' ');
        if depth > 4 {
            continue; // More about what stands above.
        }
        for name in names {
            match depth {
                0 => {
                    room = root().join(name);
                    if room.join("src").is_dir() {
                        room.push("src");
                    }
                }
                _ if room.join(name).exists() => {}
                _ if room.join("engine").join(name).exists() => {}
                _ => missing.push(format!("{name} in {}", room.display())),
            }
            if depth == 0 && !room.exists() {
                missing.push(name.to_owned());
            }
        }
    }
    for path in text.split('`').filter(|part| part.starts_with("crates/") && !part.contains(' ')) {
        if !root().join(path).exists() {
            missing.push(path.to_owned());
        }
    }
    assert!(missing.is_empty(), "ARCHITECTURE.md names what is not there: {missing:?}");
}

/// A module of a crate: its path, such as `engine::strips`, and what its file imports of the crate.
struct Module {
    path: Vec<String>,
    imports: Vec<Vec<String>>,
}

/// Inside every crate modules point one way: of the modules in one folder (or at the top), none imports
/// another that imports it, be it through others. Tests may look anywhere.
#[test]
fn modules_point_one_way() {
    let mut circles = Vec::new();
    for entry in std::fs::read_dir(root().join("crates")).unwrap() {
        let source = entry.unwrap().path().join("src");
        let mut modules = Vec::new();
        collect(&source, &mut Vec::new(), &mut modules);
        let reexports = reexports(&source);
        circles.extend(
            circles_of(&modules, &reexports)
                .into_iter()
                .map(|circle| format!("{}: {circle}", source.display())),
        );
    }
    assert!(circles.is_empty(), "modules import each other in a circle:\n{}", circles.join("\n"));
}

#[test]
fn a_circle_is_found() {
    let module = |path: &str, import: &[&str]| Module {
        path: vec![path.to_owned()],
        imports: vec![import.iter().map(|&name| name.to_owned()).collect()],
    };
    let [a, b, c] =
        [module("a", &["b", "X"]), module("b", &["c", "y"]), module("c", &["Reexported"])];
    let all = [a, b, c];
    assert!(circles_of(&all, &[]).is_empty());
    let reexports = [("Reexported".to_owned(), "a".to_owned())];
    assert_eq!(circles_of(&all, &reexports), ["a → b → c → a"]);
}

/// Every module of `folder`, but for tests.
fn collect(folder: &Path, path: &mut Vec<String>, modules: &mut Vec<Module>) {
    let mut entries: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|x| x.unwrap().path()).collect();
    entries.sort();
    for file in entries {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        if file.is_dir() {
            path.push(name);
            collect(&file, path, modules);
            path.pop();
        } else if file.extension().is_some_and(|ending| ending == "rs")
            && !["lib", "main", "tests", "golden"].contains(&name.as_str())
        {
            let mut path = path.clone();
            if name != "mod" {
                path.push(name);
            }
            let text = std::fs::read_to_string(&file).unwrap();
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let imports = imports(text, &path);
            modules.push(Module { path, imports });
        }
    }
}

/// What a file imports of its own crate, as paths from the crate's root.
fn imports(text: &str, module: &[String]) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for statement in text.split("\nuse ").skip(1) {
        let statement = statement.split(';').next().unwrap();
        let (first, _) = statement.split_once('{').unwrap_or((statement, ""));
        let mut names: Vec<&str> = first.split("::").map(str::trim).collect();
        let mut path = match names.first() {
            Some(&"crate") => Vec::new(),
            Some(&"super") => module[..module.len() - 1].to_vec(),
            Some(&"self") => module.to_vec(),
            _ => continue,
        };
        names.remove(0);
        while names.first() == Some(&"super") {
            path.pop();
            names.remove(0);
        }
        path.extend(names.iter().filter(|name| !name.is_empty()).map(|&name| name.to_owned()));
        match statement.split_once('{') {
            None => all.push(path),
            Some((_, list)) => {
                for item in list.trim_end_matches('}').split(',') {
                    let item = item.trim().split("::").map(|name| name.trim().to_owned());
                    all.push(path.iter().cloned().chain(item).collect());
                }
            }
        }
    }
    all
}

/// The names that a crate's root has from its modules, with the modules.
fn reexports(source: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(source.join("lib.rs")).unwrap_or_default();
    let mut all = Vec::new();
    for statement in text.split("\npub use ").skip(1) {
        let statement = statement.split(';').next().unwrap();
        let Some((module, names)) = statement.split_once("::") else { continue };
        for name in names.trim_matches(['{', '}']).split(',') {
            all.push((name.trim().to_owned(), module.to_owned()));
        }
    }
    all
}

/// A circle among the children of each module, where there is one.
fn circles_of(modules: &[Module], reexports: &[(String, String)]) -> Vec<String> {
    let known: BTreeSet<&[String]> =
        modules.iter().flat_map(|m| (1..=m.path.len()).map(|n| &m.path[..n])).collect();
    let parents: BTreeSet<&[String]> = known.iter().map(|path| &path[..path.len() - 1]).collect();
    let mut circles = Vec::new();
    for parent in parents {
        let depth = parent.len();
        let mut edges: BTreeSet<(&str, &str)> = BTreeSet::new();
        for module in modules.iter().filter(|m| m.path.starts_with(parent) && m.path.len() > depth)
        {
            for import in &module.imports {
                let root = reexports.iter().find(|(name, _)| import.first() == Some(name));
                let to = match root {
                    Some((_, module)) if depth == 0 => Some(module),
                    _ if import.starts_with(parent) => import.get(depth),
                    _ => None,
                };
                let from = &module.path[depth];
                let child = |name: &&String| {
                    known.contains(&[parent, std::slice::from_ref(*name)].concat()[..])
                };
                if let Some(to) = to.filter(|to| *to != from).filter(child) {
                    edges.insert((from, to));
                }
            }
        }
        circles.extend(circle(&edges));
    }
    circles
}

/// A way that leads back to where it began.
fn circle(edges: &BTreeSet<(&str, &str)>) -> Option<String> {
    fn walk<'a>(way: &mut Vec<&'a str>, edges: &BTreeSet<(&'a str, &'a str)>) -> Option<String> {
        let last = *way.last()?;
        for &(_, to) in edges.iter().filter(|(from, _)| *from == last) {
            if to == way[0] {
                return Some([way.join(" → "), to.to_owned()].join(" → "));
            }
            if !way.contains(&to) {
                way.push(to);
                if let Some(found) = walk(way, edges) {
                    return Some(found);
                }
                way.pop();
            }
        }
        None
    }
    edges.iter().find_map(|&(from, _)| walk(&mut vec![from], edges))
}
