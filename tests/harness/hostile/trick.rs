//! The tricks: where each is played, and by how many clients.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::site::{Site, Tally};
use super::visit::{ATTEMPT, Visit};
use super::{admin, bodies, bus, heads, http2, tenants, toggles, watches};

/// The pause between two attempts of one client.
const PAUSE: Duration = Duration::from_millis(250);

/// A way to hurt others.
#[derive(Clone, Copy, Debug)]
pub(super) enum Trick {
    /// An upload that breaks off.
    BrokenUpload,
    /// A body that never comes to its end.
    SlowBody,
    /// An instance that no bus could carry, inside another request.
    LargeInstance,
    /// One name many times in one request.
    RepeatedQuery,
    /// Heartbeats for instances that do not exist.
    UnknownHeartbeats,
    /// HTTP/2 streams whose answers are not read.
    UnreadAnswers,
    /// A head that two readers could take for different requests.
    BrokenHead,
    /// A consumer whose id is longer than a subject may be.
    LongName,
    /// A watch of many services that do not exist.
    UnknownProviders,
    /// A WebSocket frame with an opcode that does not exist.
    BrokenFrame,
    /// Requests about another tenant than that of their header.
    OtherTenant,
    /// A large instance whose status changes again and again.
    Toggles,
    /// Requests that a browser sends for a page of another site.
    OtherSite,
    /// More connections than an admin port has, without a request.
    IdleConnections,
    /// Messages on the bus that no process of the site has sent.
    ForgedMessages,
}

impl Trick {
    pub(super) const ALL: [Self; 15] = [
        Self::BrokenUpload,
        Self::SlowBody,
        Self::LargeInstance,
        Self::RepeatedQuery,
        Self::UnknownHeartbeats,
        Self::UnreadAnswers,
        Self::BrokenHead,
        Self::LongName,
        Self::UnknownProviders,
        Self::BrokenFrame,
        Self::OtherTenant,
        Self::Toggles,
        Self::OtherSite,
        Self::IdleConnections,
        Self::ForgedMessages,
    ];

    /// The addresses at which it is played.
    pub(super) fn targets(self, site: &Site) -> Vec<SocketAddr> {
        match self {
            // What clients send to gateways, somebody who reaches control planes sends there.
            Self::BrokenUpload
            | Self::SlowBody
            | Self::LargeInstance
            | Self::RepeatedQuery
            | Self::UnknownHeartbeats
            | Self::UnreadAnswers
            | Self::BrokenHead
            | Self::OtherTenant => [&site.gateways[..], &site.control_planes].concat(),
            Self::LongName | Self::UnknownProviders | Self::BrokenFrame | Self::Toggles => {
                site.gateways.clone()
            }
            Self::OtherSite | Self::IdleConnections => site.admin.clone(),
            Self::ForgedMessages => vec![site.bus],
        }
    }

    /// The clients that play it at each of them.
    pub(super) fn clients(self) -> usize {
        match self {
            // So many once held every place that a tenant has.
            Self::SlowBody => 60,
            Self::BrokenUpload | Self::LongName | Self::UnknownProviders | Self::BrokenFrame => 2,
            _ => 1,
        }
    }

    /// Plays the trick again and again.
    pub(super) async fn repeat(self, target: SocketAddr, site: Arc<Site>, tally: Arc<Tally>) {
        let visit = Visit { trick: self as usize, target, site, tally };
        loop {
            // A process may be down, or close the connection, in the middle of any of this.
            _ = timeout(ATTEMPT, self.play(&visit)).await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn play(self, visit: &Visit) -> io::Result<()> {
        match self {
            Self::BrokenUpload => bodies::broken(visit).await,
            Self::SlowBody => bodies::endless(visit).await,
            Self::LargeInstance => bodies::large_instance(visit).await,
            Self::RepeatedQuery => bodies::repeated_query(visit).await,
            Self::UnknownHeartbeats => bodies::heartbeats(visit).await,
            Self::UnreadAnswers => http2::unread(visit).await,
            Self::BrokenHead => heads::broken(visit).await,
            Self::LongName => watches::long_name(visit).await,
            Self::UnknownProviders => watches::unknown_providers(visit).await,
            Self::BrokenFrame => watches::broken_frame(visit).await,
            Self::OtherTenant => tenants::confused(visit).await,
            Self::Toggles => toggles::toggle(visit).await,
            Self::OtherSite => admin::of_another_site(visit).await,
            Self::IdleConnections => admin::idle(visit).await,
            Self::ForgedMessages => bus::forge(visit).await,
        }
    }
}
