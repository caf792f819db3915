//! The names of the machine and of this process on it.

/// A name of this process: the machine's name and the process id, because two processes on one machine must
/// not have the same name.
pub fn own_name() -> String {
    format!("{}-{}", host_name(), std::process::id())
}

/// The kernel's name of the machine, as `hostname` prints it, or `localhost` if it has none: an instance
/// without a host name would be refused.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".into() } else { name.into() }
}
