//! Sessions of the simulation that were away and resume from a confirmed revision.

use std::sync::Arc;

use follow::Push;
use follow::reply::DepartureList;
use follow::reply::departures_request;
use follow::resume::ResumeStep;
use follow::tracker::{Departures, RecordOutcome};
use shared::model::{Revision, ServiceRef};

use super::finds::{Client, Consumer, Instances};
use super::{Question, Sim};

/// A session that resumes.
pub(super) struct Resumed {
    since: Revision,
    /// Everything that it has received since it began; `None` before.
    received: Option<Vec<Arc<Push>>>,
    /// It began with a state instead of changes.
    began_with_state: bool,
    /// The instances that it knows, if the watch is of a consumer.
    client: Client,
}

impl Resumed {
    /// Receives what its group receives, once it has begun.
    pub(super) fn receive(&mut self, push: &Arc<Push>) {
        if let Some(received) = &mut self.received {
            received.push(push.clone());
            self.client.receive(push);
        }
    }

    pub(super) fn judge_known(&self, consumer: &Consumer, merged: bool) -> Result<(), String> {
        consumer.judge(&self.client, merged).map_err(|error| format!("resumed from {}: {error}", self.since))
    }

    /// A find of the consumer has shown the instances of a provider.
    pub(super) fn find(&mut self, provider: &ServiceRef, instances: &Instances) {
        if self.received.is_some() {
            self.client.replace(provider, instances.clone());
        }
    }

    pub(super) fn has_joined(&self) -> bool {
        self.received.is_some()
    }
}

impl Sim {
    /// A client comes back, or comes from another gateway, with a revision that was confirmed to it there.
    pub(super) fn come_back(&mut self) {
        // A client cannot have been told of a revision before the gateway's group began: the judge knows
        // nothing of it.
        let opened = self.opened.unwrap_or(Revision::MAX);
        let confirmed: Vec<Revision> = self.confirmed.iter().copied().filter(|rev| *rev >= opened).collect();
        if confirmed.is_empty() {
            return;
        }
        let since = confirmed[self.dice.usize(0..confirmed.len())];
        self.resumes.begin(self.resumed.len(), self.group, since);
        self.resumed.push(Resumed {
            since,
            received: None,
            began_with_state: false,
            client: Client::default(),
        });
        self.resume();
    }

    /// Takes every resuming session one step further.
    pub(super) fn resume(&mut self) {
        for session in self.resumes.keys() {
            match self.resumes.step(session, &mut self.tracker) {
                ResumeStep::Wait => {}
                // Any replica reads this from the store itself, whose revision never goes back in this
                // simulation.
                ResumeStep::RequestStoreRevision => self.resumes.on_store_revision(self.rev),
                ResumeStep::RequestDepartures { since, .. } => {
                    self.questions.push((self.tracker.seen(), Question::Departures(since)));
                }
                ResumeStep::Begin { preface, .. } => {
                    let resumed = &mut self.resumed[session];
                    if let Some(consumer) = &self.consumer {
                        resumed.client = consumer.client_at(resumed.since);
                        resumed.client.begin(&preface);
                    }
                    resumed.began_with_state = preface.void || !preface.states.is_empty();
                    resumed.received = Some(preface.events);
                }
            }
        }
        let most = self.dice.usize(1..4);
        while let Some(request) = self.resumes.next_request(most) {
            self.questions.push((self.tracker.seen(), Question::MissedEvents(request)));
        }
    }

    /// A replica's list of departures.
    pub(super) fn list_departures(&self, number: usize, min_rev: Revision, since: Revision) -> DepartureList {
        let request = departures_request(&self.selector, min_rev, since);
        self.replicas[number].interest(&request).into_departures(since).expect("a reply decodes")
    }

    /// The events of departed providers, from a replica that need not have made the list; `None` when it lags
    /// behind.
    pub(super) fn departed_events(&mut self, number: usize, list: DepartureList) -> Option<Departures> {
        let mut departures = Departures::begin(&list);
        let replays = self.replay(number, list.wants(&list.departures));
        for ((provider, until), (_, replay)) in list.departures.iter().zip(replays) {
            match departures.record(&self.selector, provider, *until, &replay) {
                RecordOutcome::Recorded => {}
                RecordOutcome::HistoryTooShort => break,
                RecordOutcome::ReplicaBehind => return None,
            }
        }
        departures.finish();
        Some(departures)
    }

    /// A session that resumed must have received what a session that stayed received after its revision,
    /// except for complete lives of services that were deleted. A session that began with a state is judged
    /// by that alone.
    pub(super) fn judge_resumed(&self, session: &Resumed) -> Result<(), String> {
        let received = session.received.as_ref().ok_or("a session that resumes waits for ever")?;
        let in_context = |error| format!("resumed from {}: {error}", session.since);
        if let Some(old) = received.iter().find(|push| push.at.rev <= session.since) {
            return Err(in_context(format!("received {:?} a second time", old.at)));
        }
        if session.began_with_state {
            return Ok(());
        }
        self.judge_order(received, session.since, true).map_err(in_context)?;
        if self.merged {
            return Ok(());
        }
        self.judge_complete(received, session.since).map_err(in_context)
    }
}
