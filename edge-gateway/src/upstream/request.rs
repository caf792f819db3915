//! Requests as values: each runs in a task of its own, and its end is accounted for whatever happens to that
//! task.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bus::Messages;
use follow::reply::{InterestReply, TopicReplay, Want};
use follow::resume::EventsRequest;
use follow::suspicion::Confirmation;
use follow::tracker::{Departures, Digests};
use futures_util::StreamExt as _;
use shared::model::{Revision, ServiceRef};
use shared::subject;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};

use super::joining::ResumeKey;
use super::requester::{Comparison, RequestError, Requester};
use crate::watch::{GroupId, Selector};

/// Subscriptions that one request makes at the same time.
const SUBSCRIBE_AT_ONCE: usize = 32;
/// The pause before a request whose task panicked is made again. Long enough that a panic which repeats
/// itself does not fill the log.
const PAUSE_AFTER_PANIC: Duration = Duration::from_secs(1);

/// A request of the upstream. It holds everything that is needed to make it once more.
#[derive(Clone, Debug)]
pub(super) enum Request {
    /// Subscribe to bookmarks.
    Bookmarks,
    /// Subscribe to changes of a group's interest, then request the interest.
    OpenInterest(GroupId, Selector),
    /// Request a group's interest, which is known as it was at `known_at`, after a random part of `jitter`.
    Interest { group: GroupId, selector: Selector, known_at: Option<Revision>, jitter: Duration },
    /// Subscribe to the events of providers, then request their replays.
    OpenTopics(Vec<Want>),
    /// Request replays, after a random part of `jitter`.
    Replay { wants: Vec<Want>, jitter: Duration },
    /// Request older events for one group.
    CatchUp(GroupId, Want),
    /// Request the events that resuming sessions missed.
    MissedEvents(EventsRequest<ResumeKey>),
    /// Request the departures from a group's interest.
    Departures { group: GroupId, selector: Selector, since: Revision },
    /// Request the store's revision for resuming sessions.
    ResumeRevision,
    /// Request the store's revision and incarnation because bookmarks stay behind `seen`, the highest
    /// revision at that time, or tell of another incarnation.
    ConfirmRestore { seen: Revision },
    /// Ask a replica to compare digests.
    Compare(Digests),
}

/// The reply to a request.
pub(super) enum Reply {
    Bookmarks(Messages),
    Interest(GroupId, Option<Messages>, InterestReply),
    TopicsOpened(Vec<(Want, Messages, TopicReplay)>),
    Replay(Vec<(Want, TopicReplay)>),
    CaughtUp(GroupId, ServiceRef, TopicReplay),
    MissedEvents(EventsRequest<ResumeKey>, Vec<TopicReplay>),
    Departures(GroupId, Departures),
    ResumeRevision(Revision),
    ConfirmRestore { store: Result<Confirmation, RequestError>, seen: Revision },
    Compared(Digests, Result<Comparison, RequestError>),
}

/// The parts of the upstream that requests use.
#[derive(Clone)]
pub(super) struct Resources {
    pub(super) requester: Requester,
    /// One permit for each replay request that may be under way.
    pub(super) replays: Arc<Semaphore>,
    /// The most providers in one request.
    pub(super) batch: usize,
}

/// A request that has ended.
pub(super) enum Ended {
    Replied(Reply),
    /// The request was cancelled on purpose; nobody awaits its reply.
    Cancelled,
    /// The request's task panicked.
    Panicked(Request, JoinError),
}

/// The requests that are under way, each under the id of its task.
#[derive(Default)]
pub(super) struct Requests {
    tasks: JoinSet<Reply>,
    // The request itself is kept beside its task: a task that panics loses everything that it owned, and the
    // topics and groups that await the reply would wait for ever.
    under_way: HashMap<Id, Request>,
}

impl Requests {
    /// Starts a request. Dropping the returned handle does not cancel it.
    pub(super) fn start(&mut self, request: Request, resources: &Resources) -> AbortHandle {
        self.start_after(Duration::ZERO, request, resources)
    }

    /// Makes a request again whose task has panicked, after a pause.
    pub(super) fn start_again(&mut self, request: Request, resources: &Resources) -> AbortHandle {
        self.start_after(PAUSE_AFTER_PANIC, request, resources)
    }

    fn start_after(&mut self, pause: Duration, request: Request, resources: &Resources) -> AbortHandle {
        let resources = resources.clone();
        let for_task = request.clone();
        let task = self.tasks.spawn(async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            run(for_task, resources).await
        });
        self.under_way.insert(task.id(), request);
        task
    }

    /// The next request that ends. `None` when none is under way. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Ended> {
        let (id, ended) = match self.tasks.join_next_with_id().await? {
            Ok((id, reply)) => (id, Ok(reply)),
            Err(error) => (error.id(), Err(error)),
        };
        let request = self.under_way.remove(&id);
        Some(match (ended, request) {
            (Ok(reply), _) => Ended::Replied(reply),
            (Err(error), Some(request)) if error.is_panic() => Ended::Panicked(request, error),
            (Err(_), _) => Ended::Cancelled,
        })
    }

    /// True while digests are being compared, in however many requests.
    pub(super) fn is_comparing(&self) -> bool {
        self.under_way.values().any(|request| matches!(request, Request::Compare(_)))
    }

    /// Cancels every request.
    pub(super) fn cancel_all(&mut self) {
        *self = Self::default();
    }
}

async fn run(request: Request, resources: Resources) -> Reply {
    let Resources { requester, replays, batch } = resources;
    match request {
        Request::Bookmarks => Reply::Bookmarks(requester.subscribe(subject::BOOKMARK).await),
        Request::OpenInterest(group, selector) => {
            let messages = requester.subscribe(&selector.subject()).await;
            let interest = requester.interest(&selector, None).await;
            Reply::Interest(group, Some(messages), interest)
        }
        Request::Interest { group, selector, known_at, jitter } => {
            sleep_up_to(jitter).await;
            Reply::Interest(group, None, requester.interest(&selector, known_at).await)
        }
        Request::OpenTopics(wants) => Reply::TopicsOpened(open_topics(wants, &requester).await),
        Request::Replay { wants, jitter } => {
            sleep_up_to(jitter).await;
            // The semaphore is never closed, so this is always a permit.
            let _permit = replays.acquire().await;
            let replays = requester.replay(&wants).await;
            Reply::Replay(wants.into_iter().zip(replays).collect())
        }
        Request::CatchUp(group, want) => {
            let replays = requester.replay(std::slice::from_ref(&want)).await;
            Reply::CaughtUp(group, want.provider, replays.into_iter().next().unwrap_or_default())
        }
        Request::MissedEvents(request) => {
            let replays = requester.replay(request.wants()).await;
            Reply::MissedEvents(request, replays)
        }
        Request::Departures { group, selector, since } => {
            Reply::Departures(group, requester.departures(&selector, since, batch).await)
        }
        Request::ResumeRevision => Reply::ResumeRevision(requester.store_revision().await),
        Request::ConfirmRestore { seen } => {
            Reply::ConfirmRestore { store: requester.try_confirm().await, seen }
        }
        Request::Compare(digests) => {
            let comparison = requester.compare(&digests).await;
            Reply::Compared(digests, comparison)
        }
    }
}

/// Subscribes to the events of each provider, and only then requests the replays: an event that is published
/// in between is in at least one of the two.
async fn open_topics(wants: Vec<Want>, requester: &Requester) -> Vec<(Want, Messages, TopicReplay)> {
    let subjects: Vec<String> = wants.iter().map(|want| subject::event(&want.provider)).collect();
    let messages: Vec<Messages> = futures_util::stream::iter(subjects)
        .map(|subject| async move { requester.subscribe(&subject).await })
        .buffered(SUBSCRIBE_AT_ONCE)
        .collect()
        .await;
    let replays = requester.replay(&wants).await;
    let opened = wants.into_iter().zip(messages).zip(replays);
    opened.map(|((want, messages), replay)| (want, messages, replay)).collect()
}

async fn sleep_up_to(longest: Duration) {
    tokio::time::sleep(shared::backoff::jitter(longest, 0.0..=1.0)).await;
}
