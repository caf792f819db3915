//! The services, or the instance, that answer a question, and the reply that they make.

use std::sync::Arc;

use answer::FindBody;
use answer::batch::Outcome;
use follow::read::{ReadTopic, ReadView};
use shared::model::{Instance, Revision, ServiceRef};

use crate::polls::Given;

/// The services, or the instance, that answer a question.
#[derive(Debug)]
pub(crate) struct Found {
    pub(super) topics: Vec<Arc<ReadTopic>>,
    /// Only this instance of the one topic.
    pub(super) one: Option<(Arc<Instance>, Revision)>,
    pub(super) services: Vec<ServiceRef>,
    /// The revision at which these were found to be the services of the answer.
    pub(super) resolved_at: Revision,
    /// The revision of the reply.
    pub(crate) rev: String,
}

impl Found {
    /// The answer that these services make, each with its state.
    pub(super) fn of(topics: Vec<&Arc<ReadTopic>>, services: Vec<ServiceRef>, resolved_at: Revision) -> Self {
        let with_instances = topics.iter().filter(|topic| !topic.instances.is_empty());
        let rev = answer::revision_of(with_instances.map(|topic| topic.digest));
        Self { topics: topics.into_iter().cloned().collect(), one: None, services, resolved_at, rev }
    }

    /// The body of the reply, and its compressed form where that is kept.
    pub(crate) fn body(&self) -> (bytes::Bytes, Option<&FindBody>) {
        if let Some((instance, _)) = &self.one {
            return (answer::reply::body_of_one(instance), None);
        }
        let bodies: Vec<&FindBody> = self.topics.iter().filter_map(|topic| topic.body()).collect();
        let kept = match bodies.as_slice() {
            [only] => Some(*only),
            _ => None,
        };
        (answer::reply::body_of(&bodies), kept)
    }

    /// The outcome of this question in a batch, for a client that has the reply with this revision.
    pub(crate) fn outcome(&self, sent: &str) -> Outcome {
        if let Some((instance, _)) = &self.one {
            let instance = serde_json::to_string(instance).expect("plain fields always serialise");
            return Outcome::found_one(sent, self.rev.clone(), &instance);
        }
        Outcome::found(sent, self.rev.clone(), self.topics.iter().filter_map(|topic| topic.body()))
    }

    /// Everything that the reply, which was found at `view` for a consumer, contains.
    pub(crate) fn contained(&self, view: &ReadView, consumer: &ServiceRef) -> Revision {
        let contained = view.consumers.get(consumer).and_then(|interest| {
            // A change of the interest up to the bookmark may have brought a service that is not among these.
            let is_resolved = self.resolved_at >= view.changed_at(interest).min(view.bookmark);
            view.contained(interest, &self.services).filter(|_| is_resolved)
        });
        contained.unwrap_or(Revision::ZERO)
    }

    /// The content of the reply that was found at `view` for a consumer.
    pub(crate) fn given(self, view: &ReadView, consumer: &ServiceRef) -> Given {
        let rev = self.contained(view, consumer);
        let services = self.services.into_iter().zip(self.topics);
        let services = services.map(|(service, topic)| (service, Some(topic.at))).collect();
        Given { rev, services: Some(services) }
    }

    /// True when the state contains a write of each service's instances at the revision that `written` names,
    /// and everything up to `records`.
    pub(crate) fn contains(
        &self,
        bookmark: Revision,
        records: Revision,
        written: impl Fn(&ServiceRef) -> Revision,
    ) -> bool {
        let services = self.services.iter().zip(&self.topics);
        bookmark >= records
            && services.into_iter().all(|(service, topic)| {
                let written = written(service);
                bookmark >= written || topic.at.whole() >= written
            })
    }
}
