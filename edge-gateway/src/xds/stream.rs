//! The state of one stream: what its client has asked for, what it has been sent, and what comes next.
//!
//! In: requests, and the names that have changed. Out: the next answer, if there is one. Nothing here knows
//! services, bytes or time; a [`Source`] says which resources there are.
//!
//! It promises, for both variants:
//! - Every first request of a kind is answered, if need be with nothing new. A later one that adds names gets
//!   those that exist at once, and the others when they exist.
//! - A resource that the client has is not sent again, also after a reconnect, until it changes; except when
//!   its client forgets it: endpoints are sent again after their cluster, and a name that is subscribed to
//!   anew.
//! - A refusal (NACK) changes nothing. The same content is not sent again because of it.
//! - One answer of each kind is under way. Changes meanwhile are merged into the next one.
//! - A resource goes only when the source, which is never incomplete, does not have it.
//! - Nothing is sent from a source that is older than what the client has shown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::kind::{Kind, Variant};
use super::name::group_of;
use super::resource::Resource;
use super::version::{Point, read_version, version_of};

mod delta;
mod items;
mod world;

use items::Items;

/// Names that one stream may hold: those that are asked for, and those that were given up and still have to
/// be answered.
pub(crate) const MOST_NAMES: usize = 10_000;
/// Bytes of all names of one stream.
pub(crate) const MOST_BYTES: usize = 1 << 20;
/// Bytes of resources in one answer, where a kind can be told in parts. gRPC clients take 4 MiB unless told
/// otherwise.
const PART: usize = 2 << 20;
/// The name that stands for all resources of a kind.
const ALL: &str = "*";

/// The resources that there are, for one client.
pub(crate) trait Source {
    /// The resource with this name.
    fn find(&self, kind: Kind, name: &str) -> Option<Arc<Resource>>;
    /// The resource that says that there is none with this name any more. `None` for kinds without one.
    fn none_any_more(&self, kind: Kind, name: &str) -> Option<Arc<Resource>>;
    /// The names of a client that asks for everything.
    fn all(&self, kind: Kind) -> Vec<Arc<str>>;
    /// True when a client that asks for everything gets the resource with this name, if it exists.
    fn is_of_all(&self, kind: Kind, name: &str) -> bool;
    /// Everything up to here is contained.
    fn point(&self) -> Point;
    /// Nonces of this source begin here, so that streams that have come the same way send the same answer. It
    /// grows with each source.
    fn first_nonce(&self) -> u64 {
        0
    }
}

/// A difference between two states of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// The names that begin so may have another resource.
    pub(crate) group: Arc<str>,
    /// They exist now and did not before, or the other way round. Otherwise only their endpoints differ.
    pub(crate) in_existence: bool,
}

/// The state of a client with regard to a change of its endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    /// It has acknowledged it.
    Yes,
    /// It has not.
    No,
    /// It has refused an answer, and may lack some of what it was sent.
    Refused,
}

/// A request, whichever variant it is of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ask {
    /// The nonce of the answer that it reacts to.
    pub(crate) nonce: Option<u64>,
    /// The answer was refused.
    pub(crate) refused: bool,
    pub(crate) terms: Terms,
}

/// The names of a request.
#[derive(Clone, Debug, Default)]
pub(crate) enum Terms {
    /// Nothing is different from the request before, as in nearly every acknowledgement.
    #[default]
    Same,
    /// All of them, and the version that the client has.
    State { names: Vec<Arc<str>>, version: String },
    /// Those that come and go, and the versions that the client has at its first request.
    Delta { subscribe: Vec<Arc<str>>, unsubscribe: Vec<Arc<str>>, versions: BTreeMap<Arc<str>, String> },
}

/// The part of a source that a stream is about.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Interest<'a> {
    /// The groups of the names that it has, in their order, each once.
    pub(crate) groups: Vec<&'a str>,
    /// Any group may begin or end to exist.
    pub(crate) existence: bool,
    /// Any change of any group.
    pub(crate) everything: bool,
}

/// The next answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) kind: Kind,
    pub(crate) nonce: u64,
    pub(crate) version: String,
    pub(crate) resources: Vec<Arc<Resource>>,
    /// The names that are gone; of a delta stream only.
    pub(crate) removed: Vec<Arc<str>>,
}

impl Answer {
    /// True when both are the same bytes. Resources are compared by their places: those of one state are
    /// shared.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let is_one = |(a, b): (&Arc<Resource>, &Arc<Resource>)| Arc::ptr_eq(a, b);
        self.nonce == other.nonce
            && self.kind == other.kind
            && self.version == other.version
            && self.resources.len() == other.resources.len()
            && self.resources.iter().zip(&other.resources).all(is_one)
            && self.removed == other.removed
    }
}

/// The client asks for more names than a stream may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stream may name {MOST_NAMES} resources with {MOST_BYTES} bytes of names")]
pub(crate) struct TooMany;

/// The state of one stream.
#[derive(Debug)]
pub(crate) struct Stream {
    variant: Variant,
    /// In the order of [`Kind::ALL`].
    channels: [Channel; 4],
    /// The client has shown a version of this point.
    floor: Point,
    /// The client was shown a version of this point.
    told: Point,
    nonce: u64,
    /// The names may be others than at the last look at the interest.
    is_renamed: bool,
    /// All changes up to the state with this number have been noted.
    heard: u64,
}

/// One kind on one stream.
#[derive(Debug, Default)]
struct Channel {
    asked: bool,
    answered: bool,
    /// Everything is asked for.
    wildcard: bool,
    /// Names were given once, so that none means none.
    named: bool,
    items: Items,
    due: Due,
    in_flight: Option<u64>,
    /// The changes that the client has all of once it takes what is under way; `None` if more would follow.
    covers: Option<u64>,
    /// The changes that the client is known to have all of, by the number of a state.
    acked: u64,
    /// The digest of everything that the client says that it has, on the state of the world.
    claim: Option<u64>,
    /// The client may have thrown away what it says that it has.
    distrusted: bool,
    /// The digest of everything that was sent.
    digest: u64,
    /// The client waits to see which of its names exist.
    unproven: bool,
    /// The client has refused an answer, so that it may lack some of what was sent.
    refused: bool,
    /// The client gave up names that were sent, so that its version, on the state of the world, says more
    /// than it has.
    overstated: bool,
}

/// A name on a stream.
#[derive(Clone, Debug, Default)]
struct Item {
    /// It was asked for by name.
    named: bool,
    /// The digest of the content that the client has.
    sent: Option<u64>,
    /// It is to be sent also if it is the same.
    owed: bool,
}

/// The names to look at.
#[derive(Debug, Default)]
struct Due {
    all: bool,
    names: BTreeSet<Arc<str>>,
}

impl Stream {
    pub(crate) fn new(variant: Variant) -> Self {
        Self {
            variant,
            channels: Default::default(),
            floor: Point::ZERO,
            told: Point::ZERO,
            nonce: 0,
            is_renamed: false,
            heard: 0,
        }
    }

    /// Takes a request.
    ///
    /// # Errors
    /// When it names too much; the stream then has to end.
    pub(crate) fn ask(&mut self, kind: Kind, ask: Ask) -> Result<(), TooMany> {
        let channel = &mut self.channels[kind as usize];
        if channel.in_flight.is_some() && channel.in_flight == ask.nonce {
            channel.in_flight = None;
            channel.refused |= ask.refused;
            if let Some(covers) = channel.covers.take().filter(|_| !ask.refused) {
                channel.acked = channel.acked.max(covers);
            }
        }
        // A request that reacts to no answer, or to an older one, still says what its client wants now.
        let shown = match ask.terms {
            Terms::Same if channel.asked => return Ok(()),
            Terms::Same if self.variant == Variant::State => channel.ask_state(kind, Vec::new(), ""),
            Terms::Same => channel.ask_delta(kind, Vec::new(), Vec::new(), BTreeMap::new()),
            Terms::State { names, version } => channel.ask_state(kind, names, &version),
            Terms::Delta { subscribe, unsubscribe, versions } => {
                channel.ask_delta(kind, subscribe, unsubscribe, versions)
            }
        };
        self.is_renamed = true;
        self.floor = self.floor.max(shown);
        self.told = self.told.max(shown);
        // Names that the client has given up count until they are answered: one that never acknowledges an
        // answer could otherwise take up and give up ever more of them. Those that were sent come from the
        // registry.
        let all = self.channels.iter().flat_map(|channel| channel.items.iter());
        let of_client = all.filter(|(_, item)| item.named || item.sent.is_none());
        let (names, bytes) =
            of_client.fold((0, 0), |(names, bytes), (name, _)| (names + 1, bytes + name.len()));
        if names > MOST_NAMES || bytes > MOST_BYTES { Err(TooMany) } else { Ok(()) }
    }

    /// The part of the source that the stream is about, if requests may have changed it since the last look.
    pub(crate) fn take_interest(&mut self) -> Option<Interest<'_>> {
        std::mem::take(&mut self.is_renamed).then(|| {
            let mut interest = Interest::default();
            for kind in Kind::ALL {
                let channel = &self.channels[kind as usize];
                interest.existence |= channel.wildcard;
                interest.everything |= channel.wildcard && kind == Kind::Endpoint;
                // A resource that came with everything changes with everything.
                let named = channel.items.iter().filter(|(_, item)| item.named || !channel.wildcard);
                interest.groups.extend(named.map(|(name, _)| group_of(name)));
            }
            interest.groups.sort_unstable();
            interest.groups.dedup();
            interest
        })
    }

    /// The source has changed. `None` when nobody knows where.
    pub(crate) fn changed(&mut self, changes: Option<&[Change]>) {
        for kind in Kind::ALL {
            let channel = &mut self.channels[kind as usize];
            if !channel.asked {
                continue;
            }
            let Some(changes) = changes else {
                channel.due.all = true;
                continue;
            };
            for change in changes {
                if kind == Kind::Endpoint || change.in_existence {
                    channel.concerns(&change.group);
                }
            }
        }
    }

    /// All changes up to the state with this number have been noted.
    pub(crate) fn heard(&mut self, serial: u64) {
        self.heard = self.heard.max(serial);
    }

    /// The client's state with regard to the changes up to the state with this number, of the endpoints of a
    /// group; of any group if it is not known. `None` when it has none of these. `is_up_to_date` says that
    /// these changes have been noted.
    pub(crate) fn reached(&self, group: Option<&str>, serial: u64, is_up_to_date: bool) -> Option<Reached> {
        let channel = &self.channels[Kind::Endpoint as usize];
        if !channel.asked || !channel.has_of(group) {
            return None;
        }
        let is_at_rest = is_up_to_date && channel.in_flight.is_none() && channel.due.is_empty();
        Some(match (channel.refused, channel.answered && (is_at_rest || channel.acked >= serial)) {
            (true, _) => Reached::Refused,
            (false, true) => Reached::Yes,
            (false, false) => Reached::No,
        })
    }

    /// True when the client may have to be told something.
    pub(crate) fn has_work(&self) -> bool {
        self.channels.iter().any(Channel::may_answer)
    }

    /// True when there is a source that is older than what the client has shown.
    pub(crate) fn is_ahead(&self) -> bool {
        self.floor > Point::ZERO
    }

    /// True while the source is older than what the client has shown, so that nothing can be sent.
    pub(crate) fn is_ahead_of(&self, point: Point) -> bool {
        point < self.floor
    }

    /// The source counts although it seems older: a restore was noticed by nobody, or nobody knows better.
    pub(crate) fn forget_floor(&mut self) {
        self.floor = Point::ZERO;
    }

    /// The next answer. `None` when the client has everything, or has to react first.
    pub(crate) fn next(&mut self, source: &impl Source) -> Option<Answer> {
        if self.is_ahead_of(source.point()) {
            return None;
        }
        for kind in Kind::ALL {
            let channel = &mut self.channels[kind as usize];
            if !channel.may_answer() {
                continue;
            }
            let next = match self.variant {
                Variant::Delta => channel.next_delta(kind, source),
                Variant::State if kind.is_whole() => channel.next_whole(kind, source),
                Variant::State => channel.next_part(kind, source),
            };
            let Some(mut next) = next else { continue };
            // Only in deltas has each resource a version.
            if self.variant == Variant::Delta {
                for resource in &mut next.resources {
                    *resource = resource.clone().at_least(self.floor);
                }
            }
            channel.answered = true;
            self.nonce = (self.nonce + 1).max(source.first_nonce());
            channel.in_flight = Some(self.nonce);
            channel.covers = channel.due.is_empty().then_some(self.heard);
            let (digest, nonce) = (channel.digest, self.nonce);
            if kind == Kind::Cluster {
                self.channels[Kind::Endpoint as usize].owe(&next.renewed, next.may_differ);
            }
            self.told = next.resources.iter().map(|resource| resource.point).fold(self.told, Point::max);
            let version = version_of(self.told, digest);
            return Some(Answer { kind, nonce, version, resources: next.resources, removed: next.removed });
        }
        None
    }
}

/// The content of an answer.
#[derive(Debug, Default)]
struct Content {
    resources: Vec<Arc<Resource>>,
    removed: Vec<Arc<str>>,
    /// The names whose resource the client replaces.
    renewed: Vec<Arc<str>>,
    /// The client may have had others than it says.
    may_differ: bool,
}

impl Due {
    fn is_empty(&self) -> bool {
        !self.all && self.names.is_empty()
    }

    /// One name more, or all of them instead of too many: a client that never acknowledges an answer leaves
    /// what comes meanwhile here.
    fn add(&mut self, name: Arc<str>) {
        if self.all {
            return;
        }
        self.names.insert(name);
        if self.names.len() > MOST_NAMES {
            *self = Self { all: true, names: BTreeSet::new() };
        }
    }
}

impl Channel {
    fn may_answer(&self) -> bool {
        let has_work = !self.answered || self.overstated || !self.due.is_empty();
        self.asked && self.in_flight.is_none() && has_work
    }

    /// True when the client may have something of a group, or has asked for it.
    fn has_of(&self, group: Option<&str>) -> bool {
        let Some(group) = group else { return self.wildcard || self.items.iter().next().is_some() };
        // Before the first answer, nobody knows what the client has from an earlier stream.
        if self.wildcard && !self.answered {
            return true;
        }
        let mut of_group = self.items.beginning(group).filter(|name| group_of(name) == group);
        of_group.any(|name| self.items.get(name).is_some_and(|item| item.named || item.sent.is_some()))
    }

    /// Names that begin with a group may have another resource.
    fn concerns(&mut self, group: &Arc<str>) {
        if self.wildcard {
            self.due.add(group.clone());
        }
        let concerned = self.items.beginning(group).filter(|name| group_of(name) == &**group);
        concerned.for_each(|name| self.due.add(name.clone()));
    }

    /// Endpoints whose cluster was replaced: their client waits for them, although they may be the same.
    fn owe(&mut self, names: &[Arc<str>], may_differ: bool) {
        self.distrusted |= may_differ;
        for name in names {
            if let Some(item) = self.items.get_mut(name) {
                item.owed = true;
                self.due.add(name.clone());
            }
        }
    }

    /// Notes that the client is sent this content of a name.
    fn send(&mut self, name: &Arc<str>, digest: Option<u64>) {
        let item = self.items.entry(name);
        let before = std::mem::replace(&mut item.sent, digest);
        item.owed = false;
        self.digest = self.digest.wrapping_sub(before.unwrap_or(0)).wrapping_add(digest.unwrap_or(0));
    }

    fn forget(&mut self, name: &str) {
        if let Some(item) = self.items.remove(name) {
            self.digest = self.digest.wrapping_sub(item.sent.unwrap_or(0));
        }
    }

    /// Everything is not asked for any more: the names that came with that go.
    fn narrow(&mut self) {
        self.wildcard = false;
        let digest = &mut self.digest;
        self.items.retain(|_, item| {
            if !item.named {
                *digest = digest.wrapping_sub(item.sent.unwrap_or(0));
            }
            item.named
        });
    }

    /// The names to look at now, and none after this.
    fn take_due(&mut self, kind: Kind, source: &impl Source) -> BTreeSet<Arc<str>> {
        let due = std::mem::take(&mut self.due);
        if !due.all {
            return due.names;
        }
        let mut names: BTreeSet<Arc<str>> = self.items.names().cloned().collect();
        if self.wildcard {
            names.extend(source.all(kind));
        }
        names
    }
}

#[cfg(test)]
pub(super) mod tests;
