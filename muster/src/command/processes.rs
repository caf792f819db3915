//! Processes by their admin addresses: one for each address behind the given names.

use std::time::Duration;

use crate::cli::{Target, Trust};
use crate::failure::Failure;
use crate::registry::Registry;

/// A process that can be asked.
pub(super) struct Process {
    /// Its address, for people.
    pub(super) name: String,
    /// The way to it.
    pub(super) registry: Registry,
}

/// Looks the names up. Containers that are scaled share one name.
pub(super) async fn of(
    admins: &[url::Url],
    timeout: Duration,
    trust: &Trust,
) -> Result<Vec<Process>, Failure> {
    let mut processes = Vec::new();
    for admin in admins {
        let (host, port) =
            (admin.host_str().unwrap_or_default(), admin.port_or_known_default().unwrap_or(80));
        let found = tokio::net::lookup_host((host.trim_matches(['[', ']']), port)).await;
        let mut addresses: Vec<_> = found
            .map_err(|e| Failure::Unreachable { server: admin.to_string(), problem: e.to_string() })?
            .collect();
        addresses.sort();
        addresses.dedup();
        for address in addresses {
            let mut server = admin.clone();
            if server.set_ip_host(address.ip()).is_err() {
                return Err(Failure::Usage(format!("`{admin}` is no address of a process")));
            }
            let target = Target::process(server, timeout, trust.clone());
            processes.push(Process { name: address.to_string(), registry: Registry::new(&target)? });
        }
    }
    Ok(processes)
}
