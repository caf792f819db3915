//! What hostile clients can reach, and what is counted of them.

use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;

/// The beginning of the domains of all of them.
pub const TENANT: &str = "hostile";

/// An honest consumer and its provider, of the application `shop`, which some of the tricks are about.
#[derive(Clone, Debug)]
pub struct Victim {
    /// The id of the provider.
    pub provider: String,
    /// The id of the consumer.
    pub consumer: String,
    /// The name of the consumer.
    pub consumer_name: String,
}

/// What hostile clients can reach.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub(super) gateways: Vec<SocketAddr>,
    pub(super) control_planes: Vec<SocketAddr>,
    pub(super) admin: Vec<SocketAddr>,
    pub(super) bus: SocketAddr,
    pub(super) victim: Victim,
}

/// What hostile clients did, and what they must never have.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Connections, by trick.
    pub(super) attempts: Vec<AtomicU64>,
    /// Changes of a large instance that were written.
    pub(super) toggled: AtomicU64,
    /// Answers that show another tenant's instances, or that obey a page of another site.
    pub(super) had: AtomicU64,
}

impl Tally {
    /// Nothing yet, of so many tricks.
    pub(super) fn of(tricks: usize) -> Self {
        let attempts = (0..tricks).map(|_| AtomicU64::new(0)).collect();
        Self { attempts, ..Self::default() }
    }
}
