//! The hubs: one task for each tenant that has streams. It makes a state of each change, once for all of
//! them, and tells those that the change concerns.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use host::lifecycle::Tasks;
use parking_lot::Mutex;
use shared::model::{ServiceKey, ServiceRef, Tenant};
use tokio::sync::{Notify, Semaphore, watch};

use super::interest::{Audience, News, Place};
use super::name::group_name;
use super::names::Names;
use super::readers::{Departures, Readers, StreamReach};
use super::state::{State, States};
use super::stream::{Interest, Stream};
use super::version::Point;
use super::wire::{Envelopes, places_for_large};
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
    hubs: Mutex<HashMap<Tenant, Arc<Hub>>>,
    places: Arc<Semaphore>,
    names: Arc<Names>,
    departures: Arc<Departures>,
}

/// The state that the streams of a tenant share.
struct Hub {
    /// `None` until the first state is there, or will not be.
    opened: watch::Sender<Option<Result<(), NotKnown>>>,
    state: ArcSwapOption<State>,
    height: Mutex<Height>,
    audience: Audience,
    envelopes: Envelopes,
    /// The last state of which all that it concerns have been told, and its point.
    told: Mutex<(u64, Point)>,
    tenant: Tenant,
    readers: Readers,
    departures: Arc<Departures>,
    /// A stream has left.
    left: Notify,
}

/// The part of the history that a hub has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Height {
    /// Everything up to here is contained.
    pub(crate) point: Point,
    /// The latest change that is contained.
    pub(crate) reached: Point,
    /// Control planes have said lately that there is nothing later.
    pub(crate) is_fresh: bool,
}

/// A stream's end of a hub. The hub lives for as long as one of these does.
pub(crate) struct Subscription {
    hub: Arc<Hub>,
    place: Place,
    /// The stream waits for a later height.
    waits: bool,
    /// The number of the stream among those whose acknowledgements are asked for.
    reader: Option<u64>,
}

impl Subscription {
    /// The state now, and a height that it has at least. `None` before the first.
    pub(crate) fn look(&self) -> Option<(Arc<State>, Height)> {
        // The height first: one that is shown later may belong to a later state.
        let height = *self.hub.height.lock();
        Some((self.hub.state.load_full()?, height))
    }

    /// Shows the state of a stream to surveys, which ask for its acknowledgements.
    pub(crate) fn enter(&mut self, client: String, peer: Option<SocketAddr>, stream: &Arc<Mutex<Stream>>) {
        let signal = self.place.signal.clone();
        self.reader = Some(self.hub.readers.enter(client, peer, stream.clone(), signal));
    }

    /// The number of a state of whose changes the stream has been told. What it has been told is read after
    /// that, under the lock of the stream.
    pub(crate) fn told(&self) -> u64 {
        self.hub.told.lock().0
    }

    /// The answers that streams share.
    pub(crate) fn envelopes(&self) -> &Envelopes {
        &self.hub.envelopes
    }

    /// From now on the stream is told of changes that concern this. It has to look after that.
    pub(crate) fn interest(&mut self, interest: &Interest<'_>) {
        self.hub.audience.interest(&mut self.place, interest);
    }

    /// Says whether the stream is told of a later height. It has to look after that.
    pub(crate) fn wait(&mut self, waits: bool) {
        if std::mem::replace(&mut self.waits, waits) != waits {
            self.hub.audience.wait(&self.place, waits);
        }
    }

    /// Resolves when there is a reason to look again.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<News> {
        self.place.signal.poll(cx)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(reader) = self.reader
            && !self.hub.readers.leave(reader)
        {
            self.hub.departures.note(&self.hub.tenant);
        }
        self.hub.audience.leave(&self.place);
        self.hub.left.notify_one();
    }
}

impl Discovery {
    pub(crate) fn new(catalogue: Catalogue, policy: PolicyHandle, tasks: Tasks) -> Self {
        let places = places_for_large();
        let names = Arc::default();
        Self(Arc::new(Shared {
            catalogue,
            policy,
            tasks,
            hubs: Mutex::default(),
            places,
            names,
            departures: Arc::default(),
        }))
    }

    /// The places for large messages of clients.
    pub(crate) fn places(&self) -> Arc<Semaphore> {
        self.0.places.clone()
    }

    /// The names that all streams share.
    pub(crate) fn names(&self) -> Arc<Names> {
        self.0.names.clone()
    }

    /// The states of a tenant, of which the first is there when this returns.
    ///
    /// # Errors
    /// When its services are not known in time.
    pub(crate) async fn open(&self, tenant: &Tenant) -> Result<Subscription, NotKnown> {
        let subscription = self.subscribe(tenant);
        let mut opened = subscription.hub.opened.subscribe();
        let opened = opened.wait_for(Option::is_some).await.map(|opened| *opened);
        opened.ok().flatten().unwrap_or(Err(NotKnown::NotYet))?;
        Ok(subscription)
    }

    fn subscribe(&self, tenant: &Tenant) -> Subscription {
        let mut hubs = self.0.hubs.lock();
        let hub = hubs.entry(tenant.clone()).or_insert_with(|| {
            let hub = Arc::new(Hub {
                opened: watch::Sender::new(None),
                state: ArcSwapOption::empty(),
                height: Mutex::default(),
                audience: Audience::default(),
                envelopes: Envelopes::default(),
                told: Mutex::default(),
                tenant: tenant.clone(),
                readers: Readers::default(),
                departures: self.0.departures.clone(),
                left: Notify::new(),
            });
            let running = run(self.clone(), tenant.clone(), hub.clone());
            let abort = self.0.tasks.abort().clone();
            self.0.tasks.spawn_named("xds", async move {
                let _ = abort.run_until_cancelled(running).await;
            });
            hub
        });
        // Under the lock, so that the hub does not end between the look and the subscription.
        let place = hub.audience.enter();
        Subscription { hub: hub.clone(), place, waits: false, reader: None }
    }

    /// The streams with endpoints of a service, and those whose clients have acknowledged a change of it at
    /// `point`, which was begun to be written `age` ago. `None` while the change may not have arrived here.
    pub(crate) fn reach(
        &self,
        service: &ServiceRef,
        key: Option<&ServiceKey>,
        point: Point,
        age: Duration,
        most: usize,
    ) -> Option<StreamReach> {
        let moving = self.0.departures.within(&service.tenant, age);
        let hub = self.0.hubs.lock().get(&service.tenant).cloned();
        // Without a state no stream has been opened yet.
        let Some(hub) = hub.filter(|hub| hub.state.load().is_some()) else {
            return Some(StreamReach { moving, ..StreamReach::default() });
        };
        let (serial, told) = *hub.told.lock();
        if told < point {
            return None;
        }
        let group = key.map(|key| group_name(&key.environment, &key.app_id, &key.service_name));
        let reach = hub.readers.reach(&hub.tenant, group.as_deref(), point, serial, most);
        Some(StreamReach { moving, ..reach })
    }

    /// Ends a hub, unless it has streams.
    fn leave(&self, tenant: &Tenant, hub: &Hub) -> bool {
        let mut hubs = self.0.hubs.lock();
        let is_unused = hub.audience.is_empty();
        if is_unused {
            hubs.remove(tenant);
        }
        is_unused
    }
}

/// Tells the streams of a hub that it has ended, however that came about.
struct Ending(Arc<Hub>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.audience.tell(|news| news.ended = true);
    }
}

/// Makes states until no stream is left.
async fn run(discovery: Discovery, tenant: Tenant, hub: Arc<Hub>) {
    let _ending = Ending(hub.clone());
    let mut followed = match discovery.0.catalogue.open(&tenant).await {
        Ok(followed) => followed,
        Err(reason) => {
            // Under the lock, so that every later request tries again.
            let mut hubs = discovery.0.hubs.lock();
            hubs.remove(&tenant);
            hub.opened.send_replace(Some(Err(reason)));
            return;
        }
    };
    let mut states = States::default();
    let mut version = None;
    let mut pace = tokio::time::interval(LOOK);
    let mut generation = discovery.0.policy.generation();
    let drain = discovery.0.tasks.drain();
    let mut is_draining = false;
    loop {
        look(&mut followed, &mut states, &mut version, &hub);
        tokio::select! {
            () = hub.left.notified() => {
                if discovery.leave(&tenant, &hub) {
                    return;
                }
            }
            () = followed.changed() => {}
            () = drain.cancelled(), if !is_draining => {
                is_draining = true;
                hub.audience.tell(|news| news.draining = true);
            }
            _ = pace.tick() => {
                let now = discovery.0.policy.generation();
                if std::mem::replace(&mut generation, now) != now {
                    // Each stream judges its right before it goes on.
                    hub.audience.tell(|_| {});
                }
            }
        }
    }
}

/// Shows what there is now.
fn look(followed: &mut Followed, states: &mut States, version: &mut Option<u64>, hub: &Hub) {
    let services = followed.now();
    let point = Point::new(services.incarnation(), services.contained());
    let is_first = hub.state.load().is_none();
    let mut changes = None;
    if (is_first || services.version() != *version)
        && let Some(state) = states.take(services.iter(), point)
    {
        changes = Some(state.changes.clone());
        hub.state.store(Some(Arc::new(state)));
    }
    *version = services.version();
    // A bookmark says what there is, and not that it has arrived.
    let is_fresh = services.is_whole() && services.age(Instant::now()).is_some_and(|age| age < FRESH);
    let height = Height { point, reached: states.reached(), is_fresh };
    let has_risen = std::mem::replace(&mut *hub.height.lock(), height) != height;
    if is_first && changes.is_some() {
        hub.opened.send_replace(Some(Ok(())));
    }
    // After the state and the height, so that a stream that is told sees them.
    if let Some(changes) = changes {
        hub.audience.changed(&changes);
    }
    if has_risen {
        hub.audience.risen();
    }
    let serial = hub.state.load().as_ref().map_or(0, |state| state.serial);
    *hub.told.lock() = (serial, point);
}
