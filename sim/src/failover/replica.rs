//! A simulated control-plane replica around the real view, history, term and replies.

use std::collections::BTreeMap;

use control_plane::carriage::Room;
use control_plane::publisher::term::Term;
use control_plane::responder::answer;
use control_plane::store::KeyValue;
use control_plane::view::{self, History, Protection, View, ViewWriter};
use follow::reply::{InterestParts, Progress, ReplayParts, TopicReplay, Want, replay_request};
use prost::Message as _;
use proto::event::v1 as pb;
use shared::clock::Clock;
use shared::model::Revision;

/// The room of a message on the simulated bus: that of NATS by default.
pub(super) const ROOM: Room = Room::new(1 << 20);

/// A replica, with everything that it needs to publish and to reply.
pub(super) struct Replica {
    pub(super) writer: ViewWriter,
    pub(super) view: View,
    /// The number of the store's revisions that it has followed.
    pub(super) followed: usize,
    /// The highest revision in a bookmark of any publisher. A new term begins there.
    pub(super) last_bookmark: Revision,
    /// The epoch of the seat that it believes to hold.
    pub(super) seat: Option<Revision>,
    pub(super) term: Option<Term>,
    pub(super) alive: bool,
}

impl Replica {
    /// A replica that has just listed the store. Its history is empty.
    pub(super) fn start(keys: &BTreeMap<String, KeyValue>, rev: Revision, followed: usize) -> Self {
        let protection = Protection { from_size: 0, keep_percent: 50 };
        let (mut writer, view) = view::empty(History::new(10_000), protection, Clock::manual(1));
        writer.reset(keys.values().cloned().collect(), rev);
        Self { writer, view, followed, last_bookmark: Revision::ZERO, seat: None, term: None, alive: true }
    }

    pub(super) fn rev(&self) -> Revision {
        self.writer.revision()
    }

    /// The replica's reply to a replay request, through the bytes of both sides.
    pub(super) fn replay(&self, wants: &[Want]) -> Vec<TopicReplay> {
        // Through bytes and not by reference: a field that one side does not write or read is a defect too.
        let request = replay_request(wants, self.rev()).encode_to_vec();
        let request = pb::ReplayRequest::decode(&request[..]).expect("a request decodes");
        let snapshot = self.view.now().expect("the replica has listed the store");
        let wanted = answer::ReplayWant::parse_all(request);
        let reply = answer::replay(&snapshot, self.view.history(), wanted, 1, ROOM);
        let mut parts = ReplayParts::default();
        let mut progress = Progress::MoreParts;
        for payload in reply.payloads {
            progress = parts.add(&payload).expect("a reply decodes");
        }
        assert_eq!(progress, Progress::Complete, "the last part says that it is the last");
        parts.into_replays(wants).expect("every want is answered")
    }

    /// The replica's reply to a request about an interest, through the bytes of both sides.
    pub(super) fn interest(&self, request: &pb::InterestRequest) -> InterestParts {
        let request = pb::InterestRequest::decode(&request.encode_to_vec()[..]).expect("a request decodes");
        let want = answer::InterestWant::parse(request).expect("the request names an interest");
        let snapshot = self.view.now().expect("the replica has listed the store");
        let mut parts = InterestParts::default();
        let mut progress = Progress::MoreParts;
        for payload in answer::interest(&snapshot, self.view.history(), &want, 1, ROOM) {
            progress = parts.add(&payload).expect("a reply decodes");
        }
        assert_eq!(progress, Progress::Complete, "the last part says that it is the last");
        parts
    }
}
