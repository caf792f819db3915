//! The acknowledgements of single sessions, with real sockets and streams.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;

use access::Grant;
use shared::event::{Action, Position};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::close::Farewell;
use crate::fanout::session::Pumped;
use crate::fanout::stream::{Next, stream};
use crate::fanout::{Opening, PrefaceBytes};
use crate::push::Push;
use crate::session::{Pace, Protocol, SessionConfig};

const KEY: SessionKey = SessionKey { index: 0, serial: 1 };

/// A session, and the log that it reads.
struct Stage {
    session: Session,
    log: Log,
    pings: Pings,
}

impl Stage {
    fn new(outlet: Outlet) -> Self {
        let pace = Pace::from(&SessionConfig::default());
        let protocol = Protocol::new(0, &pace, Farewell::Close);
        let mut session = Session::reserved(1, 0, 0, 0, protocol, Opening::default());
        session.outlet = Some(outlet);
        session.reading = Reading::Live(0);
        Self { session, log: Log::default(), pings: Pings { left: 10, ..Pings::default() } }
    }

    async fn on_socket() -> (Self, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connects");
        let (server, _) = listener.accept().await.expect("accepts");
        (Self::new(Outlet::of_socket(server, None)), client)
    }

    /// Appends a change of this revision with so many bytes, and the question about it.
    fn change(&mut self, rev: u64, bytes: usize) -> (ReachQuestion, Point) {
        let push = push_at(rev);
        self.log.append(&push, &vec![b'x'; bytes]);
        let rev = Revision::new(rev);
        let question = ReachQuestion {
            after: rev.previous(),
            rev,
            age: std::time::Duration::ZERO,
            topic: 0,
            key: Arc::default(),
            groups: Vec::new(),
            state: vec![push],
            incomplete: false,
            most: 0,
        };
        let end = self.log.end();
        (question, Point { offset: end, is_late: false, end })
    }

    fn pump(&mut self) -> Pumped {
        let pace = Pace::from(&SessionConfig::default());
        self.session.pump(&self.log, Encoding::Plain, 0, &pace, &mut 0)
    }

    /// Asks, and writes what the question has put into the tail.
    fn prove(&mut self, (question, point): &(ReachQuestion, Point)) -> Option<WaitingState> {
        let state = self.session.prove(question, point, &self.log, Encoding::Plain, KEY, &mut self.pings);
        self.pump();
        state
    }
}

fn push_at(rev: u64) -> Arc<Push> {
    let at = Position::first_of(Revision::new(rev));
    Arc::new(Push::difference(0, at, Action::Update, Arc::default(), Arc::default()))
}

#[tokio::test]
async fn only_the_pong_to_a_ping_after_the_change_counts() {
    let (mut stage, mut client) = Stage::on_socket().await;
    let first = stage.change(5, 3);
    assert_eq!(stage.prove(&first), Some(WaitingState::Unwritten), "the round has not been there yet");
    assert_eq!(stage.pump(), Pumped::Idle);
    stage.session.on_numbered_pong(1);
    assert_eq!(stage.prove(&first), Some(WaitingState::Unanswered), "a pong before the ping");
    let mut read = [0; 64];
    let count = client.read(&mut read).await.expect("reads");
    assert_eq!(&read[..count], b"xxx\x89\x08\0\0\0\0\0\0\0\x01", "the change, and then a ping with a number");
    let second = stage.change(6, 3);
    stage.pump();
    assert_eq!(stage.prove(&second), Some(WaitingState::Unanswered));
    // Answered, but the ping was sent before the second change.
    stage.session.on_numbered_pong(1);
    assert_eq!(stage.prove(&second), Some(WaitingState::Unanswered));
    stage.session.on_numbered_pong(2);
    assert_eq!(stage.prove(&second), None);
    assert_eq!(stage.prove(&first), None, "what is behind it has been acknowledged");
    assert_eq!(stage.pings.sent, 2, "none is repeated");
}

#[tokio::test]
async fn a_client_that_waits_for_its_preface_has_no_change() {
    let (mut stage, _client) = Stage::on_socket().await;
    let change = stage.change(5, 3);
    // The session began behind the change, which is in its preface.
    stage.session.reading = Reading::Behind(change.1.offset);
    let preface = Arc::new(follow::tracker::Preface { void: true, ..Default::default() });
    let rest = PrefaceBytes::new(preface, Revision::ZERO, Arc::new(Grant::All), Encoding::Resumable);
    stage.session.preface = Some(Box::new(rest));
    assert_eq!(stage.prove(&change), Some(WaitingState::Unwritten));
    assert_eq!(stage.pings.sent, 0);
    assert!(stage.session.preface.is_none(), "it has gone out meanwhile");
    stage.session.reading = Reading::Live(change.1.offset);
    assert_eq!(stage.prove(&change), Some(WaitingState::Unanswered), "now it is asked");
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_not_even_pinged() {
    let (mut stage, _client) = Stage::on_socket().await;
    // More than the buffers of the kernel take, in many frames: a frame once begun leaves the log.
    (0..1000).for_each(|_| drop(stage.change(4, 64 << 10)));
    let change = stage.change(5, 3);
    while stage.pump() == Pumped::Yielded {}
    stage.session.on_numbered_pong(1);
    assert_eq!(stage.prove(&change), Some(WaitingState::Unwritten));
    assert_eq!(stage.pings.sent, 0);
}

#[tokio::test]
async fn pings_are_bounded() {
    let (mut stage, _client) = Stage::on_socket().await;
    let change = stage.change(5, 3);
    stage.pump();
    stage.pings.left = 0;
    assert_eq!(stage.prove(&change), Some(WaitingState::Unanswered));
    assert_eq!(stage.pings.sent, 0);
    stage.pings.left = 1;
    assert_eq!(stage.prove(&change), Some(WaitingState::Unanswered));
    assert_eq!((stage.pings.sent, stage.pings.left), (1, 0));
    assert_eq!(stage.pings.next(), None, "none may be sent");
    stage.pings.left = 5;
    assert_eq!(stage.pings.next(), Some(KEY));
    stage.session.ping_in_turn(&mut stage.pings);
    assert_eq!((stage.pings.sent, stage.pings.left), (1, 5), "it was pinged with the second question");
}

#[tokio::test]
async fn a_client_that_must_wait_is_pinged_without_another_question() {
    let (mut stage, mut client) = Stage::on_socket().await;
    let change = stage.change(5, 3);
    stage.pump();
    stage.pings.left = 0;
    for _ in 0..2 {
        assert_eq!(stage.prove(&change), Some(WaitingState::Unanswered));
    }
    // It is behind another change meanwhile, whose bytes come before the ping.
    let later = stage.change(6, 2);
    stage.pump();
    stage.pings.left = 2;
    assert_eq!(stage.pings.next(), Some(KEY));
    stage.session.ping_in_turn(&mut stage.pings);
    stage.pump();
    assert_eq!((stage.pings.next(), stage.pings.sent), (None, 1), "it stands there once");
    let mut read = [0; 15];
    client.read_exact(&mut read).await.expect("reads");
    assert_eq!(&read, b"xxxxx\x89\x08\0\0\0\0\0\0\0\x01");
    stage.session.on_numbered_pong(1);
    assert_eq!((stage.prove(&change), stage.prove(&later)), (None, None));
    assert_eq!(stage.pings.sent, 1);
}

#[tokio::test]
async fn a_stream_counts_when_its_connection_has_taken_all() {
    let (writer, reader) = stream();
    let mut stage = Stage::new(Outlet::Stream(Rc::new(writer)));
    let change = stage.change(5, 3);
    stage.pump();
    assert_eq!(stage.prove(&change), Some(WaitingState::Unanswered));
    // Something later must not be waited for.
    let _later = stage.change(6, 3);
    stage.pump();
    assert!(matches!(poll_fn(|cx| reader.poll_next(cx)).await, Next::Chunk(_)));
    assert_eq!(stage.prove(&change), None);
}

#[tokio::test]
async fn a_session_from_after_the_change_is_told_once() {
    let (mut stage, mut client) = Stage::on_socket().await;
    stage.session.missed = Revision::new(5);
    let change = stage.change(5, 3);
    stage.session.reading = Reading::Live(stage.log.end());
    assert_eq!(stage.prove(&change), Some(WaitingState::Unanswered));
    let told = push_at(5).frame(Encoding::Plain).clone();
    let mut read = vec![0; told.len() + 10];
    client.read_exact(&mut read).await.expect("reads");
    assert_eq!(read, [&told[..], b"\x89\x08\0\0\0\0\0\0\0\x01"].concat());
    assert_eq!(stage.prove(&change), Some(WaitingState::Unanswered));
    stage.session.on_numbered_pong(1);
    assert_eq!(stage.prove(&change), None);
}

#[tokio::test]
async fn a_question_without_a_change_proves_none() {
    let (mut stage, _client) = Stage::on_socket().await;
    stage.session.missed = Revision::new(5);
    let change = stage.change(5, 3);
    stage.session.reading = Reading::Live(stage.log.end());
    let look = (ReachQuestion { after: Revision::new(u64::MAX), ..stage.change(5, 0).0 }, change.1);
    stage.session.reading = Reading::Live(stage.log.end());
    assert_eq!(stage.prove(&look), Some(WaitingState::Unanswered));
    stage.session.on_numbered_pong(1);
    assert_eq!(stage.prove(&look), None);
    // The session has begun after the change of the same revision, and nobody has told it.
    assert_ne!(stage.prove(&change), None);
    assert!(!stage.session.has_reached(0, Revision::new(5)));
}

#[tokio::test]
async fn a_state_is_not_sent_behind_something_later() {
    let (mut stage, _client) = Stage::on_socket().await;
    let change = stage.change(5, 3);
    stage.session.missed = Revision::new(5);
    let _later = stage.change(6, 3);
    stage.session.reading = Reading::Live(stage.log.end());
    assert_eq!(stage.prove(&change), Some(WaitingState::Untold));
    let mut incomplete = stage.change(7, 3);
    stage.session.missed = Revision::new(7);
    stage.session.reading = Reading::Live(stage.log.end());
    incomplete.0.incomplete = true;
    assert_eq!(stage.prove(&incomplete), Some(WaitingState::Untold), "what is gone cannot be told");
}
