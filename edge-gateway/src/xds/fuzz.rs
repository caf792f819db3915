//! The fuzz target of xDS: a stream of any requests, over services that come, change and go.
//!
//! An input is a sequence of steps, each a byte and what it takes. The bytes of a request stand there as on
//! the wire, with their prefix.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};
use prost::Message as _;
use proto::envoy as pb;

use super::kind::{Kind, Variant};
use super::name::group_of;
use super::resource::Resource;
use super::stream::{Answer, Ask, Change, Source, Stream, Terms};
use super::version::Point;
use super::wire::{Message, Reader, Type, take, write};

/// Services that may exist.
const GROUPS: [&str; 3] = ["a/x", "a/xy", "e/a/x"];
/// Answers after which a client that takes each of them must have everything. A stream has few names of
/// services that exist, so each kind needs one answer, and few are repeated.
const MOST: usize = 1_000;

/// The services, each with what its cluster and its endpoints contain.
#[derive(Default)]
struct World(BTreeMap<&'static str, (u8, u8)>);

fn at(revision: u64) -> Point {
    Point::new(None, revision.into())
}

fn resource(kind: Kind, name: &str, content: &[u8]) -> Arc<Resource> {
    Arc::new(Resource::new(kind, name, at(5), content.to_vec()))
}

impl Source for World {
    fn find(&self, kind: Kind, name: &str) -> Option<Arc<Resource>> {
        let (cluster, endpoints) = self.0.get(group_of(name))?;
        let content = if kind == Kind::Endpoint { [b'e', *endpoints] } else { [b'c', *cluster] };
        Some(resource(kind, name, &content))
    }

    fn none_any_more(&self, kind: Kind, name: &str) -> Option<Arc<Resource>> {
        (kind == Kind::Endpoint).then(|| resource(kind, name, b"none"))
    }

    fn all(&self, kind: Kind) -> Vec<Arc<str>> {
        match kind {
            Kind::Cluster | Kind::Endpoint => self.0.keys().map(|name| Arc::from(*name)).collect(),
            Kind::Listener | Kind::Route => Vec::new(),
        }
    }

    fn is_of_all(&self, kind: Kind, name: &str) -> bool {
        matches!(kind, Kind::Cluster | Kind::Endpoint) && group_of(name) == name
    }

    fn point(&self) -> Point {
        at(9)
    }
}

/// A stream with what its client has asked for.
struct Client {
    variant: Variant,
    reader: Reader,
    stream: Stream,
    asked: BTreeSet<Kind>,
    answered: BTreeSet<Kind>,
    /// The nonce of the answer of each kind that the client has not reacted to.
    in_flight: BTreeMap<Kind, u64>,
    nonce: u64,
}

impl Client {
    fn new(variant: Variant) -> Self {
        Self {
            variant,
            reader: Reader::new(variant, Arc::default()),
            stream: Stream::new(variant),
            asked: BTreeSet::new(),
            answered: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            nonce: 0,
        }
    }

    /// Sends a request. False when the stream has to end.
    fn ask(&mut self, kind: Kind, ask: Ask) -> bool {
        self.asked.insert(kind);
        self.in_flight.retain(|of, nonce| *of != kind || Some(*nonce) != ask.nonce);
        self.stream.ask(kind, ask).is_ok()
    }

    /// The next answer, held to everything that a stream promises of it.
    fn next(&mut self, world: &World) -> Option<Kind> {
        let answer = self.stream.next(world)?;
        let kind = answer.kind;
        assert!(self.asked.contains(&kind), "{kind:?} was not asked for");
        assert!(answer.nonce > self.nonce, "a nonce comes once");
        self.nonce = answer.nonce;
        let before = self.in_flight.insert(kind, answer.nonce);
        assert_eq!(before, None, "one answer of a kind is under way");
        self.answered.insert(kind);
        self.check(&answer);
        Some(kind)
    }

    fn check(&self, answer: &Answer) {
        let mut bytes: BytesMut = write(self.variant, answer).iter().flatten().collect();
        let message = take(&mut bytes).expect("a readable prefix").expect("a whole message");
        assert!(bytes.is_empty(), "one message");
        let told = match self.variant {
            Variant::State => {
                let told = pb::DiscoveryResponse::decode(message).expect("an answer");
                assert!(answer.removed.is_empty(), "the state of the world removes by leaving out");
                assert_eq!(told.type_url, answer.kind.type_url());
                told.resources.len()
            }
            Variant::Delta => {
                let told = pb::DeltaDiscoveryResponse::decode(message).expect("an answer");
                let names: BTreeSet<_> = told.resources.iter().map(|resource| &resource.name).collect();
                assert_eq!(names.len(), told.resources.len(), "a name once");
                assert!(told.removed_resources.iter().all(|name| !names.contains(name)), "there or gone");
                told.resources.len()
            }
        };
        assert_eq!(told, answer.resources.len());
    }

    /// Reacts to the answer of a kind that is under way.
    fn react(&mut self, kind: Kind, refused: bool, terms: Terms) -> bool {
        let nonce = self.in_flight.get(&kind).copied();
        self.ask(kind, Ask { nonce, refused, terms })
    }
}

fn nothing_more() -> Terms {
    Terms::Delta { subscribe: Vec::new(), unsubscribe: Vec::new(), versions: BTreeMap::new() }
}

/// Plays the steps, and then takes every answer that is due.
///
/// # Panics
/// When a stream breaks a promise.
pub fn streams(input: &[u8]) {
    let Some((variant, steps)) = input.split_first() else { return };
    let variant = if variant % 2 == 0 { Variant::Delta } else { Variant::State };
    let mut world = World::default();
    let mut client = Client::new(variant);
    // The names of the last request of each kind: on the state of the world each request repeats them.
    let mut named: BTreeMap<Kind, Vec<Arc<str>>> = BTreeMap::new();
    let mut steps = BytesMut::from(steps);
    while steps.has_remaining() {
        let step = steps.get_u8();
        let (what, with) = (step % 8, usize::from(step / 8));
        let group = GROUPS[with % GROUPS.len()];
        let goes_on = match what {
            0..=2 => {
                let Ok(Some(message)) = take(&mut steps) else { break };
                request(&mut client, message, &mut named)
            }
            3 => {
                let content = (step / 64, step / 32);
                let before = world.0.insert(group, content);
                let in_existence = before.is_none_or(|before| before.0 != content.0);
                client.stream.changed(Some(&[Change { group: group.into(), in_existence }]));
                true
            }
            4 => {
                let in_existence = world.0.remove(group).is_some();
                client.stream.changed(Some(&[Change { group: group.into(), in_existence }]));
                true
            }
            5 => {
                client.next(&world);
                true
            }
            6 => {
                let kind = Kind::ALL[with % 4];
                !client.in_flight.contains_key(&kind)
                    || react(&mut client, kind, with >= 16, named.get(&kind))
            }
            _ if with % 2 == 0 => {
                client.stream.changed(None);
                true
            }
            _ => {
                // Another connection of the same client.
                client = Client::new(variant);
                named.clear();
                true
            }
        };
        if !goes_on {
            return;
        }
    }
    settle(&mut client, &world, &named);
}

/// Reads a request and sends it. False when the stream has to end.
fn request(client: &mut Client, message: Bytes, named: &mut BTreeMap<Kind, Vec<Arc<str>>>) -> bool {
    let Ok(message) = client.reader.read(message) else { return false };
    let Message { of: Type::Of(kind), .. } = message else { return true };
    if let Terms::State { names, .. } = &message.ask.terms {
        named.insert(kind, names.clone());
    }
    client.ask(kind, message.ask)
}

fn react(client: &mut Client, kind: Kind, refused: bool, names: Option<&Vec<Arc<str>>>) -> bool {
    let terms = match client.variant {
        Variant::State => Terms::State { names: names.cloned().unwrap_or_default(), version: String::new() },
        Variant::Delta => nothing_more(),
    };
    client.react(kind, refused, terms)
}

/// Takes every answer until there is none.
fn settle(client: &mut Client, world: &World, named: &BTreeMap<Kind, Vec<Arc<str>>>) {
    if client.stream.is_ahead_of(world.point()) {
        assert!(client.stream.next(world).is_none(), "nothing older than what the client has");
        client.stream.forget_floor();
    }
    for _ in 0..MOST {
        for kind in client.in_flight.keys().copied().collect::<Vec<_>>() {
            if !react(client, kind, false, named.get(&kind)) {
                return;
            }
            assert!(!client.in_flight.contains_key(&kind));
        }
        if client.next(world).is_none() {
            assert_eq!(client.answered, client.asked, "each first request is answered");
            return;
        }
    }
    panic!("the answers do not end");
}
