//! The moves of the gateway and of the replicas that answer it: messages that are taken, effects, questions,
//! replies.

use follow::Effect;
use follow::message::Bookmark;
use follow::reply::InterestReply;
use shared::event::Position;
use shared::model::Revision;

use super::{FIRST, Question, Reply, Sim, Subscription, consumer};
use crate::chain::{load, provider};
use crate::subscription::take_any;

impl Sim {
    /// Takes all bookmarks. The gateway does so before a reply or a loss, so that no later bookmark is older
    /// than it.
    pub(super) fn take_bookmarks(&mut self) {
        while !self.bookmarks.is_empty() {
            self.take_bookmark();
        }
    }

    /// Takes a bookmark, and everything that has arrived before it, as the gateway does.
    pub(super) fn take_bookmark(&mut self) {
        let Some(rev) = self.bookmarks.pop_front() else { return };
        self.take_events(usize::MAX);
        while self.interest.as_ref().is_some_and(|interest| interest.is_read && !interest.queue.is_empty()) {
            self.take_interest();
        }
        // It names the last event of each provider, so that a loss before it shows.
        let mut providers = Vec::new();
        for (which, chain) in self.chains.iter() {
            if let Some(last) = chain.iter().rfind(|event| event.at.rev <= rev) {
                providers.push((provider(which), last.at));
            }
        }
        // And the last change of the interest, for the same reason.
        let changed = self.interests.iter().skip(1).rfind(|(since, _)| *since <= rev);
        let consumers =
            changed.map(|(since, _)| (consumer(), Position::end_of(*since))).into_iter().collect();
        self.tracker.on_bookmark(Bookmark {
            rev,
            since: Revision::new(FIRST),
            providers,
            consumers,
            ..Bookmark::default()
        });
        self.act();
    }

    pub(super) fn take_events(&mut self, most: usize) {
        for _ in 0..most {
            let Some(event) = take_any(&mut self.topics, &mut self.dice) else { return };
            self.tracker.on_event(event);
            self.act();
        }
    }

    /// Takes a change of the interest, after all events that have arrived, as the gateway does.
    pub(super) fn take_interest(&mut self) {
        self.take_events(usize::MAX);
        if let Some(interest) = self.interest.as_mut().filter(|interest| interest.is_read)
            && let Some(change) = interest.queue.pop_front()
        {
            self.tracker.on_interest_change(self.group, change);
            self.act();
        }
    }

    pub(super) fn act(&mut self) {
        for effect in self.tracker.take_effects() {
            let min_rev = self.tracker.seen();
            match effect {
                Effect::Deliver(push, groups) => {
                    assert_eq!(groups, [self.group], "there is only one group");
                    // Instances that come and go with the interest have no event. The model with finds judges
                    // those; no reply is a state here, so nothing else is a difference.
                    if !push.is_difference() {
                        self.delivered.push(push);
                    }
                }
                Effect::OpenInterest(group, _) => {
                    self.interest = Some(Subscription::new());
                    self.questions.push((min_rev, Question::Interest(group)));
                }
                Effect::RequestInterest(group, _) => {
                    self.questions.push((min_rev, Question::Interest(group)));
                }
                Effect::OpenTopics(wants) => {
                    for want in &wants {
                        self.topics.insert(want.provider.id.clone(), Subscription::new());
                    }
                    self.questions.push((min_rev, Question::OpenTopics(wants)));
                }
                Effect::RequestReplay(_, wants) => self.questions.push((min_rev, Question::Replay(wants))),
                Effect::CatchUp(group, want) => {
                    self.questions.push((min_rev, Question::CatchUp(group, want)));
                }
                Effect::CloseTopic(provider) => {
                    self.topics.remove(&provider.id);
                }
                Effect::CloseInterest(_) => self.interest = None,
                // Sessions may begin now. Nothing in this simulation waits for that.
                Effect::GroupOpened(_) => {}
                Effect::RefuseGroup(_) | Effect::EndGroup(_) => panic!("no group ends in this simulation"),
            }
        }
    }

    /// A replica answers a question as of some revision that is not older than the question allows.
    pub(super) fn compute(&mut self) {
        if self.questions.is_empty() {
            return;
        }
        // Any question may be answered next, so a later one can get the older state.
        let (min_rev, question) = self.questions.swap_remove(self.dice.usize(0..self.questions.len()));
        // A replica may lag behind the store, but never behind what the gateway had seen when it asked.
        let rev = Revision::new(self.dice.u64(min_rev.get().max(FIRST)..=self.rev.get()));
        let reply = match question {
            Question::Interest(group) => {
                let state = self.interests.iter().rev().find(|(since, _)| *since <= rev);
                let providers = state.map(|(_, providers)| providers.iter().cloned().collect());
                let providers = providers.unwrap_or_default();
                Reply::Interest(
                    group,
                    InterestReply { exists: true, rev, providers, ..InterestReply::default() },
                )
            }
            Question::OpenTopics(wants) => Reply::TopicsOpened(self.chains.replays(wants, rev)),
            Question::Replay(wants) => Reply::Replay(self.chains.replays(wants, rev)),
            Question::CatchUp(group, want) => {
                let replay = self.chains.replay(&want, rev);
                Reply::CaughtUp(group, want, replay)
            }
        };
        self.replies.push(reply);
    }

    pub(super) fn receive(&mut self) {
        if self.replies.is_empty() {
            return;
        }
        self.take_bookmarks();
        // Any of them may arrive first: replies of different replicas overtake each other.
        match self.replies.swap_remove(self.dice.usize(0..self.replies.len())) {
            Reply::Interest(group, interest) => {
                self.interest.as_mut().expect("the gateway has subscribed").is_read = true;
                self.opened.get_or_insert(interest.rev);
                self.tracker.on_interest(group, interest);
            }
            Reply::TopicsOpened(replays) => {
                load(&mut self.tracker, &mut self.topics, replays);
            }
            Reply::Replay(replays) => {
                for (want, replay) in replays {
                    self.tracker.on_replay(&want.provider, want.since, replay);
                }
            }
            Reply::CaughtUp(group, want, replay) => {
                self.tracker.on_caught_up(group, &want.provider, replay);
            }
        }
        self.act();
    }
}
