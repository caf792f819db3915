//! Tags of a service: one record with all of them.

use std::collections::BTreeMap;

use shared::model::ServiceRef;

use super::service::existing;
use super::{Caller, Registry, RegistryError, validate};
use crate::keys::{self, Key};
use crate::record;
use crate::store::{Compare, Op, Txn};

type Tags = BTreeMap<String, String>;

impl Registry {
    pub(crate) async fn tags(&self, caller: &Caller, service: &ServiceRef) -> Result<Tags, RegistryError> {
        self.answer(caller, |snapshot| Ok((*existing(snapshot, service)?.tags).clone())).await
    }

    /// Replaces all tags.
    pub(crate) async fn replace_tags(&self, service: &ServiceRef, tags: Tags) -> Result<(), RegistryError> {
        // One quota limits schemas, tags and rules alike.
        let limit = self.quotas.now().schemas;
        if tags.len() > limit {
            return Err(RegistryError::invalid(format!("field 'tags' has more than {limit} items")));
        }
        for (key, value) in &tags {
            validate::tag(key)?;
            validate::tag(value)?;
        }
        self.rewrite_tags(service, |_| Ok(tags.clone())).await
    }

    /// Changes the value of a tag that exists.
    pub(crate) async fn update_tag(
        &self,
        service: &ServiceRef,
        key: &str,
        value: &str,
    ) -> Result<(), RegistryError> {
        validate::tag(key)?;
        validate::tag(value)?;
        self.rewrite_tags(service, |tags| {
            let mut tags = tags.clone();
            *tags.get_mut(key).ok_or(RegistryError::TagNotFound)? = value.to_owned();
            Ok(tags)
        })
        .await
    }

    /// Deletes tags, all of which must exist.
    pub(crate) async fn delete_tags(
        &self,
        service: &ServiceRef,
        keys: &[String],
    ) -> Result<(), RegistryError> {
        validate::listed("keys", keys, self.quotas.now().schemas)?;
        keys.iter().try_for_each(|key| validate::tag(key))?;
        self.rewrite_tags(service, |tags| {
            let mut tags = tags.clone();
            for key in keys {
                tags.remove(key).ok_or(RegistryError::TagNotFound)?;
            }
            Ok(tags)
        })
        .await
    }

    async fn rewrite_tags(
        &self,
        service: &ServiceRef,
        change: impl Fn(&Tags) -> Result<Tags, RegistryError>,
    ) -> Result<(), RegistryError> {
        let caller = Caller::of_tenant(&service.tenant);
        // A refusal is worked out on a confirmed view. The steps below take the view as it is.
        self.answer(&caller, |snapshot| change(&existing(snapshot, service)?.tags).map(drop)).await?;
        let Some(key) = Key::Tags(service.clone()).render() else { return Ok(()) };
        self.until_won(key.clone(), |snapshot| {
            let change = &change;
            let key = key.clone();
            async move {
                let view = existing(&snapshot, service)?;
                let tags = change(&view.tags)?;
                let txn = Txn {
                    // Tags have a key of their own, so the service's record does not change with them.
                    compare: vec![
                        Compare::Exists(keys::service(service)),
                        Compare::ModRev(key.clone(), view.tags_rev),
                    ],
                    then: vec![Op::put(key.clone(), record::render(&tags, None))],
                    ..Txn::default()
                };
                Ok(self.commit_noting(txn, &[key]).await?.succeeded.then_some(()))
            }
        })
        .await
    }
}
