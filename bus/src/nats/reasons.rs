//! The reasons for which servers cannot be connected.
//!
//! The client reports the kind of a failure only, such as "IO error"; the reason stands in its list of
//! servers, which it shows before each round of attempts.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::Server;
use host::tls::with_advice;
use tokio::time::Instant;
use tracing::warn;

/// The time after which a reason that stays the same is logged again.
const AGAIN: Duration = Duration::from_secs(60);

/// What was logged last of each server. Bounded by the servers of a cluster.
#[derive(Debug, Default)]
pub(super) struct Reasons(HashMap<String, (String, Instant)>);

impl Reasons {
    /// Logs the reason of each server that is new, or that was logged a while ago.
    pub(super) fn report(&mut self, servers: &[Server], now: Instant) {
        for Server { addr, failed_attempts, last_error, .. } in servers {
            let server = format!("{}:{}", addr.host(), addr.port());
            if let Some(reason) = self.news(&server, last_error.as_deref(), now) {
                warn!(server, reason, failed_attempts, "a server of the bus cannot be connected");
            }
        }
        // Servers that left the cluster are forgotten.
        if self.0.len() > servers.len() {
            self.0.retain(|server, _| {
                servers.iter().any(|known| *server == format!("{}:{}", known.addr.host(), known.addr.port()))
            });
        }
    }

    fn news(&mut self, server: &str, reason: Option<&str>, now: Instant) -> Option<String> {
        let Some(reason) = reason else {
            // It was connected since, so the next failure is news.
            self.0.remove(server);
            return None;
        };
        let is_old =
            self.0.get(server).is_some_and(|(told, at)| told == reason && now.duration_since(*at) < AGAIN);
        if is_old {
            return None;
        }
        self.0.insert(server.to_owned(), (reason.to_owned(), now));
        Some(with_advice(reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_when_it_is_news() {
        let mut reasons = Reasons::default();
        let begun = Instant::now();
        let later = begun + AGAIN;
        let refused = Some("IO error: Connection refused (os error 111)");
        assert_eq!(reasons.news("a:4222", refused, begun).as_deref(), refused);
        assert_eq!(reasons.news("a:4222", refused, begun), None);
        assert_eq!(reasons.news("b:4222", refused, begun).as_deref(), refused, "another server");
        assert_eq!(reasons.news("a:4222", Some("timed out"), begun).as_deref(), Some("timed out"));
        assert_eq!(reasons.news("a:4222", Some("timed out"), later).as_deref(), Some("timed out"));
        assert_eq!(reasons.news("a:4222", None, later), None);
        assert_eq!(reasons.news("a:4222", Some("timed out"), later).as_deref(), Some("timed out"));
        let foreign = "TLS error: invalid peer certificate: UnknownIssuer";
        assert!(reasons.news("a:4222", Some(foreign), later).is_some_and(|told| told.contains("authority")));
    }
}
