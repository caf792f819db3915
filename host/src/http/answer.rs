//! The body of an answer, and the deadline of an HTTP/2 stream whose peer does not read.
//!
//! On HTTP/1 an answer that is not read blocks the socket, whose writes have a deadline. On HTTP/2 it blocks
//! its stream alone: the connection goes on, with pings and other streams. So each stream is timed here, from
//! the moment that a piece of its answer waits for the peer. A peer that takes one piece after another, each in the last
//! moment, would hold an answer for hours; so an answer whose length is known has a pace as well.
//!
//! Answers are handed over in small pieces, because hyper queues a whole piece as soon as the peer has room
//! for one byte of it, and forgets the stream with the last one. If the end of the answer is known, its last
//! byte is a piece of its own, so nothing but that byte is queued unless the peer has room for it.
//!
//! Large answers that were made for one request alone count together, as `held` says.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::Response;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::activity::{Awaited, Running, Waiting};
use super::held::{COUNTED_FROM, HeldAnswers, HeldBytes, Hold, Holder, held_frame};

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
    /// The length of the answer is not known, as that of a watch, which may go on for days. It has no pace.
    is_endless: AtomicBool,
    /// The answer must end, to make room for others.
    is_given_up: AtomicBool,
    waker: AtomicWaker,
}

/// The way in which a stream has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamEnd {
    /// By itself.
    Done,
    /// The peer took nothing for the write timeout, or the pieces of an answer with an end too slowly for longer than
    /// that.
    Stalled,
    /// To make room for other answers.
    GivenUp,
}

impl Unread {
    /// Ends the stream, to make room for other answers.
    pub(super) fn give_up(&self) {
        self.0.is_given_up.store(true, Ordering::Release);
        self.0.waker.wake();
    }

    /// Runs a stream until it ends, its peer is too slow, or it is given up.
    pub(super) async fn end_if_stalled(
        self,
        stream: impl Future<Output = ()>,
        timeout: Duration,
    ) -> StreamEnd {
        let mut stream = std::pin::pin!(STREAM.scope(self.clone(), stream));
        let mut stalled: Option<Stalled> = None;
        // The time for which the pieces before have waited.
        let mut waited = Duration::ZERO;
        std::future::poll_fn(|cx| {
            if stream.as_mut().poll(cx).is_ready() {
                return Poll::Ready(StreamEnd::Done);
            }
            self.0.waker.register(cx.waker());
            if self.0.is_given_up.load(Ordering::Acquire) {
                return Poll::Ready(StreamEnd::GivenUp);
            }
            let waiting = self.waiting();
            // A new piece means that the peer has taken the one before.
            if let Some(taken) = stalled.take_if(|stalled| stalled.piece != waiting) {
                waited += taken.since.elapsed();
            }
            if waiting == 0 {
                // The handler works, or the answer has nothing new.
                return Poll::Pending;
            }
            let stalled = stalled.get_or_insert_with(|| {
                let patience = if self.0.is_endless.load(Ordering::Relaxed) {
                    timeout
                } else {
                    patience(timeout, waiting.saturating_mul(PIECE as u64), waited)
                };
                let end = Box::pin(tokio::time::sleep(patience));
                Stalled { piece: waiting, since: Instant::now(), end }
            });
            stalled.end.as_mut().poll(cx).map(|()| StreamEnd::Stalled)
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

/// The time for which the next byte of an answer with an end may wait, after `taken` bytes whose waits took `waited`
/// together. Each 16 KiB add a second to the write timeout, so a peer that takes as much in a second is never ended.
pub(super) fn patience(timeout: Duration, taken: u64, waited: Duration) -> Duration {
    let earned = Duration::from_secs(taken / PIECE as u64);
    timeout.min(timeout.saturating_add(earned).saturating_sub(waited))
}

/// A piece that waits for the peer.
struct Stalled {
    piece: u64,
    since: Instant,
    end: Pin<Box<Sleep>>,
}

/// The body of an answer. Its request counts as running until the body is dropped.
#[derive(Debug)]
pub(super) struct AnswerBody {
    body: Body,
    /// The part of the last frame that was not handed over yet. Always empty on HTTP/1.
    rest: Bytes,
    /// The stream on HTTP/2, `None` on HTTP/1.
    stream: Option<Unread>,
    /// Since the last piece, as long as the peer has not made room for the next one.
    waiting: Option<Waiting>,
    /// `None` if the answer does not count.
    hold: Option<Arc<Hold>>,
    running: Running,
}

impl AnswerBody {
    /// The answer with a body that counts among those of `held`. Must be called in the task of the request's stream.
    pub(super) fn of(answer: Response<Body>, running: Running, held: &Arc<HeldAnswers>) -> Response<Self> {
        let length = answer.body().size_hint().exact();
        let held_bytes = answer.extensions().get::<HeldBytes>().cloned();
        let all = || length.map_or(0, |length| usize::try_from(length).unwrap_or(usize::MAX));
        let held_bytes = held_bytes.unwrap_or_else(|| HeldBytes::own(all()));
        let stream = STREAM.try_with(Unread::clone).ok();
        match &stream {
            Some(stream) => stream.0.is_endless.store(length.is_none(), Ordering::Relaxed),
            None => running.activity().answer_begins(length.is_none()),
        }
        let hold = held_bytes.counts().then(|| {
            let connection = running.activity().clone();
            let holder = match &stream {
                Some(stream) => Holder::Stream(stream.clone(), connection),
                None => Holder::Connection(connection),
            };
            held.hold(held_bytes, holder)
        });
        answer.map(|body| Self { body, rest: Bytes::new(), stream, waiting: None, hold, running })
    }

    /// The next frame on HTTP/1. Hyper takes a frame as a whole and writes it later, when this body may be gone.
    fn next_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        polled.map_ok(|frame| {
            frame.map_data(|data| {
                if data.len() < COUNTED_FROM {
                    return data;
                }
                held_frame(data, self.hold.clone(), self.running.again())
            })
        })
    }

    fn next_piece(&mut self) -> Bytes {
        let room = match self.rest.len() {
            0 | 1 => 1,
            length if self.body.is_end_stream() => length - 1,
            length => length,
        };
        // A copy: what is queued for a peer that takes nothing outlives this stream, and a slice would keep all of the
        // answer for as long.
        Bytes::copy_from_slice(&self.rest.split_to(room.min(PIECE).min(self.rest.len())))
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(stream) = self.stream.clone() else { return self.next_frame(cx) };
        // A body is polled again only when the peer has made room for the piece before.
        stream.taken();
        self.waiting = None;
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
        let is_endless = stream.0.is_endless.load(Ordering::Relaxed);
        let thing = if is_endless { Awaited::Watch } else { Awaited::Answer };
        self.waiting = Some(self.running.activity().wait(Instant::now(), thing));
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The seconds after which a stream is given up whose peer takes each of its thousand pieces after so many seconds.
    async fn given_up(seconds: u64, is_endless: bool) -> Option<u64> {
        let unread = Unread::default();
        unread.0.is_endless.store(is_endless, Ordering::Relaxed);
        let pieces = unread.clone();
        let stream = async move {
            for _ in 0..1000 {
                pieces.handed_over();
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                pieces.taken();
            }
        };
        let began = Instant::now();
        let end = unread.end_if_stalled(stream, Duration::from_secs(30)).await;
        (end == StreamEnd::Stalled).then(|| began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_with_an_end_has_a_pace() {
        assert_eq!(given_up(40, false).await, Some(30), "nothing is taken");
        // Each piece of twenty seconds makes up for one.
        assert_eq!(given_up(20, false).await, Some(32));
        assert_eq!(given_up(20, true).await, None);
        assert_eq!(given_up(1, false).await, None);
    }
}
