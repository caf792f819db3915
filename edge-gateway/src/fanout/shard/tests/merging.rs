//! A slow session whose pushes are merged: no revision is confirmed to it whose changes it lacks, however far the
//! bookmarks are behind, and it is sent bookmarks again after it has caught up.

use std::collections::HashMap;
use std::task::Poll;

use proptest::prelude::*;
use shared::event::{Action, Position};
use shared::model::Instance;

use super::*;
use crate::fanout::merge::tests::{Step, Truth, Watcher, history};
use crate::fanout::stream::Reader;
use crate::push::Push;

const GROUP: GroupId = GroupId::new(1);

/// The client's end.
struct Client {
    reader: Reader,
    bytes: Vec<u8>,
    watcher: Watcher,
    bookmarked: u64,
}

impl Client {
    /// Reads a chunk if there is one; checks the events that are whole with it. False when there was none.
    async fn read(&mut self, truth: &Truth) -> bool {
        // In virtual time this passes only when the shard has nothing to do.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let next = poll_fn(|cx| match self.reader.poll_next(cx) {
            Poll::Ready(next) => Poll::Ready(Some(next)),
            Poll::Pending => Poll::Ready(None),
        });
        match next.await {
            Some(Next::Chunk(chunk)) => self.bytes.extend_from_slice(&chunk),
            Some(Next::End(reason)) => panic!("ended by {reason:?}"),
            None => return false,
        }
        while let Some(end) = self.bytes.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = self.bytes.drain(..end + 2).collect();
            let event = str::from_utf8(&event).expect("text");
            if let Some((_, data)) = event.split_once("data: ") {
                self.check(serde_json::from_str(data).expect("JSON"), truth);
            }
        }
        true
    }

    fn check(&mut self, event: serde_json::Value, truth: &Truth) {
        let rev = event["rev"].as_u64().expect("a revision");
        let action = match event["action"].as_str() {
            Some("BOOKMARK") => {
                self.bookmarked = rev;
                return self.watcher.lacks_nothing(truth, rev);
            }
            Some("CREATE") => Action::Create,
            Some("UPDATE") => Action::Update,
            _ => Action::Delete,
        };
        let id = event["instance"]["instanceId"].as_str().expect("an id");
        let (topic, id) = id.split_once('-').expect("two numbers");
        let id = (topic.parse().expect("a topic"), id.parse().expect("a number"));
        self.watcher.receive(truth, rev, action, id);
        self.watcher.lacks_nothing(truth, event["since"].as_u64().unwrap_or(rev));
    }
}

fn push(rev: u64, confirmed: u64, action: Action, (topic, id): (u32, u8)) -> Arc<Push> {
    let instance = Instance { instance_id: format!("{topic}-{id}"), ..Instance::default() };
    let at = Position::first_of(Revision::new(rev));
    let push = Push::difference(topic, at, action, Arc::default(), Arc::new(instance));
    push.set_resume_point(Revision::new(confirmed));
    Arc::new(push)
}

async fn play(history: Vec<Step>, queue: mpsc::Sender<ToShard>) {
    let none = LimitsConfig { node: 0, domain: 0, consumer: 0, memory: 0, ..LimitsConfig::default() };
    let permit = Limits::new(none, SessionMetrics::none());
    let permit = permit.take(&ServiceRef::new(Tenant::default(), "c"), "SSE").expect("no limit");
    let send = async |message| queue.send(message).await.expect("the shard runs");
    let (writer, reader) = stream();
    let ticket = Ticket::new(0);
    send(ToShard::Reserve {
        ticket,
        group: GROUP,
        encoding: Encoding::EventStream,
        opening: Opening::default(),
        right: None,
        missed: Revision::ZERO,
    })
    .await;
    send(ToShard::Attach { ticket, to: Attached::Stream(writer), permit }).await;

    let mut client = Client { reader, bytes: Vec::new(), watcher: Watcher::default(), bookmarked: 0 };
    let mut truth = Truth::default();
    let (mut confirmed, mut last) = (0, 0);
    for (step, rev) in history.into_iter().zip(1_u64..) {
        match step {
            Step::Change { id, delete } => {
                let push = push(rev, confirmed, truth.change(id, delete, rev), id);
                send(ToShard::Append { push, groups: vec![GROUP] }).await;
                // Each is written by itself, so that eight of them fill the stream.
                tokio::time::sleep(Duration::from_millis(1)).await;
                last = rev;
            }
            Step::Confirm => {
                confirmed = last;
                let rev = Revision::new(confirmed);
                send(ToShard::Bookmark { rev, everyone: true, behind: Arc::default() }).await;
            }
            Step::Read(most) => {
                for _ in 0..most {
                    client.read(&truth).await;
                }
            }
        }
    }
    while client.read(&truth).await {}
    // Not to everyone, but to those who wait for one: the first may end the merging, and then the second is sent.
    for _ in 0..2 {
        let behind = Arc::<HashMap<_, _>>::default();
        send(ToShard::Bookmark { rev: Revision::new(last), everyone: false, behind }).await;
        while client.read(&truth).await {}
    }
    assert_eq!(client.bookmarked, last);
    client.watcher.lacks_nothing(&truth, last);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn nothing_is_confirmed_that_a_merged_session_lacks(history in history()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime");
        let (setup, _reports) = setup(1);
        let setup = Setup { slow_after: 0, ..setup };
        let (queue, inbox) = mpsc::channel(16);
        let driver = runtime.spawn(play(history, queue));
        run(&runtime, setup, inbox, CancellationToken::new());
        runtime.block_on(driver).expect("does not panic");
    }
}
