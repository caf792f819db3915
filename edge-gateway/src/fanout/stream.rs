//! The bytes of one stream on their way from its session to the connection that carries it.
//!
//! In: what a shard writes. Out: the same in chunks, for the body of an answer, and at last why it ended. Few chunks
//! wait at a time; full, the session waits like one whose socket is full. An idle stream has no queue: a channel of
//! the runtime keeps a block of places for each, which was a third of what a stream cost.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::connection::Key;
use crate::close::Reason;

/// Chunks that may wait for the connection.
const CHUNKS: usize = 8;
/// Bytes of a chunk at most: one that is taken is what shows that its client reads.
const CHUNK: usize = 16 * 1024;

/// A stream that is open at both ends.
pub(crate) fn stream() -> (Writer, Reader) {
    let state = Arc::<Mutex<State>>::default();
    (Writer(state.clone()), Reader(state))
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<Bytes>,
    ended: Option<Reason>,
    gone: bool,
    /// Of the connection, while it waits for a chunk.
    reader: Option<Waker>,
    /// Of the session, while it waits for room.
    writer: Option<Waker>,
    /// Who is told that the client has gone, and of which session.
    told: Option<(Arc<Leavers>, Key)>,
}

/// The session's end. Dropped without a word, the stream has broken off.
#[derive(Debug)]
pub(crate) struct Writer(Arc<Mutex<State>>);

impl Writer {
    /// Takes some of `bytes`.
    ///
    /// # Errors
    /// `WouldBlock` while too much waits, `BrokenPipe` when the client has gone.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        if state.gone {
            return Err(ErrorKind::BrokenPipe.into());
        }
        if state.chunks.len() == CHUNKS {
            return Err(ErrorKind::WouldBlock.into());
        }
        let chunk = &bytes[..bytes.len().min(CHUNK)];
        state.chunks.push_back(Bytes::copy_from_slice(chunk));
        let reader = state.reader.take();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
        Ok(chunk.len())
    }

    /// Resolves when something may be written; false when nothing ever will be. For one waiter at a time.
    pub(super) async fn writable(&self) -> bool {
        std::future::poll_fn(|cx| {
            let mut state = self.0.lock();
            if state.gone || state.chunks.len() < CHUNKS {
                return Poll::Ready(!state.gone);
            }
            state.writer = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// The client has gone.
    pub(super) fn is_gone(&self) -> bool {
        self.0.lock().gone
    }

    /// From now on `leavers` is told when the client goes.
    pub(super) fn tell(&self, leavers: &Arc<Leavers>, key: Key) {
        let mut state = self.0.lock();
        if state.gone {
            drop(state);
            return leavers.add(key);
        }
        state.told = Some((leavers.clone(), key));
    }

    /// The stream ends for this reason, after what waits. The first one counts.
    pub(super) fn end(&self, reason: Reason) {
        let mut state = self.0.lock();
        state.ended.get_or_insert(reason);
        let reader = state.reader.take();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end(Reason::Broken);
    }
}

/// The connection's end. Dropped, the client has gone.
#[derive(Debug)]
pub(crate) struct Reader(Arc<Mutex<State>>);

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Bytes for the client.
    Chunk(Bytes),
    /// Nothing more, for this reason.
    End(Reason),
}

impl Reader {
    /// Takes what comes next.
    pub(crate) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Next> {
        let mut state = self.0.lock();
        let Some(chunk) = state.chunks.pop_front() else {
            if let Some(reason) = state.ended {
                return Poll::Ready(Next::End(reason));
            }
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        };
        if state.chunks.is_empty() {
            state.chunks = VecDeque::new();
        }
        let writer = state.writer.take();
        drop(state);
        writer.into_iter().for_each(Waker::wake);
        Poll::Ready(Next::Chunk(chunk))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.gone = true;
        state.chunks = VecDeque::new();
        let (writer, told) = (state.writer.take(), state.told.take());
        drop(state);
        writer.into_iter().for_each(Waker::wake);
        if let Some((leavers, key)) = told {
            leavers.add(key);
        }
    }
}

/// Streams of a shard whose clients have gone. Bounded by the streams that were open: each is named once.
#[derive(Debug, Default)]
pub(super) struct Leavers {
    keys: Mutex<Vec<Key>>,
    some: Notify,
}

impl Leavers {
    fn add(&self, key: Key) {
        self.keys.lock().push(key);
        self.some.notify_one();
    }

    /// Those that have not been taken yet.
    pub(super) fn take(&self) -> Vec<Key> {
        std::mem::take(&mut self.keys.lock())
    }

    /// Resolves when there may be some. Cancel-safe.
    pub(super) async fn wait(&self) {
        self.some.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt as _;

    use super::*;

    const KEY: Key = Key { index: 3, serial: 7 };

    async fn next(reader: &Reader) -> Next {
        std::future::poll_fn(|cx| reader.poll_next(cx)).await
    }

    #[tokio::test]
    async fn what_is_written_is_read_in_order_and_the_end_comes_last() {
        let (writer, reader) = stream();
        let mut waiting = pin!(next(&reader));
        assert!(waiting.as_mut().now_or_never().is_none(), "nothing was written");
        assert_eq!(writer.try_write(b"a").expect("there is room"), 1);
        assert_eq!(writer.try_write(&[7; CHUNK + 1]).expect("there is room"), CHUNK, "no more than a chunk");
        writer.end(Reason::Drained);
        drop(writer);
        assert_eq!(waiting.await, Next::Chunk(Bytes::from_static(b"a")));
        assert_eq!(next(&reader).await, Next::Chunk(vec![7; CHUNK].into()));
        assert_eq!(next(&reader).await, Next::End(Reason::Drained), "and not that it broke off");
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
    async fn a_client_that_goes_is_told_of_once_and_frees_who_waits() {
        let (writer, reader) = stream();
        let leavers = Arc::new(Leavers::default());
        writer.tell(&leavers, KEY);
        (0..CHUNKS).for_each(|_| assert_eq!(writer.try_write(b"x").expect("there is room"), 1));
        let mut room = pin!(writer.writable());
        assert!(room.as_mut().now_or_never().is_none());
        drop(reader);
        assert!(!room.await, "nothing will ever be written");
        leavers.wait().await;
        assert_eq!((leavers.take(), leavers.take()), (vec![KEY], vec![]));
        assert_eq!(writer.try_write(b"x").expect_err("gone").kind(), ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_client_that_went_before_anyone_asked_is_told_of_too() {
        let (writer, reader) = stream();
        drop(reader);
        let leavers = Arc::new(Leavers::default());
        writer.tell(&leavers, KEY);
        assert_eq!(leavers.take(), [KEY]);
    }

    #[tokio::test]
    async fn a_session_that_vanishes_leaves_a_broken_stream() {
        let (writer, reader) = stream();
        drop(writer);
        assert_eq!(next(&reader).await, Next::End(Reason::Broken));
    }
}
