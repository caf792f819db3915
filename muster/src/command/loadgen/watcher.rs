//! One watch of the load: reads frames, and checks that changes arrive in the order in which they were made.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio_tungstenite::tungstenite::Message;

use super::tally::Tally;
use crate::client::watch::{self, WatchQuery, WatchSocket};
use crate::client::{RegistryClient, ServerStream};
use crate::failure::CommandFailure;

/// Pause of a slow watcher between two frames.
const SLOW_PAUSE: Duration = Duration::from_millis(100);
/// Receive buffer of a slow watcher: so small that the server soon notices.
const SLOW_BUFFER: usize = 16 * 1024;
/// Receive buffer of a slow watcher once the changes have ended, so that it catches up.
const FAST_BUFFER: usize = 4 << 20;

/// An open watch, with the changes it has seen.
pub(super) struct LoadWatcher {
    socket: WatchSocket,
    tally: Arc<Tally>,
    slow: bool,
    /// The last number of each provider.
    seen: Vec<u64>,
    settled: bool,
}

impl LoadWatcher {
    /// Opens a watch without revisions, because every registry has that one.
    pub(super) async fn open(
        source: Option<IpAddr>,
        registry: &RegistryClient,
        consumer: &str,
        tally: Arc<Tally>,
        slow: bool,
    ) -> Result<Self, CommandFailure> {
        let socket = watch::open(registry, WatchQuery::Consumer(consumer), None, source).await?;
        let watcher = Self { socket, slow, seen: vec![0; tally.providers()], settled: false, tally };
        if slow {
            // With the usual buffer the kernel would read in the watcher's stead, and the server would notice
            // nothing.
            watcher.set_receive_buffer(SLOW_BUFFER);
        }
        Ok(watcher)
    }

    fn set_receive_buffer(&self, bytes: usize) {
        if let ServerStream::Plain(stream) = self.socket.get_ref() {
            // After a failure the watcher is only less slow than intended.
            let _ = socket2::SockRef::from(stream).set_recv_buffer_size(bytes);
        }
    }

    /// Reads until the connection ends.
    pub(super) async fn run(mut self) {
        let mut reads_slowly = self.slow;
        let mut end = self.tally.end_of_changes();
        let mut ended = false;
        loop {
            if reads_slowly {
                tokio::time::sleep(SLOW_PAUSE).await;
                reads_slowly = !self.tally.has_ended();
                if !reads_slowly {
                    self.set_receive_buffer(FAST_BUFFER);
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
            };
            match message {
                Some(Ok(Message::Text(text))) => self.count(text.as_str()),
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                Some(Ok(_)) => {}
            }
        }
        if !self.settled {
            self.tally.lost.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn count(&mut self, frame: &str) {
        // Frames without these fields are not changes of this run: an instance that was registered, for
        // example.
        let Some(owner) = number(frame, "\"owner\":\"") else { return };
        let Some(seq) = number(frame, "\"seq\":\"") else { return };
        let Some(at) = number(frame, "\"at\":\"") else { return };
        let Some(last) = self.seen.get_mut(owner as usize) else { return };
        let tally = &self.tally;
        tally.frames.fetch_add(1, Ordering::Relaxed);
        if seq <= *last {
            tally.disordered.fetch_add(1, Ordering::Relaxed);
            return;
        }
        tally.skipped.fetch_add(seq - *last - 1, Ordering::Relaxed);
        *last = seq;
        if !self.slow {
            tally.lag.lock().saturating_record(tally.clock.micros().saturating_sub(at));
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

/// The number behind `name`. The frames come from this run, so a search is enough; to parse each of them
/// would measure the parser.
fn number(frame: &str, name: &str) -> Option<u64> {
    let rest = &frame[frame.find(name)? + name.len()..];
    rest[..rest.find('"')?].parse().ok()
}
