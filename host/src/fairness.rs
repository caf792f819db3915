//! Fair shares of a process for parties that send it requests, so that the flood of one costs the others
//! little.
//!
//! In: a request's party. Out: a [`Place`], which the request holds until it is answered.
//!
//! A party that is alone has no bound: its requests are all worked on at once, as if this room did not exist.
//! While at least two parties send requests, each has a number of places, and its further requests wait in
//! the order in which they came. Whatever one party sends, the others therefore share the processors and the
//! store with no more than that many requests of it.
//!
//! A request that waits for another program needs no processor. When it begins to, its place goes to the next
//! one ([`rest`]), so that a crowd is not held up by the few that a busy processor allows; the most places
//! still bound all that are under way. Where that wait may be long, and other requests of the party need
//! nobody else, it changes its place for one of those that [`wait`] for the same, of which there are as many.
//!
//! A request that is being worked on keeps its processor while others wait for it, and one that has only arrived
//! has cost time before its party is known. So the time that each party's requests take is counted, and the
//! connections of a party that takes more than its share of the processors (`usage`) go on in the slow
//! [`lane`], where they run only on processors that nobody else wants.
//!
//! The number of places follows the time for which work waits for a processor, which [`Measuring`] looks at
//! two hundred times a second: many places while processors are free, few while they are not. A place alone
//! does not help against requests that are answered without any wait, because each of them has given its
//! place back before the next one looks. So a party that has had more requests since the last measurement
//! than it has places lets all other work go first before it goes on.
//!
//! A party is known by its hash only. Memory is kept for parties that have, or have had since the last
//! measurement, requests here, and those are bounded by the connections of the listener. Clients that make
//! up a new party for each request are not held back here but by the rates of their address.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Meter};
use parking_lot::Mutex;
use settings::Settings;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::lane::{self, Lane};
use allowance::Allowance;
use line::Line;
use place::Stage;
use usage::Usage;

mod allowance;
mod held;
mod line;
mod place;
mod usage;

pub use held::{hold, holding, rest, wait, waiting};
pub use place::{Place, Wait};

/// After the last request of another party a party counts as alone.
const ALONE_AFTER: Duration = Duration::from_secs(1);
/// After this time without a request of another party a party's connections stay in the usual lane. Longer
/// than [`ALONE_AFTER`], because a client that asks twice a minute is to be spared as well, and because a
/// flood that has nobody beside it loses little in the slow lane.
const APART_FOR: Duration = Duration::from_secs(60);
/// The longest wait for a place. Most clients have left by then.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// The time between two measurements while parties share.
const OFTEN: Duration = Duration::from_millis(5);
/// The same while nobody shares: long enough to cost an idle process nothing.
const SELDOM: Duration = Duration::from_millis(250);

/// Declares `fairness.tenant-requests`, the number of places of each tenant.
pub fn read(settings: &mut Settings<'_>) -> usize {
    settings.within(
        "fairness.tenant-requests",
        "64",
        "0"..="100000",
        "The most requests of one domain and project that are worked on at once while other tenants send requests, \
         too; its further ones wait. While work waits for a processor, the number falls, down to two for each \
         processor. 0 is no limit and no slow lane. Heartbeats never wait.",
    )
}

/// The shares of one process. Clones share them.
#[derive(Clone, Debug)]
pub struct FairShares(Arc<Shares>);

/// Measures for the shares of a process how long work waits for a processor. Without it the number of places
/// stays as it is at the start, and lines of parties that have gone are kept.
#[derive(Debug)]
#[must_use = "the places follow what this measures while it runs"]
pub struct Measuring(Arc<Shares>);

/// The party has had as many requests as it may have at once for the longest time that one may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tenant has too many requests under way; try again later")]
pub struct NoPlace;

/// The instruments of one plane's shares.
#[derive(Debug)]
struct Instruments {
    waited: Counter<u64>,
    refused: Counter<u64>,
    places: Gauge<u64>,
    over: Gauge<u64>,
    waits: Gauge<f64>,
    plane: KeyValue,
}

#[derive(Debug)]
struct Shares {
    is_limited: bool,
    hasher: RandomState,
    state: Mutex<State>,
    instruments: Instruments,
}

#[derive(Debug)]
struct State {
    allowance: Allowance,
    usage: Usage,
    /// The time of the last measurement.
    measured: Instant,
    /// The number of measurements so far.
    turn: u64,
    /// True if a request has waited for a place since the last measurement.
    is_wanted: bool,
    /// The party of the request that came last. `None` before the first one, which has nobody beside it.
    last: Option<u64>,
    /// The time at which a request of another party than the one before came last.
    mixed: Option<Instant>,
    lines: HashMap<u64, Line>,
}

impl FairShares {
    /// Shares of at most this many places each; 0 is no limit. `plane` is a label of the metrics.
    pub fn new(places: usize, meter: &Meter, plane: &'static str) -> (Self, Measuring) {
        let instruments = Instruments {
            waited: meter
                .u64_counter("muster_fairness_waited_total")
                .with_description(
                    "Requests that waited because their tenant has its share of requests under way",
                )
                .build(),
            refused: meter
                .u64_counter("muster_fairness_refused_total")
                .with_description("Requests refused because no place of their tenant became free in time")
                .build(),
            places: meter
                .u64_gauge("muster_fairness_places")
                .with_description("Requests of each tenant that are worked on at once while tenants share")
                .build(),
            over: meter
                .u64_gauge("muster_fairness_tenants_over_share")
                .with_description(
                    "Tenants that took more than their share of the processors until the last measurement",
                )
                .build(),
            waits: meter
                .f64_gauge("muster_fairness_processor_wait_seconds")
                .with_unit("s")
                .with_description("The time for which work waited for a processor at the last measurement")
                .build(),
            plane: KeyValue::new("plane", plane),
        };
        // From the start, so that rates begin at zero.
        instruments.waited.add(0, std::slice::from_ref(&instruments.plane));
        instruments.refused.add(0, std::slice::from_ref(&instruments.plane));
        // The threads that work on requests, of which there is one for each processor.
        let processors = Handle::try_current().map_or(1, |runtime| runtime.metrics().num_workers());
        let state = State {
            allowance: Allowance::new(places, processors),
            usage: Usage::new(processors),
            measured: Instant::now(),
            turn: 0,
            is_wanted: false,
            last: None,
            mixed: None,
            lines: HashMap::new(),
        };
        let state = Mutex::new(state);
        let shares =
            Arc::new(Shares { is_limited: places > 0, hasher: RandomState::new(), state, instruments });
        (Self(shares.clone()), Measuring(shares))
    }

    /// Waits for a place of the party. Requests of a party get places in the order in which they came.
    ///
    /// Cancel-safe: a request that leaves while it waits takes no place.
    ///
    /// # Errors
    /// When no place has become free for ten seconds.
    pub async fn enter(&self, party: impl Hash) -> Result<Place, NoPlace> {
        if !self.0.is_limited {
            return Ok(Place { of: None, stage: Stage::Works });
        }
        let party = self.0.hasher.hash_one(party);
        if lane::with_current(|lane| self.0.chooses(lane, party)) == Some(true) {
            // Here the connection moves.
            yield_now().await;
        }
        let place = match self.0.take_or_wait(party) {
            Turn::Now(place) => return Ok(place),
            Turn::AfterOthers(place) => place,
            Turn::InLine(turn) => self.0.wait(turn).await?,
        };
        // All work that is ready goes first, and whatever has arrived at the sockets meanwhile.
        yield_now().await;
        Ok(place)
    }
}

impl Measuring {
    /// Measures until it is told to stop.
    pub async fn run(self, stop: CancellationToken) {
        if !self.0.is_limited {
            return;
        }
        loop {
            let pause = if self.0.state.lock().is_mixed(Instant::now()) { OFTEN } else { SELDOM };
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.cancelled() => return,
            }
            let begun = Instant::now();
            yield_now().await;
            self.0.measured(begun.elapsed());
        }
    }
}

/// A request's turn.
enum Turn {
    Now(Place),
    /// The party has had so many requests that other work goes first.
    AfterOthers(Place),
    InLine(oneshot::Receiver<Place>),
}

impl Shares {
    /// Chooses the lane of the connection that a request of a party has come by. True if it moves.
    fn chooses(&self, lane: &Lane, party: u64) -> bool {
        let mut state = self.state.lock();
        lane.count_for(state.usage.account(party));
        let is_apart = state.mixed.is_some_and(|mixed| mixed.elapsed() < APART_FOR);
        let is_slow = is_apart && state.usage.is_over(party);
        drop(state);
        lane.choose(is_slow)
    }

    fn take_or_wait(self: &Arc<Self>, party: u64) -> Turn {
        let now = Instant::now();
        let mut state = self.state.lock();
        let before = state.last.replace(party);
        if before.is_some_and(|before| before != party) {
            state.mixed = Some(now);
        }
        let is_mixed = state.is_mixed(now);
        let allowance = state.allowance;
        let turn = state.turn;
        let line = state.lines.entry(party).or_default();
        line.came = if line.turn == turn { line.came + 1 } else { 1 };
        line.turn = turn;
        match line.admit(Stage::Works, allowance, is_mixed) {
            None => {
                let is_busy = is_mixed && line.came > allowance.places();
                let place = Place::of(self, party, Stage::Works);
                if is_busy { Turn::AfterOthers(place) } else { Turn::Now(place) }
            }
            Some(turn) => {
                state.is_wanted = true;
                Turn::InLine(turn)
            }
        }
    }

    /// A place for a request of the party that has given back the one that it worked in.
    async fn change_over(self: &Arc<Self>, party: u64, to: Wait) -> Result<Place, NoPlace> {
        let to = Stage::Waits(to);
        let turn = {
            let mut state = self.state.lock();
            let (allowance, is_mixed) = (state.allowance, state.is_mixed(Instant::now()));
            let turn = state.lines.entry(party).or_default().admit(to, allowance, is_mixed);
            state.is_wanted |= turn.is_some();
            turn
        };
        match turn {
            None => Ok(Place::of(self, party, to)),
            Some(turn) => self.wait(turn).await,
        }
    }

    async fn wait(&self, turn: oneshot::Receiver<Place>) -> Result<Place, NoPlace> {
        let plane = std::slice::from_ref(&self.instruments.plane);
        self.instruments.waited.add(1, plane);
        match timeout(LONGEST_WAIT, turn).await {
            Ok(Ok(place)) => Ok(place),
            // A line is never dropped while somebody waits in it.
            Ok(Err(_)) | Err(_) => {
                self.instruments.refused.add(1, plane);
                Err(NoPlace)
            }
        }
    }

    /// Work has waited this long for a processor. A next turn begins. Those that wait get the places that there are
    /// now: otherwise they would wait for the end of requests that hang, however many more places there are.
    fn measured(self: &Arc<Self>, wait: Duration) {
        let now = Instant::now();
        let (places, over, waiting) = {
            let mut state = self.state.lock();
            state.lines.retain(|_, line| !line.is_empty());
            let lines = state.lines.iter();
            let waiting: Vec<_> =
                lines.flat_map(|(party, line)| line.waiting().map(|of| (*party, of))).collect();
            let is_wanted = mem::take(&mut state.is_wanted) || !waiting.is_empty();
            let passed = now.duration_since(mem::replace(&mut state.measured, now));
            state.usage.passed(passed);
            match state.is_mixed(now) {
                true => state.allowance.measured(wait, is_wanted),
                false => state.allowance.reset(),
            }
            state.turn += 1;
            (state.allowance.places(), state.usage.over(), waiting)
        };
        for (party, stage) in waiting {
            self.pass_on(party, stage);
        }
        let plane = std::slice::from_ref(&self.instruments.plane);
        self.instruments.places.record(places as u64, plane);
        self.instruments.over.record(over as u64, plane);
        self.instruments.waits.record(wait.as_secs_f64(), plane);
    }

    /// A request of the party has given back a place of this kind. The next ones get places.
    fn pass_on(self: &Arc<Self>, party: u64, stage: Stage) {
        while let Some(next) = self.next(party, stage) {
            if let Err(place) = next.send(Place::of(self, party, stage)) {
                // The client has left. Dropping the place would call this function again, once for each
                // client that has left, and the stack has no room for all of them.
                place.forget();
                self.with_line(party, |line| line.leave(stage));
            }
        }
    }

    fn with_line(&self, party: u64, change: impl FnOnce(&mut Line)) {
        if let Some(line) = self.state.lock().lines.get_mut(&party) {
            change(line);
        }
    }

    /// Takes a free place of this kind for the request that has waited longest.
    fn next(&self, party: u64, stage: Stage) -> Option<oneshot::Sender<Place>> {
        let mut state = self.state.lock();
        let is_mixed = state.is_mixed(Instant::now());
        let allowance = state.allowance;
        let line = state.lines.get_mut(&party)?;
        if (line.has_room(stage, allowance) || !is_mixed)
            && let Some(queue) = line.queue(stage)
            && let Some(next) = queue.waiting.pop_front()
        {
            queue.running += 1;
            return Some(next);
        }
        // While parties share, the number of its requests in this turn counts on.
        if !is_mixed && line.is_empty() {
            state.lines.remove(&party);
        }
        None
    }
}

impl State {
    fn is_mixed(&self, now: Instant) -> bool {
        self.mixed.is_some_and(|mixed| now.duration_since(mixed) < ALONE_AFTER)
    }
}

#[cfg(test)]
mod tests;
