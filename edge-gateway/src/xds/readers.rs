//! The open streams of a tenant, for the proof that their clients have been given a change.
//!
//! In: streams that begin and end, and questions. Out: the streams that have endpoints of a service, and
//! those of them whose clients have acknowledged a state that contains a change. A client that leaves before
//! that may be on its way to another gateway.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use shared::model::{ServiceRef, Tenant};

use super::interest::Signal;
use super::stream::{Reached, Stream};
use super::version::Point;

/// Changes whose state is remembered: more than there are drains at a time.
const MOST_MARKS: usize = 64;
/// A question about a change is asked again within this time.
const ASKED_LATELY: Duration = Duration::from_secs(10);
/// The time that a client may take from one gateway to another.
const MOVING: Duration = Duration::from_secs(10);

/// The streams of one hub.
#[derive(Debug, Default)]
pub(super) struct Readers(Mutex<Inside>);

#[derive(Debug, Default)]
struct Inside {
    last: u64,
    streams: HashMap<u64, Reader>,
    marks: Vec<Mark>,
}

#[derive(Debug)]
struct Reader {
    /// Its node's id.
    client: Box<str>,
    peer: Option<SocketAddr>,
    stream: Arc<Mutex<Stream>>,
    signal: Arc<Signal>,
}

/// The first state that is known to contain a change.
#[derive(Debug)]
struct Mark {
    point: Point,
    serial: u64,
    since: Instant,
    asked_at: Instant,
}

/// The tenants with clients that have left a moment ago without an acknowledgement that was asked for.
#[derive(Debug, Default)]
pub(super) struct Departures(Mutex<HashMap<Tenant, Instant>>);

/// The streams with endpoints of a service.
#[derive(Debug, Default)]
pub(crate) struct StreamReach {
    pub(crate) streams: u64,
    pub(crate) reached: u64,
    /// A client has left a moment ago without having acknowledged the change.
    pub(crate) moving: bool,
    pub(crate) waiting: Vec<WaitingStream>,
}

/// A stream whose client has not acknowledged a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WaitingStream {
    /// Its node's id, as the service that reads.
    pub(crate) client: ServiceRef,
    pub(crate) peer: Option<SocketAddr>,
    /// The client has refused what it was sent.
    pub(crate) is_refused: bool,
    /// The time since this gateway first looked for the acknowledgement.
    pub(crate) since: Duration,
}

impl Readers {
    /// A stream begins. Returns its number.
    pub(super) fn enter(
        &self,
        client: String,
        peer: Option<SocketAddr>,
        stream: Arc<Mutex<Stream>>,
        signal: Arc<Signal>,
    ) -> u64 {
        let mut inside = self.0.lock();
        inside.last += 1;
        let id = inside.last;
        inside.streams.insert(id, Reader { client: client.into(), peer, stream, signal });
        id
    }

    /// A stream has ended. False when its client may be on its way without a change that was asked about, or
    /// that will be.
    pub(super) fn leave(&self, id: u64) -> bool {
        let mut inside = self.0.lock();
        let Some(reader) = inside.streams.remove(&id) else { return true };
        let asked = inside.marks.iter().filter(|mark| mark.asked_at.elapsed() < ASKED_LATELY);
        let mut serials = asked.map(|mark| mark.serial).peekable();
        let has = |serial| reader.reached(None, serial).is_none_or(|reached| reached == Reached::Yes);
        match serials.peek() {
            Some(_) => serials.all(has),
            // Before the first question, the change may have been made already.
            None => reader.reached(None, 0).is_none(),
        }
    }

    /// The streams with endpoints of a group, or of any if it is not known. All streams have been told of the
    /// changes up to the state with the number `serial`, which contains the change.
    pub(super) fn reach(
        &self,
        tenant: &Tenant,
        group: Option<&str>,
        point: Point,
        serial: u64,
        most: usize,
    ) -> StreamReach {
        let now = Instant::now();
        let mut inside = self.0.lock();
        let (serial, since) = inside.mark(point, serial, now);
        let mut reach = StreamReach::default();
        for reader in inside.streams.values() {
            let Some(reached) = reader.reached(group, serial) else { continue };
            reach.streams += 1;
            if reached == Reached::Yes {
                reach.reached += 1;
            } else if reach.waiting.len() < most {
                reach.waiting.push(WaitingStream {
                    client: ServiceRef::new(tenant.clone(), &*reader.client),
                    peer: reader.peer,
                    is_refused: reached == Reached::Refused,
                    since: now.saturating_duration_since(since),
                });
            }
        }
        reach
    }
}

impl Reader {
    fn reached(&self, group: Option<&str>, serial: u64) -> Option<Reached> {
        // The stream takes its news under this lock.
        let stream = self.stream.lock();
        stream.reached(group, serial, !self.signal.has_news())
    }
}

impl Inside {
    /// The first state that is known to contain the change, and the time of the first question.
    fn mark(&mut self, point: Point, serial: u64, now: Instant) -> (u64, Instant) {
        if let Some(mark) = self.marks.iter_mut().find(|mark| mark.point == point) {
            mark.asked_at = now;
            return (mark.serial, mark.since);
        }
        // A mark that is made again is of a later state, which only delays a proof.
        if self.marks.len() >= MOST_MARKS {
            self.marks.remove(0);
        }
        self.marks.push(Mark { point, serial, since: now, asked_at: now });
        (serial, now)
    }
}

impl Departures {
    /// True if a client of the tenant has left within the last seconds, and within this time.
    pub(super) fn within(&self, tenant: &Tenant, age: Duration) -> bool {
        let left = self.0.lock().get(tenant).map(Instant::elapsed);
        left.is_some_and(|left| left <= age && left < MOVING)
    }

    pub(super) fn note(&self, tenant: &Tenant) {
        let mut left = self.0.lock();
        left.retain(|_, at| at.elapsed() < MOVING);
        left.insert(tenant.clone(), Instant::now());
    }
}

#[cfg(test)]
mod tests;
