use std::collections::HashSet;

use super::{Entry, Item, Section, Value};

/// A value that is missing, or not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ValueError {
    /// Not there.
    #[error("`{key}` is missing")]
    Missing { key: String },
    /// There, but of another type or out of range.
    #[error("`{key}` should be {expected}")]
    Unexpected { key: String, expected: &'static str },
    /// Two sections of the same name.
    #[error("`{key}` comes twice")]
    Twice { key: String },
}

impl ValueError {
    fn unexpected(key: &str, expected: &'static str) -> Self {
        Self::Unexpected { key: key.to_owned(), expected }
    }
}

impl Section {
    /// All of it, in order.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(crate) fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// What follows `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&Item> {
        self.entry(name).map(|entry| &entry.item)
    }

    /// The sections in it, in order.
    pub(crate) fn sections(&self) -> impl Iterator<Item = (&str, &Section)> {
        self.entries.iter().filter_map(|entry| match &entry.item {
            Item::Section(section) => Some((entry.name.as_str(), section)),
            Item::Value(_) => None,
        })
    }

    /// The section `name`, empty if there is none.
    pub(crate) fn section(&self, name: &str) -> Result<&Section, ValueError> {
        static EMPTY: Section = Section { entries: Vec::new() };
        match self.get(name) {
            None => Ok(&EMPTY),
            Some(Item::Section(section)) => Ok(section),
            Some(Item::Value(_)) => Err(ValueError::unexpected(name, "a section")),
        }
    }

    fn value(&self, name: &str) -> Option<&Value> {
        match self.get(name)? {
            Item::Value(value) => Some(value),
            Item::Section(_) => None,
        }
    }

    /// A number from 0 up, if it is there.
    pub(crate) fn optional_number(&self, name: &str) -> Result<Option<u64>, ValueError> {
        let Some(item) = self.get(name) else { return Ok(None) };
        let number = match item {
            Item::Value(Value::Integer(number)) => u64::try_from(*number).ok(),
            _ => None,
        };
        number.map(Some).ok_or_else(|| ValueError::unexpected(name, "a number from 0 up"))
    }

    pub(crate) fn number(&self, name: &str) -> Result<u64, ValueError> {
        let missing = || ValueError::Missing { key: name.to_owned() };
        self.optional_number(name)?.ok_or_else(missing)
    }

    pub(crate) fn optional_string(&self, name: &str) -> Result<Option<&str>, ValueError> {
        match self.get(name) {
            None => Ok(None),
            Some(Item::Value(Value::String(text))) => Ok(Some(text)),
            Some(_) => Err(ValueError::unexpected(name, "a string")),
        }
    }

    pub(crate) fn string(&self, name: &str) -> Result<&str, ValueError> {
        let missing = || ValueError::Missing { key: name.to_owned() };
        self.optional_string(name)?.ok_or_else(missing)
    }

    /// The strings of a list, or a single one; none if it is not there.
    pub(crate) fn strings(&self, name: &str) -> Result<Vec<String>, ValueError> {
        if self.get(name).is_none() {
            return Ok(Vec::new());
        }
        let strings = self.value(name).and_then(|value| {
            value.as_slice().iter().map(|value| value.as_str().map(str::to_owned)).collect()
        });
        strings.ok_or_else(|| ValueError::unexpected(name, "a list of strings"))
    }

    pub(crate) fn list(&self, name: &str) -> Result<&[Value], ValueError> {
        let missing = || ValueError::Missing { key: name.to_owned() };
        let item = self.get(name).ok_or_else(missing)?;
        match item {
            Item::Value(Value::List(values)) => Ok(values),
            _ => Err(ValueError::unexpected(name, "a list")),
        }
    }

    /// Refuses two sections of the same name, which LVM never writes.
    pub(crate) fn unique_sections(&self) -> Result<(), ValueError> {
        let mut seen = HashSet::new();
        match self.sections().find(|(name, _)| !seen.insert(*name)) {
            None => Ok(()),
            Some((name, _)) => Err(ValueError::Twice { key: name.to_owned() }),
        }
    }
}

impl Value {
    /// The text of a string.
    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The values of a list; a single one is a list of its own.
    pub(crate) fn as_slice(&self) -> &[Value] {
        match self {
            Self::List(values) => values,
            single => std::slice::from_ref(single),
        }
    }
}
