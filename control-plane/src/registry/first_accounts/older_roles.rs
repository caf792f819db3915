//! Roles of an older Service-Center, which does not know the resource `config`.
//!
//! Newer Service-Center gives that resource to every role that exists when it meets a store for the first
//! time, and marks the store. The same is done here, so that a site may switch over from either. The mark
//! also keeps a Service-Center node that joins later from giving the resource to roles that are not meant to
//! have it.

use access::role::ANY_VERB;
use access::{Need, Permission, Resource, ResourceType, Role, Verb};
use tracing::{info, warn};

use crate::keys;
use crate::record::{self, Record};
use crate::registry::{Registry, RegistryError};
use crate::store::{Compare, KeyValue, Op, Txn};

/// Gives the resource `config` to the stored roles, if the store is not marked yet.
pub(super) async fn complete(registry: &Registry) -> Result<(), RegistryError> {
    if get(registry, keys::ROLES_MIGRATED.to_owned()).await?.is_some() {
        return Ok(());
    }
    // A view that lags would leave out a role, and the mark would make that final.
    let snapshot = registry.confirmed().await?.ok_or(RegistryError::NotConfirmed)?;
    for name in snapshot.policy.roles.keys() {
        complete_one(registry, name).await?;
    }
    let mark = Op::put(keys::ROLES_MIGRATED, "true");
    registry.write_absent(keys::ROLES_MIGRATED.to_owned(), vec![mark]).await.map(drop)
}

async fn complete_one(registry: &Registry, name: &str) -> Result<(), RegistryError> {
    let key = keys::role(name);
    // One that always exists may have no record yet.
    let Some(kv) = get(registry, key.clone()).await? else { return Ok(()) };
    let Ok(mut record) = Record::<Role>::parse(&kv.value) else {
        warn!(role = name, "a stored role cannot be read, and does not get the resource config");
        return Ok(());
    };
    // Perhaps from an attempt that another node or a failure ended.
    if has_config(&record.value) {
        return Ok(());
    }
    let config = Resource { kind: ResourceType::Config.word().to_owned(), ..Resource::default() };
    record.value.perms.push(Permission { resources: vec![config], verbs: vec![ANY_VERB.to_owned()] });
    record.value.update_time = registry.seconds();
    let txn = Txn {
        compare: vec![
            Compare::ModRev(key.clone(), kv.mod_rev),
            // Another node has finished meanwhile, and an operator may have changed the role since.
            Compare::Absent(keys::ROLES_MIGRATED.to_owned()),
        ],
        then: vec![Op::put(key, record::render(&record.value, Some(&record.unknown)))],
        ..Txn::default()
    };
    if !registry.commit(txn).await?.succeeded {
        return Err(RegistryError::Contended);
    }
    info!(role = name, "a role of an older Service-Center has got the resource config");
    Ok(())
}

/// True for a role that may do everything with the whole resource.
fn has_config(role: &Role) -> bool {
    let mut permissions = role.perms.iter();
    permissions.any(|permission| {
        Verb::ALL.iter().all(|verb| {
            let mut found = permission.matching(Need { resource: ResourceType::Config, verb: *verb });
            found.any(|resource| resource.labels.is_empty())
        })
    })
}

async fn get(registry: &Registry, key: String) -> Result<Option<KeyValue>, RegistryError> {
    let read = registry.store.txn(Txn { then: vec![Op::Get(key)], ..Txn::default() }).await;
    let mut reply = registry.note_connection(read).map_err(RegistryError::Commit)?;
    Ok(reply.got.pop().flatten())
}
