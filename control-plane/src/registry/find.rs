//! Find: the instances that a consumer may call.
//!
//! A find also records, before it replies, that the consumer depends on the provider. A provider that is not
//! registered yet is noted as wanted, so that the consumer's watch delivers it when it appears.

use std::collections::BTreeMap;
use std::sync::Arc;

use answer::{Resolution, is_current};
use shared::model::{Service, ServiceKey, ServiceRef, Tenant};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::dependency::Wanted;
use super::service::existing;
use super::{CONFIRMING, Caller, Registry, RegistryError, validate};
use crate::keys::Name;
use crate::store::StoreError;
use crate::version::VersionRule;
use crate::view::finds::{Asker, Find};
use crate::view::interest::{Answer, vouches_for};
use crate::view::{PackedInstance, ServiceView, Snapshot, access};

/// A find request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FindQuery {
    /// Application of the provider.
    pub(crate) app_id: String,
    /// Name of the provider, or its alias.
    pub(crate) service_name: String,
    /// Version rule as the client sent it; empty means every version.
    pub(crate) version: String,
    /// Environment of the provider. A consumer's own environment has precedence.
    pub(crate) environment: String,
    /// Keys of tags that a provider must have.
    pub(crate) tags: Vec<String>,
    /// The revision of the reply that the caller already has; empty for none.
    pub(crate) rev: String,
    /// True to look for an alias when no service has the name.
    pub(crate) by_alias: bool,
}

/// The services whose instances are the reply, newest version first.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// The matching services. Each may be without instances.
    pub(crate) services: Vec<Arc<ServiceView>>,
    /// Changes with every visible change, and is equal on every replica for the same state.
    pub(crate) rev: String,
    /// The caller has exactly this already.
    pub(crate) not_modified: bool,
    /// The view that this comes from.
    snapshot: Arc<Snapshot>,
    /// The services that answer, for a gateway that asks for them, as long as the caller's interest tells
    /// each change of that answer.
    pub(crate) resolution: Option<Resolution>,
    note: Note,
}

/// The form in which a find is recorded.
#[derive(Clone, Debug)]
enum Note {
    /// Not at all: the caller has no id.
    None,
    /// As a dependency rule of these versions. A find by alias is noted as well, because other services may
    /// have the alias too.
    Rule(ServiceKey, Option<Wanted>),
    /// As a wanted name: nothing was found that a rule could name, or the service is shared.
    Wanted(Wanted),
}

/// One instance as a caller sees it.
#[derive(Clone, Debug)]
pub(crate) struct FoundInstance {
    pub(crate) instance: PackedInstance,
    /// The opaque revision of the instance.
    pub(crate) rev: String,
    /// The caller has exactly this already.
    pub(crate) not_modified: bool,
    /// The view that this comes from.
    snapshot: Arc<Snapshot>,
}

/// A reply that may say that the caller has it already.
trait Recheck {
    fn not_modified(&mut self) -> &mut bool;
    fn snapshot(&self) -> &Arc<Snapshot>;
}

impl Recheck for Found {
    fn not_modified(&mut self) -> &mut bool {
        &mut self.not_modified
    }

    fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }
}

impl Recheck for FoundInstance {
    fn not_modified(&mut self) -> &mut bool {
        &mut self.not_modified
    }

    fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }
}

impl FindQuery {
    /// Checks the version rule, before anything is looked up.
    ///
    /// # Errors
    /// When it is malformed.
    pub(crate) fn check_version(&self) -> Result<(), RegistryError> {
        self.rule().map(drop)
    }

    /// The version rule and its text. Clients leave it empty for every version, percent-encode it once too
    /// often, or send a plus that arrives as a blank; all of these are understood.
    fn rule(&self) -> Result<(String, VersionRule), RegistryError> {
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

/// The revision of a reply with these services.
fn revision_of<'a>(services: impl Iterator<Item = &'a Arc<ServiceView>>) -> String {
    answer::revision_of(services.filter(|view| !view.instances.is_empty()).map(|view| view.digest))
}

impl Registry {
    /// Finds a provider's instances for a caller and records the dependency.
    pub(crate) async fn find(&self, caller: &Caller, query: &FindQuery) -> Result<Found, RegistryError> {
        validate::lookup(&query.app_id, &query.service_name, &query.environment)?;
        query.tags.iter().try_for_each(|tag| validate::tag(tag))?;
        let (text, rule) = query.rule()?;
        let search = Search { registry: self, caller, query, text: &text, rule: &rule };
        let found = match self.answer(caller, |snapshot| search.run(snapshot)).await {
            Err(RegistryError::ServiceNotFound(_)) => {
                // Noted even though the reply is a refusal: the consumer goes on waiting, and its watch must
                // deliver the provider when it appears.
                if let Some(id) = &caller.consumer
                    && let Some(wanted) = search.wanted(&*self.view.now()?)
                {
                    unless_full(id, self.want(&caller.service(id), &wanted).await)?;
                }
                // The provider may have been registered while the note was written.
                search.run(&self.view.now()?)?
            }
            other => other?,
        };
        let found = if self.record_find(caller, &found).await? {
            // Changes between the first look and the record are in neither the reply nor the consumer's
            // watch, so the reply is made anew.
            search.run(&self.view.now()?)?
        } else {
            found
        };
        self.recheck_not_modified(caller, found, |snapshot| search.run(snapshot)).await
    }

    /// Works out "nothing changed" again on a confirmed view, because it is a claim about now. Where the
    /// store cannot be asked the claim is withdrawn and the caller gets the full reply.
    async fn recheck_not_modified<T: Recheck>(
        &self,
        caller: &Caller,
        mut found: T,
        work: impl Fn(&Arc<Snapshot>) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        if !*found.not_modified() {
            return Ok(found);
        }
        // The whole reply is here. One that polls is not to wait for a store that stands still.
        let confirming = timeout(CONFIRMING, self.confirmed_for(caller, found.snapshot())).await;
        match confirming.unwrap_or(Ok(None))? {
            // Nothing has come in since.
            Some(confirmed) if Arc::ptr_eq(&confirmed, found.snapshot()) => Ok(found),
            Some(confirmed) => work(&confirmed),
            None => {
                *found.not_modified() = false;
                Ok(found)
            }
        }
    }

    /// Records the dependency that a find stands for. True when something was written.
    async fn record_find(&self, caller: &Caller, found: &Found) -> Result<bool, RegistryError> {
        let Some(id) = &caller.consumer else { return Ok(false) };
        let consumer = caller.service(id);
        match &found.note {
            Note::None => Ok(false),
            Note::Wanted(wanted) => unless_full(id, self.want(&consumer, wanted).await),
            Note::Rule(provider, alias) => {
                let is_new_alias = match alias {
                    Some(wanted) => unless_full(id, self.want(&consumer, wanted).await)?,
                    None => false,
                };
                match self.depend(&consumer, provider).await {
                    // So many consumers stand in the provider's key that one more has no place. The find
                    // itself is not refused for that; only pushes are missing.
                    Err(RegistryError::TooLarge) => {
                        warn!(
                            consumer.id = id,
                            provider.name = provider.service_name,
                            "a dependency cannot be recorded: the provider has too many consumers for one key"
                        );
                        Ok(is_new_alias)
                    }
                    outcome => Ok(unless_full(id, outcome)? || is_new_alias),
                }
            }
        }
    }

    /// The instances of one service, for a caller that may see it.
    pub(crate) async fn list_instances(
        &self,
        caller: &Caller,
        service: &ServiceRef,
        tags: &[String],
        sent_rev: &str,
    ) -> Result<Found, RegistryError> {
        let list = |snapshot: &Arc<Snapshot>| {
            let view = self.visible(snapshot, caller, service, tags)?;
            let view = view.ok_or_else(RegistryError::no_service)?;
            let rev = revision_of([view].into_iter());
            Ok(Found {
                services: vec![view.clone()],
                not_modified: is_current(sent_rev, &rev),
                rev,
                snapshot: snapshot.clone(),
                resolution: None,
                note: Note::None,
            })
        };
        let found = self.answer(caller, list).await?;
        self.recheck_not_modified(caller, found, list).await
    }

    /// One instance, for a caller that may see it.
    pub(crate) async fn get_instance(
        &self,
        caller: &Caller,
        service: &ServiceRef,
        id: &str,
        tags: &[String],
        sent_rev: &str,
    ) -> Result<FoundInstance, RegistryError> {
        let get = |snapshot: &Arc<Snapshot>| {
            existing(snapshot, service)?;
            let view = self.visible(snapshot, caller, service, tags)?;
            let view = view.ok_or(RegistryError::InstanceNotFound)?;
            let found = view.instances.get(id).ok_or(RegistryError::InstanceNotFound)?;
            let rev = answer::instance_revision(id, found.mod_rev);
            let not_modified = is_current(sent_rev, &rev);
            let instance = found.instance.clone();
            Ok(FoundInstance { instance, rev, not_modified, snapshot: snapshot.clone() })
        };
        let found = self.answer(caller, get).await?;
        self.recheck_not_modified(caller, found, get).await
    }

    /// The service, or `None` when the caller may not see it or a tag is missing.
    fn visible<'a>(
        &self,
        snapshot: &'a Snapshot,
        caller: &Caller,
        service: &ServiceRef,
        tags: &[String],
    ) -> Result<Option<&'a Arc<ServiceView>>, RegistryError> {
        let consumer = match &caller.consumer {
            Some(id) => Some(consumer(snapshot, &caller.service(id))?),
            None => None,
        };
        let view = existing(snapshot, service)?;
        let ServiceKey { app_id, service_name, alias, .. } = &*view.key;
        // A shared service may be named by its alias.
        let shared = [service_name, alias].iter().any(|name| self.is_shared(&service.tenant, app_id, name));
        let allowed = consumer.is_none_or(|(record, tags)| access::allows(view, &record, &tags, shared));
        let tagged = tags.iter().all(|tag| view.tags.contains_key(tag));
        Ok((allowed && tagged).then_some(view))
    }
}

/// The outcome of recording a find, without the refusals of a store that has no room. The find itself is answered then; its
/// consumer gets no pushes until a later find is recorded.
fn unless_full(consumer: &str, recorded: Result<bool, RegistryError>) -> Result<bool, RegistryError> {
    match recorded {
        Err(RegistryError::Commit(error @ (StoreError::Full(_) | StoreError::Rationed))) => {
            debug!(consumer.id = consumer, %error, "a find is not recorded, because the store has no room");
            Ok(false)
        }
        recorded => recorded,
    }
}

/// A checked find request that can be run on several snapshots.
struct Search<'a> {
    registry: &'a Registry,
    caller: &'a Caller,
    query: &'a FindQuery,
    text: &'a str,
    rule: &'a VersionRule,
}

impl Search<'_> {
    /// The find, and the caller as far as access depends on it.
    fn place(&self, snapshot: &Snapshot) -> Result<(Find, Option<Consumer>), RegistryError> {
        let Self { registry, caller, query, rule, .. } = self;
        // A shared service is found even for a consumer that is not registered.
        let shared = registry.is_shared(&Tenant::default(), &query.app_id, &query.service_name);
        let consumer = match &caller.consumer {
            Some(id) if !shared => Some(consumer(snapshot, &caller.service(id))?),
            _ => None,
        };
        // Shared services live in the default tenant, in the registry's own environment.
        let tenant = if shared { Tenant::default() } else { caller.tenant.clone() };
        let environment = match &consumer {
            _ if shared => &registry.config.own_environment,
            Some((service, _)) => &service.environment,
            None => &query.environment,
        };
        let name = Name::new(environment, &query.app_id, &query.service_name);
        Ok((Find { tenant, name, versions: (*rule).clone(), by_alias: query.by_alias }, consumer))
    }

    /// True for a service that the caller's labels admit, or that everybody finds.
    fn is_granted(&self, view: &ServiceView) -> bool {
        let Some(service) = &view.service else { return true };
        self.caller.sees(service) || self.registry.is_shared_name(&service.app_id, &service.service_name)
    }

    /// The find as a wanted name. `None` when the consumer is not registered.
    fn wanted(&self, snapshot: &Snapshot) -> Option<Wanted> {
        let (find, _) = self.place(snapshot).ok()?;
        Some(Wanted { tenant: find.tenant, name: find.name, versions: self.text.to_owned() })
    }

    fn run(&self, snapshot: &Arc<Snapshot>) -> Result<Found, RegistryError> {
        let Self { caller, query, .. } = self;
        let (find, consumer) = self.place(snapshot)?;
        // A range that matches no version is an empty reply; an exact version that is missing is an error.
        if !find.is_answered(snapshot) {
            return Err(self.not_found(&find.name.environment));
        }
        let asker = consumer.as_ref().map(|(service, tags)| Asker { service, tags });
        let matching: Vec<_> = find.services(snapshot, asker).collect();
        let resolution = self.resolution(snapshot, &find, &matching);
        let services: Vec<Arc<ServiceView>> = matching
            .into_iter()
            // An alias, or a rule that leaves the version open, may lead to services with other labels.
            .filter(|(_, view)| self.is_granted(view))
            .filter(|(_, view)| query.tags.iter().all(|tag| view.tags.contains_key(tag)))
            .map(|(_, view)| view.clone())
            .collect();
        let rev = revision_of(services.iter());
        let not_modified = is_current(&query.rev, &rev);
        let wanted = Wanted { tenant: find.tenant, name: find.name, versions: self.text.to_owned() };
        let note = match (services.first(), caller.consumer.is_some()) {
            (_, false) => Note::None,
            // One rule stands for all versions that were found, because the rule text covers them.
            (Some(newest), true) if consumer.is_some() => {
                let by_alias = newest.key.service_name != query.service_name;
                let rule = ServiceKey {
                    version: self.text.to_owned(),
                    // Rules are stored without the alias and compared as a whole.
                    alias: String::new(),
                    ..(*newest.key).clone()
                };
                Note::Rule(rule, by_alias.then_some(wanted))
            }
            _ => Note::Wanted(wanted),
        };
        Ok(Found { services, rev, not_modified, snapshot: snapshot.clone(), resolution, note })
    }

    /// The services that answer, if a gateway asked for them and may answer the same find until the
    /// consumer's interest changes.
    fn resolution(
        &self,
        snapshot: &Snapshot,
        find: &Find,
        matching: &[(ServiceRef, &Arc<ServiceView>)],
    ) -> Option<Resolution> {
        let Self { caller, query, .. } = self;
        let consumer = caller.consumer.as_ref().filter(|_| caller.resolve && query.tags.is_empty())?;
        // Ids of services that the caller's labels hide are nothing that it may see.
        if matching.iter().any(|(_, view)| !self.is_granted(view)) {
            return None;
        }
        let services: Vec<ServiceRef> = matching.iter().map(|(service, _)| service.clone()).collect();
        let given = Answer { find: find.clone(), services: Some(services.clone()) };
        let is_told = vouches_for(snapshot, &caller.service(consumer), &given);
        is_told.then_some(Resolution { rev: snapshot.revision, services })
    }

    fn not_found(&self, environment: &str) -> RegistryError {
        let FindQuery { app_id, service_name, .. } = self.query;
        let version = self.text;
        RegistryError::ServiceNotFound(
            format!("{environment}/{app_id}/{service_name}/{version} does not exist.").into(),
        )
    }
}

/// A consumer's record and tags, which access rules look at.
type Consumer = (Arc<Service>, Arc<BTreeMap<String, String>>);

fn consumer(snapshot: &Snapshot, consumer: &ServiceRef) -> Result<Consumer, RegistryError> {
    match snapshot.service(consumer) {
        Some((view, service)) => Ok((service.clone(), view.tags.clone())),
        None => {
            let detail = format!("Consumer[{}] does not exist.", consumer.id);
            Err(RegistryError::ServiceNotFound(detail.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_understood_in_every_spelling_that_clients_use() {
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
            let query = FindQuery { version: sent.into(), ..Default::default() };
            let text = query.rule().map(|(text, _)| text).ok();
            assert_eq!(text.as_deref(), understood, "{sent}");
        }
    }
}
