//! Names for which a consumer waits, because no rule can stand for them.
//!
//! In: finds, and providers that are not registered. Out: a note for each name in the store, until a rule replaces it.

use shared::model::{ServiceKey, ServiceRef, Tenant};

use super::{Wanted, rule_name};
use crate::keys::{self, Key};
use crate::registry::{Registry, RegistryError};
use crate::store::{Compare, Op, Txn};
use crate::view::Snapshot;

/// Names that one transaction notes. etcd takes 128 operations.
const NOTES_PER_TXN: usize = 100;

impl Registry {
    /// Has a consumer wait for the names of providers.
    pub(super) async fn want_providers(
        &self,
        snapshot: &Snapshot,
        tenant: &Tenant,
        consumer: &ServiceKey,
        providers: &[ServiceKey],
    ) -> Result<(), RegistryError> {
        let Some(waiting) = snapshot.by_key(consumer) else { return Ok(()) };
        let wanted = providers.iter().map(|rule| Wanted {
            tenant: Tenant::parse(&rule.tenant).unwrap_or_else(|| tenant.clone()),
            name: rule_name(rule),
            versions: rule.version.clone(),
        });
        // Together: each commit costs the view all rules of the consumer.
        self.want_each(&waiting, &wanted.collect::<Vec<_>>()).await?;
        Ok(())
    }

    /// Notes that a consumer waits for a name. True when that was new. Cheap when it is noted already. Of
    /// several finds of one name the last counts, as with rules.
    pub(in crate::registry) async fn want(
        &self,
        consumer: &ServiceRef,
        wanted: &Wanted,
    ) -> Result<bool, RegistryError> {
        self.want_each(consumer, std::slice::from_ref(wanted)).await
    }

    /// Notes that a consumer waits for names, as many of them in a transaction as one takes. True when one was
    /// new.
    async fn want_each(&self, consumer: &ServiceRef, wanted: &[Wanted]) -> Result<bool, RegistryError> {
        let mut is_new = false;
        for some in wanted.chunks(NOTES_PER_TXN) {
            let snapshot = self.view.now()?;
            if snapshot.service(consumer).is_none() {
                break;
            }
            let then = self.notes(&snapshot, consumer, some);
            if then.is_empty() {
                continue;
            }
            let compare = vec![Compare::Exists(keys::service(consumer))];
            is_new |= self.commit(Txn { compare, then, ..Txn::default() }).await?.succeeded;
        }
        Ok(is_new)
    }

    /// The writes that note names for which the consumer does not wait yet, or not in these versions.
    fn notes(&self, snapshot: &Snapshot, consumer: &ServiceRef, wanted: &[Wanted]) -> Vec<Op> {
        let names = snapshot.tenant(&consumer.tenant).and_then(|view| view.wanted.get(&consumer.id));
        let mut count = names.map_or(0, |names| names.len());
        let most = self.quotas.now().wanted;
        let mut writes = Vec::new();
        for Wanted { tenant, name, versions } in wanted {
            match names.and_then(|names| names.get(&(tenant.clone(), name.clone()))) {
                Some(noted) if noted == versions => continue,
                Some(_) => {}
                // Names come from clients, so a consumer may note only a bounded number of them. The find
                // itself is answered all the same.
                None if count >= most => continue,
                None => count += 1,
            }
            let key = Key::Wanted(consumer.clone(), tenant.clone(), name.clone()).render();
            writes.extend(key.map(|key| Op::put(key, versions.clone())));
        }
        writes
    }

    /// The note that a provider's name is wanted, if the consumer has one.
    pub(super) fn note_of(
        &self,
        snapshot: &Snapshot,
        consumer: &ServiceRef,
        provider: &ServiceKey,
    ) -> Option<String> {
        let wanted = (Tenant::parse(&provider.tenant)?, rule_name(provider));
        let names = snapshot.tenant(&consumer.tenant)?.wanted.get(&consumer.id)?;
        if !names.contains_key(&wanted) {
            return None;
        }
        let (tenant, name) = wanted;
        Key::Wanted(consumer.clone(), tenant, name).render()
    }
}
