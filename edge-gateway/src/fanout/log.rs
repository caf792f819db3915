//! The shared log of one audience: framed bytes, appended once, read by every session at its own cursor.
//!
//! All that is pending for a session is one slice, however many pushes it holds: there is no queue per
//! session and no list of buffers. The shard trims the log to the slowest cursor, and bounds the distance of
//! that cursor.

use std::collections::VecDeque;
use std::sync::Arc;

use shared::model::Revision;

use crate::push::Push;

/// Bytes of capacity per member that an empty log keeps, to spare the allocator; the rest is given back.
const KEPT_PER_MEMBER: usize = 64;

/// An append-only log. Cursors are offsets in bytes since its beginning and only grow.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    /// The offset of the first byte that is kept.
    start: u64,
    bytes: Vec<u8>,
    /// The end of each frame, and its push; `None` for bookmarks.
    frames: VecDeque<(u64, Option<Arc<Push>>)>,
    /// The revision of the last bookmark.
    bookmarked: Revision,
}

impl Log {
    /// The offset after the last byte, at which a session begins that joins now.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Appends the frame of a push.
    pub(crate) fn append(&mut self, push: &Arc<Push>, frame: &[u8]) {
        self.append_frame(Some(push), frame);
    }

    /// Appends the frame of a bookmark, which merging leaves out.
    pub(crate) fn append_bookmark(&mut self, rev: Revision, frame: &[u8]) {
        self.bookmarked = rev;
        self.append_frame(None, frame);
    }

    fn append_frame(&mut self, push: Option<&Arc<Push>>, frame: &[u8]) {
        self.bytes.extend_from_slice(frame);
        self.frames.push_back((self.end(), push.cloned()));
    }

    /// The revision of the last bookmark, trimmed or not; zero when there has been none.
    pub(crate) fn bookmarked(&self) -> Revision {
        self.bookmarked
    }

    /// Forgets the last bookmark: it was of a history of the store which was undone.
    pub(crate) fn forget_bookmark(&mut self) {
        self.bookmarked = Revision::ZERO;
    }

    /// Everything from `cursor` on.
    pub(crate) fn pending(&self, cursor: u64) -> &[u8] {
        debug_assert!(
            cursor >= self.start && cursor <= self.end(),
            "the log is trimmed to the slowest cursor"
        );
        // In a release build a wrong cursor reads what there is and does not panic: one session must not end
        // its shard.
        &self.bytes[(cursor.saturating_sub(self.start) as usize).min(self.bytes.len())..]
    }

    /// The pushes from `cursor` on, which must stand between two frames.
    pub(crate) fn pushes_from(&self, cursor: u64) -> impl Iterator<Item = &Arc<Push>> {
        let first = self.frames.partition_point(|(end, _)| *end <= cursor);
        self.frames.range(first..).filter_map(|(_, push)| push.as_ref())
    }

    /// The number of frames after `cursor`.
    pub(crate) fn frames_from(&self, cursor: u64) -> usize {
        self.frames.len() - self.frames.partition_point(|(end, _)| *end <= cursor)
    }

    /// The number of pushes between two cursors.
    pub(crate) fn pushes_between(&self, from: u64, to: u64) -> usize {
        let first = self.frames.partition_point(|(end, _)| *end <= from);
        self.frames
            .range(first..)
            .take_while(|(end, _)| *end <= to)
            .filter(|(_, push)| push.is_some())
            .count()
    }

    /// The push of the newest frame; `None` if that is a bookmark or was trimmed.
    pub(crate) fn last(&self) -> Option<&Push> {
        self.frames.back().and_then(|(_, push)| push.as_deref())
    }

    /// The end of the frame that `offset` lies in, or `offset` itself between two frames.
    pub(crate) fn boundary(&self, offset: u64) -> u64 {
        let first = self.frames.partition_point(|(end, _)| *end < offset);
        self.frames.get(first).map_or(offset, |(end, _)| *end)
    }

    /// Forgets the bytes before `cursor`, for an audience of `members`. Amortised: bytes are moved only when
    /// at least half of them go.
    pub(crate) fn trim(&mut self, cursor: u64, members: usize) {
        let cursor = cursor.min(self.end());
        let gone = cursor.saturating_sub(self.start) as usize;
        if gone == self.bytes.len() {
            self.start = cursor;
            self.frames.clear();
            self.bytes.clear();
            // Most audiences are idle most of the time; their last burst must not stay in memory.
            self.bytes.shrink_to(KEPT_PER_MEMBER * members);
            self.frames.shrink_to(members);
        // Dropping the front moves the rest. With half as the limit this moves fewer bytes than it frees.
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
            (0..3_usize, 0..60_usize).prop_map(|(reader, most)| Step::Read(reader, most)),
        ];
        prop::collection::vec(step, 0..80)
    }

    /// One of three sessions, and the bytes that it has received.
    #[derive(Clone, Default)]
    struct Reader {
        cursor: u64,
        received: Vec<u8>,
    }

    proptest! {
        #[test]
        fn every_reader_receives_every_byte_once_and_in_order(steps in steps()) {
            let mut log = Log::default();
            let mut whole = Vec::new();
            let mut readers = vec![Reader::default(); 3];
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Append(size) => {
                        let at = Position::first_of(Revision::new(number as u64));
                        let push = Push::difference(0, at, Action::Create, Arc::default(), Arc::default());
                        let frame = vec![number as u8; size.into()];
                        log.append(&Arc::new(push), &frame);
                        whole.extend_from_slice(&frame);
                    }
                    Step::Read(reader, most) => {
                        let reader = &mut readers[reader];
                        let pending = log.pending(reader.cursor);
                        let read = &pending[..most.min(pending.len())];
                        reader.received.extend_from_slice(read);
                        let reached = reader.cursor + read.len() as u64;
                        // As a session does: the rest of a frame once begun is taken out of the log.
                        let boundary = log.boundary(reached);
                        let rest = (boundary - reached) as usize;
                        reader.received.extend_from_slice(&log.pending(reached)[..rest]);
                        reader.cursor = boundary;
                        let slowest = readers.iter().map(|reader| reader.cursor).min();
                        log.trim(slowest.expect("three"), 3);
                    }
                }
                for reader in &readers {
                    let pending = log.pending(reader.cursor);
                    prop_assert_eq!([reader.received.as_slice(), pending].concat(), whole.clone());
                    prop_assert_eq!(log.pushes_from(reader.cursor).count() == 0, pending.is_empty());
                }
            }
        }
    }
}
