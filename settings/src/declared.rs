//! A declared setting. The reader makes it; help, files and tables are rendered from it.

use super::{Kind, Origin};

/// A setting as declared, with the value that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Declared {
    pub(super) key: String,
    pub(super) help: &'static str,
    pub(super) default: Option<String>,
    pub(super) expected: String,
    pub(super) value_name: &'static str,
    pub(super) kind: Kind,
    /// A shorter name of its flag and its variable.
    pub(super) alias: Option<&'static str>,
    /// A change takes effect while the process runs.
    pub(super) live: bool,
    /// As [`Setting::show`] shows it: without secrets.
    pub(super) shown: Option<String>,
    pub(super) origin: Origin,
}
