//! Renewals of leases: one stream to etcd for all of them, with many requests in flight.
//!
//! In: calls, bundled by lease. Out: etcd's responses, matched by lease. A call for a lease that was renewed
//! a moment ago is answered at once. A call for a lease with a renewal in flight shares its response. When
//! the stream breaks, or does not respond within the deadline, every call in flight fails. The stream is
//! opened again at the next call, after a wait that grows with each failure.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Error, LeaseKeepAliveStream, LeaseKeeper};
use shared::backoff::Backoff;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::connection::{MemberConnection, MemberLink};
use super::fault;
use crate::store::{LeaseId, StoreError};

/// The most calls in the queue. Further callers wait for room, within their own deadlines.
const MAX_WAITING: usize = 4096;
/// A renewal counts as recent for a tenth of the lease's time, and no longer than this.
const MOMENT: Duration = Duration::from_secs(1);

type RenewalReply = oneshot::Sender<Result<(), StoreError>>;

/// The callers' handle. Cheap to clone.
#[derive(Clone)]
pub(super) struct KeepAlives(mpsc::Sender<(LeaseId, RenewalReply)>);

impl KeepAlives {
    /// Renews a lease. Cancel-safe. The caller sets the deadline.
    pub(super) async fn renew(&self, lease: LeaseId) -> Result<(), StoreError> {
        let (reply, replied) = oneshot::channel();
        self.0.send((lease, reply)).await.map_err(|_| closed())?;
        replied.await.map_err(|_| closed())?
    }
}

/// The renewals of one lease.
#[derive(Default)]
struct LeaseRenewal {
    /// The lease counts as recently renewed until this time.
    fresh_until: Option<Instant>,
    /// The calls that share the renewal in flight. Empty when none is in flight.
    waiting: Vec<RenewalReply>,
}

impl LeaseRenewal {
    fn is_fresh(&self, now: Instant) -> bool {
        self.fresh_until.is_some_and(|until| until > now)
    }
}

struct RenewalStream {
    connection: Arc<MemberConnection>,
    keeper: LeaseKeeper,
    responses: LeaseKeepAliveStream,
}

/// The task that owns the stream.
pub(super) struct Renewer {
    link: MemberLink,
    calls: mpsc::Receiver<(LeaseId, RenewalReply)>,
    timeout: Duration,
    renewals: HashMap<LeaseId, LeaseRenewal>,
    unsent: VecDeque<LeaseId>,
    /// Requests without a response so far, with the time by which the response is due.
    sent: VecDeque<(LeaseId, Instant)>,
    backoff: Backoff,
    /// The stream is not opened again before this time.
    retry: Instant,
}

impl Renewer {
    pub(super) fn new(link: MemberLink, timeout: Duration) -> (Self, KeepAlives) {
        let (sender, calls) = mpsc::channel(MAX_WAITING);
        let renewer = Self {
            link,
            calls,
            timeout,
            renewals: HashMap::new(),
            unsent: VecDeque::new(),
            sent: VecDeque::new(),
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(2)),
            retry: Instant::now(),
        };
        (renewer, KeepAlives(sender))
    }

    /// Serves until `closed` or `abort`.
    pub(super) async fn run(mut self, closed: CancellationToken, abort: CancellationToken) {
        tokio::select! {
            // In this order: the end of a closed store must not be logged as a broken stream.
            biased;
            () = closed.cancelled() => {}
            () = abort.cancelled() => {}
            () = self.serve() => {}
        }
    }

    async fn serve(&mut self) {
        let mut requests_taken = Vec::new();
        loop {
            if self.unsent.is_empty() {
                if self.calls.recv_many(&mut requests_taken, MAX_WAITING).await == 0 {
                    return;
                }
                requests_taken.drain(..).for_each(|(lease, answer)| self.admit(lease, answer));
                continue;
            }
            // The connector decides about the wait after a lost connection, and its reason goes to the
            // callers.
            let connection = match self.link.connection().await {
                Ok(connection) => connection,
                Err(error) => {
                    self.fail(&error);
                    continue;
                }
            };
            // Calls before the time do not put it off, since the wait grows with failures only.
            if Instant::now() < self.retry {
                let reason = "the keep-alive stream to etcd broke and is opened again in a moment";
                self.fail(&StoreError::Unavailable(reason.into()));
                continue;
            }
            match self.open(connection).await {
                Ok(Some(mut stream)) => {
                    let error = self.pipeline(&mut stream).await;
                    warn!(
                        endpoint = stream.connection.endpoint,
                        reason = %error,
                        "the keep-alive stream to etcd broke; opening it again at the next heartbeat"
                    );
                    stream.connection.suspect();
                    self.fail(&error);
                }
                Ok(None) => {}
                Err(error) => {
                    self.retry = Instant::now() + self.backoff.next_wait();
                    self.fail(&error);
                }
            }
        }
    }

    /// Opens the stream with the first lease in line, whose response comes with it. Returns `None` when that
    /// lease is unknown, because etcd's client gives no stream then.
    async fn open(&mut self, connection: Arc<MemberConnection>) -> Result<Option<RenewalStream>, StoreError> {
        let Some(lease) = self.unsent.pop_front() else { return Ok(None) };
        let mut client = connection.client.lease_client();
        match tokio::time::timeout(self.timeout, client.keep_alive(lease.get())).await {
            Ok(Ok((keeper, responses))) => {
                self.backoff.reset();
                // The client hides the time of this first lease, so the renewal cannot count as recent.
                self.answered(lease, Ok(Duration::ZERO));
                Ok(Some(RenewalStream { connection, keeper, responses }))
            }
            Ok(Err(Error::LeaseKeepAliveError(_))) => {
                self.answered(lease, Err(StoreError::LeaseNotFound));
                Ok(None)
            }
            failed => {
                connection.suspect();
                self.unsent.push_front(lease);
                Err(failed.map_or_else(
                    |_| self.silent(),
                    |result| result.map_or_else(fault::translate, |_| self.silent()),
                ))
            }
        }
    }

    /// Sends and receives until the stream breaks. Returns the reason.
    async fn pipeline(&mut self, stream: &mut RenewalStream) -> StoreError {
        let mut requests_taken = Vec::new();
        let mut sweep = tokio::time::interval(MOMENT);
        // After a stall one sweep is enough.
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next = self.unsent.front().copied();
            let due = self.sent.front().map(|(_, due)| *due);
            stream.keeper.id = next.map_or(0, LeaseId::get);
            tokio::select! {
                () = stream.connection.lost.cancelled() => {
                    return StoreError::Unavailable("the connection to etcd is lost".into());
                }
                response = stream.responses.message() => match response {
                    Ok(Some(response)) => {
                        // etcd reports a lease that does not exist as one with no time left.
                        let ttl = Duration::from_secs(response.ttl().max(0).unsigned_abs());
                        let renewed = if ttl.is_zero() { Err(StoreError::LeaseNotFound) } else { Ok(ttl) };
                        if let Some(lease) = LeaseId::new(response.id()) {
                            self.received(lease, renewed);
                        }
                    }
                    Ok(None) => return StoreError::Unavailable("etcd ended the keep-alive stream".into()),
                    Err(error) => return fault::translate(error),
                },
                sent = stream.keeper.keep_alive(), if next.is_some() => match sent {
                    Ok(()) => {
                        let lease = self.unsent.pop_front();
                        self.sent.extend(lease.map(|lease| (lease, Instant::now() + self.timeout)));
                    }
                    Err(error) => return fault::translate(error),
                },
                taken = self.calls.recv_many(&mut requests_taken, MAX_WAITING) => {
                    if taken == 0 {
                        return StoreError::Unavailable("the store was closed".into());
                    }
                    requests_taken.drain(..).for_each(|(lease, answer)| self.admit(lease, answer));
                }
                () = async { tokio::time::sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => {
                    return self.silent();
                }
                now = sweep.tick() => {
                    // Leases that ended are never removed otherwise, and the map would grow for ever.
                    self.renewals.retain(|_, renewal| !renewal.waiting.is_empty() || renewal.is_fresh(now));
                }
            }
        }
    }

    fn admit(&mut self, lease: LeaseId, answer: RenewalReply) {
        let renewal = self.renewals.entry(lease).or_default();
        if renewal.is_fresh(Instant::now()) {
            // Sending fails when the caller has stopped waiting, here and below; then nothing is left to do.
            _ = answer.send(Ok(()));
            return;
        }
        if renewal.waiting.is_empty() {
            self.unsent.push_back(lease);
        }
        renewal.waiting.push(answer);
    }

    fn received(&mut self, lease: LeaseId, renewed: Result<Duration, StoreError>) {
        // Responses come in the order of the requests, so the search normally ends at the first entry.
        if let Some(index) = self.sent.iter().position(|(sent, _)| *sent == lease) {
            self.sent.remove(index);
        }
        self.answered(lease, renewed);
    }

    fn answered(&mut self, lease: LeaseId, renewed: Result<Duration, StoreError>) {
        let Some(mut renewal) = self.renewals.remove(&lease) else { return };
        let result = renewed.map(|ttl| {
            if !ttl.is_zero() {
                let fresh_until = Some(Instant::now() + (ttl / 10).min(MOMENT));
                self.renewals.insert(lease, LeaseRenewal { fresh_until, waiting: Vec::new() });
            }
        });
        renewal.waiting.drain(..).for_each(|answer| _ = answer.send(result.clone()));
    }

    fn fail(&mut self, error: &StoreError) {
        self.unsent.clear();
        self.sent.clear();
        for (_, mut renewal) in self.renewals.drain() {
            renewal.waiting.drain(..).for_each(|answer| _ = answer.send(Err(error.clone())));
        }
    }

    fn silent(&self) -> StoreError {
        StoreError::Unavailable(format!("etcd did not answer a keep-alive within {:?}", self.timeout))
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store was closed".into())
}
