//! One watch of the load: reads frames and holds them to the order in which the changes were made.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::registry::Wire;
use futures_util::StreamExt as _;
use tokio_tungstenite::tungstenite::Message;

use super::tally::Tally;
use crate::failure::Failure;
use crate::registry::Registry;
use crate::registry::socket::{self, Socket, Watched};

/// An open watch with what it has seen.
pub(super) struct Watcher {
    socket: Socket,
    tally: Arc<Tally>,
    slow: bool,
    /// The last number of each provider.
    seen: Vec<u64>,
    settled: bool,
}

impl Watcher {
    /// Opens the watch as old clients do.
    pub(super) async fn open(
        source: Option<IpAddr>,
        registry: &Registry,
        consumer: &str,
        timeout: Duration,
        tally: Arc<Tally>,
        slow: bool,
    ) -> Result<Self, Failure> {
        let socket =
            socket::connect_from(source, registry, Watched::Consumer(consumer), None, timeout).await?;
        let watcher = Self { socket, slow, seen: vec![0; tally.providers()], settled: false, tally };
        if slow {
            // A slow reader for whom the kernel reads would not be one.
            watcher.receive_buffer(16 * 1024);
        }
        Ok(watcher)
    }

    fn receive_buffer(&self, bytes: usize) {
        if let Wire::Plain(stream) = self.socket.get_ref() {
            // Without it the watcher is only less slow.
            let _ = socket2::SockRef::from(stream).set_recv_buffer_size(bytes);
        }
    }

    /// Reads until the connection ends.
    pub(super) async fn run(mut self) {
        let mut hurries = false;
        let (mut end, mut ended) = (self.tally.end_of_changes(), false);
        loop {
            if self.slow && !hurries {
                tokio::time::sleep(Duration::from_millis(100)).await;
                hurries = self.tally.has_ended();
                if hurries {
                    self.receive_buffer(4 << 20);
                }
            }
            let message = tokio::select! {
                biased;
                message = self.socket.next() => message,
                // The last frame may have come before the changes were declared at an end.
                _ = end.changed(), if !ended => {
                    ended = true;
                    self.settle();
                    continue;
                }
            };
            match message {
                Some(Ok(Message::Text(text))) => self.note(text.as_str()),
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                Some(Ok(_)) => {}
            }
        }
        if !self.settled {
            self.tally.lost.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn note(&mut self, frame: &str) {
        let fields = (number(frame, "\"owner\":\""), number(frame, "\"seq\":\""), number(frame, "\"at\":\""));
        let (Some(owner), Some(seq), Some(at)) = fields else { return };
        let tally = &self.tally;
        let Some(last) = self.seen.get_mut(owner as usize) else { return };
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
        self.settle();
    }

    fn settle(&mut self) {
        if !self.settled && self.tally.is_final(&self.seen) {
            self.settled = true;
            self.tally.settle();
        }
    }
}

/// The number behind `name`. The frames are our own, so a search does; parsing each would measure the parser.
fn number(frame: &str, name: &str) -> Option<u64> {
    let rest = &frame[frame.find(name)? + name.len()..];
    rest[..rest.find('"')?].parse().ok()
}
