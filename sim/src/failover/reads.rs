//! Finds of the consumer that the gateway answers from its own state.
//!
//! A control plane resolves some finds, at the newest revision or a little before it. Whenever the gateway
//! would answer one of them, the answer must be that of a control plane at some revision from the gateway's
//! last bookmark on, byte by byte; and where it would say that nothing has changed, that of the newest
//! revision. The finds are asked alone, and together in a batch.

use std::collections::HashMap;
use std::sync::Arc;

use answer::batch::{BatchReply, List, Outcome};
use answer::{FindBody, Resolution};
use control_plane::responder::answer::changes_since;
use control_plane::view::finds::{Asker, Find};
use control_plane::view::interest::Answer;
use control_plane::view::{Snapshot, interest};
use fastrand::Rng;
use follow::read::{Changes, Proof, ReadTopic, ReadView};
use proto::event::v1 as pb;
use shared::model::{Revision, ServiceRef};

use super::finds::{Consumer, consumer};
use super::{REPLICAS, Sim, replica};

/// The gateway's side of the consumer's finds.
pub(super) struct Reads {
    // Dice of their own, so that those of the simulation fall as they did when the old seeds found their
    // defects.
    dice: Rng,
    view: ReadView,
    resolutions: HashMap<Find, Resolution>,
    /// The first wrong answer.
    wrong: Option<String>,
}

/// The revision and the body of a reply.
type Reply = (String, Vec<u8>);

impl Reads {
    pub(super) fn new(seed: u64) -> Self {
        let dice = Rng::with_seed(seed);
        Self { dice, view: ReadView::default(), resolutions: HashMap::new(), wrong: None }
    }
}

impl Consumer {
    /// A control plane answers one of the recorded finds, and tells the gateway the services.
    pub(super) fn ask(&mut self) {
        let lag = self.reads.dice.usize(0..3);
        let Some(snapshot) = self.snapshots.values().rev().nth(lag) else { return };
        let answers = interest::answers(snapshot, &consumer()).unwrap_or_default();
        if answers.is_empty() {
            return;
        }
        let answer = &answers[self.reads.dice.usize(0..answers.len())];
        if answer.services.is_none() {
            return;
        }
        assert!(interest::vouches_for(snapshot, &consumer(), answer), "it is recorded");
        // A batch finds by the name alone.
        let by_name = Find { by_alias: false, ..answer.find.clone() };
        for find in [answer.find.clone(), by_name] {
            let Some(services) = services_of(snapshot, &find) else { continue };
            let given = Answer { find: find.clone(), services: Some(services.clone()) };
            let resolution = Resolution { rev: snapshot.revision, services };
            match self.reads.resolutions.get(&find) {
                Some(known) if known.rev > resolution.rev => {}
                _ if !interest::vouches_for(snapshot, &consumer(), &given) => {}
                _ => _ = self.reads.resolutions.insert(find, resolution),
            }
        }
    }

    fn compare(&mut self) {
        let view = &self.reads.view;
        let mut wrong = None;
        for (find, resolution) in &self.reads.resolutions {
            // When nobody can be asked, less proof is needed and nothing else is told.
            let last = view.find(&consumer(), resolution, Proof::Last);
            let Ok(found) = view.find(&consumer(), resolution, Proof::Bookmark) else {
                if let Some(service) = last
                    .iter()
                    .flatten()
                    .find(|(service, _)| self.has_lost(resolution.rev, service))
                    .map(|(service, _)| service)
                {
                    wrong = Some(format!(
                        "{find:?} is answered with {service:?}, which the consumer may not see"
                    ));
                }
                continue;
            };
            if last.map(|last| reply_of(&last).whole()) != Ok(reply_of(&found).whole()) {
                wrong = Some(format!("{find:?} is answered otherwise without proof"));
            }
            // Providers are followed apart, so an answer of several may be of several revisions. Each part is
            // judged alone, and the services are judged together.
            let is_right = self.answered_by(find, &resolution.services)
                && found.len() == resolution.services.len()
                && found.iter().all(|(service, topic)| self.is_state(service, topic));
            if !is_right {
                wrong = Some(format!(
                    "{find:?} is answered with {resolution:?} as of {:?} at bookmark {}",
                    view.consumers.get(&consumer()).map(|consumer| consumer.changed_at),
                    view.bookmark
                ));
            }
        }
        if let Some(wrong) = wrong {
            self.reads.wrong.get_or_insert(wrong);
        }
    }

    fn answered_by(&self, find: &Find, services: &[ServiceRef]) -> bool {
        let bookmark = self.reads.view.bookmark;
        let first = self.snapshots.range(..=bookmark).next_back().map_or(bookmark, |(rev, _)| *rev);
        self.snapshots
            .range(first..)
            .any(|(_, snapshot)| services_of(snapshot, find).as_deref() == Some(services))
    }

    /// True when the consumer's interest has changed after this revision and does not have the service, as far as the
    /// gateway knows.
    fn has_lost(&self, resolved_at: Revision, service: &ServiceRef) -> bool {
        let interest = self.reads.view.consumers.get(&consumer());
        interest.is_some_and(|interest| {
            resolved_at < interest.changed_at && !interest.providers.contains(service)
        })
    }

    /// True when a provider had this state at some revision from the last bookmark on.
    fn is_state(&self, service: &ServiceRef, topic: &ReadTopic) -> bool {
        let bookmark = self.reads.view.bookmark;
        let first = self.snapshots.range(..=bookmark).next_back().map_or(bookmark, |(rev, _)| *rev);
        let states = self.snapshots.range(first..).map(|(_, snapshot)| snapshot.service(service));
        // A service that is deleted goes at one revision with its instances, whose events come one after the other.
        if states.clone().any(|state| state.is_none()) && self.is_part(first, service, topic) {
            return true;
        }
        self.snapshots.range(first..).any(|(_, snapshot)| {
            let state = snapshot.service(service).map(|(view, _)| view);
            let body = state.and_then(|view| view.answer()).map(FindBody::plain);
            state.is_some_and(|view| view.digest == topic.digest) && body == topic.body().map(FindBody::plain)
        })
    }

    /// True when the provider had all these instances together at some revision from `first` on.
    fn is_part(&self, first: Revision, service: &ServiceRef, topic: &ReadTopic) -> bool {
        topic.instances.is_empty()
            || self
                .snapshots
                .range(first..)
                .map(|(_, snapshot)| snapshot)
                .filter_map(|snapshot| snapshot.service(service))
                .any(|(view, _)| {
                    let known = |id: &String, mod_rev| {
                        view.instances.get(id).is_some_and(|known| known.mod_rev == mod_rev)
                    };
                    topic.instances.iter().all(|(id, (_, mod_rev))| known(id, *mod_rev))
                })
    }

    /// A replica that knows everything says what has changed. What the gateway then calls unchanged must be
    /// so.
    fn confirm(&mut self, reply: pb::DigestReply) {
        let view = &self.reads.view;
        let reply = pb::DigestReply { confirmed: true, ..reply };
        let Some(changes) = Changes::from_reply(view.bookmark, reply) else { return };
        let now = self.snapshot();
        let mut together = Vec::new();
        for (find, resolution) in &self.reads.resolutions {
            let Ok(topics) = view.find(&consumer(), resolution, Proof::Bookmark) else { continue };
            if !changes.confirm(view, &consumer(), resolution.rev, &resolution.services) {
                continue;
            }
            let right = truth(&now, find);
            together.push((right.clone(), reply_of(&topics)));
            if right.map(|found| found.whole()) != Some(reply_of(&topics).whole()) {
                let text =
                    format!("{find:?} is called unchanged with {resolution:?} at bookmark {}", view.bookmark);
                self.reads.wrong.get_or_insert(text);
                return;
            }
        }
        if let Err(text) = same_batches(together) {
            self.reads.wrong.get_or_insert(text);
        }
    }

    /// Every answer was right, and at rest all recorded finds are answered as a control plane answers them.
    pub(super) fn judge_reads(&self) -> Result<(), String> {
        if let Some(wrong) = &self.reads.wrong {
            return Err(wrong.clone());
        }
        let now = self.snapshot();
        let mut together = Vec::new();
        for answer in interest::answers(&now, &consumer()).unwrap_or_default() {
            let Some(services) = answer.services else { continue };
            let resolution = Resolution { rev: now.revision, services };
            let topics = self.reads.view.find(&consumer(), &resolution, Proof::Bookmark);
            let topics = topics
                .map_err(|unknown| format!("{:?} is not answered at rest: {unknown:?}", answer.find))?;
            let right = truth(&now, &answer.find);
            together.push((right.clone(), reply_of(&topics)));
            if right.map(|found| found.whole()) != Some(reply_of(&topics).whole()) {
                return Err(format!("{:?} is answered otherwise at rest", answer.find));
            }
        }
        same_batches(together)
    }
}

/// What a find has found: the revision, and the body of each service with instances.
#[derive(Clone)]
struct Found<'a> {
    rev: String,
    bodies: Vec<&'a FindBody>,
}

impl Found<'_> {
    /// The reply to this find alone.
    fn whole(&self) -> Reply {
        (self.rev.clone(), answer::reply::body_of(&self.bodies).to_vec())
    }

    /// Its outcome in a batch.
    fn outcome(&self, sent: &str) -> Outcome {
        Outcome::found(sent, self.rev.clone(), self.bodies.iter().copied())
    }
}

/// The services with which a control plane answers a find of the consumer, if it does not refuse it.
fn services_of(snapshot: &Snapshot, find: &Find) -> Option<Vec<ServiceRef>> {
    let (view, service) = snapshot.service(&consumer())?;
    let asker = Asker { service, tags: &view.tags };
    let services = || find.services(snapshot, Some(asker)).map(|(service, _)| service).collect();
    find.is_answered(snapshot).then(services)
}

/// What a control plane finds, if it does not refuse the find.
fn truth<'a>(snapshot: &'a Snapshot, find: &Find) -> Option<Found<'a>> {
    let services = services_of(snapshot, find)?;
    let views = services.iter().filter_map(|service| Some(snapshot.service(service)?.0));
    let views: Vec<_> = views.filter(|view| view.answer().is_some()).collect();
    let rev = answer::revision_of(views.iter().map(|view| view.digest));
    Some(Found { rev, bodies: views.into_iter().filter_map(|view| view.answer()).collect() })
}

/// What the gateway finds.
fn reply_of<'a>(found: &[(&ServiceRef, &'a Arc<ReadTopic>)]) -> Found<'a> {
    let topics = || found.iter().map(|(_, topic)| *topic);
    let rev =
        answer::revision_of(topics().filter(|topic| !topic.instances.is_empty()).map(|topic| topic.digest));
    Found { rev, bodies: topics().filter_map(|topic| topic.body()).collect() }
}

/// Both planes give the same reply to a batch of these finds. The client has the gateway's reply to every
/// other one.
fn same_batches(finds: Vec<(Option<Found<'_>>, Found<'_>)>) -> Result<(), String> {
    let [mut right, mut given] = [BatchReply::default(), BatchReply::default()];
    for (index, (truth, found)) in finds.iter().enumerate() {
        let sent = if index % 2 == 0 { "" } else { found.rev.as_str() };
        given.add(List::Services, index, found.outcome(sent)).map_err(|_| "the batch is too large")?;
        let truth = truth.as_ref().ok_or("a control plane refuses an element")?.outcome(sent);
        right.add(List::Services, index, truth).map_err(|_| "the batch is too large")?;
    }
    if right.body() == given.body() { Ok(()) } else { Err("a batch is answered otherwise".into()) }
}

impl Sim {
    /// Requests see the gateway's state, and one of them asks whether nothing has changed.
    pub(super) fn read(&mut self) {
        let Some(consumer) = &mut self.consumer else { return };
        if let Some(view) = self.tracker.take_reads() {
            consumer.reads.view = view;
            consumer.compare();
        }
        // Not after every step, because each question costs as much as many steps.
        let number = consumer.reads.dice.usize(0..4 * REPLICAS);
        let Some(replica) = self.replicas.get(number) else { return };
        if replica.alive && replica.followed == self.log.len() {
            let snapshot = replica.view.now().expect("it has followed the store");
            let since = consumer.reads.view.bookmark;
            consumer.confirm(changes_since(&snapshot, replica.view.history(), since, replica::ROOM));
        }
    }
}
