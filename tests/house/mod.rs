//! How the house is built: which code may know which, and how large its rooms may be.

mod reading; // a source file as tokens: modules, imports, functions
mod floors; // no package and no module of the library knows a floor above it
mod files; // no two files of a package import each other
mod sizes; // no function is longer than a screen, no file than a sitting
mod picture; // docs/house.svg, drawn from the imports
