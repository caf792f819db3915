//! Many sessions that resume at once.

use std::sync::atomic::AtomicUsize;

use futures_util::future::join_all;

use super::*;

const SESSIONS: usize = 500;

/// The requests of one kind that a replica has received.
#[derive(Default)]
struct Received {
    all: AtomicUsize,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
}

impl Received {
    fn begin(&self) {
        self.all.fetch_add(1, Ordering::Relaxed);
        let under_way = self.under_way.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_under_way.fetch_max(under_way, Ordering::Relaxed);
    }

    fn end(&self) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A replica at revision 5, where each consumer uses [`provider`]. It takes its time for each answer.
async fn start_slow_replica(bus: Arc<dyn Bus>) -> [Arc<Received>; 3] {
    let received: [Arc<Received>; 3] = Default::default();
    let subjects = [subject::RPC_INTEREST, subject::RPC_REPLAY, subject::RPC_DIGEST];
    for (subject, received) in subjects.into_iter().zip(received.clone()) {
        let mut requests = bus.serve(subject, subject::REPLICAS).await.expect("the local bus is open");
        let bus = bus.clone();
        tokio::spawn(async move {
            while let Some(request) = requests.next().await {
                received.begin();
                let (bus, received) = (bus.clone(), received.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    let payload = match subject {
                        subject::RPC_INTEREST => used_provider(&request.payload),
                        subject::RPC_REPLAY => replay_nothing(&request.payload),
                        _ => {
                            pb::DigestReply { rev: 5, confirmed: true, ..Default::default() }.encode_to_vec()
                        }
                    };
                    received.end();
                    let reply =
                        Message::new(request.reply.expect("a request names its reply subject"), payload);
                    bus.publish(reply).await.expect("the local bus is open");
                });
            }
        });
    }
    received
}

fn used_provider(request: &[u8]) -> Vec<u8> {
    let request = pb::InterestRequest::decode(request).expect("a request decodes");
    let mut reply = pb::InterestReply { exists: true, rev: 5, answer: 1, ..Default::default() };
    match request.left_since {
        Some(since) => reply.left_after = Some(since),
        None => reply.providers.push((&provider()).into()),
    }
    reply.encode_to_vec()
}

/// After an outage all clients resume within moments, each from its own revision. Replicas that are asked for each of
/// them alone answer later than anyone waits.
#[tokio::test(start_paused = true)]
async fn sessions_that_resume_at_once_share_few_requests() {
    let bus: Arc<dyn Bus> = Arc::new(LocalBus::new());
    let [interests, replays, digests] = start_slow_replica(bus.clone()).await;
    let (shard, mut messages) = ShardHandle::without_shard();
    let (upstream, handle) = upstream(UpstreamConfig::default(), bus.clone(), shard);
    let stop = CancellationToken::new();
    let task = tokio::spawn(upstream.run(stop.clone()));
    tokio::spawn(async move { while messages.recv().await.is_some() {} });
    let sessions = (0..SESSIONS).map(|number| {
        let consumer = ServiceRef::new(Tenant::default(), format!("c{number}"));
        let receives = Receives { encoding: Encoding::Resumable, right: None };
        let since = Revision::new(1 + number as u64 % 4);
        handle.join(consumer.clone(), Selector::Consumer(consumer), receives, Some(since.into()))
    });
    let joined = join_all(sessions).await;
    assert!(joined.iter().all(Result::is_ok), "every session is admitted");
    let asked = replays.all.load(Ordering::Relaxed);
    assert!((1..SESSIONS / 10).contains(&asked), "{asked} requests for events of one provider");
    let most = interests.most_under_way.load(Ordering::Relaxed);
    assert!((2..SESSIONS / 2).contains(&most), "{most} requests for interests at once");
    let asked = digests.all.load(Ordering::Relaxed);
    assert!((1..10).contains(&asked), "{asked} reads of the store's revision");
    stop.cancel();
    task.await.expect("the upstream does not panic");
}
