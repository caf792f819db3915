//! The source of a value, and the names under which each source knows a setting.

/// The flag that names the configuration file.
pub(super) const CONFIG: &str = "config";
/// The flag that prints the settings instead of starting the program.
pub(super) const PRINT_CONFIG: &str = "print-config";

/// The source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// An environment variable.
    Variable,
    /// The TOML file with this name.
    File(String),
    /// A setting of Service-Center, from its variables or its YAML file.
    ServiceCenter {
        /// The name of the variable, or the file and the key in it.
        name: String,
        /// The value came from the environment.
        ambient: bool,
    },
    /// The default in the declaration.
    Default,
}

impl Origin {
    /// The name of the setting `key` in this source, as a message to the operator gives it.
    pub(super) fn name(&self, key: &str) -> String {
        match self {
            Self::Flag => format!("--{}", flag_of(key)),
            Self::Variable => variable_of(key),
            Self::File(name) if key.is_empty() => name.clone(),
            Self::File(name) => format!("{name}: {key}"),
            Self::ServiceCenter { name, .. } => name.clone(),
            Self::Default => key.to_owned(),
        }
    }
}

/// `watch.ping-interval` → `watch-ping-interval`.
pub(super) fn flag_of(key: &str) -> String {
    key.replace('.', "-")
}

/// `watch.ping-interval` → `MUSTER_WATCH_PING_INTERVAL`.
pub(super) fn variable_of(key: &str) -> String {
    format!("MUSTER_{}", key.replace(['.', '-'], "_").to_ascii_uppercase())
}
