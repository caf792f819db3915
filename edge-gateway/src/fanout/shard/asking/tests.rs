//! Questions to a whole shard, in virtual time.

use std::future::poll_fn;

use shared::event::{Action, Position};
use shared::model::{Revision, ServiceRef, Tenant};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::super::run;
use super::super::tests::setup;
use super::*;
use crate::fanout::stream::{Next, Reader, stream};
use crate::fanout::{Attached, Opening, ToShard};
use crate::limits::{Limits, LimitsConfig};
use crate::metrics::SessionMetrics;
use crate::push::Push;
use crate::watch::Ticket;

const GROUP: GroupId = GroupId::new(1);

/// A shard, and the readers of its streams.
struct Stage {
    queue: mpsc::Sender<ToShard>,
    limits: Arc<Limits>,
    readers: Vec<Reader>,
}

impl Stage {
    async fn ask(&self, groups: Vec<(GroupId, bool)>) -> ShardReach {
        let rev = Revision::new(5);
        let question = Arc::new(ReachQuestion {
            after: rev.previous(),
            rev,
            age: Duration::from_secs(60),
            topic: 0,
            key: Arc::default(),
            groups,
            state: Vec::new(),
            incomplete: false,
            most: 2,
        });
        let (answer, answered) = oneshot::channel();
        self.queue.send(ToShard::Ask { question, answer }).await.expect("the shard runs");
        answered.await.expect("is answered")
    }

    /// Opens one more stream.
    async fn join(&mut self, number: u64) {
        self.readers.push(open(&self.queue, &self.limits, number).await);
    }

    async fn asked(&self) -> (u64, u64, u64, usize) {
        // Until the shard has seen who has gone. A question that comes before that counts them, too.
        tokio::time::sleep(TICK).await;
        let reach = self.ask(vec![(GROUP, false), (GroupId::new(9), false)]).await;
        (reach.watchers, reach.reached, reach.moving, reach.waiting.len())
    }
}

/// Opens a stream on a shard.
async fn open(queue: &mpsc::Sender<ToShard>, limits: &Arc<Limits>, number: u64) -> Reader {
    let ticket = Ticket::new(number);
    let missed = Revision::ZERO;
    let encoding = Encoding::Grpc;
    let reserve =
        ToShard::Reserve { ticket, group: GROUP, encoding, opening: Opening::default(), right: None, missed };
    queue.send(reserve).await.expect("the shard runs");
    let (writer, reader) = stream();
    let permit = limits.take(&ServiceRef::new(Tenant::default(), "c"), "gRPC").expect("no limit");
    let attach = ToShard::Attach { ticket, to: Attached::Stream(writer), permit };
    queue.send(attach).await.expect("the shard runs");
    reader
}

/// Runs a test on a shard with so many streams, which were all sent the change of revision 5.
fn on_shard<F: Future<Output = ()> + Send + 'static>(
    sessions: u64,
    test: impl FnOnce(Stage) -> F + Send + 'static,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    let (setup, _reports) = setup(sessions);
    let none = LimitsConfig { node: 0, domain: 0, consumer: 0, memory: 0, ..LimitsConfig::default() };
    let limits = Limits::new(none, SessionMetrics::none());
    let (queue, inbox) = mpsc::channel(16);
    let driver = runtime.spawn(async move {
        let mut readers = Vec::new();
        for number in 0..sessions {
            readers.push(open(&queue, &limits, number).await);
        }
        let at = Position::first_of(Revision::new(5));
        let push = Arc::new(Push::difference(0, at, Action::Update, Arc::default(), Arc::default()));
        queue.send(ToShard::Append { push, groups: vec![GROUP] }).await.expect("the shard runs");
        test(Stage { queue, limits, readers }).await;
    });
    run(&runtime, setup, inbox, CancellationToken::new());
    runtime.block_on(driver).expect("does not panic");
}

async fn read(reader: &Reader) {
    assert!(matches!(poll_fn(|cx| reader.poll_next(cx)).await, Next::Chunk(_)));
}

#[test]
fn every_session_is_counted_and_some_are_named() {
    on_shard(1000, async |stage| {
        assert_eq!(stage.asked().await, (1000, 0, 0, 2));
        for reader in &stage.readers[..999] {
            read(reader).await;
        }
        assert_eq!(stage.asked().await, (1000, 999, 0, 1));
        let reach = stage.ask(vec![(GROUP, false)]).await;
        let waiting = &reach.waiting[0];
        assert_eq!(waiting.consumer, Some(ServiceRef::new(Tenant::default(), "c")));
        assert_eq!((waiting.transport, waiting.state), ("grpc", WaitingState::Unanswered));
        read(&stage.readers[999]).await;
        assert_eq!(stage.asked().await, (1000, 1000, 0, 0));
    });
}

#[test]
fn watchers_that_come_and_go_between_questions_are_counted_anew() {
    on_shard(4, async |mut stage| {
        read(&stage.readers[0]).await;
        stage.asked().await;
        assert_eq!(stage.asked().await, (4, 1, 0, 2));
        // One that has acknowledged the change, and one that has not.
        drop(stage.readers.remove(0));
        drop(stage.readers.remove(0));
        assert_eq!(stage.asked().await, (2, 0, 1, 2));
        // The newcomer begins behind the change, and has nothing to read.
        stage.join(7).await;
        assert_eq!(stage.asked().await, (3, 1, 1, 2));
        for reader in &stage.readers[..2] {
            read(reader).await;
        }
        tokio::time::sleep(MOVING + Duration::from_secs(1)).await;
        assert_eq!(stage.asked().await, (3, 3, 0, 0));
    });
}

#[test]
fn a_watcher_that_leaves_untold_is_moving() {
    on_shard(3, async |mut stage| {
        // Before anybody asks, a client that leaves may not have read the change.
        drop(stage.readers.pop());
        assert_eq!(stage.asked().await, (2, 0, 1, 2));
        tokio::time::sleep(MOVING + Duration::from_secs(1)).await;
        assert_eq!(stage.asked().await, (2, 0, 0, 2));
        drop(stage.readers.pop());
        assert_eq!(stage.asked().await, (1, 0, 1, 1));
        read(&stage.readers[0]).await;
        assert_eq!(stage.asked().await, (1, 1, 1, 0));
        tokio::time::sleep(MOVING + Duration::from_secs(1)).await;
        assert_eq!(stage.asked().await, (1, 1, 0, 0));
        // It has acknowledged the change, so its way does not matter.
        drop(stage.readers.pop());
        assert_eq!(stage.asked().await, (0, 0, 0, 0));
    });
}

#[test]
fn a_restore_forgets_what_was_proven() {
    on_shard(1, async |stage| {
        read(&stage.readers[0]).await;
        stage.asked().await;
        assert_eq!(stage.asked().await, (1, 1, 0, 0));
        stage.queue.send(ToShard::Restored).await.expect("the shard runs");
        // The stream ends, because its client would resume by a revision.
        assert!(matches!(poll_fn(|cx| stage.readers[0].poll_next(cx)).await, Next::End(_)));
        assert_eq!(stage.asked().await, (0, 0, 1, 0));
    });
}
