//! The moves of the gateway: messages that are taken, effects, replies, bookmarks that are passed on.

use follow::Effect;
use follow::message::Bookmark;
use follow::resume::ResumeStep;
use follow::tracker::Confirmed;

use super::*;

impl Sim {
    pub(super) fn take_events(&mut self, most: usize) {
        for _ in 0..most {
            let Some(event) = take_any(&mut self.topics, &mut self.dice) else { return };
            self.tracker.on_event(event);
            self.act();
        }
    }

    /// Takes all changes of interests, after all events that have arrived, as the gateway does.
    pub(super) fn take_changes(&mut self) {
        self.take_events(usize::MAX);
        let mut changes = Vec::new();
        for consumer in &mut self.consumers {
            if let (Some(group), Some(subscription)) = (consumer.group, &mut consumer.changes)
                && subscription.is_read
            {
                changes.extend(subscription.queue.drain(..).map(|change| (group, change)));
            }
        }
        self.tracker.on_interest_changes(changes);
        self.act();
    }

    /// Takes all bookmarks. The gateway does so before a reply or a loss, so that no later bookmark is older
    /// than it.
    pub(super) fn take_bookmarks(&mut self) {
        while !self.bookmarks.is_empty() {
            self.take_bookmark();
        }
    }

    /// Takes a bookmark, and everything that has arrived before it, as the gateway does.
    pub(super) fn take_bookmark(&mut self) {
        let Some((since, rev)) = self.bookmarks.pop_front() else { return };
        self.take_changes();
        let is_in = |at: Revision| at > since && at <= rev;
        let mut providers = Vec::new();
        for (which, chain) in self.chains.iter() {
            if let Some(last) = chain.iter().rfind(|event| is_in(event.at.rev)) {
                providers.push((provider(which), last.at));
            }
        }
        let mut consumers = Vec::new();
        for (which, consumer) in self.consumers.iter().enumerate() {
            // The first interest is no change.
            if let Some((at, _)) = consumer.interests.iter().skip(1).rfind(|(at, _)| is_in(*at)) {
                let Selector::Consumer(of) = selector(which) else { continue };
                consumers.push((of, Position::end_of(*at)));
            }
        }
        self.tracker.on_bookmark(Bookmark { rev, since, providers, consumers, ..Bookmark::default() });
        self.act();
        // The gateway passes on one a second.
        if self.tracker.in_step() == rev && (self.calm || self.dice.bool()) {
            self.pass_on_bookmark();
        }
    }

    fn pass_on_bookmark(&mut self) {
        let Confirmed { rev, behind } = self.tracker.confirmations();
        for index in 0..self.clients.len() {
            if self.clients[index].is_here()
                && let Some(group) = self.consumers[self.clients[index].consumer].group
            {
                let told = behind.get(&group).copied().unwrap_or(rev);
                self.claim(index, told);
            }
        }
    }

    pub(super) fn act(&mut self) {
        self.carry_out();
        self.resume();
        self.carry_out();
    }

    fn carry_out(&mut self) {
        for effect in self.tracker.take_effects() {
            let min_rev = self.tracker.seen();
            let question = match effect {
                Effect::Deliver(push, groups) => {
                    for index in 0..self.clients.len() {
                        let of = self.consumers[self.clients[index].consumer].group;
                        if of.is_some_and(|of| groups.contains(&of)) {
                            self.tell(index, &push);
                        }
                    }
                    continue;
                }
                Effect::OpenInterest(group, _) => Question::OpenInterest(group),
                Effect::RequestInterest(group, _) => Question::Interest(group),
                Effect::OpenTopics(wants) => Question::OpenTopics(wants),
                Effect::RequestReplay(_, wants) => Question::Replay(wants),
                Effect::CatchUp(group, want) => Question::CatchUp(group, want),
                Effect::CloseTopic(provider) => {
                    self.topics.remove(&provider.id);
                    continue;
                }
                Effect::CloseInterest(group) => {
                    if let Some(consumer) = self.consumer_of(group) {
                        consumer.group = None;
                        consumer.changes = None;
                    }
                    continue;
                }
                Effect::GroupOpened(_) => continue,
                Effect::RefuseGroup(_) | Effect::EndGroup(_) => panic!("every consumer exists"),
            };
            self.questions.push((min_rev, question));
        }
    }

    pub(super) fn receive(&mut self) {
        if self.replies.is_empty() {
            return;
        }
        self.take_bookmarks();
        // Any of them may arrive first: replies of different replicas overtake each other.
        match self.replies.swap_remove(self.dice.usize(0..self.replies.len())) {
            Reply::Interest(group, interest) => {
                if let Some(changes) = self.consumer_of(group).and_then(|consumer| consumer.changes.as_mut())
                {
                    changes.is_read = true;
                }
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
            Reply::MissedEvents(request, replays) => self.resumes.on_events(request, replays),
            Reply::Departures(group, departures) => {
                self.resumes.on_departures(group, Some(departures), &mut self.tracker);
            }
        }
        self.act();
    }

    /// Takes every resuming session one step further.
    fn resume(&mut self) {
        for client in self.resumes.keys() {
            match self.resumes.step(client, &mut self.tracker) {
                ResumeStep::Wait => {}
                ResumeStep::RequestStoreRevision => self.resumes.on_store_revision(self.rev),
                ResumeStep::RequestDepartures { group, since } => {
                    self.questions.push((self.tracker.seen(), Question::Departures(group, since)));
                }
                ResumeStep::Begin { preface, .. } => self.begin(client, &preface),
            }
        }
        let most = self.dice.usize(1..4);
        while let Some(request) = self.resumes.next_request(most) {
            self.questions.push((self.tracker.seen(), Question::MissedEvents(request)));
        }
    }
}
