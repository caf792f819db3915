//! The names of the machine and of this process on it.

/// Host name and process id: two processes on one machine must not have the same name.
pub fn own_name() -> String {
    format!("{}-{}", host_name(), std::process::id())
}

/// The machine's name, or `localhost` if it has none.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".into() } else { name.into() }
}
