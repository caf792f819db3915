//! A bound for the bytes of answers that wait for their clients, over all connections of a listener.
//!
//! In: the memory that each answer holds. Out: the end of those that have been on their way longest, when all
//! of them together hold more than the bound. Answers that share a buffer with many others are spared. Clients that read are done in moments, so the oldest answers are those of
//! clients that do not. Refusing new answers instead would let such clients keep everybody else from theirs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::activity::{Activity, Running};
use super::answer::Unread;
use super::metrics::{ServerMetrics, Slow};

/// The memory that the body of an answer holds: an extension of the answer. Without it, all bytes of a body whose length is
/// known count as made for this answer alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldBytes {
    /// Bytes of this answer alone.
    own: usize,
    /// Buffers that other answers may have, too: address and length. Each counts once, however many answers have it. It
    /// counts also while the one who made it keeps it, because that may end before this answer does.
    shared: Vec<(usize, usize)>,
}

impl HeldBytes {
    /// Nothing: the body comes from elsewhere as it is read.
    pub fn none() -> Self {
        Self::default()
    }

    /// The whole body, which others may have, too.
    pub fn of(body: &Bytes) -> Self {
        Self::of_all([body])
    }

    /// A body of several pieces, each of which others may have, too.
    pub fn of_all<'a>(pieces: impl IntoIterator<Item = &'a Bytes>) -> Self {
        let mut held = Self::default();
        for piece in pieces {
            if piece.len() < COUNTED_FROM {
                held.own += piece.len();
            } else {
                held.shared.push((piece.as_ptr().addr(), piece.len()));
            }
        }
        held
    }

    /// Says so of an answer.
    #[must_use]
    pub fn on<B>(self, mut answer: Response<B>) -> Response<B> {
        answer.extensions_mut().insert(self);
        answer
    }

    /// The number of bytes.
    pub fn bytes(&self) -> usize {
        self.own + self.shared.iter().map(|(_, length)| length).sum::<usize>()
    }

    /// So many bytes of the answer alone.
    pub(super) fn own(bytes: usize) -> Self {
        Self { own: bytes, shared: Vec::new() }
    }

    /// True if it is worth counting.
    pub(super) fn counts(&self) -> bool {
        self.own >= COUNTED_FROM || !self.shared.is_empty()
    }
}

/// The bytes from which an answer counts. Smaller ones hold little more than the connection or stream that they belong
/// to, and these have bounds of their own.
pub(super) const COUNTED_FROM: usize = 4 * 1024;

/// The answers of a listener that wait for their clients.
#[derive(Debug)]
pub(super) struct HeldAnswers {
    limit: usize,
    metrics: ServerMetrics,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: usize,
    /// The number of the next answer.
    next: u64,
    /// By their numbers, so the oldest comes first.
    answers: BTreeMap<u64, Waiting>,
    /// The answers that have each shared buffer. The length belongs to the key, because an address is used again a moment
    /// before the last answer with the buffer that was there is taken out.
    shared: HashMap<(usize, usize), Sharing>,
}

/// An answer that waits for its client.
#[derive(Debug)]
struct Waiting {
    held: HeldBytes,
    since: Instant,
    holder: Holder,
}

/// The answers that have a buffer.
#[derive(Debug)]
struct Sharing {
    answers: u32,
    /// The time at which the last one came, which may have left since.
    last: Instant,
}

impl Sharing {
    fn due(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last) / self.answers.max(1)
    }
}

impl State {
    fn add(&mut self, held: &HeldBytes, now: Instant) {
        self.bytes += held.own;
        for buffer in &held.shared {
            let sharing = self.shared.entry(*buffer).or_insert(Sharing { answers: 0, last: now });
            sharing.answers += 1;
            sharing.last = now;
            if sharing.answers == 1 {
                self.bytes += buffer.1;
            }
        }
    }

    /// Takes out the answer whose end is due first, which is the oldest one, with an exception for shared buffers. To end one
    /// of several answers that have a buffer frees nothing, so the buffer counts as old as the youngest of them. That age
    /// is divided by their number, because clients that read nothing seldom share a buffer, and a crowd of readers does.
    fn take_due(&mut self, now: Instant) -> Option<Waiting> {
        let mut first: Option<(Duration, u64)> = None;
        for (number, waiting) in &self.answers {
            let age = now.saturating_duration_since(waiting.since);
            // Those that came later are younger, and none is more due than its age.
            if first.is_some_and(|(due, _)| due >= age) {
                break;
            }
            let held = &waiting.held;
            let of_buffers = held.shared.iter().filter_map(|buffer| Some(self.shared.get(buffer)?.due(now)));
            let own = (held.own >= COUNTED_FROM).then_some(age);
            let due = of_buffers.chain(own).max().unwrap_or(age);
            if first.is_none_or(|(before, _)| due > before) {
                first = Some((due, *number));
            }
        }
        self.answers.remove(&first?.1)
    }

    fn remove(&mut self, held: &HeldBytes) {
        self.bytes = self.bytes.saturating_sub(held.own);
        for buffer in &held.shared {
            let Some(sharing) = self.shared.get_mut(buffer) else { continue };
            sharing.answers -= 1;
            if sharing.answers == 0 {
                self.bytes = self.bytes.saturating_sub(buffer.1);
                self.shared.remove(buffer);
            }
        }
    }
}

/// The part of a connection that ends when its answer must go.
#[derive(Clone, Debug)]
pub(super) enum Holder {
    /// The stream, on HTTP/2, and its connection, which ends as well if it takes nothing: pieces that are queued for it are
    /// freed in no other way.
    Stream(Unread, Arc<Activity>),
    /// The whole connection, on HTTP/1.
    Connection(Arc<Activity>),
}

impl Holder {
    fn end(self) {
        match self {
            Self::Stream(stream, connection) => {
                stream.give_up();
                if connection.is_stalled(Instant::now()) {
                    connection.give_up();
                }
            }
            Self::Connection(activity) => activity.give_up(),
        }
    }
}

impl HeldAnswers {
    pub(super) fn new(limit: usize, metrics: ServerMetrics) -> Arc<Self> {
        Arc::new(Self { limit, metrics, state: Mutex::default() })
    }

    /// Counts an answer until the hold and all its clones are dropped, and ends older ones if there are too many bytes.
    /// An answer that exceeds the bound by itself is alone then.
    pub(super) fn hold(self: &Arc<Self>, held: HeldBytes, holder: Holder) -> Arc<Hold> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let before = state.bytes;
        state.add(&held, now);
        let mut ended = Vec::new();
        while state.bytes > self.limit
            && let Some(due) = state.take_due(now)
        {
            state.remove(&due.held);
            ended.push(due.holder);
        }
        let number = state.next;
        state.next += 1;
        state.answers.insert(number, Waiting { held, since: now, holder });
        self.metrics.held(before, state.bytes);
        drop(state);
        for holder in ended {
            self.metrics.slow(Slow::Memory);
            holder.end();
        }
        Arc::new(Hold { of: self.clone(), number })
    }

    fn release(&self, number: u64) {
        let mut state = self.state.lock();
        // It is gone already if it was ended to make room.
        let Some(waiting) = state.answers.remove(&number) else { return };
        let before = state.bytes;
        state.remove(&waiting.held);
        self.metrics.held(before, state.bytes);
    }
}

/// The place of one answer among those that count.
#[derive(Debug)]
pub(super) struct Hold {
    of: Arc<HeldAnswers>,
    number: u64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.of.release(self.number);
    }
}

/// A frame of an answer on HTTP/1. As long as anybody has a part of it, the answer counts and its request is running: hyper
/// drops the body when it has taken the last frame, of which it may not have written a byte.
pub(super) fn held_frame(data: Bytes, hold: Option<Arc<Hold>>, running: Running) -> Bytes {
    struct HeldFrame {
        data: Bytes,
        #[expect(dead_code, reason = "held for its drop")]
        hold: Option<Arc<Hold>>,
        #[expect(dead_code, reason = "held for its drop")]
        running: Running,
    }
    impl AsRef<[u8]> for HeldFrame {
        fn as_ref(&self) -> &[u8] {
            &self.data
        }
    }
    Bytes::from_owner(HeldFrame { data, hold, running })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::lines::BodyLength;

    fn connection() -> Arc<Activity> {
        Arc::new(Activity::new(Instant::now()))
    }

    #[tokio::test]
    async fn the_oldest_answers_end_when_there_are_too_many_bytes() {
        let held = HeldAnswers::new(100, ServerMetrics::none());
        let connections = [(); 4].map(|()| connection());
        let hold = |number: usize, bytes| {
            held.hold(HeldBytes::own(bytes), Holder::Connection(connections[number].clone()))
        };
        let _first = hold(0, 50);
        let second = hold(1, 40);
        drop(second);
        let _third = hold(2, 50);
        // 160 bytes are too many, and without the first answer 110 still are.
        let fourth = hold(3, 60);
        let ended: Vec<bool> = connections.iter().map(|connection| connection.is_given_up()).collect();
        assert_eq!(ended, [true, false, true, false]);
        assert_eq!(held.state.lock().bytes, 60);
        // A frame that was handed on counts after its answer has ended.
        let (running, _) = Running::begin(connections[3].clone(), BodyLength::Known(0));
        let frame = held_frame(Bytes::from_static(b"0123456789"), Some(fourth), running);
        assert!(!connections[3].evict(Instant::now(), false), "its request is running");
        let part = frame.slice(3..5);
        drop(frame);
        assert_eq!((&part[..], held.state.lock().bytes), (&b"34"[..], 60));
        drop(part);
        assert_eq!(held.state.lock().bytes, 0);
        assert!(connections[3].evict(Instant::now(), false));
    }

    #[tokio::test]
    async fn a_buffer_of_several_answers_counts_once_until_the_last_of_them() {
        let held = HeldAnswers::new(100_000, ServerMetrics::none());
        let holder = || Holder::Connection(connection());
        let kept = Bytes::from(vec![0; 60_000]);
        let of_kept = [(); 3].map(|()| held.hold(HeldBytes::of(&kept), holder()));
        assert_eq!(held.state.lock().bytes, 60_000);
        // What was kept is replaced, and the answers are the only ones that have it.
        drop(kept);
        let [first, rest @ ..] = of_kept;
        drop(first);
        assert_eq!(held.state.lock().bytes, 60_000);
        let newer = Bytes::from(vec![0; 70_000]);
        let _newer = held.hold(HeldBytes::of(&newer), holder());
        assert_eq!(held.state.lock().bytes, 70_000, "the answers with the old one have ended");
        drop(rest);
        assert_eq!(held.state.lock().bytes, 70_000);
        assert!(held.state.lock().shared.len() == 1 && held.state.lock().answers.len() == 1);
    }

    #[tokio::test]
    async fn an_answer_larger_than_the_bound_is_alone() {
        let held = HeldAnswers::new(100, ServerMetrics::none());
        let [small, large] = [(); 2].map(|()| connection());
        let _small = held.hold(HeldBytes::own(10), Holder::Connection(small.clone()));
        let _large = held.hold(HeldBytes::own(1000), Holder::Connection(large.clone()));
        assert_eq!((small.is_given_up(), large.is_given_up()), (true, false));
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_share_a_buffer_with_others_are_spared() {
        let held = HeldAnswers::new(100_000, ServerMetrics::none());
        let connections = [(); 6].map(|()| connection());
        let ended = || connections.iter().map(|connection| connection.is_given_up()).collect::<Vec<_>>();
        let hold = |number: usize, bytes| held.hold(bytes, Holder::Connection(connections[number].clone()));
        let pass = async |seconds| tokio::time::advance(Duration::from_secs(seconds)).await;
        let [popular, forgotten] = [(); 2].map(|()| Bytes::from(vec![b'x'; 40_000]));
        let mut holds = vec![hold(0, HeldBytes::of(&popular))];
        // Two clients that read nothing must not keep a buffer for each other.
        holds.push(hold(1, HeldBytes::of(&forgotten)));
        holds.push(hold(2, HeldBytes::of(&forgotten)));
        pass(10).await;
        holds.push(hold(3, HeldBytes::of(&popular)));
        pass(1).await;
        holds.push(hold(4, HeldBytes::own(50_000)));
        assert_eq!(ended(), [false, true, true, false, false, false]);
        pass(9).await;
        // Two ends would free less than one.
        holds.push(hold(5, HeldBytes::own(50_000)));
        assert_eq!(ended(), [false, true, true, false, true, false]);
        drop(holds);
        assert_eq!(held.state.lock().bytes, 0);
    }
}
