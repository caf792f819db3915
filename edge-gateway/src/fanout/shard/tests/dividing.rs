//! Sessions of one group with different rights: each is sent all that its right admits, once and in order,
//! however its audience is divided.

use std::collections::VecDeque;
use std::task::Poll;

use access::Grant;
use proptest::prelude::*;
use shared::event::{Action, Position};
use shared::model::ServiceKey;

use super::*;
use crate::fanout::stream::Reader;
use crate::policy::{Client, Right};
use crate::push::{Encode as _, Push};

const GROUP: GroupId = GroupId::new(1);
/// The names that a grant admits; `*` is the grant for everything.
const GRANTS: [&str; 5] = ["*", "a*", "*b", "ab", "no*"];
const PROVIDERS: [&str; 4] = ["ab", "ax", "xb", "xx"];

#[derive(Clone, Debug)]
enum Step {
    /// A session with one of the grants is reserved.
    Join(usize),
    /// The session that has waited for longest gets its connection.
    Attach,
    /// A change of one of the providers.
    Change(usize),
    /// A session reads a chunk, if there is one.
    Read(usize),
    /// A session's client goes.
    Leave(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..GRANTS.len()).prop_map(Step::Join),
        3 => Just(Step::Attach),
        4 => (0..PROVIDERS.len()).prop_map(Step::Change),
        2 => (0..20_usize).prop_map(Step::Read),
        1 => (0..20_usize).prop_map(Step::Leave),
    ];
    prop::collection::vec(step, 1..60)
}

fn grant(pattern: &str) -> Grant {
    match pattern {
        "*" => Grant::All,
        _ => Grant::Labelled([[("serviceName".to_owned(), pattern.to_owned())].into()].into()),
    }
}

struct Watcher {
    grant: Grant,
    expected: Vec<u8>,
    read: Vec<u8>,
    reader: Option<Reader>,
}

impl Watcher {
    /// Reads what is there now.
    async fn read(&mut self) {
        // In virtual time this passes only when the shard has nothing to do.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let Some(reader) = &self.reader else { return };
        let next = poll_fn(|cx| match reader.poll_next(cx) {
            Poll::Ready(next) => Poll::Ready(Some(next)),
            Poll::Pending => Poll::Ready(None),
        });
        match next.await {
            Some(Next::Chunk(chunk)) => self.read.extend_from_slice(&chunk),
            Some(Next::End(reason)) => panic!("ended by {reason:?}"),
            None => {}
        }
    }
}

async fn play(steps: Vec<Step>, queue: mpsc::Sender<ToShard>) {
    let none = LimitsConfig { node: 0, domain: 0, consumer: 0, memory: 0, ..LimitsConfig::default() };
    let limits = Limits::new(none, SessionMetrics::none());
    let consumer = ServiceRef::new(Tenant::default(), "c");
    let mut watchers: Vec<Watcher> = Vec::new();
    let mut reserved = VecDeque::new();
    let attach = async |number: usize, watchers: &mut Vec<Watcher>| {
        let (writer, reader) = stream();
        let permit = limits.take(&consumer, "gRPC").expect("no limit");
        watchers[number].reader = Some(reader);
        let ticket = Ticket::new(number as u64);
        queue.send(ToShard::Attach { ticket, to: Attached::Stream(writer), permit }).await.expect("it runs");
    };
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Join(of) => {
                let grant = grant(GRANTS[of]);
                let right =
                    Right { client: Client::Unverified(Box::default()), grant: Arc::new(grant.clone()) };
                let ticket = Ticket::new(watchers.len() as u64);
                let reserve = ToShard::Reserve {
                    ticket,
                    group: GROUP,
                    encoding: Encoding::Grpc,
                    opening: Opening::default(),
                    // A session without a token has the grant for everything, too.
                    right: (grant != Grant::All).then(|| Box::new(right)),
                    missed: Revision::ZERO,
                };
                queue.send(reserve).await.expect("the shard runs");
                reserved.push_back(watchers.len());
                watchers.push(Watcher { grant, expected: Vec::new(), read: Vec::new(), reader: None });
            }
            Step::Attach => {
                if let Some(number) = reserved.pop_front() {
                    attach(number, &mut watchers).await;
                }
            }
            Step::Change(of) => {
                let name = PROVIDERS[of].to_owned();
                let key = Arc::new(ServiceKey { service_name: name, ..ServiceKey::default() });
                let at = Position::first_of(Revision::new(number as u64 + 1));
                let push = Push::difference(of as u32, at, Action::Update, key.clone(), Arc::default());
                for watcher in &mut watchers {
                    if watcher.grant.admits(crate::policy::labels_of(&key)) {
                        watcher.expected.extend_from_slice(push.frame(Encoding::Grpc));
                    }
                }
                let push = Arc::new(push);
                queue.send(ToShard::Append { push, groups: vec![GROUP] }).await.expect("the shard runs");
            }
            Step::Read(of) => {
                if let Some(watcher) = watchers.get_mut(of) {
                    watcher.read().await;
                }
            }
            Step::Leave(of) => {
                if let Some(watcher) = watchers.get_mut(of).filter(|watcher| watcher.reader.is_some()) {
                    watcher.reader = None;
                    watcher.read.clear();
                    // Nothing is expected of it any more, whatever comes.
                    watcher.expected.clear();
                    watcher.grant = grant("nothing");
                }
            }
        }
    }
    for number in reserved {
        attach(number, &mut watchers).await;
    }
    for watcher in &mut watchers {
        while watcher.reader.is_some() && watcher.read.len() < watcher.expected.len() {
            let before = watcher.read.len();
            watcher.read().await;
            assert!(watcher.read.len() > before, "the rest does not come");
        }
        watcher.read().await;
        assert_eq!(watcher.read, watcher.expected, "{:?}", watcher.grant);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn each_right_is_sent_all_that_it_admits(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime");
        let (setup, _reports) = setup(64);
        let (queue, inbox) = mpsc::channel(16);
        let driver = runtime.spawn(play(steps, queue));
        run(&runtime, setup, inbox, CancellationToken::new());
        runtime.block_on(driver).expect("does not panic");
    }
}
