//! A declared setting. The reader makes it; help, files and tables are rendered from it.

use super::origin::variable_of;
use super::{Kind, Origin};

/// A setting as it was declared, with the value that won.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Declared {
    pub(super) key: String,
    pub(super) help: &'static str,
    pub(super) default: Option<String>,
    pub(super) expected: String,
    pub(super) value_name: &'static str,
    pub(super) kind: Kind,
    /// A shorter name, accepted as a flag and as a variable.
    pub(super) alias: Option<&'static str>,
    /// A new value takes effect while the process runs.
    pub(super) live: bool,
    /// The value as [`Setting::show`](super::Setting::show) writes it, without secrets; `None` when it
    /// has none.
    pub(super) shown: Option<String>,
    pub(super) origin: Origin,
}

impl Declared {
    /// The names of its environment variable, the shorter one first. They are separated by `separator`.
    pub(super) fn variables(&self, separator: &str) -> String {
        let variable = variable_of(&self.key);
        match self.alias {
            Some(alias) => format!("{}{separator}{variable}", variable_of(alias)),
            None => variable,
        }
    }

    /// The default, unless it is the empty text: a person could not see that.
    pub(super) fn visible_default(&self) -> Option<&str> {
        self.default.as_deref().filter(|default| !default.is_empty())
    }
}
