//! Renewals: one stream to etcd for all leases, many requests under way at once.
//!
//! In: requests of callers, bundled by lease. Out: etcd's answers, matched by lease. A lease that was renewed
//! a moment ago is answered at once; one whose renewal is under way shares its answer. A stream that breaks, or
//! does not answer within the deadline, fails what is under way; it is opened again when the next call comes,
//! after a wait that grows with each failure.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Error, LeaseKeepAliveStream, LeaseKeeper};
use shared::backoff::Backoff;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::connection::{Connection, Link};
use super::fault;
use crate::store::{LeaseId, StoreError};

/// Callers waiting to be looked at; when they are more they wait within their own deadline.
const WAITING: usize = 4096;
/// A renewal counts as "a moment ago" for a tenth of the lease's time, and this at most.
const MOMENT: Duration = Duration::from_secs(1);

type Answer = oneshot::Sender<Result<(), StoreError>>;

/// Asks for renewals. Cheap to clone.
#[derive(Clone)]
pub(super) struct KeepAlives(mpsc::Sender<(LeaseId, Answer)>);

impl KeepAlives {
    /// Renews a lease. Cancel-safe. The caller sets the deadline.
    pub(super) async fn renew(&self, lease: LeaseId) -> Result<(), StoreError> {
        let closed = || StoreError::Unavailable("the store was closed".into());
        let (answer, answered) = oneshot::channel();
        self.0.send((lease, answer)).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }
}

/// The renewals of one lease.
#[derive(Default)]
struct Beat {
    /// Until when it counts as renewed a moment ago.
    fresh_until: Option<Instant>,
    /// Who waits for the renewal that is under way; empty when none is.
    waiting: Vec<Answer>,
}

struct Stream {
    connection: Arc<Connection>,
    keeper: LeaseKeeper,
    responses: LeaseKeepAliveStream,
}

/// The one who holds the stream.
pub(super) struct Renewer {
    link: Link,
    asked: mpsc::Receiver<(LeaseId, Answer)>,
    timeout: Duration,
    beats: HashMap<LeaseId, Beat>,
    unsent: VecDeque<LeaseId>,
    /// Sent and not answered, with the time by which an answer is due.
    sent: VecDeque<(LeaseId, Instant)>,
    backoff: Backoff,
    /// Not before this is the stream opened again.
    retry: Instant,
}

impl Renewer {
    pub(super) fn new(link: Link, timeout: Duration) -> (Self, KeepAlives) {
        let (ask, asked) = mpsc::channel(WAITING);
        let renewer = Self {
            link,
            asked,
            timeout,
            beats: HashMap::new(),
            unsent: VecDeque::new(),
            sent: VecDeque::new(),
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(2)),
            retry: Instant::now(),
        };
        (renewer, KeepAlives(ask))
    }

    /// Serves until `closed` or `abort`.
    pub(super) async fn run(mut self, closed: CancellationToken, abort: CancellationToken) {
        tokio::select! {
            // In this order: a store that was closed has not lost its stream.
            biased;
            () = closed.cancelled() => {}
            () = abort.cancelled() => {}
            () = self.serve() => {}
        }
    }

    async fn serve(&mut self) {
        let mut asks = Vec::new();
        loop {
            if self.unsent.is_empty() {
                if self.asked.recv_many(&mut asks, WAITING).await == 0 {
                    return;
                }
                asks.drain(..).for_each(|(lease, answer)| self.admit(lease, answer));
                continue;
            }
            // Why there is no connection, and when it is tried again, is not decided here.
            let connection = match self.link.connection().await {
                Ok(connection) => connection,
                Err(error) => {
                    self.fail(&error);
                    continue;
                }
            };
            // Asking early does not put it off: the wait grows with failures only.
            if Instant::now() < self.retry {
                let why = "the keep-alive stream is about to be opened again";
                self.fail(&StoreError::Unavailable(why.into()));
                continue;
            }
            match self.open(connection).await {
                Ok(Some(mut stream)) => {
                    let error = self.pipeline(&mut stream).await;
                    warn!(endpoint = stream.connection.endpoint, reason = %error, "the keep-alive stream is broken");
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

    /// Opens the stream with the first lease in line, whose answer comes with it. `None` when that lease is
    /// unknown: etcd's client gives no stream then.
    async fn open(&mut self, connection: Arc<Connection>) -> Result<Option<Stream>, StoreError> {
        let Some(lease) = self.unsent.pop_front() else { return Ok(None) };
        let mut client = connection.client.lease_client();
        match tokio::time::timeout(self.timeout, client.keep_alive(lease)).await {
            Ok(Ok((keeper, responses))) => {
                self.backoff.reset();
                // How long the lease lives is not told here, so this renewal is not remembered.
                self.answered(lease, Ok(Duration::ZERO));
                Ok(Some(Stream { connection, keeper, responses }))
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

    /// Sends and receives until the stream breaks; says why it did.
    async fn pipeline(&mut self, stream: &mut Stream) -> StoreError {
        let mut asks = Vec::new();
        let mut sweep = tokio::time::interval(MOMENT);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next = self.unsent.front().copied();
            let due = self.sent.front().map(|(_, due)| *due);
            stream.keeper.id = next.unwrap_or_default();
            tokio::select! {
                () = stream.connection.lost.cancelled() => {
                    return StoreError::Unavailable("the connection to etcd is lost".into());
                }
                response = stream.responses.message() => match response {
                    Ok(Some(response)) => {
                        let ttl = Duration::from_secs(response.ttl().max(0).unsigned_abs());
                        let renewed = if ttl.is_zero() { Err(StoreError::LeaseNotFound) } else { Ok(ttl) };
                        self.received(response.id(), renewed);
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
                taken = self.asked.recv_many(&mut asks, WAITING) => {
                    if taken == 0 {
                        return StoreError::Unavailable("the store was closed".into());
                    }
                    asks.drain(..).for_each(|(lease, answer)| self.admit(lease, answer));
                }
                () = async { tokio::time::sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => {
                    return self.silent();
                }
                now = sweep.tick() => {
                    let fresh = |beat: &Beat| beat.fresh_until.is_some_and(|until| until > now);
                    self.beats.retain(|_, beat| !beat.waiting.is_empty() || fresh(beat));
                }
            }
        }
    }

    fn admit(&mut self, lease: LeaseId, answer: Answer) {
        let beat = self.beats.entry(lease).or_default();
        if beat.fresh_until.is_some_and(|until| until > Instant::now()) {
            // A closed receiver has stopped waiting; there is nobody to tell, here and below.
            _ = answer.send(Ok(()));
            return;
        }
        if beat.waiting.is_empty() {
            self.unsent.push_back(lease);
        }
        beat.waiting.push(answer);
    }

    fn received(&mut self, lease: LeaseId, renewed: Result<Duration, StoreError>) {
        // Answers come in the order of the requests; anything else is searched for.
        if let Some(place) = self.sent.iter().position(|(sent, _)| *sent == lease) {
            self.sent.remove(place);
        }
        self.answered(lease, renewed);
    }

    fn answered(&mut self, lease: LeaseId, renewed: Result<Duration, StoreError>) {
        let Some(mut beat) = self.beats.remove(&lease) else { return };
        let result = renewed.map(|ttl| {
            if !ttl.is_zero() {
                let fresh_until = Some(Instant::now() + (ttl / 10).min(MOMENT));
                self.beats.insert(lease, Beat { fresh_until, waiting: Vec::new() });
            }
        });
        beat.waiting.drain(..).for_each(|answer| _ = answer.send(result.clone()));
    }

    fn fail(&mut self, error: &StoreError) {
        self.unsent.clear();
        self.sent.clear();
        for (_, mut beat) in self.beats.drain() {
            beat.waiting.drain(..).for_each(|answer| _ = answer.send(Err(error.clone())));
        }
    }

    fn silent(&self) -> StoreError {
        StoreError::Unavailable(format!("etcd did not answer a keep-alive within {:?}", self.timeout))
    }
}
