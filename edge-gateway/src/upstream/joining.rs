//! Sessions that begin: their place in the order, and what they are told before it.

use std::collections::HashMap;
use std::time::Instant;

use shared::model::{Revision, ServiceRef};

use super::core::{Missing, Preface};
use super::topic::Replayed;
use super::{Admission, Command, Done, Joined, Upstream};
use crate::close::Reason;
use crate::fanout::ToShard;
use crate::push::Encoding;
use crate::watch::Full;
use crate::watch::{GroupId, SessionsClosed};

/// A session whose place is to be reserved.
pub(super) struct Joining {
    group: GroupId,
    shard: usize,
    encoding: Encoding,
    done: Admission,
}

/// What sessions resume from: those of a group that come back from the same revision are told the same.
pub(super) type Place = (GroupId, Revision);

/// Sessions that must be told what they missed before. They wait together: when a gateway goes, thousands come that
/// were certain of the same few revisions, and each of these is asked for once.
pub(super) struct Resuming {
    waiting: Vec<Joining>,
    since: Revision,
    pub(super) asking: bool,
    pub(super) known: HashMap<ServiceRef, Replayed>,
    /// The store was asked whether it has come as far as `since`.
    probed: bool,
}

impl Resuming {
    fn from(since: Revision) -> Self {
        Self { waiting: Vec::new(), since, asking: false, known: HashMap::new(), probed: false }
    }

    /// What was asked is of no use any more.
    pub(super) fn start_over(&mut self) {
        (self.asking, self.probed) = (false, false);
        self.known.clear();
    }

    /// Takes the store's revision. A client that is further was told of a history that a backup has undone: it
    /// is told the state.
    pub(super) fn compare(&mut self, rev: Revision) {
        self.asking = false;
        if rev < self.since {
            self.since = 0;
        }
    }
}

impl Upstream {
    pub(super) async fn on_command(&mut self, command: Command) {
        match command {
            // Whoever asked may have gone.
            Command::Tell(told) => drop(told.send(self.core.standing())),
            Command::Join { selector, encoding, since, done } => {
                if !self.core.has_room(&selector, self.config.topics) {
                    // Nobody waits any more: nothing was taken.
                    let _ = done.send(Err(Full::Topics));
                    return;
                }
                let (group, shard) = self.core.join(&selector);
                match since {
                    None => self.reserve(Joining { group, shard, encoding, done }, Vec::new()).await,
                    Some(since) => {
                        let place =
                            self.resuming.entry((group, since)).or_insert_with(|| Resuming::from(since));
                        place.waiting.push(Joining { group, shard, encoding, done });
                    }
                }
            }
        }
    }

    /// Reserves the place of a session. In the shard's queue this comes before any later push: that is what makes
    /// the session's view begin now.
    async fn reserve(&mut self, joining: Joining, preface: Vec<u8>) {
        let Joining { group, shard, encoding, done } = joining;
        let Some(shard) = self.shards.get(shard).cloned() else { return };
        let ticket = self.next_ticket;
        self.next_ticket.0 += 1;
        if !shard.send(ToShard::Reserve { ticket, group, encoding, preface }).await {
            return;
        }
        let gone = !self.core.has(group);
        if gone {
            // It ended while this session was waiting: tell it like the others.
            shard.send(ToShard::End { group, reason: Reason::NoService }).await;
        }
        let joined = Joined { shard, ticket };
        if gone || self.core.is_open(group) {
            // When nobody waits any more the shard lets the place go after a while.
            let _ = done.send(Ok(joined));
        } else {
            self.opening.entry(group).or_default().push((done, joined));
        }
    }

    /// Tells those who wait for a group's view that it will not begin.
    pub(super) async fn refuse(&mut self, group: GroupId, full: Full) {
        for (done, joined) in self.opening.remove(&group).into_iter().flatten() {
            joined.shard.send(ToShard::Release { ticket: joined.ticket }).await;
            let _ = done.send(Err(full));
        }
        for (_, it) in self.resuming.extract_if(|(of, _), _| *of == group) {
            for joining in it.waiting {
                let _ = joining.done.send(Err(full));
            }
        }
    }

    /// Gives up the places of those who did not wait for their group's view to begin.
    pub(super) async fn release_abandoned(&mut self) {
        for waiting in self.opening.values_mut() {
            for (_, joined) in waiting.extract_if(.., |(done, _)| done.is_closed()) {
                joined.shard.send(ToShard::Release { ticket: joined.ticket }).await;
            }
        }
    }

    /// Lets those go on who resume from a revision and whose groups have arrived at one.
    pub(super) async fn resume(&mut self) {
        let places: Vec<Place> = self.resuming.keys().copied().collect();
        for place in places {
            let Some(it) = self.resuming.get_mut(&place) else { continue };
            let (group, now) = (place.0, Instant::now());
            for gone in it.waiting.extract_if(.., |joining| joining.done.is_closed()) {
                self.core.left(gone.shard, SessionsClosed { group, sessions: 1 }, now);
            }
            if it.waiting.is_empty() {
                self.resuming.remove(&place);
                continue;
            }
            if it.since > self.core.seen() && !it.probed {
                (it.asking, it.probed) = (true, true);
                let asker = self.asker.clone();
                self.ask(async move { Done::Probed(place, asker.probe().await) });
                continue;
            }
            let preface = match self.core.preface(group, it.since, &it.known) {
                None if !self.core.has(group) => Preface::default(),
                None => {
                    self.core.hasten(group, it.since);
                    continue;
                }
                Some(Ok(preface)) => preface,
                Some(Err(Missing::Departed)) => {
                    self.ask_departed(group);
                    continue;
                }
                Some(Err(Missing::Events(_))) if it.asking => continue,
                Some(Err(Missing::Events(wants))) => {
                    it.asking = true;
                    let asker = self.asker.clone();
                    self.ask(async move {
                        let replayed = asker.replay(&wants).await;
                        Done::Resumed(place, wants.into_iter().zip(replayed).collect())
                    });
                    continue;
                }
            };
            if let Some(it) = self.resuming.remove(&place) {
                let mut encoded = HashMap::new();
                for joining in it.waiting {
                    let bytes: &Vec<u8> = encoded
                        .entry(joining.encoding.index())
                        .or_insert_with(|| encode(joining.encoding, it.since, &preface));
                    let bytes = bytes.clone();
                    self.reserve(joining, bytes).await;
                }
            }
        }
    }
}

impl Upstream {
    /// Asks who has left a group, once for all who resume.
    fn ask_departed(&mut self, group: GroupId) {
        let Some(selector) = self.core.selector(group).cloned() else { return };
        let of_group = self.resuming.iter().filter(|((of, _), it)| *of == group && it.since > 0);
        let Some(since) = of_group.map(|(_, it)| it.since).min() else { return };
        if !self.departing.insert(group) {
            return;
        }
        let (asker, batch) = (self.asker.clone(), self.config.replay_batch);
        self.ask(async move { Done::Departed(group, asker.departed(&selector, since, batch).await) });
    }
}

/// The frames of a preface, for a transport that knows states and bookmarks.
fn encode(encoding: Encoding, since: Revision, preface: &Preface) -> Vec<u8> {
    let mut bytes = Vec::new();
    if preface.void {
        bytes.extend_from_slice(&encoding.reset(None, &[], preface.rev, since).unwrap_or_default());
    }
    for (key, instances) in &preface.states {
        // Until all states are there the client is where it was.
        bytes
            .extend_from_slice(&encoding.reset(Some(key), instances, preface.rev, since).unwrap_or_default());
    }
    for push in &preface.events {
        bytes.extend_from_slice(&push.frame_after(encoding, preface.told));
    }
    if (preface.void || !preface.states.is_empty()) && preface.told > since {
        bytes.extend_from_slice(&encoding.bookmark(preface.told).unwrap_or_default());
    }
    bytes
}
