//! The clients: what each is told on its connection, from where it would resume, and whether that is right.

use std::time::Duration;

use follow::Push;
use follow::tracker::Preface;

use super::*;

/// A client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Connection {
    Away,
    Waiting,
    Here,
}

/// A client that watches the providers of a consumer.
pub(super) struct Client {
    pub(super) consumer: usize,
    connection: Connection,
    /// The round at the end in which it came, or the first one.
    pub(super) came: usize,
    /// The highest revision from which it was told that it may resume.
    pub(super) resume: Revision,
    /// The revision from which it has resumed.
    since: Revision,
    /// For each provider with whose state the watch began, every revision at which the provider was so: it may have
    /// been so more than once.
    states: BTreeMap<usize, Vec<Revision>>,
    /// The changes that it was told on this connection, in order.
    told: BTreeMap<usize, Vec<Revision>>,
}

impl Client {
    fn new(consumer: usize) -> Self {
        Self {
            consumer,
            connection: Connection::Away,
            came: 0,
            resume: Revision::ZERO,
            since: Revision::ZERO,
            states: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }

    pub(super) fn is_here(&self) -> bool {
        self.connection == Connection::Here
    }

    pub(super) fn is_away(&self) -> bool {
        self.connection == Connection::Away
    }
}

impl Sim {
    /// A consumer that was not there before opens a watch.
    pub(super) fn arrive(&mut self) {
        let providers = (0..PROVIDERS).filter(|_| self.dice.bool()).map(provider).collect();
        self.consumers.push(Consumer {
            interests: vec![(Revision::new(FIRST), providers)],
            group: None,
            changes: None,
        });
        self.clients.push(Client::new(self.consumers.len() - 1));
        self.connect(self.clients.len() - 1);
    }

    /// A client that is away comes back.
    pub(super) fn come_back(&mut self) {
        let away: Vec<usize> =
            (0..self.clients.len()).filter(|index| self.clients[*index].is_away()).collect();
        if !away.is_empty() {
            let which = away[self.dice.usize(0..away.len())];
            self.connect(which);
        }
    }

    fn connect(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.connection = Connection::Waiting;
        client.came = self.round;
        client.since = client.resume;
        client.states.clear();
        client.told.clear();
        let (group, _) = self.tracker.join(&selector(client.consumer));
        self.consumers[client.consumer].group = Some(group);
        self.resumes.begin(index, group, client.since);
        self.act();
    }

    /// A client goes away.
    pub(super) fn leave(&mut self) {
        let here: Vec<usize> =
            (0..self.clients.len()).filter(|index| self.clients[*index].is_here()).collect();
        if !here.is_empty() {
            let which = here[self.dice.usize(0..here.len())];
            self.break_off(which);
        }
    }

    fn break_off(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.connection = Connection::Away;
        if let Some(group) = self.consumers[client.consumer].group {
            self.tracker.sessions_closed(0, group, 1, self.now);
        }
    }

    /// Groups without sessions end.
    pub(super) fn forget(&mut self) {
        self.now += Duration::from_secs(20);
        self.tracker.forget_empty(self.now);
        self.resumes.forget_unneeded_departures(&mut self.tracker);
        self.act();
    }

    /// The client's watch begins.
    pub(super) fn begin(&mut self, index: usize, preface: &Preface) {
        let client = &mut self.clients[index];
        client.connection = Connection::Here;
        if client.since > Revision::ZERO && (preface.void || !preface.states.is_empty()) {
            self.wrong
                .get_or_insert(format!("client {index} was given a state, though every change is known"));
        }
        for (key, instances) in &preface.states {
            let which: usize = key.service_name.parse().expect("a provider's number");
            let shown: BTreeMap<&str, &str> =
                instances.iter().map(|i| (&*i.instance_id, &*i.host_name)).collect();
            let chain = self.chains.of(which);
            let was_so = |rev: &Revision| {
                let state = state(chain, *rev);
                state.iter().map(|(id, (instance, _))| (&**id, &*instance.host_name)).eq(shown.clone())
            };
            let revisions: Vec<_> = (FIRST..=self.rev.get()).map(Revision::new).filter(was_so).collect();
            if revisions.is_empty() {
                self.wrong.get_or_insert(format!("{which} never was as {shown:?}"));
            }
            self.clients[index].states.insert(which, revisions);
        }
        for push in &preface.events {
            let resume = preface.confirmed.min(push.at.rev.previous());
            self.note(index, push, resume);
        }
        if !preface.states.is_empty() {
            self.claim(index, preface.confirmed);
        }
    }

    /// The group of the client is delivered a change.
    pub(super) fn tell(&mut self, index: usize, push: &Arc<Push>) {
        if self.clients[index].is_here() {
            let resume = push.resume_point().expect("it was fixed before the delivery");
            self.note(index, push, resume);
            if !self.calm && self.dice.u8(0..50) == 0 {
                self.break_off(index);
            }
        }
    }

    fn note(&mut self, index: usize, push: &Push, resume: Revision) {
        let client = &mut self.clients[index];
        let which: usize = push.key.service_name.parse().expect("a provider's number");
        let rev = push.at.rev;
        let told = client.told.entry(which).or_default();
        let before = told.last().copied();
        told.push(rev);
        // The changes of the provider follow each other, and the first one follows what the client had.
        let chain = self.chains.of(which);
        let index_of = |rev| chain.iter().position(|event| event.at.rev == rev);
        let next_after =
            |had: Revision| chain.iter().find(|event| event.at.rev > had).map(|event| event.at.rev);
        let is_right = match before {
            Some(before) => index_of(rev) == index_of(before).map(|index| index + 1),
            None => match client.states.get_mut(&which) {
                Some(revisions) => {
                    revisions.retain(|state| next_after(*state) == Some(rev));
                    !revisions.is_empty()
                }
                None => rev > client.since,
            },
        };
        if push.is_difference() || !is_right {
            let (of, since, states) = (client.consumer, client.since, &client.states);
            let error = format!(
                "c{of}, resumed from {since} with states {states:?}: {which} at {rev} after {before:?}"
            );
            self.wrong.get_or_insert(error);
        }
        self.claim(index, resume);
    }

    /// A client is told that it may resume from a revision: it must have every change of its providers up to there.
    pub(super) fn claim(&mut self, index: usize, resume: Revision) {
        let client = &mut self.clients[index];
        if resume <= client.resume.max(client.since) {
            return;
        }
        client.resume = resume;
        let interests = &self.consumers[client.consumer].interests;
        let all = interests.last().map(|(_, providers)| providers.clone()).unwrap_or_default();
        for provider in all {
            let which = number(&provider);
            let came = interests.iter().find(|(_, providers)| providers.contains(&provider));
            let came = came.map_or(Revision::MAX, |(rev, _)| *rev);
            // A client knows what precedes the interest by the find that made it grow.
            let had = client.since.max(came.previous());
            let state = client.states.get(&which).and_then(|revisions| revisions.last());
            let had = state.map_or(had, |state| had.max(*state));
            let told = client.told.get(&which).map(Vec::as_slice).unwrap_or_default();
            let due = self.chains.of(which).iter().map(|event| event.at.rev);
            let missing = due.filter(|rev| *rev > had && *rev <= resume).find(|rev| !told.contains(rev));
            if let Some(missing) = missing {
                let of = client.consumer;
                let since = client.since;
                let error = format!(
                    "c{of}, resumed from {since}, may resume from {resume}, and was not told of {which} at {missing}"
                );
                self.wrong.get_or_insert(error);
                return;
            }
        }
    }
}
