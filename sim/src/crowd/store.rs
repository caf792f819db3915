//! The moves of the store, of its publisher, and of the replicas that answer.

use super::*;

impl Sim {
    pub(super) fn commit(&mut self) {
        self.rev = self.rev.next();
        let event = self.chains.change(self.rev, &mut self.dice);
        self.bus.push_back(Published::Event(event));
    }

    /// A provider comes into the interest of a consumer.
    pub(super) fn widen(&mut self) {
        let which = self.dice.usize(0..self.consumers.len());
        let interests = &mut self.consumers[which].interests;
        let (before, providers) = interests.last().expect("there is a first interest");
        let missing = (0..PROVIDERS).map(provider).find(|provider| !providers.contains(provider));
        let Some(added) = missing else { return };
        let prev = Position::end_of(*before);
        let providers = providers.iter().cloned().chain([added.clone()]).collect();
        self.rev = self.rev.next();
        interests.push((self.rev, providers));
        let at = Position::end_of(self.rev);
        let change = InterestChange { at, prev, added: vec![added], ..InterestChange::default() };
        self.bus.push_back(Published::Interest(which, change));
    }

    pub(super) fn publish_bookmark(&mut self) {
        self.bus.push_back(Published::Bookmark(self.published, self.rev));
        self.published = self.rev;
    }

    /// The bus delivers the oldest message to the subscriptions that exist by now, or loses it.
    pub(super) fn deliver(&mut self, lose: bool) {
        match self.bus.pop_front() {
            None => {}
            Some(_) if lose => {}
            Some(Published::Event(event)) => {
                if let Some(subscription) = self.topics.get_mut(&event.provider.id) {
                    subscription.queue.push_back(event);
                }
            }
            Some(Published::Interest(consumer, change)) => {
                if let Some(subscription) = &mut self.consumers[consumer].changes {
                    subscription.queue.push_back(change);
                }
            }
            Some(Published::Bookmark(since, rev)) => self.bookmarks.push_back((since, rev)),
        }
    }

    /// A replica answers a question as of some revision that is not older than the question allows.
    pub(super) fn compute(&mut self) {
        if self.questions.is_empty() {
            return;
        }
        let (min_rev, question) = self.questions.swap_remove(self.dice.usize(0..self.questions.len()));
        let rev = Revision::new(self.dice.u64(min_rev.get().max(FIRST)..=self.rev.get()));
        let reply = match question {
            Question::OpenInterest(group) => {
                if let Some(consumer) = self.consumer_of(group) {
                    consumer.changes = Some(Subscription::new());
                }
                self.interest(group, rev)
            }
            Question::Interest(group) => self.interest(group, rev),
            Question::OpenTopics(wants) => {
                for want in &wants {
                    self.topics.insert(want.provider.id.clone(), Subscription::new());
                }
                Reply::TopicsOpened(self.chains.replays(wants, rev))
            }
            Question::Replay(wants) => Reply::Replay(self.chains.replays(wants, rev)),
            Question::CatchUp(group, want) => {
                let replay = self.chains.replay(&want, rev);
                Reply::CaughtUp(group, want, replay)
            }
            Question::MissedEvents(request) => {
                let replays = request.wants().iter().map(|want| self.chains.replay(want, rev)).collect();
                Reply::MissedEvents(request, replays)
            }
            Question::Departures(group, since) => {
                Reply::Departures(group, Departures { since, rev, ..Departures::default() })
            }
        };
        self.replies.push(reply);
    }

    pub(super) fn consumer_of(&mut self, group: GroupId) -> Option<&mut Consumer> {
        self.consumers.iter_mut().find(|consumer| consumer.group == Some(group))
    }

    fn interest(&mut self, group: GroupId, rev: Revision) -> Reply {
        let interests = self.consumer_of(group).map(|consumer| &*consumer.interests).unwrap_or_default();
        let providers = interests.iter().rev().find(|(since, _)| *since <= rev);
        let providers =
            providers.map(|(_, providers)| providers.iter().cloned().collect()).unwrap_or_default();
        Reply::Interest(group, InterestReply { exists: true, rev, providers, ..InterestReply::default() })
    }
}
