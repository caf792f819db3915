//! Processes by their admin addresses: one for each network address behind the given names.

use std::time::Duration;

use crate::client::RegistryClient;
use crate::failure::CommandFailure;
use crate::target::{Target, Trust};

/// A process with its admin port.
pub(crate) struct AdminProcess {
    /// Its address, for people.
    pub(crate) name: String,
    /// The client of its admin port.
    pub(crate) client: RegistryClient,
}

/// Resolves the names. One name may stand for many processes: containers that are scaled share it.
pub(crate) async fn resolve(
    admins: &[url::Url],
    timeout: Duration,
    trust: &Trust,
) -> Result<Vec<AdminProcess>, CommandFailure> {
    let mut processes = Vec::new();
    for admin in admins {
        let host = admin.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let port = admin.port_or_known_default().unwrap_or(80);
        let found = tokio::net::lookup_host((host, port)).await;
        let mut addresses: Vec<_> = found
            .map_err(|e| CommandFailure::Unreachable { server: admin.to_string(), problem: e.to_string() })?
            .collect();
        // Name servers rotate their answers and repeat some; the order on the screen is to stay the same.
        addresses.sort();
        addresses.dedup();
        for address in addresses {
            let mut server = admin.clone();
            if server.set_ip_host(address.ip()).is_err() {
                let problem = format!("`{admin}` is not an admin address: expected http://HOST:PORT");
                return Err(CommandFailure::Usage(problem));
            }
            let target = Target::process(server, timeout, trust.clone());
            processes.push(AdminProcess { name: address.to_string(), client: RegistryClient::new(&target)? });
        }
    }
    Ok(processes)
}
