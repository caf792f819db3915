//! The part of the history that a tenant's states are known to contain: the one place where that is decided,
//! for every dialect, for proofs of drains, and for the file of the state. Pure.
//!
//! In: states of a tenant, each later than the one before. Out: the revision up to which the last of them
//! contains everything. The last bookmark says what there is, and not that it has arrived: while something is
//! being requested, a state counts up to where it was last whole.

use follow::read::ReadTenant;
use shared::model::{Revision, Tenant};

use super::{EdgeView, TenantLease};

/// The part of the history that a state is known to contain; nothing, as long as no state was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Contained {
    incarnation: Option<u64>,
    revision: Revision,
    /// Nothing is being requested that may be missing, in the state with this version.
    is_whole: bool,
    version: Option<u64>,
}

impl Contained {
    /// The same for a later state of the tenant. A state loses nothing that an earlier one contained, unless
    /// the store was restored.
    pub(crate) fn advance(self, tenant: &Tenant, view: &EdgeView) -> Self {
        let known = view.read.tenants.get(tenant);
        let version = known.map(|known| known.version);
        // A look at every service costs too much for each bookmark.
        let is_known = self.version.is_some() && version == self.version;
        let is_whole =
            if is_known { self.is_whole } else { known.is_some_and(|known| is_whole(known, view)) };
        let before = if view.incarnation == self.incarnation { self.revision } else { Revision::ZERO };
        let bookmark = view.read.bookmark;
        let revision = if is_whole { bookmark } else { before.min(bookmark) };
        Self { incarnation: view.incarnation, revision, is_whole, version }
    }

    /// The part that the last process has said of the state that it left. Nothing is being requested to
    /// complete that.
    pub(crate) fn left(lease: &TenantLease) -> Self {
        Self { revision: lease.left, ..Self::default() }
    }

    /// Everything up to here is contained.
    pub(crate) fn revision(self) -> Revision {
        self.revision
    }

    /// Nothing is being requested that may be missing.
    pub(crate) fn is_whole(self) -> bool {
        self.is_whole
    }
}

fn is_whole(tenant: &ReadTenant, view: &EdgeView) -> bool {
    view.read.contained(&tenant.services, &*tenant.services.providers).is_some()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use follow::read::{Instances, ReadInterest, ReadTopic};
    use shared::event::Position;
    use shared::model::ServiceRef;

    use super::*;
    use crate::reads::{Found, shared_view};

    fn service(id: &str) -> ServiceRef {
        ServiceRef::new(Tenant::default(), id)
    }

    fn topic(settled: bool) -> Arc<ReadTopic> {
        let at = Position::first_of(Revision::new(3));
        let mut topic = ReadTopic::remembered(None, at, Instances::new_sync());
        topic.settled = settled;
        Arc::new(topic)
    }

    /// A tenant, which is a consumer too, with the services `p` and `q` at a bookmark. `version` is that of
    /// their contents.
    fn view(bookmark: u64, version: u64, settled: bool, topics: &[(&str, bool)]) -> EdgeView {
        let mut view = (*shared_view().load()).clone();
        view.incarnation = Some(1);
        view.read.bookmark = Revision::new(bookmark);
        let providers = Arc::new(BTreeSet::from(["p", "q"].map(service)));
        let services =
            Arc::new(ReadInterest { changed_at: Revision::new(2), sound: settled, settled, providers });
        view.read.consumers.insert_mut(service("c"), services.clone());
        view.read.tenants.insert_mut(Tenant::default(), ReadTenant { services, version });
        for (id, settled) in topics {
            view.read.topics.insert_mut(service(id), topic(*settled));
        }
        view
    }

    #[test]
    fn a_state_counts_up_to_where_it_was_last_whole() {
        let tenant = Tenant::default();
        let whole = [("p", true), ("q", true)];
        let mut contained = Contained::default();
        let mut to = |view: &EdgeView| {
            contained = contained.advance(&tenant, view);
            (contained.revision().get(), contained.is_whole())
        };
        assert_eq!(to(&view(9, 1, true, &[("p", true), ("q", false)])), (0, false), "never whole yet");
        assert_eq!(to(&view(10, 2, true, &whole)), (10, true));
        assert_eq!(to(&view(11, 2, true, &whole)), (11, true), "the same contents at a later bookmark");
        assert_eq!(to(&view(12, 3, true, &[("p", true), ("q", false)])), (11, false), "an event is missing");
        assert_eq!(to(&view(13, 4, false, &whole)), (11, false), "the list of services is being requested");
        assert_eq!(to(&view(14, 5, true, &[("p", true)])), (11, false), "a service is loading");
        assert_eq!(to(&view(14, 6, true, &whole)), (14, true));
        // After a restore the same numbers stand for something else.
        let restored = EdgeView { incarnation: Some(2), ..view(15, 7, false, &whole) };
        assert_eq!(to(&restored), (0, false));
    }

    /// For the proof of a drain: a client that polls was given this.
    #[test]
    fn an_answer_counts_for_nothing_later_while_something_is_being_requested() {
        let given = |view: &EdgeView| {
            let found = Found::of(vec![&topic(true)], vec![service("p")], Revision::new(2));
            found.given(&view.read, &service("c")).rev.get()
        };
        assert_eq!(given(&view(10, 1, true, &[("p", true)])), 10);
        assert_eq!(given(&view(10, 1, true, &[("p", false)])), 0);
        assert_eq!(given(&view(10, 1, false, &[("p", true)])), 0);
        assert_eq!(given(&view(10, 1, true, &[])), 0, "it is not followed any more");
        let mut changed = view(10, 1, true, &[("p", true)]);
        let interest = changed.read.consumers.get(&service("c")).expect("a consumer");
        let interest = ReadInterest { changed_at: Revision::new(3), ..(**interest).clone() };
        changed.read.consumers.insert_mut(service("c"), Arc::new(interest));
        assert_eq!(given(&changed), 0, "another service may answer the find since");
    }
}
