//! A source file, read as tokens: what stands in comments and strings does not count, what stands
//! in macro calls does.

use std::collections::HashSet;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Names that stand in front of a path and do not belong to it.
const BEFORE_A_PATH: [&str; 8] = ["use", "in", "as", "dyn", "impl", "return", "mut", "for"];

/// Keywords followed by the name of an item.
const ITEMS: [&str; 8] = ["fn", "struct", "enum", "union", "trait", "type", "const", "static"];

/// A path of at least two names, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mention {
    /// `*` stands for everything.
    pub(super) path: Vec<String>,
    pub(super) line: usize,
}

/// One name that a `use` declaration brings.
#[derive(Clone, Debug)]
pub(super) struct Use {
    pub(super) path: Vec<String>,
    /// `*` if it brings everything.
    pub(super) name: String,
    /// It is visible outside of its module.
    pub(super) public: bool,
    pub(super) line: usize,
}

/// A module of a file: the file itself, or one that is written inline. What only tests see is a
/// scope of its own.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope {
    pub(super) module: Vec<String>,
    /// It is compiled for tests only.
    pub(super) tests: bool,
    /// Modules that lie in files of their own, and whether only tests see them.
    pub(super) children: Vec<(String, bool)>,
    pub(super) items: HashSet<String>,
    pub(super) uses: Vec<Use>,
    pub(super) mentions: Vec<Mention>,
    /// Every name outside of `use` declarations.
    pub(super) words: HashSet<String>,
}

/// A function with a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) line: usize,
    /// From its `fn` to its closing brace.
    pub(super) lines: usize,
    pub(super) tests: bool,
}

/// What one file says.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) scopes: Vec<Scope>,
    pub(super) functions: Vec<Function>,
}

impl File {
    /// Reads a file that is the module `module` of its package.
    pub(super) fn read(module: &[String], text: &str) -> Self {
        let tokens: TokenStream = text.parse().expect("a source file consists of Rust tokens");
        let mut file = Self::default();
        file.module(module.to_vec(), false, tokens);
        file
    }

    fn module(&mut self, module: Vec<String>, tests: bool, tokens: TokenStream) {
        let scope = self.scope(&module, tests);
        let reader = Reader { scope, module, tests };
        reader.read(self, tokens, true);
    }

    /// The scope of a module, which is made if it is new.
    fn scope(&mut self, module: &[String], tests: bool) -> usize {
        let same = |scope: &Scope| scope.module == module && scope.tests == tests;
        self.scopes.iter().position(same).unwrap_or_else(|| {
            let module = module.to_vec();
            self.scopes.push(Scope { module, tests, ..Scope::default() });
            self.scopes.len() - 1
        })
    }
}

/// Reads the tokens of one module.
struct Reader {
    scope: usize,
    module: Vec<String>,
    tests: bool,
}

impl Reader {
    fn read(&self, file: &mut File, tokens: TokenStream, top: bool) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            if is_for_tests(&tokens[at..]) && !self.tests {
                let end = at + 2 + item_len(&tokens[at + 2..]);
                let scope = file.scope(&self.module, true);
                let tests = Self { scope, module: self.module.clone(), tests: true };
                tests.read(file, tokens[at + 2..end].iter().cloned().collect(), top);
                at = end;
            } else {
                at += self.item(file, &tokens, at, top);
            }
        }
    }

    /// Reads what begins at `at`, and says how many tokens it has.
    fn item(&self, file: &mut File, tokens: &[TokenTree], at: usize, top: bool) -> usize {
        match &tokens[at..] {
            [TokenTree::Ident(word), TokenTree::Ident(name), body, ..] if word == "mod" => {
                let name = name.to_string();
                if let TokenTree::Group(body) = body {
                    let module = [&self.module[..], &[name]].concat();
                    file.module(module, self.tests, body.stream());
                } else {
                    file.scopes[self.scope].children.push((name, self.tests));
                }
                return 3;
            }
            [TokenTree::Ident(word), next, ..] if word == "use" && !is_punct(next, '<') => {
                let end = tokens[at..].iter().position(|token| is_punct(token, ';'));
                let end = at + end.unwrap_or(tokens.len() - at);
                let public = is_public(&tokens[..at]);
                let line = word.span().start().line;
                let found = &mut file.scopes[self.scope].uses;
                use_tree(&tokens[at + 1..end], &[], &mut |path, name| {
                    found.push(Use { path, name, public, line });
                });
                return end - at;
            }
            [TokenTree::Ident(word), TokenTree::Ident(name), rest @ ..] => {
                if top && ITEMS.iter().any(|item| word == item) {
                    file.scopes[self.scope].items.insert(name.to_string());
                }
                if word == "fn" {
                    let body = rest.iter().find_map(|token| match token {
                        TokenTree::Group(group) => {
                            (group.delimiter() == Delimiter::Brace).then_some(Some(group))
                        }
                        token => is_punct(token, ';').then_some(None),
                    });
                    if let Some(body) = body.flatten() {
                        let line = word.span().start().line;
                        let lines = body.span_close().end().line - line + 1;
                        let name = name.to_string();
                        file.functions.push(Function { name, line, lines, tests: self.tests });
                    }
                }
            }
            [TokenTree::Ident(word), bang, TokenTree::Ident(name), ..]
                if word == "macro_rules" && is_punct(bang, '!') =>
            {
                file.scopes[self.scope].items.insert(name.to_string());
            }
            [TokenTree::Group(group), ..] => self.read(file, group.stream(), false),
            _ => {}
        }
        if !follows_colons(tokens, at) {
            self.path(file, &tokens[at..]);
        }
        1
    }

    /// `tokens` may begin with a path.
    fn path(&self, file: &mut File, tokens: &[TokenTree]) {
        let Some(TokenTree::Ident(first)) = tokens.first() else { return };
        let line = first.span().start().line;
        let scope = &mut file.scopes[self.scope];
        let mut path = vec![first.to_string()];
        scope.words.insert(first.to_string());
        let mut rest = &tokens[1..];
        while let [colon, colon2, TokenTree::Ident(next), ..] = rest
            && is_punct(colon, ':')
            && is_punct(colon2, ':')
        {
            path.push(next.to_string());
            rest = &rest[3..];
        }
        if path.len() > 1 {
            scope.mentions.push(Mention { path, line });
        }
    }
}

/// Everything that a `use` declaration brings, as path and name.
fn use_tree(tokens: &[TokenTree], before: &[String], found: &mut impl FnMut(Vec<String>, String)) {
    let mut path = before.to_vec();
    let mut name = None;
    let mut renamed = false;
    for token in tokens {
        match token {
            TokenTree::Ident(word) if word == "as" => renamed = true,
            TokenTree::Ident(word) if renamed => name = Some(word.to_string()),
            // `a::{self}` is `a`.
            TokenTree::Ident(word) if word == "self" && !path.is_empty() => {}
            TokenTree::Ident(word) => path.push(word.to_string()),
            TokenTree::Punct(star) if star.as_char() == '*' => path.push("*".to_owned()),
            TokenTree::Group(group) => {
                let entries: Vec<_> = group.stream().into_iter().collect();
                for entry in entries.split(|token| is_punct(token, ',')) {
                    if !entry.is_empty() {
                        use_tree(entry, &path, found);
                    }
                }
                return;
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
    if let Some(last) = path.last().cloned() {
        found(path, name.unwrap_or(last));
    }
}

/// `#[test]` and `#[cfg(test)]`, alone or among others.
fn is_for_tests(tokens: &[TokenTree]) -> bool {
    let [hash, TokenTree::Group(attribute), ..] = tokens else { return false };
    if !is_punct(hash, '#') {
        return false;
    }
    let attribute: String = attribute.to_string().split_whitespace().collect();
    attribute == "[test]" || attribute == "[cfg(test)]" || attribute.starts_with("[cfg(all(test,")
}

/// Up to the end of the item that `tokens` begin with.
fn item_len(tokens: &[TokenTree]) -> usize {
    let ends = |token: &TokenTree| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        token => is_punct(token, ';'),
    };
    let is_use = matches!(tokens, [TokenTree::Ident(word), ..] if word == "use");
    let end = match is_use {
        true => tokens.iter().position(|token| is_punct(token, ';')),
        false => tokens.iter().position(ends),
    };
    end.map_or(tokens.len(), |end| end + 1)
}

/// `pub` or `pub(...)` stands before an item.
fn is_public(before: &[TokenTree]) -> bool {
    match before {
        [.., TokenTree::Ident(word)] => word == "pub",
        [.., TokenTree::Ident(word), TokenTree::Group(_)] => word == "pub",
        _ => false,
    }
}

/// Only the first name of a path counts: the `dmsnap` of `elsewhere::dmsnap` is not ours, the one
/// of `use ::dmsnap` is.
fn follows_colons(tokens: &[TokenTree], at: usize) -> bool {
    let after_a_name = match &tokens[..at] {
        [.., TokenTree::Ident(name), _, _] => !BEFORE_A_PATH.iter().any(|word| name == word),
        _ => false,
    };
    after_a_name && is_punct(&tokens[at - 1], ':') && is_punct(&tokens[at - 2], ':')
}

fn is_punct(token: &TokenTree, wanted: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == wanted)
}

/// The module path of a file inside its package: `["store", "load"]` of `store/load.rs`.
pub(super) fn module_of(below_src: &str) -> Vec<String> {
    let path = below_src.trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    match path {
        "lib" | "main" => Vec::new(),
        path => path.split('/').map(str::to_owned).collect(),
    }
}

#[test]
fn a_file_is_read_with_its_modules_imports_and_functions() {
    let text = "use crate::{a::{self, B as C}, d::*};\npub(crate) use ::e::F;\nmod g;\n\
                fn h() {\n    i::j::<k::L>(m!(n::o));\n}\n\
                #[cfg(test)]\nmod tests {\n    #[test]\n    fn p() { use super::q; }\n}\n";
    let file = File::read(&[], text);
    let [own, .., tests] = &file.scopes[..] else { panic!("{file:?}") };
    let brought = own.uses.iter().map(|it| (it.path.join("::"), it.name.as_str(), it.public));
    let brought: Vec<_> = brought.collect();
    let expected = [
        ("crate::a".to_owned(), "a", false),
        ("crate::a::B".to_owned(), "C", false),
        ("crate::d::*".to_owned(), "*", false),
        ("e::F".to_owned(), "F", true),
    ];
    assert_eq!(brought, expected);
    let mentions: Vec<_> = own.mentions.iter().map(|it| (it.path.join("::"), it.line)).collect();
    assert_eq!(mentions, [("i::j", 5), ("k::L", 5), ("n::o", 5)].map(|(a, b)| (a.to_owned(), b)));
    assert_eq!(own.children, [("g".to_owned(), false)]);
    assert!(own.items.contains("h"));
    assert!(tests.tests && tests.uses.len() == 1 && tests.module == ["tests"]);
    let functions: Vec<_> =
        file.functions.iter().map(|it| (it.name.as_str(), it.line, it.lines, it.tests)).collect();
    assert_eq!(functions, [("h", 4, 3, false), ("p", 10, 1, true)]);
}
