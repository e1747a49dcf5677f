//! An import only ever points to a lower floor, in packages and in the modules of this one.
//!
//! The floors are in [`super::picture`]. Some rooms must not even know everything below them, so
//! each one lists what it may use.

use std::path::Path;

use super::reading::{File, module_of};

/// The modules of package `dmsnap`, and what each may use besides itself.
const MODULES: [(&str, &[&str]); 11] = [
    ("planted", &[]),
    ("sync", &[]),
    ("device", &["format", "sync"]),
    ("signature", &["format", "device"]),
    ("store", &["format", "device", "planted"]),
    ("table", &["format"]),
    ("copy", &["format", "device", "store"]),
    ("merge", &["format", "device", "store", "copy", "planted"]),
    ("volume", &["format", "sync", "device", "store", "table", "copy", "merge", "planted"]),
    (
        "ops",
        &["format", "device", "signature", "store", "table", "copy", "merge", "volume", "planted"],
    ),
    ("blocking", &["device", "volume", "ops"]),
];

/// The other packages, and which modules of `dmsnap` and which packages each may use.
const UPPER: [(&str, &[&str]); 7] = [
    ("dmsnap-format", &[]),
    ("dmsnap-lvm", &["format"]),
    ("dmsnap-nbd", &[]),
    ("dmsnap-images", &["format", "lvm", "device", "signature", "volume", "ops"]),
    ("dmsnap-serve", &["format", "nbd", "sync", "device", "copy", "volume"]),
    ("dmsnap-cli", &["format", "lvm", "nbd", "device", "signature", "ops", "images", "serve"]),
    (
        "dmsnap-sim",
        &[
            "format", "sync", "device", "copy", "store", "table", "volume", "ops", "serve",
            "planted",
        ],
    ),
];

/// The packages, and which others of the workspace each may depend on. Only tests may depend on
/// `dmsnap-sim`.
const PACKAGES: [(&str, &[&str]); 9] = [
    ("dmsnap-format", &[]),
    ("dmsnap-lvm", &["dmsnap-format"]),
    ("dmsnap-nbd", &[]),
    ("dmsnap", &["dmsnap-format"]),
    ("dmsnap-images", &["dmsnap", "dmsnap-format", "dmsnap-lvm"]),
    ("dmsnap-serve", &["dmsnap", "dmsnap-nbd"]),
    (
        "dmsnap-cli",
        &["dmsnap", "dmsnap-format", "dmsnap-images", "dmsnap-lvm", "dmsnap-nbd", "dmsnap-serve"],
    ),
    ("dmsnap-sim", &["dmsnap", "dmsnap-format", "dmsnap-serve"]),
    ("dmsnap-compare", &["dmsnap", "dmsnap-nbd", "dmsnap-serve"]),
];

fn allowed<'a>(table: &[(&str, &'a [&'a str])], name: &str) -> Option<&'a [&'a str]> {
    table.iter().find(|(known, _)| *known == name).map(|(_, allowed)| *allowed)
}

/// Where a source file stands.
#[derive(Clone, Debug)]
pub(super) struct Source {
    package: String,
    /// The module path of the file inside its package: `["store", "load"]`.
    module: Vec<String>,
}

impl Source {
    fn new(package: &str, below_src: &str) -> Self {
        Self { package: package.to_owned(), module: module_of(below_src) }
    }

    /// The room it stands in: a module of package `dmsnap`, or another package. lib.rs of `dmsnap`
    /// is the list of its modules, and stands in none.
    pub(super) fn room(&self) -> Option<&str> {
        match self.package.strip_prefix("dmsnap-") {
            Some(package) => Some(package),
            None => self.module.first().map(String::as_str),
        }
    }

    /// Why this file must not use the room `used`; `None` if it may.
    fn refusal(&self, used: &str) -> Option<String> {
        let own = self.room()?;
        if own == used {
            return None;
        }
        let (who, may) = match self.package.as_str() {
            "dmsnap" => (own, allowed(&MODULES, own)),
            package => (package, allowed(&UPPER, package)),
        };
        let Some(may) = may else { return Some(format!("{who} has no floor yet")) };
        (!may.contains(&used)).then(|| format!("{who} must not use {used}"))
    }

    /// The rooms that its text uses, each with the line; its own may be among them.
    pub(super) fn used(&self, text: &str) -> Vec<(String, usize)> {
        let mut found = Vec::new();
        for scope in File::read(&self.module, text).scopes {
            let brought = scope.uses.iter().map(|it| (&it.path, it.line));
            let mentioned = scope.mentions.iter().map(|it| (&it.path, it.line));
            for (path, line) in brought.chain(mentioned) {
                let used = self.leads_to(&scope.module, path);
                // Tests may be run by simulated machines.
                if let Some(used) = used.filter(|used| !scope.tests || *used != "sim") {
                    found.push((used.to_owned(), line));
                }
            }
        }
        found
    }

    /// The room that a path in module `module` leads to.
    fn leads_to<'a>(&self, module: &[String], path: &'a [String]) -> Option<&'a str> {
        let own = self.package == "dmsnap";
        let rest = match path[0].as_str() {
            "dmsnap" => &path[1..],
            "crate" if own => &path[1..],
            "super" if own => {
                let up = path.iter().take_while(|name| *name == "super").count();
                if module.len() != up {
                    return None;
                }
                &path[up..]
            }
            other => return other.strip_prefix("dmsnap_"),
        };
        rest.first().map(String::as_str)
    }
}

/// The upward imports in one source file.
fn upward(source: &Source, text: &str) -> Vec<String> {
    let used = source.used(text).into_iter();
    let refused = used.filter_map(|(used, line)| {
        source.refusal(&used).map(|refusal| format!("line {line}: {refusal}"))
    });
    let mut refused: Vec<String> = refused.collect();
    refused.dedup();
    refused
}

/// The upward dependencies in one Cargo.toml.
fn upward_dependencies(manifest: &str) -> Vec<String> {
    let manifest: toml::Table = manifest.parse().expect("Cargo.toml is TOML");
    let Some(package) = manifest.get("package") else { return Vec::new() };
    let name = package["name"].as_str().expect("a package has a name");
    let Some(may) = allowed(&PACKAGES, name) else {
        return vec![format!("{name} has no floor yet")];
    };
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    let tables = targets.into_iter().flatten().filter_map(|(_, target)| target.as_table());
    let mut found = Vec::new();
    for table in tables.chain([&manifest]) {
        for (kind, tests_only) in
            [("dependencies", false), ("build-dependencies", false), ("dev-dependencies", true)]
        {
            let dependencies = table.get(kind).and_then(toml::Value::as_table);
            for (key, value) in dependencies.into_iter().flatten() {
                let used = value.get("package").and_then(toml::Value::as_str).unwrap_or(key);
                let ours = used == "dmsnap" || used.starts_with("dmsnap-");
                let simulated = tests_only && used == "dmsnap-sim" && name != "dmsnap-format";
                if ours && !simulated && !may.contains(&used) {
                    found.push(format!("{name} must not depend on {used} ({kind})"));
                }
            }
        }
    }
    found
}

/// `crates/NAME/src/...` and `src/...`: package and path below src. Other files belong to no floor.
pub(super) fn place(path: &str) -> Option<Source> {
    if let Some(below) = path.strip_prefix("src/") {
        return Some(Source::new("dmsnap", below));
    }
    let (name, below) = path.strip_prefix("crates/")?.split_once("/src/")?;
    Some(Source::new(&format!("dmsnap-{name}"), below))
}

#[test]
fn no_module_imports_from_a_floor_above() {
    let mut found = Vec::new();
    let mut read = 0;
    for path in crate::sources::files().iter().filter(|path| path.ends_with(".rs")) {
        let Some(source) = place(path) else { continue };
        read += 1;
        let text = crate::sources::text(Path::new(path));
        found.extend(upward(&source, &text).iter().map(|what| format!("{path}: {what}")));
    }
    assert!(read > 10, "only {read} sources were found");
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn no_package_depends_on_a_floor_above() {
    let mut found = Vec::new();
    for path in crate::sources::files().iter().filter(|path| path.ends_with("Cargo.toml")) {
        // The fuzz targets are their own workspace, above everything.
        if !path.starts_with("fuzz/") {
            found.extend(upward_dependencies(&crate::sources::text(Path::new(path))));
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// The checker itself: every way to write an upward import is caught, and only those.
#[test]
fn a_planted_upward_import_is_caught() {
    let planted = [
        ("dmsnap", "device/file.rs", "use crate::store::Store;"),
        ("dmsnap", "device/mod.rs", "use super::store::Store;"),
        ("dmsnap", "device/file.rs", "use super::super::store::Store;"),
        ("dmsnap", "device/file.rs", "fn f() { let _ = crate::ops::info; }"),
        ("dmsnap", "device/mod.rs", "mod tests { use super::super::ops::info; }"),
        ("dmsnap", "device/mod.rs", "fn f() { assert!(crate::ops::yes()); }"),
        ("dmsnap", "device/mod.rs", "use crate::{format::ChunkSize, ops::{self, info}};"),
        ("dmsnap", "device/mod.rs", "use crate::*;"),
        ("dmsnap", "device/mod.rs", "use super::*;"),
        ("dmsnap", "device/mod.rs", "pub(in crate::ops) fn f() {}"),
        ("dmsnap", "store/mod.rs", "use crate::table::Table;"),
        ("dmsnap", "table/mod.rs", "use crate::store::StoreError;"),
        ("dmsnap", "table/mod.rs", "fn f(_: &dyn crate::device::Device) {}"),
        ("dmsnap", "volume/merge.rs", "use crate::ops;"),
        ("dmsnap", "ops/info.rs", "use crate::Reexported;"),
        ("dmsnap", "nowhere/mod.rs", "use crate::device;"),
        ("dmsnap-cli", "cmd/info.rs", "use dmsnap::store::Store;"),
        ("dmsnap-cli", "main.rs", "use ::dmsnap::{ops, table};"),
        ("dmsnap-serve", "nbd/mod.rs", "use dmsnap::store::Store;"),
        ("dmsnap-serve", "nbd/mod.rs", "fn f() { dmsnap::ops::info() }"),
        ("dmsnap-lvm", "scan.rs", "use dmsnap::device::Device;"),
        ("dmsnap-nbd", "reply.rs", "use dmsnap::device::Device;"),
        ("dmsnap-images", "merge.rs", "use dmsnap::store::Store;"),
    ];
    for (package, path, text) in planted {
        let found = upward(&Source::new(package, path), text);
        assert_eq!(found.len(), 1, "{package}, {path}: {text}: {found:?}");
    }
}

#[test]
fn an_import_that_points_down_is_left_alone() {
    let allowed = [
        ("dmsnap", "lib.rs", "pub mod ops; pub use crate::ops::info;"),
        ("dmsnap", "device/mod.rs", "mod tests { use super::*; }"),
        ("dmsnap", "device/file.rs", "use super::*; use crate::device::Device;"),
        (
            "dmsnap",
            "device/file.rs",
            "/// Not a use: [`crate::ops`]\nfn f() -> &'static str { \"crate::ops\" }",
        ),
        ("dmsnap", "device/file.rs", "use compio::dmsnap::ops; pub(crate) fn store() {}"),
        ("dmsnap", "store/load.rs", "use crate::{device::Device, format::Layout};"),
        ("dmsnap", "ops/merge.rs", "use crate::{store::Store, table::Table, volume::Volume};"),
        ("dmsnap-cli", "cmd/info.rs", "use crate::store::Names; use dmsnap::{device::File, ops};"),
        ("dmsnap-serve", "nbd/mod.rs", "use dmsnap::volume::Volume;"),
        ("dmsnap-format", "layout.rs", "use crate::units::Sectors; use super::store;"),
    ];
    for (package, path, text) in allowed {
        let found = upward(&Source::new(package, path), text);
        assert!(found.is_empty(), "{package}, {path}: {text}: {found:?}");
    }
}

#[test]
fn a_planted_upward_dependency_is_caught() {
    let planted = [
        ("dmsnap-format", "[dependencies]\ndmsnap.workspace = true"),
        ("dmsnap-format", "[dev-dependencies]\ndmsnap-sim.workspace = true"),
        ("dmsnap", "[dependencies]\ndmsnap-sim.workspace = true"),
        ("dmsnap", "[dependencies]\nserver = { package = \"dmsnap-serve\", path = \"x\" }"),
        ("dmsnap", "[target.'cfg(unix)'.dependencies]\ndmsnap-cli = \"1\""),
        ("dmsnap-serve", "[build-dependencies.dmsnap-format]\npath = \"x\""),
        ("dmsnap-lvm", "[dependencies]\ndmsnap.workspace = true"),
        ("dmsnap-nbd", "[dependencies]\ndmsnap-format.workspace = true"),
        ("dmsnap-images", "[dependencies]\ndmsnap-serve.workspace = true"),
        ("dmsnap-other", ""),
    ];
    for (name, dependencies) in planted {
        let manifest = format!("[package]\nname = \"{name}\"\n{dependencies}\n");
        assert_eq!(upward_dependencies(&manifest).len(), 1, "{manifest}");
    }
    let fine = "[package]\nname = \"dmsnap\"\n[dependencies]\ndmsnap-format = \"1\"\nserde = \"1\"\n\
                [dev-dependencies]\ndmsnap-sim = { path = \"x\" }\n";
    assert_eq!(upward_dependencies(fine), [""; 0]);
}
