//! Prefaces piece by piece, and in sessions whose clients do not read.

use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use follow::Push;
use prost::Message as _;
use proto::watch::v1::{WatchResponse, watch_response::What};
use serde_json::{Value, json};
use shared::event::{Action, Position};

use super::*;
use crate::close::{Farewell, Reason};
use crate::fanout::log::Log;
use crate::fanout::outlet::Outlet;
use crate::fanout::session::{Pumped, Session};
use crate::fanout::stream::{Next as Chunk, Reader, stream};
use crate::session::{Input, Pace, Protocol, SessionConfig};

fn instance(number: usize, bytes: usize) -> Arc<Instance> {
    let properties = [("p".to_owned(), "x".repeat(bytes))].into();
    Arc::new(Instance { instance_id: number.to_string(), properties, ..Instance::default() })
}

fn key(name: &str) -> Arc<ServiceKey> {
    Arc::new(ServiceKey { service_name: name.into(), ..ServiceKey::default() })
}

/// A preface with these states, each of so many instances of so many bytes, and one event.
fn preface(states: &[(usize, usize)]) -> Arc<Preface> {
    let state = |(number, (count, bytes)): (usize, &(usize, usize))| {
        (key(&number.to_string()), (0..*count).map(|number| instance(number, *bytes)).collect())
    };
    let at = Position::first_of(Revision::new(8));
    Arc::new(Preface {
        void: true,
        states: states.iter().enumerate().map(state).collect(),
        events: vec![Arc::new(Push::difference(1, at, Action::Update, key("e"), instance(0, 1)))],
        rev: Revision::new(7),
        confirmed: Revision::new(9),
    })
}

fn bytes_of(preface: &Arc<Preface>, encoding: Encoding) -> PrefaceBytes {
    PrefaceBytes::new(preface.clone(), Revision::new(3), Arc::new(Grant::All), encoding)
}

/// All bytes. No piece is much larger than it may be.
fn all_of(mut rest: PrefaceBytes) -> Vec<u8> {
    let mut all = Vec::new();
    while !rest.is_over() {
        let mut piece = Vec::new();
        rest.put(&mut piece);
        assert!(!piece.is_empty() && piece.len() <= 2 * PIECE, "{}", piece.len());
        all.extend(piece);
    }
    all
}

/// The texts of WebSocket frames, each put together from its fragments.
fn texts_of_frames(mut bytes: &[u8]) -> Vec<Value> {
    let mut texts = Vec::new();
    let mut text = Vec::new();
    while let [first, length, rest @ ..] = bytes {
        assert_eq!(first & 0x0F, if text.is_empty() { 1 } else { 0 }, "a text, or what continues it");
        let (length, rest) = match length {
            126 => (usize::from(u16::from_be_bytes(rest[..2].try_into().expect("two"))), &rest[2..]),
            127 => panic!("a frame of 64 KiB or more"),
            short => (usize::from(*short), rest),
        };
        text.extend_from_slice(&rest[..length]);
        bytes = &rest[length..];
        if first & 0x80 != 0 {
            texts.push(serde_json::from_slice(&std::mem::take(&mut text)).expect("JSON"));
        }
    }
    assert!(text.is_empty(), "the last message is whole");
    texts
}

fn texts_of_events(bytes: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).expect("UTF-8");
    let events = text.split_terminator("\n\n");
    let data = events.map(|event| event.split_once("\ndata: ").expect("data").1);
    data.map(|data| serde_json::from_str(data).expect("JSON")).collect()
}

fn expected(preface: &Preface) -> Vec<Value> {
    let mut texts = vec![json!({"action": "RESET", "instances": [], "rev": 7, "since": 3})];
    for (key, instances) in &preface.states {
        let instances: Vec<&Instance> = instances.iter().map(|instance| &**instance).collect();
        texts.push(json!({"action": "RESET", "key": **key, "instances": instances, "rev": 7, "since": 3}));
    }
    let push = &preface.events[0];
    texts.push(
        json!({"action": "UPDATE", "key": *push.key, "instance": *push.instance, "rev": 8, "since": 7}),
    );
    texts.push(json!({"action": "BOOKMARK", "rev": 9}));
    texts
}

#[test]
fn pieces_make_up_the_same_messages_whatever_their_size() {
    for states in
        [&[][..], &[(0, 0)], &[(2, 10), (3, 10)], &[(300, 40_000), (0, 0), (1000, 100), (2, 58_000)]]
    {
        let preface = preface(states);
        assert_eq!(texts_of_frames(&all_of(bytes_of(&preface, Encoding::Resumable))), expected(&preface));
        assert_eq!(texts_of_events(&all_of(bytes_of(&preface, Encoding::EventStream))), expected(&preface));
        let mut rest = Bytes::from(all_of(bytes_of(&preface, Encoding::Grpc)));
        let mut counts = Vec::new();
        let mut is_within = false;
        while !rest.is_empty() {
            let size = u32::from_be_bytes(rest[1..5].try_into().expect("four bytes")) as usize;
            let message = WatchResponse::decode(rest.split_to(5 + size).slice(5..)).expect("a message");
            if let Some(What::Reset(reset)) = message.what {
                if !is_within {
                    counts.push(0);
                }
                *counts.last_mut().expect("a state") += reset.instances.len();
                is_within = reset.more;
            }
        }
        let right: Vec<usize> = [0].into_iter().chain(states.iter().map(|(count, _)| *count)).collect();
        assert_eq!(counts, right, "the void one, and each state");
    }
}

#[test]
fn what_a_grant_does_not_admit_is_left_out() {
    let set = [("serviceName".to_owned(), "1".to_owned())].into();
    let grant = Arc::new(Grant::Labelled([set].into()));
    let preface = preface(&[(2, 10), (1, 10)]);
    let bytes = PrefaceBytes::new(preface.clone(), Revision::new(3), grant, Encoding::Resumable);
    let mut right = expected(&preface);
    right.remove(3);
    right.remove(1);
    assert_eq!(texts_of_frames(&all_of(bytes)), right);
}

/// A session in a stream whose client has not read anything, with the preface of large states.
fn unread() -> (Session, Reader) {
    let pace = Pace::from(&SessionConfig::default());
    let (writer, reader) = stream();
    let protocol = Protocol::new(0, &pace, Farewell::Close);
    let states = preface(&[(300, 40_000), (300, 40_000)]);
    let opening = Opening::of(bytes_of(&states, Encoding::Resumable));
    let mut session = Session::reserved(1, 0, 0, 0, protocol, opening);
    session.outlet = Some(Outlet::Stream(Rc::new(writer)));
    (session, reader)
}

fn pump(session: &mut Session) -> Pumped {
    let pace = Pace::from(&SessionConfig::default());
    session.pump(&Log::default(), Encoding::Resumable, 0, &pace, &mut 0)
}

/// What can be read now.
async fn read_next(reader: &Reader) -> Poll<Chunk> {
    std::future::poll_fn(|cx| Poll::Ready(reader.poll_next(cx))).await
}

/// Reads until nothing comes any more, or the end.
async fn read_all(session: &mut Session, reader: &Reader) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let pumped = pump(session);
        match read_next(reader).await {
            Poll::Ready(Chunk::Chunk(chunk)) => all.extend_from_slice(&chunk),
            _ if matches!(pumped, Pumped::Yielded | Pumped::Blocked) => {}
            _ => return all,
        }
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_a_large_state_holds_one_piece_of_it() {
    let (mut session, reader) = unread();
    assert_eq!(pump(&mut session), Pumped::Blocked);
    assert!(session.pending_bytes() <= 2 * PIECE, "{}", session.pending_bytes());
    // A message that comes up in the middle of a state follows it.
    session.answer(&crate::codec::websocket::text_frame(br#"{"action":"TOKEN"}"#));
    let texts = texts_of_frames(&read_all(&mut session, &reader).await);
    let actions: Vec<&str> = texts.iter().map(|text| text["action"].as_str().expect("an action")).collect();
    assert_eq!(actions, ["RESET", "RESET", "TOKEN", "RESET", "UPDATE", "BOOKMARK"]);
    assert!(session.preface.is_none());
}

#[tokio::test]
async fn a_session_that_closes_within_a_state_ends_the_state_first() {
    let (mut session, reader) = unread();
    assert_eq!(pump(&mut session), Pumped::Blocked);
    let pace = Pace::from(&SessionConfig::default());
    session.protocol.on(Input::End(Reason::Drained), 0, &pace);
    let all = read_all(&mut session, &reader).await;
    let at = all.windows(2).rposition(|pair| pair[0] == 0x88).expect("a close frame");
    let texts = texts_of_frames(&all[..at]);
    assert_eq!(texts.len(), 2, "the void one, and the first state");
    assert_eq!(texts[1]["instances"].as_array().map(Vec::len), Some(300));
}

/// A preface of events only, of which the last fills a piece.
fn events_only(grant: Grant, key_of_last: &str) -> PrefaceBytes {
    let push = |number: usize, name: &str, bytes| {
        let at = Position::first_of(Revision::new(8));
        Arc::new(Push::difference(1, at, Action::Update, key(name), instance(number, bytes)))
    };
    let events = vec![push(0, "e", 100), push(1, "e", PIECE), push(2, key_of_last, 100)];
    let preface =
        Preface { events, rev: Revision::new(7), confirmed: Revision::new(9), ..Preface::default() };
    PrefaceBytes::new(Arc::new(preface), Revision::new(3), Arc::new(grant), Encoding::Resumable)
}

#[tokio::test]
async fn pushes_that_were_merged_while_a_preface_was_read_follow_it() {
    let set = [("serviceName".to_owned(), "e".to_owned())].into();
    for rest in [
        events_only(Grant::All, "e"),
        // The last one makes no bytes.
        events_only(Grant::Labelled([set].into()), "hidden"),
    ] {
        let pace = Pace::from(&SessionConfig::default());
        let (writer, reader) = stream();
        let protocol = Protocol::new(0, &pace, Farewell::Close);
        let mut session = Session::reserved(1, 0, 0, 0, protocol, Opening::of(rest));
        session.outlet = Some(Outlet::Stream(Rc::new(writer)));
        let mut log = Log::default();
        let at = Position::first_of(Revision::new(10));
        let push = Arc::new(Push::difference(2, at, Action::Update, key("e"), instance(7, 10)));
        log.append(&push, push.frame(Encoding::Resumable));
        session.start_merging(&log);
        let mut all = Vec::new();
        loop {
            let pumped = session.pump(&log, Encoding::Resumable, 0, &pace, &mut 0);
            while let Poll::Ready(Chunk::Chunk(chunk)) = read_next(&reader).await {
                all.extend_from_slice(&chunk);
            }
            if pumped == Pumped::Idle {
                break;
            }
        }
        let texts = texts_of_frames(&all);
        let last = texts.last().expect("some");
        assert_eq!((&last["rev"], &last["instance"]["instanceId"]), (&json!(10), &json!("7")), "{last}");
    }
}
