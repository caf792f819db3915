//! A bound for the bytes of answers that wait for their clients, over all connections of a listener.
//!
//! In: each answer whose bytes nobody else needs. Out: the end of those that have been on their way longest, when all
//! of them together hold more than the bound. Clients that read are done in moments, so the oldest answers are those of
//! clients that do not. Refusing new answers instead would let such clients keep everybody else from theirs.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::activity::Activity;
use super::answer::Unread;
use super::metrics::{ServerMetrics, Slow};

/// The bytes of an answer's body that were made for this answer alone: an extension of the answer. Zero for bodies that
/// are kept anyway or come from elsewhere as they are read. Without it, all bytes of a body whose length is known count.
#[derive(Clone, Copy, Debug)]
pub struct OwnBytes(pub usize);

impl OwnBytes {
    /// All of these bytes, or none if somebody else has them, too.
    pub fn of(body: &Bytes) -> Self {
        Self(if body.is_unique() { body.len() } else { 0 })
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
    answers: BTreeMap<u64, (usize, Holder)>,
}

/// The part of a connection that ends when its answer must go.
#[derive(Clone, Debug)]
pub(super) enum Holder {
    /// The stream, on HTTP/2.
    Stream(Unread),
    /// The whole connection, on HTTP/1.
    Connection(Arc<Activity>),
}

impl Holder {
    fn end(self) {
        match self {
            Self::Stream(stream) => stream.give_up(),
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
    pub(super) fn hold(self: &Arc<Self>, bytes: usize, holder: Holder) -> Arc<Hold> {
        let mut state = self.state.lock();
        let mut ended = Vec::new();
        while state.bytes.saturating_add(bytes) > self.limit
            && let Some((_, (freed, oldest))) = state.answers.pop_first()
        {
            state.bytes -= freed;
            ended.push((freed, oldest));
        }
        let number = state.next;
        state.next += 1;
        state.bytes += bytes;
        state.answers.insert(number, (bytes, holder));
        drop(state);
        self.metrics.held(bytes, true);
        for (freed, oldest) in ended {
            self.metrics.held(freed, false);
            self.metrics.slow(Slow::Memory);
            oldest.end();
        }
        Arc::new(Hold { of: self.clone(), number })
    }

    fn release(&self, number: u64) {
        let mut state = self.state.lock();
        // It is gone already if it was ended to make room.
        let Some((bytes, _)) = state.answers.remove(&number) else { return };
        state.bytes -= bytes;
        drop(state);
        self.metrics.held(bytes, false);
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

/// A frame of an answer, which counts for as long as anybody has a part of it.
pub(super) fn held_frame(data: Bytes, hold: &Arc<Hold>) -> Bytes {
    struct HeldFrame(Bytes, #[expect(dead_code, reason = "held for its drop")] Arc<Hold>);
    impl AsRef<[u8]> for HeldFrame {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    Bytes::from_owner(HeldFrame(data, hold.clone()))
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn connection() -> Arc<Activity> {
        Arc::new(Activity::new(Instant::now()))
    }

    #[tokio::test]
    async fn the_oldest_answers_end_when_there_are_too_many_bytes() {
        let held = HeldAnswers::new(100, ServerMetrics::none());
        let connections = [(); 4].map(|()| connection());
        let hold = |number: usize, bytes| held.hold(bytes, Holder::Connection(connections[number].clone()));
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
        let frame = held_frame(Bytes::from_static(b"0123456789"), &fourth);
        drop(fourth);
        let part = frame.slice(3..5);
        drop(frame);
        assert_eq!((&part[..], held.state.lock().bytes), (&b"34"[..], 60));
        drop(part);
        assert_eq!(held.state.lock().bytes, 0);
    }

    #[tokio::test]
    async fn an_answer_larger_than_the_bound_is_alone() {
        let held = HeldAnswers::new(100, ServerMetrics::none());
        let [small, large] = [(); 2].map(|()| connection());
        let _small = held.hold(10, Holder::Connection(small.clone()));
        let _large = held.hold(1000, Holder::Connection(large.clone()));
        assert_eq!((small.is_given_up(), large.is_given_up()), (true, false));
    }
}
