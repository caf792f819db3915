//! The socket of a connection: it holds the permit, notes received bytes, and fails when the peer
//! does not read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};

use super::Stream;
use super::activity::{Activity, Answer};
use super::answer::patience;

/// The bytes that the kernel may hold for the connection of an answer: an extension of the answer. Linux takes twice
/// as many, and a few thousand at least. For answers without an end, whose bytes cannot be replaced by newer ones once
/// the kernel has them. By itself it takes some megabytes from a client that does not read.
#[derive(Clone, Copy, Debug)]
pub struct SendBuffer(pub usize);

/// The wish of a connection's answers for its send buffer, in bytes; zero when there is none.
#[derive(Debug, Default)]
pub(super) struct WantedBuffer(AtomicUsize);

impl WantedBuffer {
    /// Takes over the wish of an answer. It counts for all later bytes of the connection.
    pub(super) fn note(&self, wish: SendBuffer) {
        self.0.store(wish.0, Ordering::Relaxed);
    }

    fn take(&self) -> Option<usize> {
        // Looked at for each write, and almost always zero. Nobody but the socket takes it.
        (self.0.load(Ordering::Relaxed) > 0).then(|| self.0.swap(0, Ordering::Relaxed))
    }
}

/// An accepted connection. It holds one of its listener's permits until it is dropped.
///
/// A write fails with [`io::ErrorKind::TimedOut`] when the peer makes no room for it within the listener's
/// write timeout, or takes the bytes of an answer with an end too slowly for longer than that.
#[derive(Debug)]
pub struct Socket {
    stream: Stream,
    permit: OwnedSemaphorePermit,
    activity: Arc<Activity>,
    write_timeout: Duration,
    wanted_buffer: Arc<WantedBuffer>,
    /// The write that waits; `None` while none does.
    stalled: Option<Stalled>,
    pace: Pace,
}

/// A write that waits for the peer.
#[derive(Debug)]
struct Stalled {
    since: Instant,
    end: Pin<Box<Sleep>>,
}

/// The pace of the answer that was written when a write last had to wait.
#[derive(Debug)]
struct Pace {
    answer: Answer,
    /// Bytes that the peer has taken since then.
    taken: u64,
    /// The time for which writes have waited.
    waited: Duration,
}

impl Pace {
    /// The time for which the next write may wait.
    fn patience(&mut self, answer: Answer, timeout: Duration) -> Duration {
        if self.answer != answer {
            *self = Self { answer, taken: 0, waited: Duration::ZERO };
        }
        if answer.is_endless { timeout } else { patience(timeout, self.taken, self.waited) }
    }
}

/// The permit of a connection whose [`Stream`] was taken out of its socket. Dropping it admits
/// another client.
#[derive(Debug)]
pub struct ConnectionPermit(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Socket {
    pub(super) fn new(
        stream: Stream,
        permit: OwnedSemaphorePermit,
        activity: Arc<Activity>,
        write_timeout: Duration,
        wanted_buffer: Arc<WantedBuffer>,
    ) -> Self {
        let pace = Pace { answer: activity.answer(), taken: 0, waited: Duration::ZERO };
        Self { stream, permit, activity, write_timeout, wanted_buffer, stalled: None, pace }
    }

    fn size_buffer(&self) {
        if let Some(bytes) = self.wanted_buffer.take() {
            // If the kernel refuses, its own size stays.
            let _ = SockRef::from(self.stream.tcp()).set_send_buffer_size(bytes);
        }
    }

    /// The stream without the write timeout, for an owner with deadlines of its own. The permit must be kept
    /// as long as the stream.
    pub fn into_parts(self) -> (Stream, ConnectionPermit) {
        (self.stream, ConnectionPermit(self.permit))
    }

    /// Starts the deadline when a write begins to wait, and fails the write when it is over.
    fn watch_stall(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = &polled {
            if let Some(stalled) = self.stalled.take() {
                self.pace.waited += stalled.since.elapsed();
                self.activity.note_stall(None);
            }
            self.pace.taken += written.as_ref().map_or(0, |bytes| *bytes as u64);
            return polled;
        }
        // A timer exists only while a write waits, so writing to a peer that reads costs none.
        let Self { stalled, pace, activity, write_timeout, .. } = self;
        let stalled = stalled.get_or_insert_with(|| {
            let patience = pace.patience(activity.answer(), *write_timeout);
            let since = Instant::now();
            activity.note_stall(Some(since));
            Stalled { since, end: Box::pin(tokio::time::sleep(patience)) }
        });
        ready!(stalled.end.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the peer has read nothing for the write timeout, or too slowly for longer",
        )))
    }
}

/// Takes the socket out of an upgraded connection, with the bytes that have been read from it already.
///
/// # Errors
/// Returns the connection when it was not accepted by [`super::serve`].
pub fn take_socket(upgraded: Upgraded) -> Result<(Socket, Bytes), Upgraded> {
    let parts = hyper_util::server::conn::auto::upgrade::downcast::<TokioIo<Socket>>(upgraded)?;
    Ok((parts.io.into_inner(), parts.read_buf))
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let new = &buf.filled()[before..];
        if !new.is_empty() {
            self.activity.received(new, Instant::now());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.size_buffer();
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch_stall(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.size_buffer();
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch_stall(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
