//! The sources of a listener's connections: which of them have more than the others.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

/// The connections of each source.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    by_source: HashMap<IpAddr, usize>,
    all: usize,
}

/// A connection that counts for its source until this is dropped.
#[derive(Debug)]
pub(super) struct Counted {
    source: IpAddr,
    sources: Sources,
}

impl Sources {
    /// Counts a connection of this peer.
    pub(super) fn count(&self, peer: IpAddr) -> Counted {
        let source = source_of(peer);
        let mut counts = self.0.lock();
        *counts.by_source.entry(source).or_default() += 1;
        counts.all += 1;
        Counted { source, sources: self.clone() }
    }

    /// True for a peer whose source has at least as many connections as sources have on average. While there are
    /// connections, this is so for those of one source.
    pub(super) fn is_crowded(&self, peer: IpAddr) -> bool {
        let counts = self.0.lock();
        let own = counts.by_source.get(&source_of(peer)).copied().unwrap_or_default();
        own * counts.by_source.len() >= counts.all
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.sources.0.lock();
        counts.all = counts.all.saturating_sub(1);
        if let Some(own) = counts.by_source.get_mut(&self.source) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                counts.by_source.remove(&self.source);
            }
        }
    }
}

/// One machine has a whole network of 64 bits in IPv6.
fn source_of(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_with_more_than_others_is_crowded() {
        let sources = Sources::default();
        let [few, many, network] =
            ["10.0.0.1", "10.0.0.2", "2001:db8::1"].map(|ip| ip.parse().expect("an address"));
        let own = sources.count(few);
        assert!(sources.is_crowded(few), "it is the only one");
        let others: Vec<Counted> = (0..3).map(|_| sources.count(many)).collect();
        assert_eq!([few, many].map(|peer| sources.is_crowded(peer)), [false, true]);
        drop(others);
        assert!(sources.is_crowded(few), "it is the only one again");
        let of_network = (2..9).map(|host| format!("2001:db8::{host}").parse().expect("an address"));
        let _of_network: Vec<Counted> = of_network.map(|peer| sources.count(peer)).collect();
        assert_eq!([few, network].map(|peer| sources.is_crowded(peer)), [false, true]);
        drop(own);
    }
}
