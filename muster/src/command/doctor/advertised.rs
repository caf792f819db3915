//! Checks the addresses under which a registry tells clients to reach it: those of its own service's
//! instances, with which some SDKs replace the address that they were given.

use std::net::IpAddr;
use std::time::Duration;

use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Outcome, failed, ok, warning};
use crate::client::RegistryClient;

/// Addresses that are tried. A fleet has few, and each may take a whole deadline.
const MAX_TRIED: usize = 10;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OwnInstance {
    endpoints: Vec<String>,
}

/// Reads the registry's own addresses, and connects to each of them within `patience`.
pub(super) async fn check(registry: &RegistryClient, patience: Duration) -> Outcome {
    let reply = match registry.get(&["registry", "health"]).send().await {
        Ok(reply) => reply,
        Err(failure) => return warning(format!("the registry's own addresses cannot be read: {failure}")),
    };
    let instances: Vec<OwnInstance> = match reply.part("instances", registry) {
        Ok(instances) => instances,
        Err(failure) => return warning(failure.to_string()),
    };
    let mut endpoints: Vec<_> = instances.into_iter().flat_map(|instance| instance.endpoints).collect();
    endpoints.sort();
    endpoints.dedup();
    let (server, _) = registry.address();
    for endpoint in &endpoints {
        if let Some(problem) = misleading(endpoint, &server) {
            return problem;
        }
    }
    for endpoint in endpoints.iter().take(MAX_TRIED) {
        let Some(address) = host_and_port(endpoint) else { continue };
        if !matches!(timeout(patience, TcpStream::connect(address)).await, Ok(Ok(_))) {
            return warning(format!(
                "clients are told {endpoint}, which cannot be reached from here: {ADVICE}, unless clients run where \
                 it can be reached"
            ));
        }
    }
    match endpoints.len() {
        0 => warning("the registry is not registered in itself yet, so SDKs cannot ask for its addresses"),
        1 => ok(format!("clients are told {}", endpoints[0])),
        n => ok(format!("clients are told {} and {} more", endpoints[0], n - 1)),
    }
}

const ADVICE: &str = "set `advertise` of each control plane to an address that clients reach, behind gateways that of \
                      the load balancer";

/// The fault of an endpoint that leads clients on other machines to themselves.
fn misleading(endpoint: &str, server: &str) -> Option<Outcome> {
    let (host, _) = host_and_port(endpoint)?;
    let here = |host: &str| host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()) {
        return Some(failed(format!(
            "clients are told {endpoint}, under which each of them reaches itself: {ADVICE}"
        )));
    }
    // A registry for its own machine rightly has such an address.
    (here(&host) && !here(server))
        .then(|| warning(format!("clients are told {endpoint}, which means their own machine: {ADVICE}")))
}

/// Host, without brackets, and port of an endpoint such as `rest://10.0.0.7:30100/`.
fn host_and_port(endpoint: &str) -> Option<(String, u16)> {
    let url = url::Url::parse(endpoint).ok()?;
    let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
    Some((host, url.port()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::doctor::CheckState;

    #[test]
    fn addresses_that_lead_clients_to_themselves_are_named() {
        let state = |endpoint, server| misleading(endpoint, server).map(|(state, _)| state);
        for endpoint in ["rest://0.0.0.0:30100/", "rest://[::]:30100/?sslEnabled=true"] {
            assert_eq!(state(endpoint, "127.0.0.1"), Some(CheckState::Failed));
        }
        for endpoint in ["rest://127.0.0.1:30100/", "rest://[::1]:30100/", "rest://localhost:30100/"] {
            assert_eq!(state(endpoint, "10.0.0.7"), Some(CheckState::Warning));
            assert_eq!(state(endpoint, "::1"), None);
        }
        assert_eq!(state("rest://10.0.0.8:30100/", "10.0.0.7"), None);
    }
}
