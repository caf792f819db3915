//! The hubs: one task for each tenant that has streams. It makes a state of each change, once for all of
//! them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use host::lifecycle::Tasks;
use parking_lot::Mutex;
use shared::model::{Revision, Tenant};
use tokio::sync::{Semaphore, watch};

use super::state::{State, States};
use super::wire::places_for_large;
use crate::catalogue::{Catalogue, Followed, NotKnown};
use crate::policy::PolicyHandle;

/// The pause between two looks at the policy and at the last bookmark. Neither tells by itself that it has
/// changed.
const LOOK: Duration = Duration::from_millis(250);
/// The time since the last bookmark after which nobody knows whether something later exists.
const FRESH: Duration = Duration::from_secs(5);

/// The states of tenants, for streams. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Discovery(Arc<Shared>);

struct Shared {
    catalogue: Catalogue,
    policy: PolicyHandle,
    tasks: Tasks,
    hubs: Mutex<HashMap<Tenant, Hub>>,
    places: Arc<Semaphore>,
}

/// The sending ends of a tenant's hub.
#[derive(Clone)]
struct Hub {
    states: watch::Sender<Option<Result<Arc<State>, NotKnown>>>,
    heights: watch::Sender<Height>,
    generations: watch::Sender<u64>,
}

/// The part of the history that a hub has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Height {
    /// Everything up to here is contained.
    pub(crate) revision: Revision,
    /// The latest change that is contained.
    pub(crate) reached: Revision,
    /// Control planes have said lately that there is nothing later.
    pub(crate) is_fresh: bool,
}

/// A stream's end of a hub. The hub lives for as long as one of these does.
pub(crate) struct Subscription {
    /// The states; the first one is there.
    pub(crate) states: watch::Receiver<Option<Result<Arc<State>, NotKnown>>>,
    /// The height, which changes more often than the state.
    pub(crate) heights: watch::Receiver<Height>,
    /// The generation of the policy.
    pub(crate) generations: watch::Receiver<u64>,
}

impl Subscription {
    /// The state now.
    pub(crate) fn state(&mut self) -> Option<Arc<State>> {
        self.states.borrow_and_update().as_ref().and_then(|state| state.as_ref().ok()).cloned()
    }
}

impl Discovery {
    pub(crate) fn new(catalogue: Catalogue, policy: PolicyHandle, tasks: Tasks) -> Self {
        let places = places_for_large();
        Self(Arc::new(Shared { catalogue, policy, tasks, hubs: Mutex::default(), places }))
    }

    /// The places for large messages of clients.
    pub(crate) fn places(&self) -> Arc<Semaphore> {
        self.0.places.clone()
    }

    /// The states of a tenant, of which the first is there when this returns.
    ///
    /// # Errors
    /// When its services are not known in time.
    pub(crate) async fn open(&self, tenant: &Tenant) -> Result<Subscription, NotKnown> {
        let mut subscription = self.subscribe(tenant);
        let first = subscription.states.wait_for(Option::is_some).await.map(|state| match &*state {
            Some(Err(reason)) => Err(*reason),
            Some(Ok(_)) | None => Ok(()),
        });
        first.unwrap_or(Err(NotKnown::NotYet))?;
        Ok(subscription)
    }

    fn subscribe(&self, tenant: &Tenant) -> Subscription {
        let mut hubs = self.0.hubs.lock();
        let hub = hubs.entry(tenant.clone()).or_insert_with(|| {
            let generation = self.0.policy.generation();
            let hub = Hub {
                states: watch::Sender::new(None),
                heights: watch::Sender::new(Height::default()),
                generations: watch::Sender::new(generation),
            };
            let running = run(self.clone(), tenant.clone(), hub.clone());
            let abort = self.0.tasks.abort().clone();
            self.0.tasks.spawn_named("xds", async move {
                let _ = abort.run_until_cancelled(running).await;
            });
            hub
        });
        // Under the lock, so that the hub does not end between the look and the subscription.
        Subscription {
            states: hub.states.subscribe(),
            heights: hub.heights.subscribe(),
            generations: hub.generations.subscribe(),
        }
    }

    /// Ends a hub, unless it has streams.
    fn leave(&self, tenant: &Tenant, hub: &Hub) -> bool {
        let mut hubs = self.0.hubs.lock();
        let is_unused = hub.states.receiver_count() == 0;
        if is_unused {
            hubs.remove(tenant);
        }
        is_unused
    }
}

/// Makes states until no stream is left.
async fn run(discovery: Discovery, tenant: Tenant, hub: Hub) {
    let mut followed = match discovery.0.catalogue.open(&tenant).await {
        Ok(followed) => followed,
        Err(reason) => {
            // Under the lock, so that every later request tries again.
            let mut hubs = discovery.0.hubs.lock();
            hubs.remove(&tenant);
            hub.states.send_replace(Some(Err(reason)));
            return;
        }
    };
    let mut states = States::default();
    let mut version = None;
    let mut pace = tokio::time::interval(LOOK);
    loop {
        look(&mut followed, &mut states, &mut version, &hub);
        tokio::select! {
            () = hub.states.closed() => {
                if discovery.leave(&tenant, &hub) {
                    return;
                }
            }
            () = followed.changed() => {}
            _ = pace.tick() => {
                let generation = discovery.0.policy.generation();
                hub.generations.send_if_modified(|last| std::mem::replace(last, generation) != generation);
            }
        }
    }
}

/// Shows what there is now.
fn look(followed: &mut Followed, states: &mut States, version: &mut Option<u64>, hub: &Hub) {
    let services = followed.now();
    let revision = services.revision();
    let is_first = hub.states.borrow().is_none();
    if (is_first || services.version() != *version)
        && let Some(state) = states.take(services.iter(), revision)
    {
        hub.states.send_replace(Some(Ok(Arc::new(state))));
    }
    *version = services.version();
    let is_fresh = services.age(Instant::now()).is_some_and(|age| age < FRESH);
    let height = Height { revision, reached: states.reached(), is_fresh };
    hub.heights.send_if_modified(|last| std::mem::replace(last, height) != height);
}
