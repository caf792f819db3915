//! The shared log of one audience: framed bytes, appended once, read by every session at its own cursor.
//!
//! "Everything pending" of a session is one slice, whatever has come together: no queue per session, no list of
//! buffers. Who owns the log trims it to the slowest cursor; how far a cursor may stay behind is decided there.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::push::Push;

/// Bytes of an empty log that are kept per member, to spare the allocator; the rest is given back.
const KEPT_PER_MEMBER: usize = 64;

/// An append-only log. Positions are byte offsets since its beginning and only grow.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// Offset of the first byte still here.
    start: u64,
    bytes: Vec<u8>,
    /// Where each frame ends, and its event if it is one's.
    frames: VecDeque<(u64, Option<Arc<Push>>)>,
}

impl Log {
    /// The offset after the last byte: where a session that joins now begins.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Appends a frame: an event's, or one that means nothing to who comes too late for it.
    pub(crate) fn append(&mut self, push: Option<&Arc<Push>>, frame: &[u8]) {
        self.bytes.extend_from_slice(frame);
        self.frames.push_back((self.end(), push.cloned()));
    }

    /// Everything from `cursor` on.
    pub(crate) fn pending(&self, cursor: u64) -> &[u8] {
        debug_assert!(cursor >= self.start && cursor <= self.end(), "nobody's cursor is trimmed away");
        &self.bytes[(cursor.saturating_sub(self.start) as usize).min(self.bytes.len())..]
    }

    /// The events from `cursor` on, which stands between two frames.
    pub(crate) fn events_from(&self, cursor: u64) -> impl Iterator<Item = &Arc<Push>> {
        let first = self.frames.partition_point(|(end, _)| *end <= cursor);
        self.frames.range(first..).filter_map(|(_, push)| push.as_ref())
    }

    /// How many frames lie after `cursor`.
    pub(crate) fn frames_from(&self, cursor: u64) -> usize {
        self.frames.len() - self.frames.partition_point(|(end, _)| *end <= cursor)
    }

    /// Events between two cursors.
    pub(crate) fn events_between(&self, from: u64, to: u64) -> usize {
        let first = self.frames.partition_point(|(end, _)| *end <= from);
        self.frames
            .range(first..)
            .take_while(|(end, _)| *end <= to)
            .filter(|(_, push)| push.is_some())
            .count()
    }

    /// The newest frame's event, if it is one and has not been trimmed.
    pub(crate) fn last(&self) -> Option<&Push> {
        self.frames.back().and_then(|(_, push)| push.as_deref())
    }

    /// The end of the frame that `offset` lies in, or `offset` itself between two frames.
    pub(crate) fn boundary(&self, offset: u64) -> u64 {
        let first = self.frames.partition_point(|(end, _)| *end < offset);
        self.frames.get(first).map_or(offset, |(end, _)| *end)
    }

    /// Forgets what lies before `cursor`, for an audience of `members`. Amortised: bytes are only moved when
    /// at least half of them go.
    pub(crate) fn trim(&mut self, cursor: u64, members: usize) {
        let cursor = cursor.min(self.end());
        let gone = cursor.saturating_sub(self.start) as usize;
        if gone == self.bytes.len() {
            self.start = cursor;
            self.frames.clear();
            self.bytes.clear();
            self.bytes.shrink_to(KEPT_PER_MEMBER * members);
            self.frames.shrink_to(members);
        } else if gone > self.bytes.len() / 2 {
            let gone_frames = self.frames.partition_point(|(end, _)| *end <= cursor);
            self.frames.drain(..gone_frames);
            self.bytes.drain(..gone);
            self.start = cursor;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared::event::{Action, Position};

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Append(u8),
        Read(usize, usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (1..20_u8).prop_map(Step::Append),
            (0..3_usize, 0..60_usize).prop_map(|(who, most)| Step::Read(who, most)),
        ];
        prop::collection::vec(step, 0..80)
    }

    proptest! {
        /// Three readers who read as much as they like: each sees the whole, in order, exactly once.
        #[test]
        fn every_reader_sees_every_byte_once_and_in_order(steps in steps()) {
            let mut log = Log::default();
            let mut whole = Vec::new();
            let (mut cursors, mut seen) = ([0_u64; 3], [vec![], vec![], vec![]]);
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Append(size) => {
                        let at = Position::first_of(number as u64);
                        let push = Push::found(0, at, Action::Create, Arc::default(), Arc::default());
                        let frame = vec![number as u8; size.into()];
                        log.append(Some(&Arc::new(push)), &frame);
                        whole.extend_from_slice(&frame);
                    }
                    Step::Read(who, most) => {
                        let pending = log.pending(cursors[who]);
                        let read = &pending[..most.min(pending.len())];
                        seen[who].extend_from_slice(read);
                        let reached = cursors[who] + read.len() as u64;
                        // As a session does: the rest of a frame once begun is taken out.
                        let boundary = log.boundary(reached);
                        let rest = (boundary - reached) as usize;
                        let rest = log.pending(reached)[..rest].to_vec();
                        seen[who].extend(rest);
                        cursors[who] = boundary;
                        log.trim(*cursors.iter().min().expect("three"), 3);
                    }
                }
                for (who, cursor) in cursors.iter().enumerate() {
                    prop_assert_eq!([seen[who].as_slice(), log.pending(*cursor)].concat(), whole.clone());
                    let events: usize = log.events_from(*cursor).count();
                    prop_assert_eq!(events == 0, log.pending(*cursor).is_empty());
                }
            }
        }
    }
}
