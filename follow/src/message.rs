//! Messages of the bus, decoded: bookmarks and changes of an interest.

use prost::Message as _;
use proto::event::v1 as pb;
use shared::event::{DecodeError, Position};
use shared::model::{Revision, ServiceRef, Tenant};

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
}

impl Bookmark {
    /// Reads the payload of a bookmark. Entries without a name or position are dropped: the loss that they
    /// would show is shown by a later digest.
    ///
    /// # Errors
    /// When the payload is not a bookmark.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let bookmark = pb::Bookmark::decode(payload)?;
        Ok(Self {
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
    /// Providers that left it.
    pub removed: Vec<ServiceRef>,
    /// The consumer was unregistered, and its interest ended.
    pub deleted: bool,
}

impl InterestChange {
    /// Reads the payload of a message on the selector's subject.
    ///
    /// # Errors
    /// When the payload is not a change of that kind.
    pub fn decode(selector: &Selector, payload: &[u8]) -> Result<Self, DecodeError> {
        let Some(scope) = selector.scope() else {
            let change = pb::InterestChange::decode(payload)?;
            return Ok(Self {
                at: position_of_part(Revision::new(change.rev), change.part, change.more),
                prev: position_before_part(
                    Revision::new(change.rev),
                    change.part,
                    Revision::new(change.prev_rev),
                ),
                added: change.added.into_iter().map(Into::into).collect(),
                removed: change.removed.into_iter().map(Into::into).collect(),
                deleted: change.consumer_deleted,
            });
        };
        let services = pb::ServicesChange::decode(payload)?;
        let mut change = Self {
            at: position_of_part(Revision::new(services.rev), services.part, services.more),
            prev: position_before_part(
                Revision::new(services.rev),
                services.part,
                Revision::new(services.prev_rev),
            ),
            ..Self::default()
        };
        change.removed.extend(services.removed.into_iter().map(ServiceRef::from));
        for named in services.added {
            let (Some(service), Some(key)) = (named.service, named.key) else { continue };
            // A renamed service is announced under its new name only. If that lies outside the scope, it has
            // left.
            let side = if scope.matches(&key.into()) { &mut change.added } else { &mut change.removed };
            side.push(service.into());
        }
        Ok(change)
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
