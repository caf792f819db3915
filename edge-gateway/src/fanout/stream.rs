//! A pipe for the bytes of one stream, from its session to the connection that carries it.
//!
//! In: bytes that a shard writes. Out: the same bytes in chunks, for the body of a response, and at last the
//! reason of the end. A few chunks may wait; when the pipe is full the session waits like one whose socket is
//! full.
//!
//! The pipe is written by hand because an idle one must cost nothing: tokio's channel keeps a block of slots
//! for each stream, which was a third of what a stream cost.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::session::SessionKey;
use crate::close::Reason;

/// Chunks that may wait in a pipe.
const CHUNKS: usize = 8;
/// Bytes that a chunk may have. A chunk that is taken shows that the client reads, so chunks must not be
/// large.
const CHUNK: usize = 16 * 1024;

/// A pipe that is open at both ends.
pub(crate) fn stream() -> (Writer, Reader) {
    let pipe = Arc::<Mutex<Pipe>>::default();
    (Writer(pipe.clone()), Reader(pipe))
}

#[derive(Debug, Default)]
struct Pipe {
    chunks: VecDeque<Bytes>,
    /// The number of chunks that were put into the pipe so far.
    put: u64,
    ended: Option<Reason>,
    /// The reader was dropped: the client has gone.
    client_gone: bool,
    /// The waker of the connection, while it waits for a chunk.
    reader: Option<Waker>,
    /// The waker of the session, while it waits for room.
    writer: Option<Waker>,
    /// The list on which the session is put when the client has gone.
    on_gone: Option<(Arc<GoneClients>, SessionKey)>,
}

/// The session's end of a pipe. Dropped without [`Writer::end`], it ends the stream as broken.
#[derive(Debug)]
pub(crate) struct Writer(Arc<Mutex<Pipe>>);

impl Writer {
    /// Takes some of `bytes`; returns their number.
    ///
    /// # Errors
    /// `WouldBlock` while the pipe is full, `BrokenPipe` when the client has gone.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut pipe = self.0.lock();
        if pipe.client_gone {
            return Err(ErrorKind::BrokenPipe.into());
        }
        if pipe.chunks.len() == CHUNKS {
            return Err(ErrorKind::WouldBlock.into());
        }
        let chunk = &bytes[..bytes.len().min(CHUNK)];
        pipe.chunks.push_back(Bytes::copy_from_slice(chunk));
        pipe.put += 1;
        // Woken after the lock is released, because the reader takes it at once.
        let reader = pipe.reader.take();
        drop(pipe);
        reader.into_iter().for_each(Waker::wake);
        Ok(chunk.len())
    }

    /// Resolves when there is room; false when the client has gone. For one waiter at a time.
    pub(super) async fn writable(&self) -> bool {
        std::future::poll_fn(|cx| {
            let mut pipe = self.0.lock();
            if pipe.client_gone || pipe.chunks.len() < CHUNKS {
                return Poll::Ready(!pipe.client_gone);
            }
            pipe.writer = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// The number of chunks that were put into the pipe, and of those that the connection has taken.
    pub(super) fn progress(&self) -> (u64, u64) {
        let pipe = self.0.lock();
        (pipe.put, pipe.put - pipe.chunks.len() as u64)
    }

    /// True if the client has gone.
    pub(super) fn is_client_gone(&self) -> bool {
        self.0.lock().client_gone
    }

    /// Puts the session on the list once the client has gone, which may be at once.
    pub(super) fn report_gone_client(&self, list: &Arc<GoneClients>, key: SessionKey) {
        let mut pipe = self.0.lock();
        // The client may leave before its session is attached; nobody else would put the session on the list.
        if pipe.client_gone {
            drop(pipe);
            return list.add(key);
        }
        pipe.on_gone = Some((list.clone(), key));
    }

    /// Ends the stream for this reason, after the chunks that wait. Later calls are ignored.
    pub(super) fn end(&self, reason: Reason) {
        let mut pipe = self.0.lock();
        pipe.ended.get_or_insert(reason);
        let reader = pipe.reader.take();
        drop(pipe);
        reader.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end(Reason::Broken);
    }
}

/// The connection's end of a pipe. Its drop means that the client has gone.
#[derive(Debug)]
pub(crate) struct Reader(Arc<Mutex<Pipe>>);

/// The next item of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Bytes for the client.
    Chunk(Bytes),
    /// The end, and its reason.
    End(Reason),
}

impl Reader {
    /// Takes the next item.
    pub(crate) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Next> {
        let mut pipe = self.0.lock();
        // Chunks come before the end: a client receives everything that was written before it.
        let Some(chunk) = pipe.chunks.pop_front() else {
            if let Some(reason) = pipe.ended {
                return Poll::Ready(Next::End(reason));
            }
            pipe.reader = Some(cx.waker().clone());
            return Poll::Pending;
        };
        if pipe.chunks.is_empty() {
            // An idle stream keeps no capacity.
            pipe.chunks = VecDeque::new();
        }
        let writer = pipe.writer.take();
        drop(pipe);
        writer.into_iter().for_each(Waker::wake);
        Poll::Ready(Next::Chunk(chunk))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut pipe = self.0.lock();
        pipe.client_gone = true;
        // Nobody will take these bytes, and the session may go on until its shard's next turn.
        pipe.chunks = VecDeque::new();
        let writer = pipe.writer.take();
        let on_gone = pipe.on_gone.take();
        drop(pipe);
        writer.into_iter().for_each(Waker::wake);
        if let Some((list, key)) = on_gone {
            list.add(key);
        }
    }
}

/// The sessions of a shard whose streams have lost their clients. Bounded by the open streams: each is listed
/// once.
#[derive(Debug, Default)]
pub(super) struct GoneClients {
    keys: Mutex<Vec<SessionKey>>,
    added: Notify,
}

impl GoneClients {
    fn add(&self, key: SessionKey) {
        self.keys.lock().push(key);
        // The permit is kept if nobody waits now, so no client that leaves during a turn is missed.
        self.added.notify_one();
    }

    /// Takes the sessions that have been added since the last call.
    pub(super) fn take(&self) -> Vec<SessionKey> {
        std::mem::take(&mut self.keys.lock())
    }

    /// Resolves when sessions may have been added. Cancel-safe.
    pub(super) async fn wait(&self) {
        self.added.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt as _;

    use super::*;

    const KEY: SessionKey = SessionKey { index: 3, serial: 7 };

    async fn next(reader: &Reader) -> Next {
        std::future::poll_fn(|cx| reader.poll_next(cx)).await
    }

    #[tokio::test]
    async fn bytes_are_read_in_order_and_the_end_comes_last() {
        let (writer, reader) = stream();
        let mut waiting = pin!(next(&reader));
        assert!(waiting.as_mut().now_or_never().is_none(), "nothing has been written");
        assert_eq!(writer.try_write(b"a").expect("there is room"), 1);
        assert_eq!(writer.try_write(&[7; CHUNK + 1]).expect("there is room"), CHUNK, "it takes one chunk");
        writer.end(Reason::Drained);
        drop(writer);
        assert_eq!(waiting.await, Next::Chunk(Bytes::from_static(b"a")));
        assert_eq!(next(&reader).await, Next::Chunk(vec![7; CHUNK].into()));
        assert_eq!(next(&reader).await, Next::End(Reason::Drained), "the first reason counts");
    }

    #[tokio::test]
    async fn a_full_stream_blocks_until_a_chunk_is_taken() {
        let (writer, reader) = stream();
        (0..CHUNKS).for_each(|_| assert_eq!(writer.try_write(b"x").expect("there is room"), 1));
        assert_eq!(writer.try_write(b"x").expect_err("full").kind(), ErrorKind::WouldBlock);
        let mut room = pin!(writer.writable());
        assert!(room.as_mut().now_or_never().is_none());
        next(&reader).await;
        assert!(room.await);
    }

    #[tokio::test]
    async fn a_gone_client_is_listed_once_and_wakes_the_writer() {
        let (writer, reader) = stream();
        let gone = Arc::new(GoneClients::default());
        writer.report_gone_client(&gone, KEY);
        (0..CHUNKS).for_each(|_| assert_eq!(writer.try_write(b"x").expect("there is room"), 1));
        let mut room = pin!(writer.writable());
        assert!(room.as_mut().now_or_never().is_none());
        drop(reader);
        assert!(!room.await, "there will never be room");
        gone.wait().await;
        assert_eq!(gone.take(), [KEY]);
        assert_eq!(gone.take(), []);
        assert_eq!(writer.try_write(b"x").expect_err("gone").kind(), ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_client_that_has_gone_already_is_listed_too() {
        let (writer, reader) = stream();
        drop(reader);
        let gone = Arc::new(GoneClients::default());
        writer.report_gone_client(&gone, KEY);
        assert_eq!(gone.take(), [KEY]);
    }

    #[tokio::test]
    async fn a_session_that_vanishes_leaves_a_broken_stream() {
        let (writer, reader) = stream();
        drop(writer);
        assert_eq!(next(&reader).await, Next::End(Reason::Broken));
    }
}
