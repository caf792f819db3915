//! Tags of a service: one record with all of them.

use std::collections::BTreeMap;

use shared::model::ServiceRef;

use super::quota::exceeded;
use super::service::existing;
use super::{Caller, Registry, validate};
use crate::failure::{Code, Failure};
use crate::keys::{self, Key};
use crate::record;
use crate::store::{Compare, Op, Txn};

type Tags = BTreeMap<String, String>;

impl Registry {
    /// The tags of a service.
    pub async fn tags(&self, caller: &Caller, service: &ServiceRef) -> Result<Tags, Failure> {
        self.answer(caller, |snapshot| Ok((*existing(snapshot, service)?.tags).clone())).await
    }

    /// Replaces all tags.
    pub async fn replace_tags(&self, service: &ServiceRef, tags: Tags) -> Result<(), Failure> {
        let limit = self.quotas.now().schemas;
        if tags.len() > limit {
            return Err(exceeded("TAG", limit, tags.len()));
        }
        for (key, value) in &tags {
            validate::tag(key)?;
            validate::tag(value)?;
        }
        self.rewrite_tags(service, |_| Ok(tags.clone())).await
    }

    /// Changes the value of a tag that exists.
    pub async fn update_tag(&self, service: &ServiceRef, key: &str, value: &str) -> Result<(), Failure> {
        validate::tag(key)?;
        validate::tag(value)?;
        self.rewrite_tags(service, |tags| {
            let mut tags = tags.clone();
            *tags.get_mut(key).ok_or_else(no_tag)? = value.to_owned();
            Ok(tags)
        })
        .await
    }

    /// Deletes tags, all of which must exist.
    pub async fn delete_tags(&self, service: &ServiceRef, keys: &[String]) -> Result<(), Failure> {
        self.rewrite_tags(service, |tags| {
            let mut tags = tags.clone();
            keys.iter().try_for_each(|key| tags.remove(key).map(drop).ok_or_else(no_tag))?;
            Ok(tags)
        })
        .await
    }

    async fn rewrite_tags(
        &self,
        service: &ServiceRef,
        change: impl Fn(&Tags) -> Result<Tags, Failure>,
    ) -> Result<(), Failure> {
        let caller = Caller { tenant: service.tenant.clone(), ..Caller::default() };
        self.answer(&caller, |snapshot| change(&existing(snapshot, service)?.tags).map(drop)).await?;
        let Some(key) = Key::Tags(service.clone()).render() else { return Ok(()) };
        self.until_won(|snapshot| {
            let (change, key) = (&change, key.clone());
            async move {
                let view = existing(&snapshot, service)?;
                let tags = change(&view.tags)?;
                let txn = Txn {
                    compare: vec![
                        Compare::Exists(keys::service(service)),
                        Compare::ModRev(key.clone(), view.tags_rev),
                    ],
                    then: vec![Op::put(key, record::render(&tags, None))],
                    ..Txn::default()
                };
                Ok(self.commit(txn).await?.succeeded.then_some(()))
            }
        })
        .await
    }
}

fn no_tag() -> Failure {
    Failure::new(Code::TagNotFound, "tag does not exist.")
}
