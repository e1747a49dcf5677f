//! No function is longer than a screen and no file longer than one reads in a sitting. Tests are
//! apart.

use std::path::Path;

use super::reading::File;

/// Lines of a function, from `fn` to its closing brace.
const FUNCTION: usize = 60;

/// Lines of a file.
const FILE: usize = 400;

/// What is too long in a file: itself, as an empty name, and functions.
fn too_long(text: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let lines = text.lines().count();
    if lines > FILE {
        found.push((String::new(), lines));
    }
    let functions = File::read(&[], text).functions;
    let functions = functions.into_iter().filter(|it| !it.tests && it.lines > FUNCTION);
    found.extend(functions.map(|it| (it.name, it.lines)));
    found
}

/// Sources of the product and of what proves it; tests are apart.
fn is_product(path: &str) -> bool {
    let tests =
        path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs");
    path.ends_with(".rs") && !tests
}

#[test]
fn no_file_and_no_function_is_too_long() {
    let mut wrong = Vec::new();
    for path in crate::sources::files().iter().filter(|path| is_product(path)) {
        for (name, lines) in too_long(&crate::sources::text(Path::new(path))) {
            wrong.push(match name.as_str() {
                "" => format!("{path}: {lines} lines"),
                name => format!("{path}: fn {name}: {lines} lines"),
            });
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn what_is_too_long_is_found_and_nothing_else() {
    let function = |lines| format!("fn f() {{\n{}}}\n", "    g();\n".repeat(lines - 2));
    let tests = |text: &str| format!("#[cfg(test)]\nmod tests {{\n{text}}}\n");
    let found = |text: &str| too_long(text);
    assert_eq!(found(&function(FUNCTION)), []);
    assert_eq!(found(&function(FUNCTION + 1)), [("f".to_owned(), FUNCTION + 1)]);
    assert_eq!(found(&tests(&function(FUNCTION + 1))), []);
    assert_eq!(found(&"//\n".repeat(FILE)), []);
    assert_eq!(found(&"//\n".repeat(FILE + 1)), [(String::new(), FILE + 1)]);
}
