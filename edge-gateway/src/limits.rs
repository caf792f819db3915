//! How many sessions may be open: per node, per domain, per consumer. Decided before the upgrade.
//!
//! A [`Permit`] goes with the session and gives its place back when it is dropped.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use host::telemetry::process::resident_bytes;
use parking_lot::Mutex;
use shared::model::ServiceRef;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::metrics::SessionMetrics;
use crate::watch::Full;

/// Sessions that may be open at once; 0 is no limit.
#[derive(Clone, Debug)]
pub struct LimitsConfig {
    /// On this node.
    pub node: usize,
    /// Of one domain.
    pub domain: usize,
    /// Of one consumer (a service, which may have many instances).
    pub consumer: usize,
    /// Resident bytes of the process from which on nobody is let in.
    pub memory: u64,
}

/// How often the process's memory is looked at.
const LOOK: Duration = Duration::from_millis(500);

impl Default for LimitsConfig {
    fn default() -> Self {
        // Some 2 KiB each in this process and twice as much in the kernel: a hundred thousand fit a small node.
        Self { node: 100_000, domain: 0, consumer: 10_000, memory: 0 }
    }
}

/// Counts the sessions of this node.
#[derive(Debug)]
pub(crate) struct Limits {
    open: Mutex<Open>,
    metrics: SessionMetrics,
}

#[derive(Debug)]
struct Open {
    config: LimitsConfig,
    /// Resident bytes when they were looked at last.
    memory: u64,
    /// The log says that they are too many.
    told: bool,
    node: usize,
    domains: HashMap<String, usize>,
    consumers: HashMap<Arc<ServiceRef>, usize>,
}

/// A session's place; dropping it gives the place back.
#[derive(Debug)]
pub(crate) struct Permit {
    limits: Arc<Limits>,
    consumer: Arc<ServiceRef>,
    scheme: &'static str,
}

impl Limits {
    /// Nothing is open.
    pub(crate) fn new(config: LimitsConfig, metrics: SessionMetrics) -> Arc<Self> {
        let open = Open {
            config,
            memory: 0,
            told: false,
            node: 0,
            domains: HashMap::new(),
            consumers: HashMap::new(),
        };
        Arc::new(Self { open: Mutex::new(open), metrics })
    }

    /// From now on these limits count. Who is in stays in.
    pub(crate) fn set(&self, config: LimitsConfig) {
        self.open.lock().config = config;
    }

    /// Looks at the process's memory again and again until `stop`.
    pub(crate) async fn watch_memory(self: Arc<Self>, stop: CancellationToken) {
        let mut look = tokio::time::interval(LOOK);
        while stop.run_until_cancelled(look.tick()).await.is_some() {
            // Where the system does not say, there is no limit.
            self.note_memory(resident_bytes().unwrap_or(0));
        }
    }

    fn note_memory(&self, bytes: u64) {
        let mut open = self.open.lock();
        open.memory = bytes;
        let (now, limit, watchers) = (open.is_out_of_memory(), open.config.memory, open.node);
        let before = std::mem::replace(&mut open.told, now);
        drop(open);
        if now && !before {
            warn!(resident = bytes, limit, watchers, "memory is at its limit; no watcher is let in");
        } else if before && !now {
            info!(resident = bytes, limit, watchers, "memory is below its limit; watchers are let in again");
        }
    }

    /// Takes a place for a session of `consumer`.
    pub(crate) fn take(
        self: &Arc<Self>,
        consumer: &ServiceRef,
        scheme: &'static str,
    ) -> Result<Permit, Full> {
        let full = |limit: usize, open: usize| limit != 0 && open >= limit;
        let mut open = self.open.lock();
        let of_domain = open.domains.get(&consumer.tenant.domain).copied().unwrap_or(0);
        let of_consumer = open.consumers.get(consumer).copied().unwrap_or(0);
        if full(open.config.node, open.node) {
            return Err(Full::Node);
        }
        if open.is_out_of_memory() {
            return Err(Full::Memory);
        }
        if full(open.config.domain, of_domain) {
            return Err(Full::Domain);
        }
        if full(open.config.consumer, of_consumer) {
            return Err(Full::Consumer);
        }
        open.node += 1;
        *open.domains.entry(consumer.tenant.domain.clone()).or_default() += 1;
        // One allocation of the name for all sessions of a consumer.
        let name = match open.consumers.get_key_value(consumer) {
            Some((name, _)) => name.clone(),
            None => Arc::new(consumer.clone()),
        };
        *open.consumers.entry(name.clone()).or_default() += 1;
        drop(open);
        self.metrics.opened(&name.tenant.domain, scheme);
        Ok(Permit { limits: self.clone(), consumer: name, scheme })
    }
}

impl Open {
    fn is_out_of_memory(&self) -> bool {
        self.config.memory != 0 && self.memory >= self.config.memory
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let domain = &self.consumer.tenant.domain;
        let mut open = self.limits.open.lock();
        open.node -= 1;
        if let Some(count) = open.domains.get_mut(domain) {
            *count -= 1;
            if *count == 0 {
                open.domains.remove(domain);
            }
        }
        if let Some(count) = open.consumers.get_mut(&self.consumer) {
            *count -= 1;
            if *count == 0 {
                open.consumers.remove(&self.consumer);
            }
        }
        drop(open);
        self.limits.metrics.closed(domain, self.scheme);
    }
}

#[cfg(test)]
mod tests {
    use shared::model::Tenant;

    use super::*;

    #[test]
    fn each_limit_holds_and_places_come_back() {
        let config = LimitsConfig { node: 4, domain: 3, consumer: 2, memory: 0 };
        let limits = Limits::new(config, SessionMetrics::none());
        let consumer = |domain: &str, id: &str| ServiceRef::new(Tenant::new(domain, "p"), id);
        let take = |domain, id| limits.take(&consumer(domain, id), "Websocket");

        let held = [take("a", "1").expect("first"), take("a", "1").expect("second")];
        assert_eq!(take("a", "1").err(), Some(Full::Consumer));
        let _third = take("a", "2").expect("another consumer");
        assert_eq!(take("a", "3").err(), Some(Full::Domain));
        let _fourth = take("b", "1").expect("another domain");
        assert_eq!(take("c", "1").err(), Some(Full::Node));
        drop(held);
        limits.set(LimitsConfig { node: 0, domain: 0, consumer: 0, memory: 1 << 20 });
        limits.note_memory(1 << 20);
        assert_eq!(take("a", "1").err(), Some(Full::Memory));
        limits.note_memory((1 << 20) - 1);
        let _fifth = take("a", "1").expect("places came back");
        drop((_third, _fourth, _fifth));
        let open = limits.open.lock();
        assert!(open.node == 0 && open.domains.is_empty() && open.consumers.is_empty());
    }
}
