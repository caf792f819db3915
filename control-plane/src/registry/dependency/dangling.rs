//! Rules whose provider is not registered any more.
//!
//! In: a service that was deleted, or a declaration that replaces others. Out: transactions that drop such rules, each after a
//! note that its consumer goes on waiting for the name.

use std::collections::BTreeSet;

use futures_util::{TryStreamExt as _, stream};
use shared::model::{Service, ServiceKey, Tenant};

use super::{Mode, has_provider, rule_name, rules_of};
use crate::registry::{Registry, RegistryError};
use crate::view::Snapshot;

/// Consumers whose rules are looked after at once. Their changes share transactions.
const CONSUMERS_AT_ONCE: usize = 32;

impl Registry {
    /// Removes the rules of a deleted service, and rules of others that have no provider without it.
    pub(in crate::registry) async fn forget_dependencies(
        &self,
        tenant: &Tenant,
        deleted: &Service,
    ) -> Result<(), RegistryError> {
        let key = ServiceKey { alias: String::new(), ..deleted.key(tenant) };
        self.set_rules(&key, Vec::new(), Mode::Overwrite).await?;
        // Only the consumers of its name: a client of the tenant may have added rules without a provider to thousands of
        // others, and a delete must not wait for all of these.
        let snapshot = self.view.now()?;
        let rules = snapshot.tenant(tenant).and_then(|view| view.provider_rules.get(&rule_name(&key)));
        let consumers = rules.into_iter().flat_map(|rules| rules.values()).flat_map(|set| set.keys.iter());
        let consumers: BTreeSet<&ServiceKey> =
            consumers.filter(|consumer| consumer.tenant == key.tenant).collect();
        self.drop_dangling(&snapshot, tenant, consumers.into_iter().cloned()).await
    }

    /// Drops the rules of a tenant's consumers whose provider is not registered any more.
    pub(super) async fn drop_all_dangling(&self, tenant: &Tenant) -> Result<(), RegistryError> {
        let snapshot = self.view.now()?;
        let Some(view) = snapshot.tenant(tenant) else { return Ok(()) };
        let consumers = view.consumer_rules.keys().map(|(name, version)| ServiceKey {
            tenant: tenant.to_string(),
            environment: name.environment.clone(),
            app_id: name.app_id.clone(),
            service_name: name.name.clone(),
            alias: String::new(),
            version: version.clone(),
        });
        self.drop_dangling(&snapshot, tenant, consumers).await
    }

    /// Drops the rules of these consumers whose provider is not registered any more. The consumers go on waiting for the
    /// names, so that nothing is missed when a provider is deleted and registered again.
    async fn drop_dangling(
        &self,
        snapshot: &Snapshot,
        tenant: &Tenant,
        consumers: impl Iterator<Item = ServiceKey>,
    ) -> Result<(), RegistryError> {
        stream::iter(consumers.map(Ok))
            .try_for_each_concurrent(CONSUMERS_AT_ONCE, async |consumer: ServiceKey| {
                let rules = rules_of(snapshot, &consumer);
                let is_dangling = |rule: &&ServiceKey| !has_provider(snapshot, tenant, rule);
                let dangling: Vec<ServiceKey> = rules.keys.iter().filter(is_dangling).cloned().collect();
                if dangling.is_empty() {
                    return Ok(());
                }
                // The names are noted before the rules go: between the two the consumer is interested twice, not
                // at no time. A note that exists already stands for a later find of the name.
                let waiting = snapshot.by_key(&consumer);
                let is_unnoted = |rule: &&ServiceKey| {
                    waiting.as_ref().is_some_and(|waiting| self.note_of(snapshot, waiting, rule).is_none())
                };
                let unnoted: Vec<ServiceKey> = dangling.iter().filter(is_unnoted).cloned().collect();
                self.want_providers(snapshot, tenant, &consumer, &unnoted).await?;
                // Only these: a find may have added another rule meanwhile.
                self.set_rules(&consumer, dangling, Mode::Prune).await
            })
            .await
    }
}
