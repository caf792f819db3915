//! Subscriptions to the changes of tenants' services: one for each tenant, however many groups need it.
//!
//! Watches by attributes and by list both follow them. With a subscription for each group, one registration
//! would reach this gateway once for each list that a tenant's clients watch.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::stream::AbortHandle;
use shared::model::Tenant;

use crate::watch::GroupId;

/// The subscriptions, and the groups that need them.
#[derive(Debug, Default)]
pub(super) struct Feeds {
    feeds: HashMap<Arc<Tenant>, Feed>,
    tenants: HashMap<GroupId, Arc<Tenant>>,
}

#[derive(Debug, Default)]
struct Feed {
    groups: HashSet<GroupId>,
    /// `None` until the first group's subscription is in place.
    subscription: Option<AbortHandle>,
}

impl Feeds {
    /// Adds a group. True when the tenant's subscription is in place already, so that the group needs none of
    /// its own.
    pub(super) fn add(&mut self, group: GroupId, tenant: &Tenant) -> bool {
        let tenant = match self.feeds.get_key_value(tenant) {
            Some((tenant, _)) => tenant.clone(),
            None => Arc::new(tenant.clone()),
        };
        self.tenants.insert(group, tenant.clone());
        let feed = self.feeds.entry(tenant).or_default();
        feed.groups.insert(group);
        feed.subscription.is_some()
    }

    /// Removes a group; the subscription ends with the tenant's last one.
    pub(super) fn remove(&mut self, group: GroupId) {
        let Some(tenant) = self.tenants.remove(&group) else { return };
        let Some(feed) = self.feeds.get_mut(&tenant) else { return };
        feed.groups.remove(&group);
        if feed.groups.is_empty() {
            if let Some(subscription) = &feed.subscription {
                subscription.abort();
            }
            self.feeds.remove(&tenant);
        }
    }

    /// The tenant of a group whose subscription would be the tenant's first. `None` when there is one.
    pub(super) fn lacking(&self, group: GroupId) -> Option<Arc<Tenant>> {
        let tenant = self.tenants.get(&group)?;
        let feed = self.feeds.get(tenant)?;
        feed.subscription.is_none().then(|| tenant.clone())
    }

    /// The tenant has a subscription from now on.
    pub(super) fn subscribed(&mut self, tenant: &Arc<Tenant>, subscription: AbortHandle) {
        if let Some(feed) = self.feeds.get_mut(tenant) {
            feed.subscription = Some(subscription);
        }
    }

    /// The groups that a change of the tenant's services may concern.
    pub(super) fn groups(&self, tenant: &Tenant) -> impl Iterator<Item = GroupId> {
        self.feeds.get(tenant).into_iter().flat_map(|feed| feed.groups.iter().copied())
    }

    /// The number of tenants.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.feeds.len()
    }
}
