//! The configuration of forwarding, and its mistakes.

use std::time::Duration;

use host::tls::{ClientFiles, TlsError};
use http::Uri;
use http::uri::{Authority, Scheme};

/// The addresses of control planes, and how long they may take.
#[derive(Clone, Debug)]
pub struct ForwardConfig {
    /// Addresses such as `http://10.0.0.5:30100`.
    pub control_planes: Vec<String>,
    /// The authorities to trust at `https` addresses, and our certificate for control planes that ask for
    /// one.
    pub tls: ClientFiles,
    /// The time that opening a connection may take.
    pub connect_timeout: Duration,
    /// The time until the head of an answer must have arrived. A replica that answers nothing else either is
    /// not waited for.
    pub answer_timeout: Duration,
    /// The pause between two probes of each replica, and the time that a probe may take, up to ten seconds.
    pub probe_interval: Duration,
    /// The time after which an idempotent request that has no answer yet goes to another replica as well.
    pub second_try_after: Duration,
    /// The largest body of a request, in bytes.
    pub largest_body: usize,
    /// Bodies up to this many bytes are held so that a request can be sent a second time.
    pub replayable_body: usize,
}

impl Default for ForwardConfig {
    fn default() -> Self {
        Self {
            control_planes: Vec::new(),
            tls: ClientFiles::default(),
            connect_timeout: Duration::from_secs(1),
            // A read that waits for a revision takes a few seconds at most.
            answer_timeout: Duration::from_secs(30),
            probe_interval: Duration::from_secs(2),
            // Usual answers take milliseconds. A replica whose link to the store is silent takes seconds to
            // fail.
            second_try_after: Duration::from_secs(1),
            largest_body: 2 << 20,
            // An instance has 5 KB at most; schemas are larger and rare.
            replayable_body: 64 * 1024,
        }
    }
}

/// The reason for which control planes cannot be used as configured.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// An address is not of the form `http://host:port`.
    #[error("`{0}` is not the address of a control plane; expected http://host:port or https://host:port")]
    Address(String),
    /// The files for TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// There is no address at all.
    #[error("no address of a control plane is given")]
    NoAddress,
}

/// Reads an address of the form `http://host:port` or `https://host:port`; `http` is the default.
pub(super) fn parse_address(address: &str) -> Result<(Scheme, Authority), ForwardError> {
    let wrong = || ForwardError::Address(address.to_owned());
    let uri: Uri = address.trim_end_matches('/').parse().map_err(|_| wrong())?;
    let parts = uri.into_parts();
    let scheme = parts.scheme.unwrap_or(Scheme::HTTP);
    let is_supported = scheme == Scheme::HTTP || scheme == Scheme::HTTPS;
    let has_path = parts.path_and_query.is_some_and(|path| path != "/");
    match parts.authority {
        Some(authority) if is_supported && !has_path => Ok((scheme, authority)),
        _ => Err(wrong()),
    }
}
