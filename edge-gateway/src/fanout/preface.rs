//! The bytes that a resuming session is sent before the pushes of its group, made piece by piece.
//!
//! In: the preface, which all sessions share that begin together. Out: its messages, some 64 KiB of bytes at a time. The
//! state of a provider may be some 60 MB long, and its client may take minutes to read it or never do. So a session
//! holds one piece, and beside it references to instances, which others hold as well until they change.

use std::sync::Arc;

use access::Grant;
use follow::tracker::Preface;
use shared::model::{Instance, Revision, ServiceKey};

use crate::codec::websocket::{Fragment, put_text};
use crate::codec::{event_stream, grpc, json};
use crate::policy::labels_of;
use crate::push::{Encode as _, Encoding};

/// The bytes of a piece; a piece is larger by what its last event has beyond them.
const PIECE: usize = 60 * 1024;

/// What a session is sent before the pushes of its group.
#[derive(Clone, Debug, Default)]
pub(crate) struct Opening {
    /// The first piece.
    pub(super) first: Vec<u8>,
    /// The part after it; `None` when there is none.
    pub(super) rest: Option<Box<PrefaceBytes>>,
}

impl Opening {
    /// The opening of a session that resumes with this preface.
    pub(crate) fn of(preface: PrefaceBytes) -> Self {
        let mut rest = Box::new(preface);
        let mut first = Vec::new();
        rest.put(&mut first);
        Self { first, rest: (!rest.is_over()).then_some(rest) }
    }
}

/// The part of a preface that has not been made yet.
#[derive(Clone, Debug)]
pub(crate) struct PrefaceBytes {
    preface: Arc<Preface>,
    /// The revision from which the session resumes.
    since: Revision,
    /// What the session's client may read.
    grant: Arc<Grant>,
    encoding: Encoding,
    next: Next,
    /// Messages that came up within a message, and follow it.
    held: Vec<u8>,
}

/// The next bytes of a preface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The message that voids what the client knows, if there is one.
    Void,
    /// The state with this index, from this instance on. From 0 on it begins with a new message.
    State(usize, usize),
    /// The event with this index.
    Event(usize),
    /// Nothing; everything has been made.
    Nothing,
}

impl PrefaceBytes {
    /// The whole preface of a session that resumes from `since`. Only encodings with states and bookmarks can resume.
    pub(crate) fn new(preface: Arc<Preface>, since: Revision, grant: Arc<Grant>, encoding: Encoding) -> Self {
        Self { preface, since, grant, encoding, next: Next::Void, held: Vec::new() }
    }

    /// True when everything has been made.
    pub(super) fn is_over(&self) -> bool {
        self.next == Next::Nothing
    }

    /// True when the last piece has ended within a message. Another message must not go out then.
    pub(super) fn is_within_message(&self) -> bool {
        // Messages of gRPC end with their piece, and the client gathers them to a state.
        matches!(self.next, Next::State(_, 1..)) && self.encoding != Encoding::Grpc
    }

    /// True if control frames may go out within a message.
    pub(super) fn admits_control(&self) -> bool {
        self.encoding == Encoding::Resumable
    }

    /// Keeps a message until the present one has ended.
    pub(super) fn follow_with(&mut self, message: &[u8]) {
        self.held.extend_from_slice(message);
    }

    /// Appends the next piece. It is empty only when everything has been made. A message that began in an earlier piece
    /// ends its last one.
    pub(super) fn put(&mut self, out: &mut Vec<u8>) {
        let preface = self.preface.clone();
        let full = out.len() + PIECE;
        while out.len() < full && !self.is_over() {
            self.next = match self.next {
                Next::Void => {
                    if preface.void {
                        let void = self.encoding.void(preface.rev, self.since).unwrap_or_default();
                        out.extend_from_slice(&void);
                    }
                    Next::State(0, 0)
                }
                Next::State(index, from) => match preface.states.get(index) {
                    None => Next::Event(0),
                    Some((key, _)) if !self.grant.admits(labels_of(key)) => Next::State(index + 1, 0),
                    Some((key, instances)) => match self.put_state(key, instances, from, full, out) {
                        Some(next) => {
                            self.next = Next::State(index, next);
                            return;
                        }
                        None => {
                            out.append(&mut self.held);
                            self.next = Next::State(index + 1, 0);
                            if from == 0 {
                                continue;
                            }
                            // So that a session which closes can end here.
                            return;
                        }
                    },
                },
                Next::Event(index) => match preface.events.get(index) {
                    None => {
                        self.put_bookmark(out);
                        Next::Nothing
                    }
                    Some(push) => {
                        if self.grant.admits(labels_of(&push.key)) {
                            out.extend_from_slice(&push.frame_after(self.encoding, preface.confirmed));
                        }
                        Next::Event(index + 1)
                    }
                },
                Next::Nothing => return,
            };
        }
    }

    /// Events carry their own resume point. States do not, so a bookmark must say how far they reach.
    fn put_bookmark(&self, out: &mut Vec<u8>) {
        let has_states = self.preface.void || !self.preface.states.is_empty();
        if has_states && self.preface.confirmed > self.since {
            out.extend_from_slice(&self.encoding.bookmark(self.preface.confirmed).unwrap_or_default());
        }
    }

    /// Appends a state from an instance on, up to some `full` bytes. Returns the first instance that is left, unless the
    /// state is at its end. Each state repeats `since`: a client that breaks off before the last state resumes from there
    /// again.
    fn put_state(
        &self,
        key: &ServiceKey,
        instances: &[Arc<Instance>],
        from: usize,
        full: usize,
        out: &mut Vec<u8>,
    ) -> Option<usize> {
        let (rev, since) = (self.preface.rev, self.since);
        if self.encoding == Encoding::Grpc {
            let taken = grpc::put_reset(key, &instances[from..], rev, since, full - out.len(), out);
            return (from + taken < instances.len()).then_some(from + taken);
        }
        let (head, tail) = json::reset_ends(key, rev, since);
        let mut text = if from == 0 { head } else { Vec::new() };
        let room = full.saturating_sub(out.len());
        let mut next = from;
        for instance in &instances[from..] {
            let before = text.len();
            if next > 0 {
                text.push(b',');
            }
            json::put_instance(instance, &mut text);
            // One at least, however large it is.
            if text.len() > room && next > from {
                text.truncate(before);
                break;
            }
            next += 1;
        }
        let is_last = next == instances.len();
        if is_last {
            text.extend_from_slice(&tail);
        }
        let fragment = Fragment { is_first: from == 0, is_last };
        match self.encoding {
            Encoding::EventStream => event_stream::put_part(since, &text, fragment, out),
            _ => put_text(&text, fragment, out),
        }
        (!is_last).then_some(next)
    }
}

#[cfg(test)]
mod tests;
