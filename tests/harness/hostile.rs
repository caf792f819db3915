//! Clients that mean harm, beside the honest ones of a fault case.
//!
//! Each trick once hurt other clients. All of them come from an address and a tenant of their own, so that
//! limits of one client or tenant concern only them. Their number, pace and size are bounded, and they end with
//! their handle. The honest clients beside them are judged; of their own replies only those count that they must
//! never have.
//!
//! | room | holds |
//! | --- | --- |
//! | `trick` | the tricks: where each is played, and by how many clients |
//! | `site` | what they can reach, and what is counted of them |
//! | `visit` | one turn of one client: its connections, its requests, what it notes |
//! | `bodies`, `heads`, `http2` | requests that are too large, have no end, are ambiguous, or whose answers nobody reads |
//! | `watches` | watches of what does not exist, and frames that are none |
//! | `tenants` | requests that name another tenant than their own |
//! | `toggles` | a large instance whose status changes all the time |
//! | `admin` | pages of other sites and idle connections at admin ports |
//! | `bus` | messages on the bus that no process of the site has sent |

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinSet;

use crate::{World, eventually};

mod admin;
mod bodies;
mod bus;
mod heads;
mod http2;
mod site;
mod tenants;
mod toggles;
mod trick;
mod visit;
mod watches;

use site::{Site, Tally};
use trick::Trick;

pub use site::{TENANT, Victim};

/// Hostile clients at work. Dropped without [`Hostile::stop`] they end at once.
pub struct Hostile {
    tally: Arc<Tally>,
    tricks: Vec<Trick>,
    tasks: JoinSet<()>,
}

impl Hostile {
    /// Starts each trick at each place of this system that it is for. The system has to sign its messages.
    ///
    /// # Panics
    /// When the bus has no address.
    pub fn beside(world: &World, victim: &Victim) -> Self {
        Self::at(world, victim, &Trick::ALL)
    }

    /// Like [`Hostile::beside`], without the large instance: it fills histories with large changes, which a
    /// measurement of growth would take for a leak.
    ///
    /// # Panics
    /// When the bus has no address.
    pub fn of_steady_size(world: &World, victim: &Victim) -> Self {
        let tricks: Vec<Trick> =
            Trick::ALL.into_iter().filter(|trick| !matches!(trick, Trick::Toggles)).collect();
        Self::at(world, victim, &tricks)
    }

    fn at(world: &World, victim: &Victim, tricks: &[Trick]) -> Self {
        let site = Arc::new(Site {
            gateways: world.gateways.iter().map(|node| node.api).collect(),
            control_planes: world.control_planes.iter().map(|node| node.api).collect(),
            admin: world.nodes().map(|node| node.admin).collect(),
            bus: world.nats.endpoint().parse().expect("an address"),
            victim: victim.clone(),
        });
        let tally = Arc::new(Tally::of(Trick::ALL.len()));
        let mut tasks = JoinSet::new();
        for trick in tricks {
            for target in trick.targets(&site) {
                for _ in 0..trick.clients() {
                    tasks.spawn(trick.repeat(target, site.clone(), tally.clone()));
                }
            }
        }
        Self { tally, tricks: tricks.to_vec(), tasks }
    }

    /// Ends all of them, and returns how many connections they opened.
    ///
    /// # Panics
    /// When one of the tricks does not reach its target before the deadline, because the case would prove nothing then, or one of the
    /// clients had what it must not have.
    pub async fn stop(mut self) -> u64 {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let toggles = self.tricks.iter().any(|trick| matches!(trick, Trick::Toggles));
        // On a busy machine a short phase may end before the first attempts begin.
        eventually("every hostile trick is played", || async {
            let played = |trick: &Trick| count(&self.tally.attempts[*trick as usize]) > 0;
            let toggled = !toggles || count(&self.tally.toggled) > 0;
            (toggled && self.tricks.iter().all(played)).then_some(())
        })
        .await;
        self.tasks.shutdown().await;
        let attempts: Vec<u64> =
            self.tricks.iter().map(|trick| count(&self.tally.attempts[*trick as usize])).collect();
        let all = attempts.iter().sum();
        let [toggled, had] = [&self.tally.toggled, &self.tally.had].map(count);
        println!(
            "  hostile clients: {all} connections, {attempts:?} by trick, {toggled} large changes written"
        );
        assert_eq!(had, 0, "hostile clients were shown another tenant's instances, or were obeyed");
        all
    }
}
