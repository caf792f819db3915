//! The places of changes in the history, by the subject of the change.
//!
//! Without it, each answer about a few services would look at the whole history: after an outage thousands of sessions
//! resume within seconds, and the history has a hundred thousand changes.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::ops::Range;

use shared::model::{ServiceRef, Tenant};

use super::Change;

/// The numbers of changes with the same subject, in order. The first change of a history has number 0, and a number is
/// never used again.
type Numbers = VecDeque<u64>;

#[derive(Debug, Default)]
pub(super) struct Index {
    /// Changes of a provider's instances.
    providers: HashMap<ServiceRef, Numbers>,
    /// Changes of a consumer's interest.
    consumers: HashMap<ServiceRef, Numbers>,
    /// Changes of a tenant's services.
    tenants: HashMap<Tenant, Numbers>,
}

impl Index {
    /// Adds the newest change.
    pub(super) fn add(&mut self, number: u64, change: &Change) {
        match change {
            Change::Instance(event) => add_to(&mut self.providers, event.provider.clone(), number),
            Change::Interest(change) => {
                if let Some(consumer) = change.consumer.clone() {
                    add_to(&mut self.consumers, consumer.into(), number);
                }
            }
            Change::Services(change) => {
                let tenant = Tenant { domain: change.domain.clone(), project: change.project.clone() };
                add_to(&mut self.tenants, tenant, number);
            }
        }
    }

    /// Removes the oldest change.
    pub(super) fn remove_oldest(&mut self, change: &Change) {
        match change {
            Change::Instance(event) => remove_first(&mut self.providers, &event.provider),
            Change::Interest(change) => {
                if let Some(consumer) = change.consumer.clone() {
                    remove_first(&mut self.consumers, &consumer.into());
                }
            }
            Change::Services(change) => {
                let tenant = Tenant { domain: change.domain.clone(), project: change.project.clone() };
                remove_first(&mut self.tenants, &tenant);
            }
        }
    }

    /// The numbers of a provider's changes within a range of numbers, in order.
    pub(super) fn of_provider(
        &self,
        provider: &ServiceRef,
        within: Range<u64>,
    ) -> impl DoubleEndedIterator<Item = u64> + use<'_> {
        numbers(self.providers.get(provider), within)
    }

    /// The same, of the changes of a consumer's interest.
    pub(super) fn of_consumer(
        &self,
        consumer: &ServiceRef,
        within: Range<u64>,
    ) -> impl DoubleEndedIterator<Item = u64> {
        numbers(self.consumers.get(consumer), within)
    }

    /// The same, of the changes of a tenant's services.
    pub(super) fn of_tenant(
        &self,
        tenant: &Tenant,
        within: Range<u64>,
    ) -> impl DoubleEndedIterator<Item = u64> {
        numbers(self.tenants.get(tenant), within)
    }

    /// True when no change is in it.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.providers.is_empty() && self.consumers.is_empty() && self.tenants.is_empty()
    }
}

fn add_to<K: Eq + Hash>(places: &mut HashMap<K, Numbers>, key: K, number: u64) {
    places.entry(key).or_default().push_back(number);
}

fn remove_first<K: Eq + Hash>(places: &mut HashMap<K, Numbers>, key: &K) {
    if let Some(numbers) = places.get_mut(key) {
        numbers.pop_front();
        if numbers.is_empty() {
            places.remove(key);
        }
    }
}

fn numbers(all: Option<&Numbers>, within: Range<u64>) -> impl DoubleEndedIterator<Item = u64> {
    all.into_iter().flat_map(move |all| {
        let first = all.partition_point(|number| *number < within.start);
        let end = all.partition_point(|number| *number < within.end);
        all.range(first..end.max(first)).copied()
    })
}
