//! Limits the sessions that may be open: per node, per domain, per consumer, and by memory. Decides before
//! the upgrade.
//!
//! In: the service that wants to watch. Out: a [`Permit`], which goes with the session and frees its place
//! when it is dropped, or the limit that is reached.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use host::telemetry::process::resident_bytes;
use parking_lot::Mutex;
use shared::model::ServiceRef;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::metrics::SessionMetrics;
use crate::rates::RatesConfig;
use crate::watch::Full;

/// The sessions that may be open at once; 0 is no limit.
#[derive(Clone, Debug)]
pub struct LimitsConfig {
    /// On this node.
    pub node: usize,
    /// Of one domain.
    pub domain: usize,
    /// Of one consumer (a service, which may have many instances).
    pub consumer: usize,
    /// Resident bytes of the process at which no further session is admitted.
    pub memory: u64,
    /// The rates at which clients may send requests and open watches.
    pub rates: RatesConfig,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        // A session takes some 2 KiB in this process and twice as much in the kernel: 100 000 fit a small
        // node.
        Self { node: 100_000, domain: 0, consumer: 10_000, memory: 0, rates: RatesConfig::default() }
    }
}

/// The pause between two looks at the process's memory.
const MEMORY_POLL: Duration = Duration::from_millis(500);

/// Counts the sessions of this node against the limits.
#[derive(Debug)]
pub(crate) struct Limits {
    counts: Mutex<Counts>,
    metrics: SessionMetrics,
}

#[derive(Debug)]
struct Counts {
    config: LimitsConfig,
    /// Resident bytes of the process at the last look.
    memory: u64,
    /// The log has a warning that memory is at its limit, and no "below its limit" after it.
    warned: bool,
    node: usize,
    domains: HashMap<String, usize>,
    consumers: HashMap<Arc<ServiceRef>, usize>,
}

/// The right to one session; dropping it frees the session's place.
#[derive(Debug)]
pub(crate) struct Permit {
    limits: Arc<Limits>,
    consumer: Arc<ServiceRef>,
    scheme: &'static str,
}

impl Permit {
    /// The service whose session it is.
    pub(crate) fn consumer(&self) -> &ServiceRef {
        &self.consumer
    }
}

impl Limits {
    /// Limits without any open session.
    pub(crate) fn new(config: LimitsConfig, metrics: SessionMetrics) -> Arc<Self> {
        let counts = Counts {
            config,
            memory: 0,
            warned: false,
            node: 0,
            domains: HashMap::new(),
            consumers: HashMap::new(),
        };
        Arc::new(Self { counts: Mutex::new(counts), metrics })
    }

    /// Replaces the limits. Open sessions are not affected.
    pub(crate) fn set(&self, config: LimitsConfig) {
        self.counts.lock().config = config;
    }

    /// Keeps the process's memory up to date until `stop`.
    pub(crate) async fn watch_memory(self: Arc<Self>, stop: CancellationToken) {
        let mut pace = tokio::time::interval(MEMORY_POLL);
        while stop.run_until_cancelled(pace.tick()).await.is_some() {
            // Without /proc the figure is unknown, and then memory limits nothing.
            self.note_memory(resident_bytes().unwrap_or(0));
        }
    }

    fn note_memory(&self, resident: u64) {
        let mut counts = self.counts.lock();
        counts.memory = resident;
        let is_out = counts.is_out_of_memory();
        let limit = counts.config.memory;
        let watchers = counts.node;
        let was_out = std::mem::replace(&mut counts.warned, is_out);
        // Unlocked before logging: the log may block, and opening a session needs the lock.
        drop(counts);
        if is_out && !was_out {
            warn!(resident, limit, watchers, "memory is at its limit; no further watcher is admitted");
        } else if was_out && !is_out {
            info!(resident, limit, watchers, "memory is below its limit; watchers are admitted again");
        }
    }

    /// Takes a permit for a session of `consumer`. `scheme` is the label of the transport in metrics.
    ///
    /// # Errors
    /// The limit that is reached.
    pub(crate) fn take(
        self: &Arc<Self>,
        consumer: &ServiceRef,
        scheme: &'static str,
    ) -> Result<Permit, Full> {
        let mut counts = self.counts.lock();
        counts.check(consumer)?;
        counts.node += 1;
        *counts.domains.entry(consumer.tenant.domain.clone()).or_default() += 1;
        // The sessions of a consumer share one allocation of its name.
        let name = match counts.consumers.get_key_value(consumer) {
            Some((name, _)) => name.clone(),
            None => Arc::new(consumer.clone()),
        };
        *counts.consumers.entry(name.clone()).or_default() += 1;
        drop(counts);
        self.metrics.opened(&name.tenant.domain, scheme);
        Ok(Permit { limits: self.clone(), consumer: name, scheme })
    }
}

impl Counts {
    fn check(&self, consumer: &ServiceRef) -> Result<(), Full> {
        // The node's own limits come first: their refusal sends the client to another gateway.
        if is_reached(self.config.node, self.node) {
            return Err(Full::Node);
        }
        if self.is_out_of_memory() {
            return Err(Full::Memory);
        }
        let of_domain = self.domains.get(&consumer.tenant.domain).copied().unwrap_or(0);
        if is_reached(self.config.domain, of_domain) {
            return Err(Full::Domain);
        }
        let of_consumer = self.consumers.get(consumer).copied().unwrap_or(0);
        if is_reached(self.config.consumer, of_consumer) {
            return Err(Full::Consumer);
        }
        Ok(())
    }

    fn is_out_of_memory(&self) -> bool {
        self.config.memory != 0 && self.memory >= self.config.memory
    }
}

fn is_reached(limit: usize, open: usize) -> bool {
    limit != 0 && open >= limit
}

impl Drop for Permit {
    fn drop(&mut self) {
        let domain = &self.consumer.tenant.domain;
        let mut counts = self.limits.counts.lock();
        counts.node -= 1;
        // Entries go with their last session: clients choose these names, and the maps must not grow for
        // ever.
        if let Some(count) = counts.domains.get_mut(domain) {
            *count -= 1;
            if *count == 0 {
                counts.domains.remove(domain);
            }
        }
        if let Some(count) = counts.consumers.get_mut(&self.consumer) {
            *count -= 1;
            if *count == 0 {
                counts.consumers.remove(&self.consumer);
            }
        }
        drop(counts);
        self.limits.metrics.closed(domain, self.scheme);
    }
}

#[cfg(test)]
mod tests {
    use shared::model::Tenant;

    use super::*;

    fn take(limits: &Arc<Limits>, domain: &str, id: &str) -> Result<Permit, Full> {
        limits.take(&ServiceRef::new(Tenant::new(domain, "p"), id), "Websocket")
    }

    #[test]
    fn each_limit_holds_and_permits_free_their_places() {
        let config = LimitsConfig { node: 4, domain: 3, consumer: 2, memory: 0, ..LimitsConfig::default() };
        let limits = Limits::new(config, SessionMetrics::none());

        let held = [take(&limits, "a", "1").expect("first"), take(&limits, "a", "1").expect("second")];
        assert_eq!(take(&limits, "a", "1").err(), Some(Full::Consumer));
        let third = take(&limits, "a", "2").expect("another consumer");
        assert_eq!(take(&limits, "a", "3").err(), Some(Full::Domain));
        let fourth = take(&limits, "b", "1").expect("another domain");
        assert_eq!(take(&limits, "c", "1").err(), Some(Full::Node));
        drop(held);
        limits.set(LimitsConfig {
            node: 0,
            domain: 0,
            consumer: 0,
            memory: 1 << 20,
            ..LimitsConfig::default()
        });
        limits.note_memory(1 << 20);
        assert_eq!(take(&limits, "a", "1").err(), Some(Full::Memory));
        limits.note_memory((1 << 20) - 1);
        let fifth = take(&limits, "a", "1").expect("places are free again");
        drop((third, fourth, fifth));
        let counts = limits.counts.lock();
        assert_eq!(counts.node, 0);
        assert!(counts.domains.is_empty() && counts.consumers.is_empty());
    }
}
