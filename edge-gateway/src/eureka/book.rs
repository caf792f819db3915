//! The answers for every client of a tenant: the applications of each scope, and the changes of the last
//! minutes. Pure.
//!
//! In: the services of the tenant, state after state. Out: for each scope a [`Page`], which stays the same
//! while nothing of the scope changes, so that its bodies are encoded once and shared.
//!
//! A client applies a delta to what it has, from this gateway or another, and compares hashes. So a delta
//! names every instance that has changed since any client can have asked last. While it cannot, because the
//! tenant is known for too short a time, or too much has changed, it names every instance there is: a client
//! that still has another one then counts more than the hash says, and fetches everything.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use follow::read::ReadTopic;
use shared::model::{Revision, ServiceRef};

use super::apps::{Applications, Listed, Member, Scope, hash, listed};
use super::bodies::Bodies;
use super::model::ActionType;

/// The time for which a change is told. Eureka's server has the same: clients ask every half minute.
pub(crate) const RETENTION: Duration = Duration::from_secs(180);
/// Changes of a scope that are told one by one.
const MAX_CHANGES: usize = 10_000;

/// The scopes of a tenant at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// Everything up to here is contained.
    pub(crate) revision: Revision,
    /// The catalogue's version of the services that it was made from; see `Services::version`.
    pub(crate) version: Option<u64>,
    pub(crate) pages: Arc<BTreeMap<Scope, Arc<Page>>>,
}

/// A scope at one moment.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) version: u64,
    pub(crate) applications: Arc<Applications>,
    /// The changes to tell, in the order of their applications; within one, those that left come last. `None`
    /// while not all can be told.
    changes: Option<Vec<(Arc<Member>, ActionType)>>,
    /// The bodies for clients that may see everything.
    pub(crate) bodies: Bodies,
}

impl Page {
    /// The page of a scope in which there is nothing.
    pub(crate) fn empty(revision: Revision) -> Self {
        Self { version: revision.get(), ..Self::default() }
    }

    /// Every instance that `admits` lets through.
    pub(crate) fn full(&self, admits: impl Fn(&Member) -> bool) -> Listed<'_> {
        let all = || self.applications.iter().filter(|member| admits(member));
        listed(self.version, hash(all()), all().map(|member| (&**member, ActionType::Added)))
    }

    /// The changes of the last minutes that `admits` lets through, with the hash of everything.
    pub(crate) fn delta(&self, admits: impl Fn(&Member) -> bool) -> Listed<'_> {
        let Some(changes) = &self.changes else { return self.full(admits) };
        let all = self.applications.iter().filter(|member| admits(member));
        let told = changes.iter().filter(|(member, _)| admits(member));
        listed(self.version, hash(all), told.map(|(member, action)| (&**member, *action)))
    }
}

/// A service as it was last seen.
#[derive(Debug)]
struct Known {
    topic: Arc<ReadTopic>,
    members: Vec<Arc<Member>>,
    /// The number of the state that had it last.
    seen: u64,
}

#[derive(Clone, Debug)]
struct Change {
    at: Duration,
    action: ActionType,
    member: Arc<Member>,
}

#[derive(Debug, Default)]
struct Written {
    page: Arc<Page>,
    changes: BTreeMap<(String, String), Change>,
    /// Every change after this moment is among them.
    complete_since: Duration,
}

/// The writer of a tenant's pages. All times are since one moment, whichever.
#[derive(Debug)]
pub(crate) struct Book {
    began: Duration,
    states: u64,
    services: HashMap<ServiceRef, Known>,
    scopes: BTreeMap<Scope, Written>,
    pages: Arc<BTreeMap<Scope, Arc<Page>>>,
}

impl Book {
    /// A book that knows nothing from before `now`.
    pub(crate) fn new(now: Duration) -> Self {
        Self {
            began: now,
            states: 0,
            services: HashMap::new(),
            scopes: BTreeMap::new(),
            pages: Arc::default(),
        }
    }

    /// Takes in the services as they are at `revision`.
    pub(crate) fn advance<'a>(
        &mut self,
        services: impl IntoIterator<Item = (&'a ServiceRef, &'a Arc<ReadTopic>)>,
        revision: Revision,
        now: Duration,
    ) -> State {
        let changed = self.read(services);
        let mut pages = self.write(changed, revision, now);
        pages |= self.expire(now);
        if pages {
            let all = self.scopes.iter().map(|(scope, written)| (scope.clone(), written.page.clone()));
            self.pages = Arc::new(all.collect());
        }
        State { revision, version: None, pages: self.pages.clone() }
    }

    /// The moment at which the next state is due without any change: something need not be told any more, or
    /// deltas have become complete.
    pub(crate) fn due(&self) -> Option<Duration> {
        let next = |written: &Written| {
            let oldest = written.changes.values().map(|change| change.at).min();
            let complete = written.page.changes.is_none().then_some(written.complete_since);
            oldest.into_iter().chain(complete).min()
        };
        self.scopes.values().filter_map(next).min().map(|first| first + RETENTION)
    }

    /// Reads which services have changed, and returns their scopes.
    fn read<'a>(
        &mut self,
        services: impl IntoIterator<Item = (&'a ServiceRef, &'a Arc<ReadTopic>)>,
    ) -> BTreeSet<Scope> {
        let mut changed = BTreeSet::new();
        self.states += 1;
        for (service, topic) in services {
            if let Some(known) = self.services.get_mut(service)
                && Arc::ptr_eq(&known.topic, topic)
            {
                known.seen = self.states;
                continue;
            }
            let before = self.services.remove(service);
            // A service without a name is about to be told, and has no place yet.
            let Some(key) = &topic.key else { continue };
            let mut members = Vec::with_capacity(topic.instances.size());
            let mut old: HashMap<&str, &Arc<Member>> = HashMap::new();
            if let Some(before) = &before {
                old.extend(before.members.iter().map(|member| (&*member.instance.instance_id, member)));
            }
            for (id, (instance, rev)) in topic.instances.iter() {
                let same = old
                    .get(&**id)
                    .filter(|old| Arc::ptr_eq(&old.instance, instance) && old.rev == *rev && old.key == *key);
                members.push(match same {
                    Some(same) => Arc::clone(same),
                    None => Arc::new(Member::of(service, key, instance, *rev)),
                });
            }
            changed.insert(Scope::of(key));
            if let Some(old) = before.as_ref().and_then(|before| before.topic.key.as_ref()) {
                changed.insert(Scope::of(old));
            }
            let known = Known { topic: topic.clone(), members, seen: self.states };
            self.services.insert(service.clone(), known);
        }
        self.services.retain(|_, known| {
            let stays = known.seen == self.states;
            if !stays {
                changed.extend(known.topic.key.as_ref().map(|key| Scope::of(key)));
            }
            stays
        });
        changed
    }

    /// Writes the pages of the changed scopes. True if one has become another.
    fn write(&mut self, changed: BTreeSet<Scope>, revision: Revision, now: Duration) -> bool {
        let mut members: BTreeMap<&Scope, Vec<Arc<Member>>> = BTreeMap::new();
        let mut last: BTreeMap<&Scope, Revision> = BTreeMap::new();
        members.extend(changed.iter().map(|scope| (scope, Vec::new())));
        for known in self.services.values() {
            let Some(scope) = known.topic.key.as_ref().and_then(|key| changed.get(&Scope::of(key))) else {
                continue;
            };
            members.entry(scope).or_default().extend(known.members.iter().cloned());
            let last = last.entry(scope).or_insert(Revision::ZERO);
            *last = (*last).max(known.topic.at.rev);
        }
        let is_first = self.states == 1;
        let mut any = false;
        for (scope, mut members) in members {
            members.sort_by(|a, b| (&a.service, &a.info.instance_id).cmp(&(&b.service, &b.info.instance_id)));
            let applications = Applications::of(members);
            let began = self.began;
            let written = self
                .scopes
                .entry(scope.clone())
                .or_insert_with(|| Written { complete_since: began, ..Written::default() });
            // The state of a service may be another in what no client is told.
            if !is_first && written.page.applications.is_same_as(&applications) {
                continue;
            }
            if !is_first {
                written.compare(&applications, now);
            }
            any = true;
            // The last change of what is there, so that gateways agree; more where that would not grow, as
            // after the end of a service.
            let last = last.get(scope).copied().unwrap_or(Revision::ZERO).get();
            let before = written.page.version;
            let version = if last > before { last } else { before.max(revision.get()) };
            written.turn(Arc::new(applications), version, now);
        }
        any
    }

    /// Forgets what need not be told any more. True if a page has become another.
    fn expire(&mut self, now: Duration) -> bool {
        let mut any = false;
        for written in self.scopes.values_mut() {
            let count = written.changes.len();
            written.changes.retain(|_, change| now.saturating_sub(change.at) < RETENTION);
            let has_become_complete = written.page.changes.is_none() && written.is_complete(now);
            if written.changes.len() < count || has_become_complete {
                written.turn(written.page.applications.clone(), written.page.version, now);
                any = true;
            }
        }
        any
    }
}

impl Written {
    fn is_complete(&self, now: Duration) -> bool {
        now.saturating_sub(self.complete_since) >= RETENTION
    }

    /// Notes the differences between the page's applications and `next`.
    fn compare(&mut self, next: &Applications, now: Duration) {
        let old = self.page.applications.clone();
        for member in next.iter() {
            match old.get(&member.info.app, &member.info.instance_id) {
                None => self.note(member, ActionType::Added, now),
                Some(before) if Arc::ptr_eq(before, member) || before.info == member.info => {}
                Some(_) => self.note(member, ActionType::Modified, now),
            }
        }
        for member in old.iter() {
            if next.get(&member.info.app, &member.info.instance_id).is_none() {
                self.note(member, ActionType::Deleted, now);
            }
        }
        if self.changes.len() > MAX_CHANGES {
            self.changes.clear();
            self.complete_since = now;
        }
    }

    fn note(&mut self, member: &Arc<Member>, action: ActionType, now: Duration) {
        let place = (member.info.app.clone(), member.info.instance_id.clone());
        let before = self.changes.get(&place).map(|change| change.action);
        // For a client from before, an instance that has come and then changed has come.
        let action = match (before, action) {
            (Some(ActionType::Added), ActionType::Modified) => ActionType::Added,
            _ => action,
        };
        self.changes.insert(place, Change { at: now, action, member: member.clone() });
    }

    /// Begins a new page.
    fn turn(&mut self, applications: Arc<Applications>, version: u64, now: Duration) {
        let changes = self.is_complete(now).then(|| {
            let mut told: Vec<_> =
                self.changes.values().map(|change| (change.member.clone(), change.action)).collect();
            // Java's client takes an application that is new to it with all of its instances; one that left
            // must be told after that. Stable, so that ids stay in order.
            told.sort_by(|(a, is), (b, other)| {
                let left = |action: &ActionType| *action == ActionType::Deleted;
                (&a.info.app, left(is)).cmp(&(&b.info.app, left(other)))
            });
            told
        });
        self.page = Arc::new(Page { version, applications, changes, bodies: Bodies::default() });
    }
}
