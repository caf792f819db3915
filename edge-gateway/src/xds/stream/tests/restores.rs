//! One client and several gateways, over a store that is restored from backups.

use super::*;

/// The history at one moment, as far as the endpoints of one service go.
#[derive(Clone, Copy, Debug)]
struct Moment {
    point: Point,
    /// The last change of the service.
    changed: Point,
    content: u8,
}

impl Moment {
    fn source(self) -> impl Source {
        let Self { point, changed, content } = self;
        Finds(point, move |kind, name: &str| {
            (kind == Kind::Endpoint).then(|| Arc::new(Resource::new(kind, name, changed, vec![content])))
        })
    }
}

#[derive(Clone, Debug)]
enum Event {
    Change(u8),
    /// Something else was committed.
    Other,
    /// The store is set back to one of its earlier moments, and the incarnation is raised by so much.
    Restore(prop::sample::Index, u32),
    /// A gateway sees more.
    See(usize, prop::sample::Index),
    Connect(usize),
    Read,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..3_u8).prop_map(Event::Change),
        2 => Just(Event::Other),
        1 => (any::<prop::sample::Index>(), any::<u32>()).prop_map(|(to, step)| Event::Restore(to, step)),
        6 => (0..3_usize, any::<prop::sample::Index>()).prop_map(|(gateway, to)| Event::See(gateway, to)),
        3 => (0..3_usize).prop_map(Event::Connect),
        6 => Just(Event::Read),
    ]
}

/// A client of one name, with what it has and shows.
struct Reader {
    variant: Variant,
    stream: Stream,
    version: String,
    content: Option<u8>,
    /// The latest point that it was shown.
    shown: Point,
}

impl Reader {
    fn connect(&mut self) {
        self.stream = Stream::new(self.variant);
        let (name, version) = (Arc::from("a/x"), self.version.clone());
        let terms = match self.variant {
            Variant::State => Terms::State { names: vec![name], version },
            Variant::Delta => {
                let has = self.content.map(|_| (name.clone(), version));
                Terms::Delta {
                    subscribe: vec![name],
                    unsubscribe: Vec::new(),
                    versions: has.into_iter().collect(),
                }
            }
        };
        self.stream.ask(Kind::Endpoint, Ask { terms, ..Ask::default() }).expect("one name");
    }

    /// Takes what the gateway has. True if it was sent endpoints.
    fn read(&mut self, moment: Moment) -> bool {
        self.stream.changed(None);
        let mut is_sent = false;
        while let Some(answer) = self.stream.next(&moment.source()) {
            is_sent |= !answer.resources.is_empty();
            for resource in &answer.resources {
                let told = pb::DeltaDiscoveryResponse::decode(resource.of_delta()).expect("an answer");
                let told = told.resources.into_iter().next().expect("one");
                self.content = told.resource.expect("a resource").value.last().copied();
                if self.variant == Variant::Delta {
                    self.version = told.version;
                }
            }
            if self.variant == Variant::State {
                self.version = answer.version;
            }
            let (point, _) = read_version(&self.version).expect("a version of ours");
            assert!(point >= self.shown, "{point:?} after {:?}", self.shown);
            self.shown = point;
            let ask = Ask { nonce: Some(answer.nonce), ..Ask::default() };
            self.stream.ask(Kind::Endpoint, ask).expect("one name");
        }
        if !self.stream.is_ahead_of(moment.point) {
            assert_eq!(self.content, Some(moment.content), "it has what this gateway has");
        }
        is_sent
    }
}

fn play(variant: Variant, events: &[Event]) {
    let first = Moment { point: at(1), changed: at(1), content: 0 };
    let mut history = vec![first];
    let mut gateways = [0; 3];
    let mut connected = 0;
    // The place in the history of what the client was sent last.
    let mut told = 0;
    let stream = Stream::new(variant);
    let mut reader = Reader { variant, stream, version: String::new(), content: None, shown: Point::ZERO };
    reader.connect();
    for event in events {
        let last = *history.last().expect("one");
        let next = last.point.with(last.point.revision.next());
        match event {
            Event::Change(content) => {
                history.push(Moment { point: next, changed: next, content: *content });
            }
            Event::Other => history.push(Moment { point: next, ..last }),
            Event::Restore(to, step) => {
                let backup = *to.get(&history);
                let incarnation = last.point.incarnation.after(*step);
                let now = |point: Point| Point { incarnation, ..point };
                let (point, changed) = (now(backup.point), now(backup.changed));
                history.push(Moment { point, changed, ..backup });
            }
            Event::See(gateway, to) => gateways[*gateway] = gateways[*gateway].max(to.index(history.len())),
            Event::Connect(gateway) => {
                connected = *gateway;
                reader.connect();
            }
            Event::Read => {
                let seen = gateways[connected];
                if reader.read(history[seen]) {
                    // An answer is never older than the one before it. Content that the client already has
                    // is not sent, so the client does not learn of the changes in between.
                    assert!(seen >= told, "{seen} after {told}: {history:?}");
                    told = seen;
                }
            }
        }
    }
    // Every gateway has heard of the last restore by now, and none lets the client wait.
    let last = *history.last().expect("one");
    for _ in gateways {
        reader.connect();
        assert!(
            !reader.stream.is_ahead_of(last.point),
            "{:?} waits for nothing at {:?}",
            reader.shown,
            last.point
        );
        reader.read(last);
        assert_eq!(reader.content, Some(last.content));
    }
}

proptest! {
    #[test]
    fn versions_agree_over_restores_on_the_state_of_the_world(events in prop::collection::vec(event(), 1..60)) {
        play(Variant::State, &events);
    }

    #[test]
    fn versions_agree_over_restores_on_deltas(events in prop::collection::vec(event(), 1..60)) {
        play(Variant::Delta, &events);
    }
}
