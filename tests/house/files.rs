//! No two files of a package import each other, by whatever way: neither directly, nor through a
//! third one, nor through a name that a `mod.rs` passes on.
//!
//! An import leads to the file that defines what is imported. A `mod.rs` or `lib.rs` that only
//! passes names on (`pub use`) imports nothing by it; one that uses such a name itself does. What
//! only tests see does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::reading::{File, Scope};

/// Folders and files of a package in the order in which they build on each other: none may import
/// one that stands after it. What is not named here may stand anywhere.
const ORDERS: [(&str, &[&str]); 3] = [
    ("crates/cli/src", &["exit", "report", "output", "files", "devices", "cmd", "main"]),
    ("crates/serve/src", &["budget", "export", "nbd", "merges", "control", "service"]),
    (
        "crates/sim/src",
        &["naive", "model", "fault", "record", "power", "disk", "plan", "machine", "play", "hunt"],
    ),
];

/// Finds the text of a file by its path; `None` if there is no such file.
type Texts<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Module(Vec<String>),
    /// What a file defines.
    Item(String),
}

/// A module: the file it is written in, and what it says.
#[derive(Debug)]
struct Module {
    file: String,
    scope: Scope,
    children: BTreeSet<String>,
}

/// A crate: every module that its root leads to, tests apart.
#[derive(Debug, Default)]
struct Crate {
    modules: BTreeMap<Vec<String>, Module>,
}

/// An import, and the line it stands in.
type Imports = BTreeMap<(String, String), usize>;

impl Crate {
    fn read(root: &str, texts: Texts<'_>) -> Self {
        let mut read = Self::default();
        let text = texts(root).expect("a root is there");
        read.file(root, &[], &text, texts);
        read
    }

    fn file(&mut self, path: &str, module: &[String], text: &str, texts: Texts<'_>) {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let is_root = module.is_empty() || name == "mod.rs";
        let below = match is_root {
            true => folder.to_owned(),
            false => format!("{folder}/{}", name.trim_end_matches(".rs")),
        };
        let scopes = File::read(module, text).scopes;
        let inline = scopes.iter().filter(|it| !it.tests).map(|it| it.module.clone());
        let inline: Vec<_> = inline.collect();
        for scope in scopes.into_iter().filter(|scope| !scope.tests) {
            let mut children: BTreeSet<String> = inline
                .iter()
                .filter(|other| other.len() == scope.module.len() + 1)
                .filter(|other| other.starts_with(&scope.module))
                .filter_map(|other| other.last().cloned())
                .collect();
            for (child, _) in scope.children.iter().filter(|(_, tests)| !tests) {
                let inner = scope.module[module.len()..].join("/");
                let folder =
                    if inner.is_empty() { below.clone() } else { format!("{below}/{inner}") };
                let paths = [format!("{folder}/{child}.rs"), format!("{folder}/{child}/mod.rs")];
                let found = paths.into_iter().find_map(|path| Some((texts(&path)?, path)));
                if let Some((text, path)) = found {
                    children.insert(child.clone());
                    let module = [&scope.module[..], std::slice::from_ref(child)].concat();
                    self.file(&path, &module, &text, texts);
                }
            }
            let module = Module { file: path.to_owned(), scope: scope.clone(), children };
            self.modules.insert(scope.module, module);
        }
    }

    /// Where a path leads that stands in module `from`; `None` if it leaves the crate.
    fn resolve(&self, from: &[String], path: &[String], depth: usize) -> Option<Target> {
        let (start, rest) = match path[0].as_str() {
            "crate" => (&[][..], &path[1..]),
            "self" => (from, &path[1..]),
            "super" => {
                let up = path.iter().take_while(|name| *name == "super").count();
                (&from[..from.len().checked_sub(up)?], &path[up..])
            }
            _ => (from, path),
        };
        let mut at = start.to_vec();
        for (n, name) in rest.iter().enumerate() {
            match self.look_up(&at, name, depth) {
                Some(Target::Module(module)) => at = module,
                Some(item) => return Some(item),
                // A path that begins with a name of nobody's leads to another crate.
                None if n == 0 && rest.len() == path.len() => return None,
                None => return Some(Target::Item(self.modules.get(&at)?.file.clone())),
            }
        }
        Some(Target::Module(at))
    }

    /// What `name` means in a module; `None` if it is neither a module nor imported there.
    fn look_up(&self, module: &[String], name: &str, depth: usize) -> Option<Target> {
        let here = self.modules.get(module)?;
        if here.children.contains(name) {
            return Some(Target::Module([module, &[name.to_owned()]].concat()));
        }
        if here.scope.items.contains(name) {
            return Some(Target::Item(here.file.clone()));
        }
        // Names may be passed on in a ring; that many steps are none.
        let depth = depth.checked_sub(1)?;
        if let Some(brought) = here.scope.uses.iter().find(|it| it.name == name) {
            return self.resolve(module, &brought.path, depth);
        }
        here.scope.uses.iter().filter(|it| it.name == "*").find_map(|all| {
            let from = self.resolve(module, &all.path[..all.path.len() - 1], depth)?;
            let Target::Module(from) = from else { return None };
            self.look_up(&from, name, depth)
        })
    }

    /// Which file imports from which.
    fn imports(&self) -> Imports {
        let mut imports = Imports::new();
        for (path, module) in &self.modules {
            let scope = &module.scope;
            let used = scope.uses.iter().filter(|it| !it.public || scope.words.contains(&it.name));
            let used = used.map(|it| (&it.path, it.line));
            let mentioned = scope.mentions.iter().map(|it| (&it.path, it.line));
            for (found, line) in used.chain(mentioned) {
                let everything = found.last().is_some_and(|last| last == "*");
                let named = if everything { &found[..found.len() - 1] } else { found };
                let target = match self.resolve(path, named, DEPTH) {
                    Some(Target::Item(file)) => file,
                    Some(Target::Module(module)) if everything => {
                        self.modules[&module].file.clone()
                    }
                    _ => continue,
                };
                if target != module.file {
                    imports.entry((module.file.clone(), target)).or_insert(line);
                }
            }
        }
        imports
    }
}

/// The most names that one is passed on by.
const DEPTH: usize = 8;

/// Every file that each file leads to, by one import or more.
fn reached(imports: &Imports) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut direct: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (from, to) in imports.keys() {
        direct.entry(from).or_default().push(to);
    }
    let mut reached = BTreeMap::new();
    for from in direct.keys() {
        let mut all = BTreeSet::new();
        let mut next = vec![*from];
        while let Some(file) = next.pop() {
            let below = direct.get(file).into_iter().flatten().copied();
            next.extend(below.filter(|below| all.insert(*below)));
        }
        reached.insert(*from, all);
    }
    reached
}

/// The imports that lie in a circle.
fn circles(imports: &Imports) -> Vec<(&str, &str, usize)> {
    let reached = reached(imports);
    let in_circle = |from: &str, to: &str| reached.get(to).is_some_and(|all| all.contains(from));
    let found = imports.iter().filter(|((from, to), _)| in_circle(from, to));
    found.map(|((from, to), line)| (from.as_str(), to.as_str(), *line)).collect()
}

/// Imports against a declared order.
fn against_the_order(imports: &Imports, package: &str, order: &[&str]) -> Vec<String> {
    let place = |file: &str| {
        let below = file.strip_prefix(package)?.strip_prefix('/')?;
        let is = |room: &&str| {
            below.strip_prefix(*room).is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
        };
        order.iter().position(is)
    };
    let upward = imports.iter().filter(|((from, to), _)| match (place(from), place(to)) {
        (Some(from), Some(to)) => to > from,
        _ => false,
    });
    upward.map(|((from, to), line)| format!("{from}:{line} must not import {to}")).collect()
}

/// The files that a crate begins with.
fn is_root(path: &str) -> bool {
    let in_tests = path.contains("tests/");
    let names = ["src/lib.rs", "src/main.rs"];
    let folders = ["src/bin/", "benches/", "fuzz/targets/", "examples/"];
    let below = |folder: &str| {
        let rest = path.split_once(folder).map(|(_, rest)| rest);
        rest.is_some_and(|rest| !rest.contains('/') && rest.ends_with(".rs"))
    };
    !in_tests
        && (names.iter().any(|name| path == *name || path.ends_with(&format!("/{name}")))
            || folders.into_iter().any(below))
}

/// The imports of every package of the repository.
pub(super) fn all_imports() -> Imports {
    let files: BTreeSet<String> = crate::sources::files().into_iter().collect();
    let texts = |path: &str| files.contains(path).then(|| crate::sources::text(Path::new(path)));
    let mut imports = Imports::new();
    let mut read = 0;
    for root in files.iter().filter(|path| is_root(path)) {
        let package = Crate::read(root, &texts);
        read += package.modules.len();
        imports.extend(package.imports());
    }
    assert!(read > 200, "only {read} modules were found");
    imports
}

#[test]
fn no_two_files_import_each_other() {
    let imports = all_imports();
    let found = circles(&imports).into_iter();
    let found: Vec<_> =
        found.map(|(from, to, line)| format!("{from}:{line} imports {to}")).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn no_import_runs_against_a_declared_order() {
    let imports = all_imports();
    let against = ORDERS.iter().flat_map(|(at, order)| against_the_order(&imports, at, order));
    let against: Vec<String> = against.collect();
    assert!(against.is_empty(), "\n{}", against.join("\n"));
}

/// A made-up crate: paths and texts, the root first.
fn made_up(files: &[(&str, &str)]) -> Imports {
    let texts = |path: &str| {
        files.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned())
    };
    Crate::read(files[0].0, &texts).imports()
}

#[test]
fn a_planted_circle_is_found() {
    let root = ("src/lib.rs", "mod a; mod b; mod c;");
    let planted: [&[(&str, &str)]; 7] = [
        // Two files, in as many ways as there are.
        &[
            root,
            ("src/a.rs", "use crate::b::B; struct A;"),
            ("src/b.rs", "fn f(_: super::a::A) {}"),
        ],
        &[root, ("src/a.rs", "use super::b; fn f() { b::g() }"), ("src/b.rs", "m!(crate::a::A);")],
        &[
            root,
            ("src/a.rs", "use crate::b::*;"),
            ("src/b.rs", "use crate::{a::{self as x}, c}; type T = x::A;"),
        ],
        // A ring of three.
        &[
            root,
            ("src/a.rs", "use crate::b::B;"),
            ("src/b.rs", "use crate::c::C;"),
            ("src/c.rs", "use crate::a::A;"),
        ],
        // Through a name that is passed on, also under another name.
        &[
            ("src/lib.rs", "mod a; mod b; pub use a::A as Z;"),
            ("src/a.rs", "use crate::b::B;"),
            ("src/b.rs", "use crate::Z;"),
        ],
        &[
            ("src/lib.rs", "mod a; mod b;"),
            ("src/a/mod.rs", "mod c; pub(crate) use c::*;"),
            ("src/a/c.rs", "use crate::b::B; pub(crate) struct C;"),
            ("src/b.rs", "use crate::a::C; pub(crate) struct B;"),
        ],
        // With a mod.rs that uses what it passes on.
        &[
            ("src/lib.rs", "mod a;"),
            ("src/a/mod.rs", "mod b; pub use b::B; pub struct A(B);"),
            ("src/a/b.rs", "pub struct B; use super::A;"),
        ],
    ];
    for files in planted {
        let imports = made_up(files);
        assert!(circles(&imports).len() >= 2, "{files:?}: {imports:?}");
    }
}

#[test]
fn what_is_no_circle_is_left_alone() {
    let fine: [&[(&str, &str)]; 4] = [
        // A mod.rs that passes names on, and defines what they need.
        &[
            ("src/lib.rs", "mod a; mod b;"),
            ("src/a/mod.rs", "mod c; pub use c::C; pub struct A;"),
            ("src/a/c.rs", "use super::A; use crate::b::B; pub struct C;"),
            ("src/b.rs", "pub struct B;"),
        ],
        // Tests, comments, strings, other crates.
        &[
            ("src/lib.rs", "mod a; mod b;"),
            ("src/a.rs", "use crate::b::B; #[cfg(test)] mod tests { use crate::b::C; }"),
            ("src/b.rs", "/// [`crate::a`]\nconst B: &str = \"crate::a::A\"; use elsewhere::a::A;"),
        ],
        &[
            ("src/lib.rs", "mod a; mod b;"),
            ("src/a.rs", "use crate::b::B;"),
            ("src/b.rs", "#[cfg(test)] use crate::a::A; #[cfg(test)] mod tests; pub struct B;"),
            ("src/b/tests.rs", "use crate::a::A;"),
        ],
        // An inline module is part of its file.
        &[("src/lib.rs", "mod a { use super::b::B; } mod b { use crate::a::A; }")],
    ];
    for files in fine {
        let imports = made_up(files);
        assert_eq!(circles(&imports), [], "{files:?}");
    }
}

#[test]
fn a_planted_import_against_the_order_is_found() {
    let imports = made_up(&[
        ("src/lib.rs", "mod a; mod b; mod c;"),
        ("src/a/mod.rs", "mod d;"),
        ("src/a/d.rs", "use crate::b::B; use crate::c::C;"),
        ("src/b.rs", "use crate::c::C; struct B;"),
        ("src/c.rs", "struct C;"),
    ]);
    let order = |order: &[&str]| against_the_order(&imports, "src", order).len();
    assert_eq!((order(&["c", "b", "a"]), order(&["a", "b"]), order(&["b", "c"])), (0, 1, 1));
}
