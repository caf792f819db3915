//! Messages of the bus, decoded: bookmarks and changes of an interest.

use prost::Message as _;
use proto::event::v1 as pb;
use shared::event::{DecodeError, Position};
use shared::model::{Incarnation, PolicyVersion, Revision, ServiceKey, ServiceRef, Tenant};

use crate::Selector;

/// A statement of the publisher: everything in (`since`, `rev`] has been published, and these were the last
/// events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bookmark {
    /// Everything up to this revision has been published.
    pub rev: Revision,
    /// The end of the publisher's previous bookmark, or the revision at which its term began.
    pub since: Revision,
    /// Unix microseconds by the publisher's clock; 0 when unknown.
    pub sent_at: u64,
    /// The last event of each provider that changed since the previous bookmark.
    pub providers: Vec<(ServiceRef, Position)>,
    /// The last change of each consumer's interest.
    pub consumers: Vec<(ServiceRef, Position)>,
    /// The last change of each tenant's set of services.
    pub tenants: Vec<(Tenant, Position)>,
    /// The access policy of the publisher; `None` when it is of a version without policies.
    pub policy: Option<PolicyVersion>,
    /// The incarnation of the store in the publisher's view; `None` when it is of a version without them.
    pub incarnation: Option<Incarnation>,
    /// Changes of interest are published for every find that is answered otherwise. False for a publisher of
    /// an older version.
    pub by_find: bool,
}

impl Bookmark {
    /// Reads the payload of a bookmark. Entries without a name or position are dropped: the loss that they
    /// would show is shown by a later digest.
    ///
    /// # Errors
    /// When the payload is not a bookmark.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let bookmark = pb::Bookmark::decode(payload)?;
        let policy =
            PolicyVersion { revision: Revision::new(bookmark.policy_rev), digest: bookmark.policy_digest };
        Ok(Self {
            by_find: bookmark.by_find,
            policy: Some(policy).filter(|policy| policy.digest != 0),
            incarnation: bookmark.incarnation.map(Incarnation::new),
            rev: Revision::new(bookmark.rev),
            since: Revision::new(bookmark.since),
            sent_at: bookmark.sent_at,
            providers: bookmark.providers.into_iter().filter_map(last_event).collect(),
            consumers: bookmark.consumers.into_iter().filter_map(last_event).collect(),
            tenants: bookmark
                .tenants
                .into_iter()
                .filter_map(last_event)
                .map(|(service, at)| (service.tenant, at))
                .collect(),
        })
    }
}

fn last_event(entry: pb::Reached) -> Option<(ServiceRef, Position)> {
    Some((entry.service?.into(), entry.at?.into()))
}

/// A change of an interest, or one part of a change that takes several messages.
#[derive(Clone, Debug, Default)]
pub struct InterestChange {
    /// The end of the change's revision. While more parts follow, the position of this part within it.
    pub at: Position,
    /// The position of the previous change, or of the previous part.
    pub prev: Position,
    /// Providers that came into the interest.
    pub added: Vec<ServiceRef>,
    /// The first so many of those had instances that the consumer does not know.
    pub shown: usize,
    /// Providers that left it.
    pub removed: Vec<ServiceRef>,
    /// The consumer was unregistered, and its interest ended.
    pub deleted: bool,
}

impl InterestChange {
    /// The number of services that the change names.
    pub(crate) fn services(&self) -> usize {
        self.added.len() + self.removed.len()
    }

    /// Reads the payload of a message on the selector's subject.
    ///
    /// # Errors
    /// When the payload is not a change of that kind.
    pub fn decode(selector: &Selector, payload: &[u8]) -> Result<Self, DecodeError> {
        if selector.tenant_of_changes().is_some() {
            return Ok(ServicesChange::decode(payload)?.for_selector(selector));
        }
        let change = pb::InterestChange::decode(payload)?;
        Ok(Self {
            at: position_of_part(Revision::new(change.rev), change.part, change.more),
            prev: position_before_part(
                Revision::new(change.rev),
                change.part,
                Revision::new(change.prev_rev),
            ),
            added: change.added.into_iter().map(Into::into).collect(),
            shown: change.shown as usize,
            removed: change.removed.into_iter().map(Into::into).collect(),
            deleted: change.consumer_deleted,
        })
    }
}

/// A change of a tenant's services, or one part of it, for all selectors that it may concern.
#[derive(Clone, Debug, Default)]
pub struct ServicesChange {
    at: Position,
    prev: Position,
    /// Services that were registered or renamed, under their new names.
    added: Vec<(ServiceRef, ServiceKey)>,
    /// Services that were unregistered.
    removed: Vec<ServiceRef>,
}

impl ServicesChange {
    /// Reads the payload of a message on the subject of a tenant's services.
    ///
    /// # Errors
    /// When the payload is not a change of that kind.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let services = pb::ServicesChange::decode(payload)?;
        let rev = Revision::new(services.rev);
        let prev_rev = Revision::new(services.prev_rev);
        let named = services.added.into_iter();
        Ok(Self {
            at: position_of_part(rev, services.part, services.more),
            prev: position_before_part(rev, services.part, prev_rev),
            added: named.filter_map(|named| Some((named.service?.into(), named.key?.into()))).collect(),
            removed: services.removed.into_iter().map(ServiceRef::from).collect(),
        })
    }

    /// The change as it concerns one selector of the tenant.
    pub fn for_selector(&self, selector: &Selector) -> InterestChange {
        let mut change = InterestChange { at: self.at, prev: self.prev, ..InterestChange::default() };
        for service in self.removed.iter().filter(|service| selector.may_ask_for(service)) {
            change.removed.push(service.clone());
        }
        for (service, key) in self.added.iter().filter(|(service, _)| selector.may_ask_for(service)) {
            // A renamed service is announced under its new name only. If that lies outside the scope, it has
            // left.
            let is_asked_for = selector.asks_for(service, key);
            let side = if is_asked_for { &mut change.added } else { &mut change.removed };
            side.push(service.clone());
        }
        change
    }
}

/// The position of a part. The last part ends its revision.
fn position_of_part(rev: Revision, part: u32, more: bool) -> Position {
    if more { Position { rev, sub: part } } else { Position::end_of(rev) }
}

/// The position of the part before `part`; before the first part, the end of the previous change.
fn position_before_part(rev: Revision, part: u32, prev_rev: Revision) -> Position {
    part.checked_sub(1).map_or(Position::end_of(prev_rev), |sub| Position { rev, sub })
}
