//! Answers of the control plane, on their way to the core.

use std::sync::atomic::Ordering;

use shared::model::Revision;
use tracing::{debug, info};

use super::Upstream;
use super::core::Digests;
use super::effects::Done;
use super::inbox::{Source, tagged};

impl Upstream {
    /// Takes an answer in; where the store has gone back to, if it says that it has.
    pub(super) fn on_done(&mut self, done: Done) -> Option<Revision> {
        match done {
            Done::Interest(group, messages, interest) => {
                if let Some(messages) = messages {
                    let (stream, handle) = tagged(messages, Source::Interest(group));
                    if self.core.sessions(group).is_empty() {
                        return None;
                    }
                    self.messages.push(stream);
                    self.interests.insert(group, handle);
                }
                if self.core.refuse_too_many(group, &interest, self.config.topics) {
                    return None;
                }
                // Before the first session of the group goes on: a pull that follows must know what the session
                // will not be told because it was there before.
                self.pushed.fetch_max(interest.rev, Ordering::Relaxed);
                self.core.on_interest(group, interest);
            }
            Done::Loaded(loaded) => {
                for (want, messages, replayed) in loaded {
                    if self.core.on_loaded(&want.provider, want.since, replayed) {
                        let (stream, handle) = tagged(messages, Source::Event);
                        self.messages.push(stream);
                        if let Some(old) = self.topics.insert(want.provider, handle) {
                            old.abort();
                        }
                    }
                }
            }
            Done::Replayed(replayed) => {
                for (want, replayed) in replayed {
                    let differences = self.core.on_replayed(&want.provider, want.since, replayed);
                    self.metrics.repaired(differences);
                }
            }
            Done::Resumed(place, replayed) => {
                if let Some(resuming) = self.resuming.get_mut(&place) {
                    resuming.asking = false;
                    resuming.known.extend(replayed.into_iter().map(|(want, it)| (want.provider, it)));
                }
            }
            Done::Departed(group, departed) => {
                self.departing.remove(&group);
                self.core.on_departed(group, departed);
            }
            Done::Probed(place, rev) => {
                if let Some(resuming) = self.resuming.get_mut(&place) {
                    resuming.compare(rev);
                }
            }
            Done::Confirmed(told, seen) => return self.judge(told, seen),
            Done::CaughtUp(group, want, replayed) => self.core.on_caught_up(group, &want.provider, replayed),
            Done::Bookmarks(messages) => {
                self.bookmarks = Some(messages);
                let connected = self.asker.bus.link().borrow().connected;
                self.joined.send_replace(connected);
                info!("joined the bus");
            }
            Done::Digest(Digests { entries, consumers }, answer) => {
                self.comparing = false;
                match answer {
                    Ok((differing, gone)) => {
                        let differing = differing.iter().filter_map(|n| entries.get(*n as usize).cloned());
                        self.core.on_differing(differing.collect());
                        for (group, _) in gone.iter().filter_map(|n| consumers.get(*n as usize)) {
                            self.core.on_consumer_gone(*group);
                        }
                    }
                    Err(error) => debug!(%error, "no replica compared its state with ours"),
                }
            }
        }
        None
    }
}
