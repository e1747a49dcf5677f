use std::fmt;

use crate::ORIGIN;

/// A name that no snapshot can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservedName(String);

impl fmt::Display for ReservedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = self.0.escape_debug();
        let rule = "it must not be empty, nor `origin`, nor hold control characters";
        write!(f, "found the name `{found}`; {rule}")
    }
}

impl std::error::Error for ReservedName {}

/// Refuses the name of a snapshot that no export can have: none at all, that of the origin, and one that
/// would break the lines it is printed in.
///
/// # Errors
///
/// [`ReservedName`]
pub fn refuse_reserved(name: &str) -> Result<(), ReservedName> {
    match name.is_empty() || name == ORIGIN || name.chars().any(char::is_control) {
        true => Err(ReservedName(name.into())),
        false => Ok(()),
    }
}
