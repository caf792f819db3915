//! One watch of the load: reads frames, checks that changes arrive once and in the order in which they were
//! made, and connects again when the connection ends.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt as _;
use shared::backoff::Backoff;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use super::fate::Fate;
use super::frame::{LoadFrame, ResumePoint};
use super::tally::Tally;
use crate::client::follow::MAX_SILENCE;
use crate::client::watch::{self, WatchQuery, WatchSocket};
use crate::client::{RegistryClient, ServerStream};
use crate::failure::CommandFailure;

/// Pause of a slow watcher between two frames.
const SLOW_PAUSE: Duration = Duration::from_millis(100);
/// Receive buffer of a slow watcher: so small that the server soon notices.
const SLOW_BUFFER: usize = 16 * 1024;
/// Receive buffer of a slow watcher once the changes have ended, so that it catches up.
const FAST_BUFFER: usize = 4 << 20;
/// The first and the longest pause before another attempt to connect.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// The address and the manner of a watch.
#[derive(Clone, Debug)]
pub(super) struct WatchPlan {
    /// Service id.
    pub(super) consumer: String,
    /// Address of this machine; `None` when the system may choose.
    pub(super) source: Option<IpAddr>,
    /// Reads slowly until the changes end.
    pub(super) slow: bool,
    /// Asks for revisions and resumes.
    pub(super) resumes: bool,
}

/// An open watch, with the changes it has seen.
pub(super) struct LoadWatcher {
    plan: WatchPlan,
    registry: Arc<RegistryClient>,
    socket: WatchSocket,
    tally: Arc<Tally>,
    reads_slowly: bool,
    point: Option<ResumePoint>,
    /// The last number of each provider that this watcher has seen, or that came before its connection.
    seen: Vec<u64>,
    /// Numbers of each provider up to this one may still come in any order: their change was under way when
    /// the watch was opened again. Empty before that.
    excused: Vec<u64>,
    settled: bool,
}

impl LoadWatcher {
    /// Opens a watch.
    pub(super) async fn open(
        plan: WatchPlan,
        registry: Arc<RegistryClient>,
        tally: Arc<Tally>,
    ) -> Result<Self, CommandFailure> {
        let point = plan.resumes.then(ResumePoint::default);
        let socket = connect(&plan, &registry, point.as_ref()).await?;
        let watcher = Self {
            reads_slowly: plan.slow,
            seen: vec![0; tally.providers()],
            excused: Vec::new(),
            settled: false,
            plan,
            registry,
            socket,
            tally,
            point,
        };
        watcher.fit_buffer();
        Ok(watcher)
    }

    /// With the usual buffer the kernel would read in a slow watcher's stead, and the server would notice
    /// nothing.
    fn fit_buffer(&self) {
        if !self.plan.slow {
            return;
        }
        let bytes = if self.reads_slowly { SLOW_BUFFER } else { FAST_BUFFER };
        if let ServerStream::Plain(stream) = self.socket.get_ref() {
            // After a failure the watcher is only less slow than intended.
            let _ = socket2::SockRef::from(stream).set_recv_buffer_size(bytes);
        }
    }

    /// Reads, over any number of connections. Never ends by itself.
    pub(super) async fn run(mut self) {
        loop {
            let end = self.read_until_lost().await;
            self.tally.lost_connections.count(&end);
            self.tally.away.fetch_add(1, Ordering::AcqRel);
            let lost = Instant::now();
            self.socket = self.connect_again().await;
            self.tally.away.fetch_sub(1, Ordering::AcqRel);
            let away = u64::try_from(lost.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.tally.gaps.lock().saturating_record(away);
            self.fit_buffer();
            match &mut self.point {
                Some(point) => point.resumed(),
                None => self.skip_missed(),
            }
            self.settle_if_final();
        }
    }

    /// Reads until the connection is lost, and returns the sign of that.
    async fn read_until_lost(&mut self) -> String {
        let mut end = self.tally.end_of_changes();
        let mut ended = false;
        let mut silence = std::pin::pin!(tokio::time::sleep(MAX_SILENCE));
        let mut heard = Instant::now();
        loop {
            if self.reads_slowly {
                tokio::time::sleep(SLOW_PAUSE).await;
                self.reads_slowly = !self.tally.has_ended();
                if !self.reads_slowly {
                    self.fit_buffer();
                }
            }
            let message = tokio::select! {
                biased;
                message = self.socket.next() => message,
                // The last frame may have come before the end of the changes was declared.
                _ = end.changed(), if !ended => {
                    ended = true;
                    self.settle_if_final();
                    continue;
                }
                () = &mut silence => {
                    // The timer is set anew once for many messages: a timer for each would cost more than its
                    // message.
                    if heard.elapsed() >= MAX_SILENCE {
                        return "the server went silent".to_owned();
                    }
                    silence.as_mut().reset(heard + MAX_SILENCE);
                    continue;
                }
            };
            heard = Instant::now();
            match message {
                Some(Ok(Message::Text(text))) => self.count(text.as_str()),
                Some(Ok(Message::Close(frame))) => {
                    return frame.map_or_else(
                        || "closed by the server".to_owned(),
                        |frame| format!("closed by the server with code {}", u16::from(frame.code)),
                    );
                }
                Some(Err(e)) => return format!("broken: {e}"),
                None => return "ended without a close frame".to_owned(),
                Some(Ok(_)) => {}
            }
        }
    }

    /// Tries until there is a connection.
    async fn connect_again(&self) -> WatchSocket {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            tokio::time::sleep(backoff.next_wait()).await;
            match connect(&self.plan, &self.registry, self.point.as_ref()).await {
                Ok(socket) => return socket,
                Err(failure) => {
                    self.tally.failed_watches.count(&failure.kind());
                    if let CommandFailure::TryAgain { wait: Some(wait), .. } = failure {
                        tokio::time::sleep(wait.min(RETRY.1)).await;
                    }
                }
            }
        }
    }

    /// Gives up what was changed while there was no connection: a watch without revisions begins with what
    /// comes next.
    fn skip_missed(&mut self) {
        let standing = self.tally.standing();
        for (provider, (accepted, given)) in standing.iter().enumerate() {
            let missed = self.tally.made_between(provider, self.seen[provider], accepted + 1);
            self.tally.missed_away.fetch_add(missed, Ordering::Relaxed);
            self.seen[provider] = self.seen[provider].max(*given);
        }
        self.excused = standing.into_iter().map(|(_, given)| given).collect();
    }

    fn count(&mut self, text: &str) {
        let Some(frame) = LoadFrame::find_in(text) else {
            // Bookmarks carry the point from which to resume, and no change of this run.
            if let Some(point) = &mut self.point {
                point.advance(text);
            }
            return;
        };
        let is_repeated = self.point.as_mut().is_some_and(|point| point.advance(text));
        let Some(last) = self.seen.get_mut(frame.owner) else { return };
        let tally = &self.tally;
        tally.frames.fetch_add(1, Ordering::Relaxed);
        // A change that follows a break may be known already.
        let is_excused = self.excused.get(frame.owner).is_some_and(|excused| frame.seq <= *excused);
        let (counter, number) = match Fate::of(frame, *last, is_repeated || is_excused, tally) {
            Fate::Next { skipped } => (&tally.skipped, skipped),
            Fate::Repeated => (&tally.repeated, 1),
            Fate::ToldTwice => (&tally.told_twice, 1),
            Fate::Late => (&tally.late, 1),
            Fate::OutOfOrder => (&tally.disordered, 1),
        };
        counter.fetch_add(number, Ordering::Relaxed);
        if frame.seq <= *last {
            return;
        }
        *last = frame.seq;
        if !self.plan.slow && !frame.is_state {
            tally.lag.lock().saturating_record(tally.clock.micros().saturating_sub(frame.at));
        }
        self.settle_if_final();
    }

    fn settle_if_final(&mut self) {
        if !self.settled && self.tally.is_final(&self.seen) {
            self.settled = true;
            self.tally.settle();
        }
    }
}

async fn connect(
    plan: &WatchPlan,
    registry: &RegistryClient,
    point: Option<&ResumePoint>,
) -> Result<WatchSocket, CommandFailure> {
    let since = point.map(ResumePoint::since);
    watch::open(registry, WatchQuery::Consumer(&plan.consumer), since, plan.source).await
}
