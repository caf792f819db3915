//! The settings of leases.

use std::time::Duration;

use settings::Choice;
#[cfg(feature = "etcd")]
use settings::Settings;

/// The way in which heartbeats keep instances alive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LeaseMode {
    /// Each heartbeat renews a lease in the store.
    #[default]
    Direct,
    /// Heartbeats are answered here and reported to the publisher, which ends those whose time is over.
    Reported,
}

impl Choice for LeaseMode {
    const ALL: &'static [(&'static str, Self)] = &[("direct", Self::Direct), ("reported", Self::Reported)];
}

/// The settings of leases.
#[derive(Clone, Copy, Debug)]
pub struct LeaseConfig {
    /// The way in which heartbeats keep instances alive.
    pub mode: LeaseMode,
    /// The time of a long lease.
    pub long: Duration,
    /// Instances that register in the same moment share a long lease. Without an effect in the mode `direct`.
    pub shared: bool,
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self { mode: LeaseMode::Direct, long: Duration::from_secs(1800), shared: false }
    }
}

impl LeaseConfig {
    /// Reads the settings, which a store of one process has no use for.
    #[cfg(feature = "etcd")]
    pub(super) fn read(settings: &mut Settings<'_>) -> Self {
        Self {
            mode: settings.get_or(
                "lease.mode",
                LeaseMode::default(),
                "`direct`: each heartbeat renews a lease in etcd. `reported`: heartbeats are reported to the \
                 publisher, which ends instances; leases are long and renewed rarely.",
            ),
            long: settings.within(
                "lease.long",
                "30m",
                "1m"..="24h",
                "Time of a long lease. Instances that live longer than a quarter of it without a heartbeat keep \
                 ordinary leases.",
            ),
            shared: settings.get_or(
                "lease.shared",
                false,
                "With `lease.mode` `reported`, instances that register in the same moment share a long lease, which \
                 makes registrations cheaper. Only where no Service-Center node and no control plane of an earlier \
                 version uses the same etcd: it would end all of them with one.",
            ),
        }
    }
}
