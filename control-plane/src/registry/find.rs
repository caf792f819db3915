//! Find: which instances may a consumer call?
//!
//! A find also records that the consumer depends on the provider, before it answers; a provider that does not
//! exist yet is noted as wanted, so that the consumer's watch hears of it when it comes.

use std::collections::BTreeMap;
use std::sync::Arc;

use shared::model::{Instance, Service, ServiceKey, ServiceRef, Tenant};

use super::existence::by_name_or_alias;
use super::{Caller, Registry, validate};
use crate::failure::{Code, Failure};
use crate::keys::Name;
use crate::version::VersionRule;
use crate::view::access;
use crate::view::{ServiceView, Snapshot, select};

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FindQuery {
    /// Application of the provider.
    pub app_id: String,
    /// Name of the provider, else alias.
    pub service_name: String,
    /// Version rule as sent; empty means all.
    pub version: String,
    /// Environment; that of the consumer has precedence.
    pub environment: String,
    /// Tag keys that a provider must have.
    pub tags: Vec<String>,
    /// The revision of the answer that the caller has; empty for none.
    pub rev: String,
    /// Whether an alias is looked at when nothing has the name.
    pub by_alias: bool,
}

/// The services whose instances are the answer, newest version first.
#[derive(Clone, Debug)]
pub struct Found {
    /// They may have no instances.
    pub services: Vec<Arc<ServiceView>>,
    /// Changes with every visible change, and is equal on every replica for the same state.
    pub rev: String,
    /// The caller has exactly this already.
    pub not_modified: bool,
    provider: Option<ServiceKey>,
    shared: Option<(Tenant, Name)>,
}

impl FindQuery {
    /// The rule in all the spellings that clients use: empty for all, percent-encoded once too often, or with
    /// a plus that arrived as a blank.
    fn rule(&self) -> Result<(String, VersionRule), Failure> {
        if self.version.is_empty() {
            return Ok(("0+".into(), VersionRule::ALL));
        }
        if let Ok(rule) = validate::version_rule(&self.version) {
            return Ok((self.version.clone(), rule));
        }
        let decoded = percent_encoding::percent_decode_str(&self.version).decode_utf8_lossy();
        let text = match decoded.strip_suffix(' ') {
            Some(least) => format!("{least}+"),
            None => decoded.into_owned(),
        };
        let rule = validate::version_rule(&text)?;
        Ok((text, rule))
    }
}

/// The opaque revision of a set of services: a hash over what is visible of each.
pub fn revision_of<'a>(services: impl Iterator<Item = &'a Arc<ServiceView>>) -> String {
    let mut hash = 0x9e37_79b9_7f4a_7c15_u64;
    for view in services.filter(|view| !view.instances.is_empty()) {
        // The digest tells states of one service apart, the instances' ids those of different services.
        hash = (hash.rotate_left(23) ^ view.digest).wrapping_mul(0xd6e8_feb8_6659_fd93);
    }
    format!("{hash:016x}")
}

impl Registry {
    /// Finds a provider's instances for a caller, and records that it asked.
    pub async fn find(&self, caller: &Caller, query: &FindQuery) -> Result<Found, Failure> {
        validate::lookup(&query.app_id, &query.service_name, &query.environment)?;
        query.tags.iter().try_for_each(|tag| validate::tag(tag))?;
        let (text, rule) = query.rule()?;
        let work = |snapshot: &Arc<Snapshot>| self.find_in(snapshot, caller, query, &text, &rule);
        let found = match self.answer(caller, work).await {
            Err(failure) if failure.code == Code::ServiceNotFound => {
                self.note_wanted(caller, query).await?;
                // It may have been registered while that was written.
                work(&self.view.now()?)?
            }
            other => other?,
        };
        let found = match self.record_find(caller, &found).await? {
            // Changes between the answer and the record are in neither; the answer is made anew.
            true => work(&self.view.now()?)?,
            false => found,
        };
        self.settled(found, |found| &mut found.not_modified, work).await
    }

    /// "Nothing changed" is a claim about now: it is worked out again on a confirmed view, and not made where the
    /// store cannot be asked.
    async fn settled<T>(
        &self,
        mut found: T,
        not_modified: impl Fn(&mut T) -> &mut bool,
        work: impl Fn(&Arc<Snapshot>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        if !*not_modified(&mut found) {
            return Ok(found);
        }
        if let Some(confirmed) = self.confirmed().await? {
            return work(&confirmed);
        }
        *not_modified(&mut found) = false;
        Ok(found)
    }

    fn find_in(
        &self,
        snapshot: &Arc<Snapshot>,
        caller: &Caller,
        query: &FindQuery,
        text: &str,
        rule: &VersionRule,
    ) -> Result<Found, Failure> {
        let shared = self.is_shared(&caller.tenant, &query.app_id, &query.service_name)
            || self.is_shared(&Tenant::default(), &query.app_id, &query.service_name);
        let consumer = match &caller.consumer {
            Some(id) if !shared => Some(consumer(snapshot, &caller.service(id))?),
            _ => None,
        };
        let tenant = if shared { Tenant::default() } else { caller.tenant.clone() };
        let environment = match &consumer {
            _ if shared => &self.config.own_environment,
            Some((service, _)) => &service.environment,
            None => &query.environment,
        };
        let name = Name::new(environment, &query.app_id, &query.service_name);
        let versions = if query.by_alias {
            by_name_or_alias(snapshot, &tenant, &name)
        } else {
            snapshot.versions(&tenant, &name)
        };
        let missing = || {
            let detail =
                format!("{environment}/{}/{}/{text} does not exist.", query.app_id, query.service_name);
            Failure::new(Code::ServiceNotFound, detail)
        };
        let exact = matches!(rule, VersionRule::Exact(_));
        if versions.is_empty() || (exact && select(versions, rule).next().is_none()) {
            return Err(missing());
        }
        let services: Vec<Arc<ServiceView>> = select(versions, rule)
            .filter_map(|entry| snapshot.any_service(&ServiceRef::new(tenant.clone(), &entry.id)))
            .filter(|view| view.service.is_some())
            .filter(|view| query.tags.iter().all(|tag| view.tags.contains_key(tag)))
            .filter(|view| consumer.as_ref().is_none_or(|(s, tags)| access::allows(view, s, tags, shared)))
            .cloned()
            .collect();
        let provider = consumer.is_some().then(|| services.first()).flatten().map(|view| ServiceKey {
            version: text.to_owned(),
            alias: String::new(),
            ..(*view.key).clone()
        });
        let rev = revision_of(services.iter());
        let not_modified = !query.rev.is_empty() && query.rev == rev;
        let shared = shared.then_some((tenant, name));
        Ok(Found { services, rev, not_modified, provider, shared })
    }

    /// Records the dependency that a find stands for. True when something was written.
    async fn record_find(&self, caller: &Caller, found: &Found) -> Result<bool, Failure> {
        let Some(id) = &caller.consumer else { return Ok(false) };
        let consumer = caller.service(id);
        if let Some((tenant, name)) = &found.shared {
            return self.want(&consumer, tenant, name).await;
        }
        match &found.provider {
            Some(provider) => self.depend(&consumer, provider).await,
            None => Ok(false),
        }
    }

    async fn note_wanted(&self, caller: &Caller, query: &FindQuery) -> Result<(), Failure> {
        let Some(id) = &caller.consumer else { return Ok(()) };
        let reference = caller.service(id);
        let snapshot = self.view.now()?;
        let Some((_, service)) = snapshot.service(&reference) else { return Ok(()) };
        let name = Name::new(&service.environment, &query.app_id, &query.service_name);
        self.want(&reference, &caller.tenant, &name).await.map(drop)
    }

    /// The instances of one service, for a caller that may see it.
    pub async fn list_instances(
        &self,
        caller: &Caller,
        service: &ServiceRef,
        tags: &[String],
        rev: &str,
    ) -> Result<Found, Failure> {
        let work = |snapshot: &Arc<Snapshot>| {
            let view = visible(snapshot, caller, service, tags, Failure::no_service)?;
            let rev_now = revision_of([view].into_iter());
            let not_modified = !rev.is_empty() && rev == rev_now;
            let services = vec![view.clone()];
            Ok(Found { services, rev: rev_now, not_modified, provider: None, shared: None })
        };
        let found = self.answer(caller, work).await?;
        self.settled(found, |found| &mut found.not_modified, work).await
    }

    /// One instance, for a caller that may see it, with the revision of what is seen.
    pub async fn get_instance(
        &self,
        caller: &Caller,
        service: &ServiceRef,
        id: &str,
        tags: &[String],
        rev: &str,
    ) -> Result<(Arc<Instance>, String, bool), Failure> {
        let work = |snapshot: &Arc<Snapshot>| {
            super::service::existing(snapshot, service)?;
            let view = visible(snapshot, caller, service, tags, Failure::no_instance)?;
            let found = view.instances.get(id).ok_or_else(Failure::no_instance)?;
            let rev_now = format!("{:016x}", shared::event::digest_of(id, found.mod_rev));
            let same = !rev.is_empty() && rev == rev_now;
            Ok((found.instance.clone(), rev_now, same))
        };
        let found = self.answer(caller, work).await?;
        self.settled(found, |(_, _, same)| same, work).await
    }
}

type Consumer = (Arc<Service>, Arc<BTreeMap<String, String>>);

fn consumer(snapshot: &Snapshot, consumer: &ServiceRef) -> Result<Consumer, Failure> {
    match snapshot.service(consumer) {
        Some((view, service)) => Ok((service.clone(), view.tags.clone())),
        None => {
            Err(Failure::new(Code::ServiceNotFound, format!("Consumer[{}] does not exist.", consumer.id)))
        }
    }
}

/// A service that the caller may see and that has the tags; else the `denied` refusal.
fn visible<'a>(
    snapshot: &'a Snapshot,
    caller: &Caller,
    service: &ServiceRef,
    tags: &[String],
    denied: impl Fn() -> Failure,
) -> Result<&'a Arc<ServiceView>, Failure> {
    let consumer = match &caller.consumer {
        Some(id) => Some(consumer(snapshot, &caller.service(id))?),
        None => None,
    };
    let view = super::service::existing(snapshot, service)?;
    let allowed = consumer.is_none_or(|(s, consumer_tags)| access::allows(view, &s, &consumer_tags, false));
    if allowed && tags.iter().all(|tag| view.tags.contains_key(tag)) { Ok(view) } else { Err(denied()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_understood_in_every_spelling_that_clients_use() {
        let rule = |version: &str| {
            FindQuery { version: version.into(), ..Default::default() }.rule().map(|(text, _)| text).ok()
        };
        for (sent, understood) in [
            ("", Some("0+")),
            ("0+", Some("0+")),
            ("0%2B", Some("0+")),
            ("1.0.0 ", Some("1.0.0+")),
            ("0.0.0.0%2B", Some("0.0.0.0+")),
            ("latest", Some("latest")),
            ("abc", None),
            ("1.0.0.0.0", None),
        ] {
            assert_eq!(rule(sent).as_deref(), understood, "{sent}");
        }
    }
}
