//! The body of an answer, and the deadline of an HTTP/2 stream whose peer does not read.
//!
//! On HTTP/1 an answer that is not read blocks the socket, whose writes have a deadline. On HTTP/2 it blocks
//! its stream alone: the connection goes on, with pings and other streams. So each stream is timed here, from
//! the moment that a piece of its answer waits for the peer.
//!
//! Answers are handed over in small pieces, because hyper queues a whole piece as soon as the peer has room
//! for one byte of it, and forgets the stream with the last one. If the end of the answer is known, its last
//! byte is a piece of its own, so nothing but that byte is queued unless the peer has room for it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Sleep;

use super::activity::Running;

/// The largest piece of an answer on HTTP/2: one frame, unless the peer allows larger ones.
const PIECE: usize = 16 * 1024;

tokio::task_local! {
    /// The HTTP/2 stream of the current task.
    static STREAM: Unread;
}

/// The number of the piece that waits for the peer, 0 while none does. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Unread(Arc<Pieces>);

#[derive(Debug, Default)]
struct Pieces {
    handed: AtomicU64,
    waiting: AtomicU64,
}

impl Unread {
    /// Runs a stream; false if it was given up because the peer took nothing for `timeout`.
    pub(super) async fn end_if_stalled(self, stream: impl Future<Output = ()>, timeout: Duration) -> bool {
        let mut stream = std::pin::pin!(STREAM.scope(self.clone(), stream));
        let mut stalled: Option<(u64, Pin<Box<Sleep>>)> = None;
        std::future::poll_fn(|cx| {
            if stream.as_mut().poll(cx).is_ready() {
                return Poll::Ready(true);
            }
            let waiting = self.waiting();
            if waiting == 0 {
                // The handler works, or the answer has nothing new.
                stalled = None;
                return Poll::Pending;
            }
            // A new piece means that the peer has taken the one before.
            let (_, sleep) = match &mut stalled {
                Some(stalled) if stalled.0 == waiting => stalled,
                other => other.insert((waiting, Box::pin(tokio::time::sleep(timeout)))),
            };
            sleep.as_mut().poll(cx).map(|()| false)
        })
        .await
    }

    fn waiting(&self) -> u64 {
        // Relaxed, because the stream's task alone reads and writes it.
        self.0.waiting.load(Ordering::Relaxed)
    }

    fn handed_over(&self) {
        let number = self.0.handed.fetch_add(1, Ordering::Relaxed) + 1;
        self.0.waiting.store(number, Ordering::Relaxed);
    }

    fn taken(&self) {
        self.0.waiting.store(0, Ordering::Relaxed);
    }
}

/// The body of an answer. Its request counts as running until the body is dropped.
#[derive(Debug)]
pub(super) struct AnswerBody {
    body: Body,
    /// The part of the last frame that was not handed over yet. Always empty on HTTP/1.
    rest: Bytes,
    /// The stream on HTTP/2, `None` on HTTP/1.
    stream: Option<Unread>,
    #[expect(dead_code, reason = "held for its drop")]
    running: Running,
}

impl AnswerBody {
    /// Must be called in the task of the request's stream.
    pub(super) fn new(body: Body, running: Running) -> Self {
        Self { body, rest: Bytes::new(), stream: STREAM.try_with(Unread::clone).ok(), running }
    }

    fn next_piece(&mut self) -> Bytes {
        let room = match self.rest.len() {
            0 | 1 => 1,
            length if self.body.is_end_stream() => length - 1,
            length => length,
        };
        self.rest.split_to(room.min(PIECE).min(self.rest.len()))
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(stream) = self.stream.clone() else { return Pin::new(&mut self.body).poll_frame(cx) };
        // A body is polled again only when the peer has made room for the piece before.
        stream.taken();
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                ended => return Poll::Ready(ended),
            }
        }
        stream.handed_over();
        Poll::Ready(Some(Ok(Frame::data(self.next_piece()))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let hint = self.body.size_hint();
        let mut whole = SizeHint::new();
        whole.set_lower(hint.lower().saturating_add(rest));
        if let Some(upper) = hint.upper() {
            whole.set_upper(upper.saturating_add(rest));
        }
        whole
    }
}
