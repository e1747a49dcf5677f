//! The language of LVM metadata and configuration: named values, and named sections of them.

mod grammar; // bytes -> entries
mod tree; // entries by name, and what they are expected to be

use std::fmt;
use std::ops::Range;

pub(crate) use grammar::parse;
pub use tree::ValueError;

/// How deep sections and lists may lie in each other. LVM writes 4.
pub(crate) const MAX_DEPTH: usize = 32;

/// How many entries and values of lists a text may have: two million. LVM writes under 100,000 in a
/// text of 1 MiB.
pub(crate) const MAX_ITEMS: usize = 1 << 21;

/// Entries in the order they were written. A name that comes twice counts where it came first.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Section {
    entries: Vec<Entry>,
}

/// One named value or section.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    /// What stands before the `=` or the `{`.
    pub(crate) name: String,
    /// What follows it.
    pub(crate) item: Item,
    /// Where its name begins in the text, its value or `{`, and where both end.
    spans: [u32; 3],
}

impl Entry {
    /// The bytes from the name to the end of the value, or to the closing `}`.
    pub(crate) fn span(&self) -> Range<usize> {
        self.spans[0] as usize..self.spans[2] as usize
    }

    /// Those of the value, or of the section with its braces.
    pub(crate) fn item_span(&self) -> Range<usize> {
        self.spans[1] as usize..self.spans[2] as usize
    }
}

/// A section, or a value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Item {
    /// `{ ... }`
    Section(Section),
    /// `= ...`
    Value(Value),
}

/// What follows a `=`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// `128`
    Integer(i64),
    /// `0.5`
    Float(f64),
    /// `"vg0"`, its escapes undone. Bytes that are not UTF-8 are replaced.
    String(String),
    /// `["READ", "WRITE"]`
    List(Vec<Value>),
}

/// Where a text stops to make sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {fault}")]
pub struct SyntaxError {
    /// From 1.
    pub line: usize,
    /// In bytes, from 1.
    pub column: usize,
    /// What is wrong there.
    pub fault: SyntaxFault,
}

/// What is wrong with a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SyntaxFault {
    /// Neither a name nor the end of a section.
    Name,
    /// A name followed by neither `=` nor `{`.
    Item,
    /// No number, string or list.
    Value,
    /// A string without its closing quote.
    String,
    /// A list without its `]`.
    List,
    /// A section without its `}`.
    Section,
    /// More than 32 sections or lists in each other.
    Depth,
    /// More than two million entries and values.
    Items,
}

impl fmt::Display for SyntaxFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "expected a name",
            Self::Item => "expected `=` or `{` after a name",
            Self::Value => "expected a number, a string or a list",
            Self::String => "a string does not end",
            Self::List => "expected `,` or `]` in a list",
            Self::Section => "a section does not end",
            Self::Depth => "too many sections or lists in each other",
            Self::Items => "too many entries",
        })
    }
}
