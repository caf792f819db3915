//! One watch: one gRPC stream on one connection, turned into whole revisions.
//!
//! In: etcd's responses, which may be fragments of a revision. Out: items of the store's watch. The reader
//! that polls the stream drives the watch: there is no queue, and a slow reader slows etcd's sending by flow
//! control.
//!
//! Life: an idle etcd sends nothing for ten minutes, so the watch requests progress every few seconds. Any
//! response is a sign of life. A request without a response for the idle timeout ends the watch. Progress
//! responses of some versions do not prove anything else: see [`super::version`].

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream};
use futures_util::{FutureExt, stream};
use shared::model::Revision;
use tokio::sync::watch;
use tokio::time::Instant;

use super::connection::MemberConnection;
use super::{MAX_MESSAGE, convert, fault};
use crate::store::{KvEvent, StoreError, WatchItem, WatchStream, prefix_end};

/// The interval of progress requests while a barrier waits.
const BARRIER_PROBE: Duration = Duration::from_millis(200);
/// The watch id of responses to progress requests, which concern the whole stream.
const REQUESTED_PROGRESS: i64 = -1;

/// The times after which a silent watch is probed, and given up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Liveness {
    pub(super) probe: Duration,
    pub(super) idle_timeout: Duration,
}

struct Watching {
    connection: Arc<MemberConnection>,
    requests: WatchRequestSender,
    responses: WatchResponseStream,
    from: Revision,
    /// Events of the last revision, which a later fragment may continue.
    incomplete: Vec<KvEvent>,
    /// The last revision that was reported to the reader as complete.
    reported: Revision,
    /// The highest revision of a barrier.
    wanted: watch::Receiver<Revision>,
    liveness: Liveness,
    next_probe: Instant,
    unanswered: Option<Instant>,
}

/// Opens a watch of `prefix` from revision `from` on.
pub(super) async fn open(
    connection: Arc<MemberConnection>,
    prefix: &str,
    from: Revision,
    wanted: watch::Receiver<Revision>,
    liveness: Liveness,
) -> Result<WatchStream, StoreError> {
    let from = from.max(Revision::new(1));
    // One revision earlier than requested, for two reasons. etcd 3.6 and later drop every progress request
    // while any watcher of the stream still waits for its first revision. A watch that starts at the next
    // revision of a quiet store would wait for ever, so its requests would get no response, and a sound watch
    // would be given up as silent. And at exactly the compacted revision etcd may have lost a delete without
    // an error (https://github.com/etcd-io/etcd/issues/19179).
    // In fragments, because a large revision in one message would exceed the limit of messages.
    let options = WatchOptions::new()
        .with_range(prefix_end(prefix))
        .with_start_revision(convert::number((from.previous()).max(Revision::new(1))))
        .with_progress_notify()
        .with_fragment();
    let mut client = connection.client.watch_client().max_decoding_message_size(MAX_MESSAGE);
    let opened = client.watch(convert::start(prefix), Some(options)).await.map_err(fault::translate)?;
    let (requests, responses) = opened.split();
    let watching = Watching {
        connection,
        requests,
        responses,
        from,
        incomplete: Vec::new(),
        reported: Revision::ZERO,
        wanted,
        liveness,
        next_probe: Instant::now() + liveness.probe,
        unanswered: None,
    };
    Ok(WatchStream::new(stream::unfold(Some(watching), |watching| async move {
        let mut watching = watching?;
        let item = watching.step().await;
        let rest = item.is_ok().then_some(watching);
        Some((item, rest))
    })))
}

impl Watching {
    async fn step(&mut self) -> Result<WatchItem, StoreError> {
        let lost = self.connection.lost.clone();
        loop {
            tokio::select! {
                // In this order: a response that has arrived must be seen before its time is found to be
                // over.
                biased;
                response = self.responses.message() => {
                    let response = response.map_err(|error| self.broken(fault::translate(error)))?;
                    let Some(response) = response else {
                        return Err(self.broken(unavailable("etcd ended the watch")));
                    };
                    if let Some(item) = self.take(response)? {
                        return Ok(item);
                    }
                }
                () = lost.cancelled() => return Err(unavailable("the connection to etcd is lost")),
                Ok(()) = self.wanted.changed() => self.next_probe = Instant::now(),
                () = tokio::time::sleep_until(self.next_probe) => self.probe()?,
            }
        }
    }

    fn probe(&mut self) -> Result<(), StoreError> {
        let now = Instant::now();
        if self.unanswered.is_some_and(|since| now - since >= self.liveness.idle_timeout) {
            return Err(self.broken(unavailable("the watch is silent")));
        }
        let barrier_waits = self.connection.progress_is_in_order && *self.wanted.borrow() > self.reported;
        self.next_probe =
            now + if barrier_waits { BARRIER_PROBE.min(self.liveness.probe) } else { self.liveness.probe };
        self.unanswered.get_or_insert(now);
        // Not awaited: a request that does not fit into the window waits behind earlier ones without a
        // response, and their timeout is what ends the watch.
        match self.requests.request_progress().now_or_never() {
            Some(Err(error)) => Err(self.broken(fault::translate(error))),
            Some(Ok(())) | None => Ok(()),
        }
    }

    fn take(&mut self, response: WatchResponse) -> Result<Option<WatchItem>, StoreError> {
        self.unanswered = None;
        let response = response.0;
        if response.canceled {
            return Err(match (convert::revision(response.compact_revision), response.cancel_reason) {
                // The only reason that a new connection cannot cure.
                (Revision::ZERO, reason) if reason.contains("permission denied") => {
                    StoreError::Refused(reason)
                }
                (Revision::ZERO, reason) => {
                    self.broken(unavailable(&format!("etcd cancelled the watch: {reason}")))
                }
                (compacted, _) => StoreError::Compacted(compacted),
            });
        }
        if response.events.is_empty() {
            let proof = response.watch_id != REQUESTED_PROGRESS || self.connection.progress_is_in_order;
            let done = convert::revision(response.header.map_or(0, |header| header.revision));
            // The response to the creation carries the newest revision, although the events up to it are
            // still to come.
            if response.created || !proof || done <= self.reported || done.next() < self.from {
                return Ok(None);
            }
            self.reported = done;
            return Ok(Some(WatchItem::Progress(done)));
        }
        let from = self.from;
        let events = response.events.into_iter().filter_map(convert::event);
        self.incomplete.extend(events.filter(|event| event.rev() >= from));
        let last = self.incomplete.last().map_or(Revision::ZERO, KvEvent::rev);
        // The last revision of a fragment may go on in the next one, so it is held back.
        let whole = match response.fragment {
            true => self.incomplete.partition_point(|event| event.rev() < last),
            false => self.incomplete.len(),
        };
        let rest = self.incomplete.split_off(whole);
        let events = std::mem::replace(&mut self.incomplete, rest);
        let Some(last) = events.last() else { return Ok(None) };
        self.reported = last.rev();
        Ok(Some(WatchItem::Events(events)))
    }

    fn broken(&self, error: StoreError) -> StoreError {
        self.connection.suspect();
        error
    }
}

fn unavailable(reason: &str) -> StoreError {
    StoreError::Unavailable(reason.to_owned())
}
