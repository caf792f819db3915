//! The moves of the bus and of the gateway: messages that arrive, effects, questions and their answers.

use follow::message::{Bookmark, InterestChange};
use follow::reply::{TopicReplay, Want, interest_request};
use follow::tracker::Departures;
use follow::{Effect, GroupId};
use shared::event::InstanceEvent;
use shared::subject;

use super::{Question, REPLICAS, Sim};

impl Sim {
    /// The bus delivers a sender's oldest message. Unless it is calm, it may lose, repeat or delay the
    /// message.
    pub(super) fn deliver(&mut self, number: usize) {
        if !self.calm {
            match self.dice.u8(0..12) {
                0 => return drop(self.bus[number].pop_front()),
                // NATS keeps the order within a connection. The simulation does not, to be stricter than
                // production.
                1 if self.bus[number].len() > 1 => self.bus[number].swap(0, 1),
                2 => {
                    let repeated = self.bus[number].front().cloned();
                    self.bus[number].extend(repeated);
                }
                _ => {}
            }
        }
        let Some(message) = self.bus[number].pop_front() else { return };
        if message.subject == subject::BOOKMARK {
            let bookmark = Bookmark::decode(&message.payload).expect("a bookmark decodes");
            for replica in &mut self.replicas {
                replica.last_bookmark = replica.last_bookmark.max(bookmark.rev);
            }
            self.tracker.on_bookmark(bookmark);
        } else if let Some(group) = self.group_of(&message.subject) {
            let selector = self.selector_of(group);
            let change = InterestChange::decode(selector, &message.payload).expect("a change decodes");
            self.tracker.on_interest_changes(vec![(group, change)]);
        } else if let Some(provider) = subject::service_of(&message.subject)
            && message.subject == subject::event(&provider)
            && self.topics.contains(&provider)
        {
            let event = InstanceEvent::decode(&message.payload).expect("an event decodes");
            self.tracker.on_events(vec![event]);
        }
        self.act();
    }

    /// The group whose interest's changes have this subject.
    fn group_of(&self, subject: &str) -> Option<GroupId> {
        if subject == self.selector.subject() {
            return Some(self.group);
        }
        let beside = self.beside.as_ref().filter(|beside| subject == beside.selector.subject());
        beside.map(|beside| beside.group)
    }

    pub(super) fn act(&mut self) {
        self.carry_out();
        self.read();
        self.confirmed.push(self.tracker.confirmed());
        self.resume();
        self.carry_out();
    }

    fn carry_out(&mut self) {
        for effect in self.tracker.take_effects() {
            let min_rev = self.tracker.seen();
            match effect {
                Effect::Deliver(push, groups) => {
                    if let Some(beside) = &mut self.beside
                        && groups.contains(&beside.group)
                    {
                        beside.delivered.push(push.clone());
                    }
                    if !groups.contains(&self.group) {
                        continue;
                    }
                    for session in &mut self.resumed {
                        session.receive(&push);
                    }
                    if let Some(consumer) = &mut self.consumer {
                        consumer.receive(&push);
                    }
                    self.delivered.push(push);
                }
                Effect::OpenInterest(group, _) => {
                    self.questions.push((min_rev, Question::Interest { group, known_at: None }));
                }
                Effect::RequestInterest(group, _) => {
                    let known_at = self.tracker.interest_known_at(group);
                    self.questions.push((min_rev, Question::Interest { group, known_at }));
                }
                Effect::OpenTopics(wants) => {
                    self.topics.extend(wants.iter().map(|want| want.provider.clone()));
                    self.questions.push((min_rev, Question::OpenTopics(wants)));
                }
                Effect::RequestReplay(_, wants) => self.questions.push((min_rev, Question::Replay(wants))),
                Effect::CatchUp(group, want) => {
                    self.questions.push((min_rev, Question::CatchUp(group, want)))
                }
                Effect::CloseTopic(provider) => {
                    self.topics.remove(&provider);
                }
                Effect::GroupOpened(_) | Effect::CloseInterest(_) => {}
                Effect::RefuseGroup(_) | Effect::EndGroup(_) => panic!("no group ends in this simulation"),
            }
        }
    }

    /// A replica that has reached the required revision answers a question.
    pub(super) fn answer(&mut self) {
        if self.questions.is_empty() {
            return;
        }
        // In any order, because replies of different replicas overtake each other.
        let (min_rev, question) = self.questions.swap_remove(self.dice.usize(0..self.questions.len()));
        let able: Vec<usize> = (0..REPLICAS)
            .filter(|number| self.replicas[*number].alive && self.replicas[*number].rev() >= min_rev)
            .collect();
        // No replica is far enough. The gateway would repeat the request, so the question stays.
        if able.is_empty() {
            return self.questions.push((min_rev, question));
        }
        let number = able[self.dice.usize(0..able.len())];
        match question {
            Question::Interest { group, known_at } => {
                let request = interest_request(self.selector_of(group), min_rev, known_at);
                let reply = self.replicas[number].interest(&request).into_interest();
                // Then nobody knows which providers came and left unseen.
                let complete_since = self.replicas[number].view.history().complete_since();
                self.merged |= known_at.is_some_and(|known_at| known_at < complete_since);
                if let Some(beside) = self.beside.as_mut().filter(|beside| beside.group == group) {
                    beside.opened = beside.opened.or(Some(reply.rev));
                } else if known_at.is_none() {
                    self.opened = Some(reply.rev);
                    if let Some(consumer) = &mut self.consumer {
                        consumer.open(reply.rev);
                    }
                }
                self.tracker.on_interest(group, reply);
            }
            Question::OpenTopics(wants) => {
                for (want, replay) in self.replay(number, wants) {
                    self.tracker.on_loaded(&want.provider, want.since, replay);
                }
            }
            Question::Replay(wants) => {
                for (want, replay) in self.replay(number, wants) {
                    self.tracker.on_replay(&want.provider, want.since, replay);
                }
            }
            Question::CatchUp(group, want) => {
                for (want, replay) in self.replay(number, vec![want]) {
                    self.tracker.on_caught_up(group, &want.provider, replay);
                }
            }
            Question::Departures(since) => {
                let list = self.list_departures(number, min_rev, since);
                // Another replica may answer the next question. It must have come as far as this one.
                let far_enough = self.tracker.seen().max(list.rev);
                self.questions.push((far_enough, Question::DepartedEvents(list)));
            }
            Question::DepartedEvents(list) => {
                let departures: Option<Departures> = self.departed_events(number, list);
                self.resumes.on_departures(self.group, departures, &mut self.tracker);
            }
            Question::MissedEvents(request) => {
                let replays = self.replay(number, request.wants().to_vec());
                self.resumes.on_events(request, replays.into_iter().map(|(_, replay)| replay).collect());
            }
        }
        self.act();
    }

    /// A replica's replays.
    pub(super) fn replay(&mut self, number: usize, wants: Vec<Want>) -> Vec<(Want, TopicReplay)> {
        let replays = self.replicas[number].replay(&wants);
        self.merged |= replays.iter().any(|replay| !replay.continuous);
        wants.into_iter().zip(replays).collect()
    }
}
