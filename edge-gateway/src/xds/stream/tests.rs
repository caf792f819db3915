//! The protocol against plain models of its two kinds of client.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use prost::Message as _;
use proto::envoy as pb;

use super::*;

mod restores;

/// A service, as far as its resources go: the content of its cluster and of its endpoints.
type World = BTreeMap<String, (u8, u8)>;

struct Known<'a>(&'a World, Point);

fn at(revision: u64) -> Point {
    Point::new(None, revision.into())
}

fn shared(names: impl IntoIterator<Item = String>) -> Vec<Arc<str>> {
    names.into_iter().map(Arc::from).collect()
}

fn resource(kind: Kind, name: &str, content: &str) -> Arc<Resource> {
    Arc::new(Resource::new(kind, name, at(5), content.into()))
}

/// A source of nothing but the resources that its function finds.
pub(in crate::xds) struct Finds<F>(pub(in crate::xds) Point, pub(in crate::xds) F);

impl<F: Fn(Kind, &str) -> Option<Arc<Resource>>> Source for Finds<F> {
    fn find(&self, kind: Kind, name: &str) -> Option<Arc<Resource>> {
        self.1(kind, name)
    }

    fn none_any_more(&self, _: Kind, _: &str) -> Option<Arc<Resource>> {
        None
    }

    fn all(&self, _: Kind) -> Vec<Arc<str>> {
        Vec::new()
    }

    fn is_of_all(&self, _: Kind, _: &str) -> bool {
        false
    }

    fn point(&self) -> Point {
        self.0
    }
}

impl Source for Known<'_> {
    fn find(&self, kind: Kind, name: &str) -> Option<Arc<Resource>> {
        let (cluster, endpoints) = self.0.get(group_of(name))?;
        Some(match kind {
            Kind::Endpoint => resource(kind, name, &format!("endpoints {endpoints}")),
            _ => resource(kind, name, &format!("cluster {cluster}")),
        })
    }

    fn none_any_more(&self, kind: Kind, name: &str) -> Option<Arc<Resource>> {
        (kind == Kind::Endpoint).then(|| resource(kind, name, "none"))
    }

    fn all(&self, kind: Kind) -> Vec<Arc<str>> {
        let names = self.0.keys().map(|name| name.as_str().into()).collect();
        if self.is_of_all(kind, "a/b") { names } else { Vec::new() }
    }

    fn is_of_all(&self, kind: Kind, name: &str) -> bool {
        matches!(kind, Kind::Cluster | Kind::Endpoint) && group_of(name) == name
    }

    fn point(&self) -> Point {
        self.1
    }
}

/// A client that remembers what it was sent, across streams.
#[derive(Debug)]
struct Client {
    variant: Variant,
    stream: Stream,
    kinds: BTreeMap<Kind, Subscribed>,
}

#[derive(Debug, Default)]
struct Subscribed {
    /// `None` for everything.
    names: Option<BTreeSet<String>>,
    /// The version of each resource that it has.
    has: BTreeMap<String, String>,
    version: String,
    /// Resources that were sent over the present stream.
    received: Vec<String>,
    was_answered: bool,
    /// Names were given over the present stream.
    named: bool,
    owed: BTreeSet<String>,
    /// Names that were given up since the last answer, so that the version still counts them.
    given_up: BTreeSet<String>,
}

impl Subscribed {
    /// The names of a request. Before any was given, none would ask for everything, so a client that wants
    /// nothing names something that never exists.
    fn request(&mut self) -> Vec<String> {
        let names: Vec<String> = match &self.names {
            None if self.named => vec![ALL.into()],
            None => Vec::new(),
            Some(names) if names.is_empty() && !self.named => vec!["no/thing".into()],
            Some(names) => names.iter().cloned().collect(),
        };
        self.named |= !names.is_empty();
        names
    }
}

impl Client {
    fn new(variant: Variant) -> Self {
        Self { variant, stream: Stream::new(variant), kinds: BTreeMap::new() }
    }

    fn subscribe(&mut self, kind: Kind, names: Option<&[&str]>) {
        let names = names.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        let is_first = !self.kinds.contains_key(&kind);
        let state = self.kinds.entry(kind).or_default();
        let before = std::mem::replace(&mut state.names, names);
        if let Some(names) = &state.names {
            let given_up = state.has.keys().filter(|name| !names.contains(*name));
            state.given_up.extend(given_up.cloned());
            state.has.retain(|name, _| names.contains(name));
            state.owed.retain(|name| names.contains(name));
        }
        if is_first {
            self.begin(kind);
            return;
        }
        let state = self.kinds.get_mut(&kind).expect("known");
        let names =
            |names: &Option<BTreeSet<String>>| names.clone().unwrap_or_else(|| [ALL.to_owned()].into());
        let (old, new) = (names(&before), names(&state.names));
        let terms = match self.variant {
            Variant::State => Terms::State { names: shared(state.request()), version: state.version.clone() },
            Variant::Delta => Terms::Delta {
                subscribe: shared(new.difference(&old).cloned()),
                unsubscribe: shared(old.difference(&new).cloned()),
                versions: BTreeMap::new(),
            },
        };
        self.ask(kind, terms, None, false);
    }

    /// Sends the first request of a stream.
    fn begin(&mut self, kind: Kind) {
        let state = self.kinds.get_mut(&kind).expect("known");
        state.named = false;
        let names = shared(state.request());
        let terms = match self.variant {
            Variant::State => Terms::State { names, version: state.version.clone() },
            Variant::Delta => {
                let has = state.has.iter().map(|(name, version)| (name.as_str().into(), version.clone()));
                Terms::Delta { subscribe: names, unsubscribe: Vec::new(), versions: has.collect() }
            }
        };
        self.ask(kind, terms, None, false);
    }

    fn ask(&mut self, kind: Kind, terms: Terms, nonce: Option<u64>, refused: bool) {
        self.stream.ask(kind, Ask { nonce, refused, terms }).expect("few names");
    }

    fn acknowledge(&mut self, kind: Kind, nonce: u64, refused: bool) {
        let state = self.kinds.get_mut(&kind).expect("known");
        let terms = match self.variant {
            Variant::State => Terms::State { names: shared(state.request()), version: state.version.clone() },
            Variant::Delta => {
                Terms::Delta { subscribe: Vec::new(), unsubscribe: Vec::new(), versions: BTreeMap::new() }
            }
        };
        self.ask(kind, terms, Some(nonce), refused);
    }

    fn take(&mut self, answer: &Answer) {
        let kind = answer.kind;
        let mut replaced = Vec::new();
        let state = self.kinds.get_mut(&kind).expect("only what is asked for");
        state.was_answered = true;
        state.given_up.clear();
        let told: BTreeMap<String, String> = answer
            .resources
            .iter()
            .map(|resource| {
                let answer = pb::DeltaDiscoveryResponse::decode(resource.of_delta()).expect("an answer");
                (answer.resources[0].name.clone(), format!("{:x}", resource.digest))
            })
            .collect();
        if self.variant == Variant::State && kind.is_whole() {
            state.has.retain(|name, _| told.contains_key(name));
        }
        for name in &answer.removed {
            state.has.remove(&**name);
        }
        for (name, digest) in told {
            let version = format!("0.5-{:0>16}", digest);
            let is_wanted = state.names.as_ref().is_none_or(|names| names.contains(&name));
            state.received.push(name.clone());
            state.owed.remove(&name);
            if is_wanted && state.has.insert(name.clone(), version.clone()) != Some(version) {
                replaced.push(name);
            }
        }
        state.version = answer.version.clone();
        if kind == Kind::Cluster
            && let Some(endpoints) = self.kinds.get_mut(&Kind::Endpoint)
        {
            // A replaced cluster waits for its endpoints.
            let waits = |name: &String| endpoints.names.as_ref().is_some_and(|names| names.contains(name));
            endpoints.owed.extend(replaced.into_iter().filter(waits));
        }
        self.acknowledge(kind, answer.nonce, false);
    }

    /// Takes answers until there is none.
    fn settle(&mut self, world: &World) {
        for _ in 0..200 {
            let Some(answer) = self.stream.next(&Known(world, at(9))) else { return };
            self.take(&answer);
        }
        panic!("it never ends");
    }

    /// The client threw resources away and wants them again, and its version cannot tell so: only an answer
    /// would have changed that. The state of the world has no words for this.
    fn overstates(&self) -> bool {
        let wants = |state: &Subscribed, name| state.names.as_ref().is_none_or(|names| names.contains(name));
        self.variant == Variant::State
            && self.kinds.values().any(|state| state.given_up.iter().any(|name| wants(state, name)))
    }

    fn reconnect(&mut self) {
        self.stream = Stream::new(self.variant);
        for kind in Kind::ALL {
            if let Some(state) = self.kinds.get_mut(&kind) {
                state.received.clear();
                state.was_answered = false;
                state.owed.clear();
                self.begin(kind);
            }
        }
    }

    /// Compares what the client has with what there is.
    fn check(&self, world: &World) {
        for (kind, state) in &self.kinds {
            assert!(state.was_answered, "the first request of {kind:?} is answered");
            let owed: Vec<_> = state.owed.iter().filter(|name| world.contains_key(group_of(name))).collect();
            assert!(owed.is_empty(), "endpoints after their clusters: {owed:?}");
            let names: Vec<String> = match &state.names {
                Some(names) => names.iter().cloned().collect(),
                None => world.keys().cloned().collect(),
            };
            for name in &names {
                let there = Known(world, at(9)).find(*kind, name);
                let there = there.map(|resource| format!("0.5-{:016x}", resource.digest));
                let none = Known(world, at(9)).none_any_more(*kind, name);
                let none = none.map(|resource| format!("0.5-{:016x}", resource.digest));
                let has = state.has.get(name);
                let is_right = has == there.as_ref() || (there.is_none() && has == none.as_ref());
                // A route without a listener is not missed, on the state of the world.
                let is_unused = *kind == Kind::Route && there.is_none() && self.variant == Variant::State;
                assert!(is_right || is_unused, "{kind:?} {name}: has {has:?}, there is {there:?}");
            }
            let extra = state.has.keys().filter(|name| !names.contains(name)).count();
            assert!(*kind == Kind::Endpoint || extra == 0, "{kind:?}: {:?} of {names:?}", state.has);
        }
    }
}

const NAMES: [&str; 4] = ["a/x", "a/xy", "a/x@1+", "e/a/x:grpc"];

#[derive(Clone, Debug)]
enum Step {
    Put(usize, u8, u8),
    Delete(usize),
    Subscribe(Kind, u8),
    Everything,
    One,
    Settle,
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    let kind =
        prop_oneof![Just(Kind::Cluster), Just(Kind::Endpoint), Just(Kind::Listener), Just(Kind::Route)];
    prop_oneof![
        4 => (0..3_usize, 0..2_u8, 0..4_u8).prop_map(|(at, cluster, endpoints)| Step::Put(at, cluster, endpoints)),
        2 => (0..3_usize).prop_map(Step::Delete),
        4 => (kind, 0..16_u8).prop_map(|(kind, names)| Step::Subscribe(kind, names)),
        1 => Just(Step::Everything),
        3 => Just(Step::One),
        3 => Just(Step::Settle),
        1 => Just(Step::Reconnect),
    ]
}

const GROUPS: [&str; 3] = ["a/x", "a/xy", "e/a/x"];

fn play(variant: Variant, steps: &[Step]) {
    let mut world = World::new();
    let mut client = Client::new(variant);
    for step in steps {
        match step {
            Step::Put(at, cluster, endpoints) => {
                let before = world.insert(GROUPS[*at].to_owned(), (*cluster, *endpoints));
                let in_existence = before.is_none_or(|before| before.0 != *cluster);
                client.stream.changed(Some(&[Change { group: GROUPS[*at].into(), in_existence }]));
            }
            Step::Delete(at) => {
                let in_existence = world.remove(GROUPS[*at]).is_some();
                client.stream.changed(Some(&[Change { group: GROUPS[*at].into(), in_existence }]));
            }
            Step::Subscribe(kind, bits) => {
                let chosen = |at: &usize| bits & (1 << at) != 0;
                let names: Vec<&str> = (0..4).filter(chosen).map(|at| NAMES[at]).collect();
                // No names would be everything, for clusters.
                let is_empty_first = names.is_empty() && !client.kinds.contains_key(kind);
                if !is_empty_first {
                    client.subscribe(*kind, Some(&names));
                }
            }
            Step::Everything => client.subscribe(Kind::Cluster, None),
            Step::One => {
                if let Some(answer) = client.stream.next(&Known(&world, at(9))) {
                    client.take(&answer);
                }
            }
            Step::Settle => {
                client.settle(&world);
                client.check(&world);
            }
            Step::Reconnect => {
                if client.overstates() {
                    client.settle(&world);
                }
                client.reconnect();
            }
        }
    }
    client.settle(&world);
    client.check(&world);
    // Nothing has changed, so no endpoints are sent again. The first reconnect may come before any version of
    // clusters that tells anything, so the second one counts.
    for _ in 0..2 {
        client.reconnect();
        client.settle(&world);
        client.check(&world);
    }
    let gone = |name: &String| !world.contains_key(group_of(name));
    let again = client.kinds.get(&Kind::Endpoint).map(|state| state.received.as_slice()).unwrap_or_default();
    let is_partial = again.iter().any(gone);
    assert!(again.is_empty() || is_partial, "sent again: {again:?}");
}

proptest! {
    #[test]
    fn clients_of_the_state_of_the_world_have_what_there_is(steps in prop::collection::vec(step(), 1..40)) {
        play(Variant::State, &steps);
    }

    #[test]
    fn clients_of_deltas_have_what_there_is(steps in prop::collection::vec(step(), 1..40)) {
        play(Variant::Delta, &steps);
    }
}

#[test]
fn a_version_says_nothing_of_names_that_are_asked_for_later() {
    play(
        Variant::State,
        &[
            Step::Subscribe(Kind::Endpoint, 1),
            Step::Put(0, 0, 0),
            Step::Everything,
            Step::One,
            Step::One,
            // The client throws its cluster away, and asks for it again over the next stream.
            Step::Subscribe(Kind::Cluster, 2),
            Step::Reconnect,
            Step::Everything,
        ],
    );
}

fn world(entries: &[(&str, u8)]) -> World {
    entries.iter().map(|(name, content)| ((*name).to_owned(), (0, *content))).collect()
}

#[test]
fn a_refusal_is_followed_by_nothing_but_a_change() {
    for variant in [Variant::State, Variant::Delta] {
        let mut client = Client::new(variant);
        client.subscribe(Kind::Endpoint, Some(&["a/x", "a/y"]));
        let first = world(&[("a/x", 1), ("a/y", 1)]);
        let answer = client.stream.next(&Known(&first, Point::ZERO)).expect("an answer");
        client.acknowledge(Kind::Endpoint, answer.nonce, true);
        assert!(client.stream.next(&Known(&first, Point::ZERO)).is_none(), "{variant:?}: no loop");
        client.stream.changed(Some(&[Change { group: "a/x".into(), in_existence: false }]));
        assert!(client.stream.next(&Known(&first, Point::ZERO)).is_none(), "{variant:?}: the same");
        let second = world(&[("a/x", 2), ("a/y", 1)]);
        client.stream.changed(Some(&[Change { group: "a/x".into(), in_existence: false }]));
        let answer = client.stream.next(&Known(&second, Point::ZERO)).expect("an answer");
        assert_eq!(answer.resources.len(), 2, "{variant:?}: what was refused with it comes, too");
    }
}

#[test]
fn one_answer_is_under_way_and_changes_are_merged() {
    let mut client = Client::new(Variant::State);
    client.subscribe(Kind::Endpoint, Some(&["a/x"]));
    let answer = client.stream.next(&Known(&world(&[("a/x", 1)]), Point::ZERO)).expect("an answer");
    for content in 2..9 {
        client.stream.changed(Some(&[Change { group: "a/x".into(), in_existence: false }]));
        assert!(client.stream.next(&Known(&world(&[("a/x", content)]), Point::ZERO)).is_none());
    }
    client.take(&answer);
    let last = world(&[("a/x", 9)]);
    client.settle(&last);
    client.check(&last);
    assert_eq!(client.kinds[&Kind::Endpoint].received.len(), 2);
}

#[test]
fn no_version_is_older_than_the_one_that_a_client_has_shown() {
    let mut client = Client::new(Variant::Delta);
    client.subscribe(Kind::Endpoint, Some(&["a/x"]));
    client.settle(&world(&[("a/x", 1)]));
    // Another gateway knows newer content since an earlier point: it had heard of it before a bookmark told so.
    client.stream.floor = at(7);
    client.stream.changed(Some(&[Change { group: "a/x".into(), in_existence: false }]));
    let answer = client.stream.next(&Known(&world(&[("a/x", 2)]), at(9))).expect("an answer");
    let [sent] = &answer.resources[..] else { panic!("one resource") };
    let delta = pb::DeltaDiscoveryResponse::decode(sent.of_delta()).expect("an answer");
    assert_eq!(read_version(&delta.resources[0].version), Some((at(7), sent.digest)));
    let plain = resource(Kind::Endpoint, "a/x", "endpoints 2");
    assert_eq!(plain.of_state(), sent.of_state(), "the content is the same");
}

#[test]
fn nothing_is_sent_from_an_older_state_than_the_clients() {
    for variant in [Variant::State, Variant::Delta] {
        let there = world(&[("a/x", 1)]);
        let mut client = Client::new(variant);
        client.subscribe(Kind::Endpoint, Some(&["a/x"]));
        client.settle(&there);
        client.reconnect();
        assert!(client.stream.next(&Known(&there, at(4))).is_none(), "{variant:?}");
        assert!(client.stream.is_ahead_of(at(4)));
        assert!(client.stream.next(&Known(&there, at(5))).is_some(), "{variant:?}");
    }
}

#[test]
fn a_large_state_comes_in_parts() {
    let large = Finds(Point::ZERO, |kind, name: &str| Some(resource(kind, name, &"x".repeat(PART / 3))));
    for variant in [Variant::State, Variant::Delta] {
        let mut client = Client::new(variant);
        client.subscribe(Kind::Endpoint, Some(&["a/1", "a/2", "a/3", "a/4", "a/5"]));
        let mut answers = 0;
        while let Some(answer) = client.stream.next(&large) {
            assert!(answer.resources.iter().map(|resource| resource.size()).sum::<usize>() <= PART);
            client.take(&answer);
            answers += 1;
        }
        assert_eq!((answers, client.kinds[&Kind::Endpoint].received.len()), (3, 5), "{variant:?}");
    }
}

#[test]
fn too_many_names_end_a_stream() {
    let mut stream = Stream::new(Variant::State);
    let names = shared((0..=MOST_NAMES).map(|number| format!("a/{number}")));
    let terms = Terms::State { names, version: String::new() };
    assert_eq!(stream.ask(Kind::Endpoint, Ask { terms, ..Ask::default() }), Err(TooMany));
}

/// Takes up names and gives them up again, over and over, without ever acknowledging the first answer.
fn churn(variant: Variant, wildcard: bool) -> (Stream, Result<(), TooMany>) {
    let mut stream = Stream::new(variant);
    let always = if wildcard { ALL } else { "a/always" };
    let request = |names: Vec<String>, gives_up: Vec<String>| match variant {
        Variant::State => Terms::State { names: shared(names), version: String::new() },
        Variant::Delta => {
            let (subscribe, unsubscribe) = (shared(names), shared(gives_up));
            Terms::Delta { subscribe, unsubscribe, versions: BTreeMap::new() }
        }
    };
    let mut outcome = Ok(());
    let mut before: Vec<String> = Vec::new();
    for round in 0..30 {
        let names: Vec<String> = (0..1000).map(|number| format!("a/{round}-{number}")).collect();
        let all = names.iter().cloned().chain([always.to_owned()]).collect();
        let ask = Ask { terms: request(all, std::mem::replace(&mut before, names)), ..Ask::default() };
        outcome = outcome.and(stream.ask(Kind::Cluster, ask));
        if round == 0 {
            assert!(stream.next(&Known(&world(&[]), Point::ZERO)).is_some(), "the one that is under way");
        }
    }
    (stream, outcome)
}

#[test]
fn names_of_a_client_that_never_acknowledges_have_a_bound() {
    for variant in [Variant::State, Variant::Delta] {
        for wildcard in [false, true] {
            let (stream, outcome) = churn(variant, wildcard);
            let channel = &stream.channels[Kind::Cluster as usize];
            assert!(channel.due.names.len() <= MOST_NAMES, "{variant:?}: {}", channel.due.names.len());
            assert!(
                channel.items.len() <= MOST_NAMES || outcome.is_err(),
                "{variant:?}: {}",
                channel.items.len()
            );
        }
    }
}

#[test]
fn too_many_names_to_look_at_are_all_of_them() {
    let (mut stream, outcome) = churn(Variant::Delta, false);
    assert_eq!(outcome, Ok(()), "it names no more than it may");
    assert!(stream.channels[Kind::Cluster as usize].due.all);
    let ask = Ask {
        nonce: Some(1),
        terms: Terms::Delta { subscribe: Vec::new(), unsubscribe: Vec::new(), versions: BTreeMap::new() },
        ..Ask::default()
    };
    stream.ask(Kind::Cluster, ask).expect("an acknowledgement");
    let there = world(&[("a/29-7", 1), ("a/0-7", 1)]);
    let answer = stream.next(&Known(&there, Point::ZERO)).expect("an answer");
    let names: Vec<_> = answer.removed.iter().map(|name| &**name).collect();
    assert_eq!((answer.resources.len(), names.contains(&"a/0-7")), (1, false), "what it still asks for");
}
