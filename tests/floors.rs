//! An import only ever points to a lower floor, in packages and in the modules of this one.
//!
//! | floor | package or module |
//! |---|---|
//! | 0 | `dmsnap-format` |
//! | 0 | `dmsnap-lvm` |
//! | 0 | `dmsnap-nbd` |
//! | 0 | `sync` |
//! | 1 | `device` |
//! | 2 | `signature`, `store`, `table` |
//! | 3 | `copy` |
//! | 4 | `merge` |
//! | 5 | `volume` |
//! | 6 | `ops` |
//! | 7 | `dmsnap-images` |
//! | 7 | `dmsnap-serve` |
//! | 8 | `dmsnap-cli` |
//!
//! Some floors must not even know everything below them, so each one lists what it may use. Sources
//! are read as tokens: what stands in comments and strings does not count, what stands in macro
//! calls does.

use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The modules of package `dmsnap`, and what each may use besides itself.
const MODULES: [(&str, &[&str]); 10] = [
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
];

/// The packages above it, and which modules of `dmsnap` each may use.
const UPPER: [(&str, &[&str]); 6] = [
    ("dmsnap-lvm", &["format"]),
    ("dmsnap-nbd", &[]),
    ("dmsnap-images", &["format", "device", "signature", "volume", "ops"]),
    ("dmsnap-serve", &["sync", "device", "copy", "volume"]),
    ("dmsnap-cli", &["format", "device", "signature", "ops"]),
    (
        "dmsnap-sim",
        &["format", "sync", "device", "copy", "store", "table", "volume", "ops", "planted"],
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
struct Source {
    package: String,
    /// The module path of the file inside its package: `["store", "load"]`.
    module: Vec<String>,
}

impl Source {
    fn new(package: &str, below_src: &str) -> Self {
        let path = below_src.trim_end_matches(".rs");
        let path = path.strip_suffix("/mod").unwrap_or(path);
        let module = match path {
            "lib" | "main" => Vec::new(),
            path => path.split('/').map(str::to_owned).collect(),
        };
        Self { package: package.to_owned(), module }
    }

    /// Why this file must not use module `used` of package `dmsnap`; `None` if it may.
    fn refusal(&self, used: &str) -> Option<String> {
        let (who, may) = if self.package == "dmsnap" {
            // lib.rs is the list of modules itself.
            let own = self.module.first()?;
            if own == used {
                return None;
            }
            (own, allowed(&MODULES, own))
        } else {
            (&self.package, allowed(&UPPER, &self.package))
        };
        let Some(may) = may else { return Some(format!("{who} has no floor yet")) };
        (!may.contains(&used)).then(|| format!("{who} must not use {used}"))
    }
}

/// Reads one file token by token.
struct Reader<'a> {
    source: &'a Source,
    /// The module the tokens stand in, inline ones included.
    module: Vec<String>,
    found: Vec<String>,
}

impl Reader<'_> {
    fn read(&mut self, tokens: TokenStream) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            if let Some(inline) = inline_module(&tokens[at..]) {
                self.module.push(inline.0);
                self.read(inline.1);
                self.module.pop();
                at += 3;
                continue;
            }
            if !follows_colons(&tokens, at) {
                self.path(&tokens[at..]);
            }
            if let TokenTree::Group(group) = &tokens[at] {
                self.read(group.stream());
            }
            at += 1;
        }
    }

    /// `tokens` may begin with a path: finds out which modules of `dmsnap` it leads to.
    fn path(&mut self, tokens: &[TokenTree]) {
        let Some(TokenTree::Ident(first)) = tokens.first() else { return };
        let (first, line) = (first.to_string(), first.span().start().line);
        let mut rest = &tokens[1..];
        let own = self.source.package == "dmsnap";
        match first.as_str() {
            "crate" if own => {}
            "dmsnap" => {}
            "dmsnap_format" => return self.uses("format", line),
            "super" if own => {
                let mut depth = self.module.len().checked_sub(1);
                while let [colon, colon2, TokenTree::Ident(next), ..] = rest
                    && is_colon(colon)
                    && is_colon(colon2)
                    && next == "super"
                {
                    depth = depth.and_then(|depth| depth.checked_sub(1));
                    rest = &rest[3..];
                }
                if depth != Some(0) {
                    return;
                }
            }
            _ => return,
        }
        if let [colon, colon2, next, ..] = rest
            && is_colon(colon)
            && is_colon(colon2)
        {
            self.target(next, line);
        }
    }

    /// What stands behind the root of the package: a module, a list of them, or everything.
    fn target(&mut self, next: &TokenTree, line: usize) {
        match next {
            TokenTree::Ident(module) => self.uses(&module.to_string(), line),
            TokenTree::Punct(_) => self.uses("*", line),
            TokenTree::Group(group) => {
                let tokens: Vec<_> = group.stream().into_iter().collect();
                for entry in tokens.split(|token| is_punct(token, ',')) {
                    if let Some(first) = entry.first() {
                        self.target(first, line);
                    }
                }
            }
            TokenTree::Literal(_) => {}
        }
    }

    fn uses(&mut self, module: &str, line: usize) {
        if let Some(refusal) = self.source.refusal(module) {
            self.found.push(format!("line {line}: {refusal}"));
        }
    }
}

/// `mod name { ... }`: its name and content.
fn inline_module(tokens: &[TokenTree]) -> Option<(String, TokenStream)> {
    match tokens {
        [TokenTree::Ident(word), TokenTree::Ident(name), TokenTree::Group(body), ..]
            if word == "mod" && body.delimiter() == Delimiter::Brace =>
        {
            Some((name.to_string(), body.stream()))
        }
        _ => None,
    }
}

/// Only the first word of a path counts: the `dmsnap` of `elsewhere::dmsnap` is not ours, the one of
/// `use ::dmsnap` is.
fn follows_colons(tokens: &[TokenTree], at: usize) -> bool {
    const BEFORE_A_PATH: [&str; 8] = ["use", "in", "as", "dyn", "impl", "return", "mut", "for"];
    let behind_a_name = match &tokens[..at] {
        [.., TokenTree::Ident(name), _, _] => !BEFORE_A_PATH.iter().any(|word| name == word),
        _ => false,
    };
    behind_a_name && is_colon(&tokens[at - 1]) && is_colon(&tokens[at - 2])
}

fn is_colon(token: &TokenTree) -> bool {
    is_punct(token, ':')
}

fn is_punct(token: &TokenTree, wanted: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == wanted)
}

/// The upward imports in one source file.
fn upward(source: &Source, text: &str) -> Vec<String> {
    let tokens = text.parse().expect("a source file consists of Rust tokens");
    let mut reader = Reader { source, module: source.module.clone(), found: Vec::new() };
    reader.read(tokens);
    reader.found
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
fn place(path: &str) -> Option<Source> {
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
        ("dmsnap-serve", "nbd/mod.rs", "use dmsnap_format::ChunkSize;"),
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
