//! The encodings of watchers, and the bytes of a push in each of them.
//!
//! The bytes of a push in one encoding are made by the first audience that needs them, and shared by all
//! others.

use bytes::Bytes;
#[cfg(test)]
use follow::push::ENCODINGS;
use shared::event::Action;
use shared::model::Revision;

pub(crate) use follow::Push;

use crate::codec::websocket::text_frame;
use crate::codec::{event_stream, grpc, json};

/// The bytes in which a watcher receives pushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Encoding {
    /// A WebSocket text frame, byte for byte as old clients know it.
    Plain,
    /// The same frame with the fields `rev` and `since`, for clients that asked to resume.
    Resumable,
    /// A message of the historical gRPC watch.
    Historical,
    /// A message of `muster.watch.v1.Watch`.
    Grpc,
    /// A server-sent event with the text of [`Encoding::Resumable`].
    EventStream,
}

impl Encoding {
    /// Every encoding, in the order of [`Encoding::index`].
    #[cfg(test)]
    pub(crate) const ALL: [Self; ENCODINGS] =
        [Self::Plain, Self::Resumable, Self::Historical, Self::Grpc, Self::EventStream];

    /// The name of the encoding in traces.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Resumable => "resumable",
            Self::Historical => "historical",
            Self::Grpc => "grpc",
            Self::EventStream => "event_stream",
        }
    }

    /// The transport of the encoding's clients, as operators read it.
    pub(crate) fn transport(self) -> &'static str {
        match self {
            Self::Plain | Self::Resumable => "websocket",
            Self::Historical | Self::Grpc => "grpc",
            Self::EventStream => "sse",
        }
    }

    /// The index of the encoding in the slots of a push.
    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// True when clients of this encoding remember revisions and can resume.
    pub(crate) fn is_resumable(self) -> bool {
        matches!(self, Self::Resumable | Self::Grpc | Self::EventStream)
    }

    /// The message that tells a client that it has everything up to `rev`. `None` for clients that would not
    /// understand it.
    pub(crate) fn bookmark(self, rev: Revision) -> Option<Bytes> {
        match self {
            Self::Plain | Self::Historical => None,
            Self::Resumable => Some(text_frame(&json::bookmark(rev))),
            Self::Grpc => Some(grpc::bookmark(rev)),
            Self::EventStream => Some(event_stream::event(rev, &json::bookmark(rev))),
        }
    }

    /// The message that says that nothing that the client knows counts any more. `None` for clients that would not
    /// understand it.
    pub(crate) fn void(self, rev: Revision, since: Revision) -> Option<Bytes> {
        match self {
            Self::Plain | Self::Historical => None,
            Self::Resumable => Some(text_frame(&json::reset(None, rev, since))),
            Self::Grpc => Some(grpc::void(rev, since)),
            Self::EventStream => Some(event_stream::event(since, &json::reset(None, rev, since))),
        }
    }
}

/// The bytes of a push.
pub(crate) trait Encode {
    /// The shared bytes. The first call for an encoding makes them.
    fn frame(&self, encoding: Encoding) -> &Bytes;

    /// The bytes after merging, which may have changed the action, and the revision that they confirm. Shared if it
    /// has changed neither.
    fn frame_merged(&self, encoding: Encoding, action: Action, confirmed: Revision) -> Bytes;

    /// The bytes for a preface, whose session will have everything up to `confirmed`. The session receives
    /// the changes in order and may break off after this one, with other changes of the same revision still
    /// to come.
    fn frame_after(&self, encoding: Encoding, confirmed: Revision) -> Bytes;
}

impl Encode for Push {
    fn frame(&self, encoding: Encoding) -> &Bytes {
        self.encoded(encoding.index(), || encode(self, encoding, self.action, self.resume_point()))
    }

    fn frame_merged(&self, encoding: Encoding, action: Action, confirmed: Revision) -> Bytes {
        let confirms_as_much = confirmed == self.resume_point().unwrap_or(self.at.rev);
        if action == self.action && (confirms_as_much || !encoding.is_resumable()) {
            self.frame(encoding).clone()
        } else {
            // Only merging for a slow watcher changes them, so these bytes are not kept.
            encode(self, encoding, action, Some(confirmed))
        }
    }

    fn frame_after(&self, encoding: Encoding, confirmed: Revision) -> Bytes {
        // More changes of this revision may follow, so a client that breaks off here resumes from
        // the one before it.
        let since = confirmed.min(self.at.rev.previous());
        encode(self, encoding, self.action, Some(since))
    }
}

fn encode(push: &Push, encoding: Encoding, action: Action, since: Option<Revision>) -> Bytes {
    let key = &*push.key;
    let instance = &*push.instance;
    let rev = push.at.rev;
    match encoding {
        Encoding::Plain => text_frame(&json::plain_event(action, key, instance)),
        Encoding::Resumable => text_frame(&json::resumable_event(action, key, instance, rev, since)),
        Encoding::Historical => grpc::historical_event(action, key, instance),
        Encoding::Grpc => grpc::event(action, key, instance, rev, since),
        Encoding::EventStream => {
            let text = json::resumable_event(action, key, instance, rev, since);
            event_stream::change(since.unwrap_or(rev), &text)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shared::event::Position;

    use super::*;

    fn push_at(sub: u32) -> Push {
        let at = Position { rev: Revision::new(204), sub };
        Push::difference(1, at, Action::Update, Arc::default(), Arc::default())
    }

    #[test]
    fn a_push_is_encoded_once_for_each_encoding() {
        let push = push_at(0);
        for encoding in Encoding::ALL {
            let first = push.frame(encoding).as_ptr();
            assert_eq!(push.frame(encoding).as_ptr(), first, "{encoding:?}");
            let merged = push.frame_merged(encoding, Action::Update, push.at.rev).as_ptr();
            assert_eq!(merged, first, "{encoding:?}: merging changed nothing");
        }
    }

    #[test]
    fn a_session_that_breaks_off_in_a_revision_resumes_before_it() {
        let push = push_at(9);
        let revisions_after = |confirmed: u64| {
            let frame = push.frame_after(Encoding::Resumable, Revision::new(confirmed));
            let start = frame.iter().position(|byte| *byte == b'{').expect("JSON");
            let json: serde_json::Value = serde_json::from_slice(&frame[start..]).expect("JSON");
            (json["rev"].as_u64(), json["since"].as_u64())
        };
        assert_eq!(revisions_after(190), (Some(204), Some(190)));
        assert_eq!(revisions_after(204), (Some(204), Some(203)), "more of 204 may follow");
        assert_eq!(revisions_after(230), (Some(204), Some(203)));
    }
}
