//! Access control of the API: a request's head comes in, and the permit with which handlers work goes out.
//!
//! 1. [`Gate::admit`] stands before the router. It knows the method, the path and the token, and refuses what
//!    no role of the account permits at all.
//! 2. [`Permit::check`] runs when a handler takes its [`super::call::Call`]. It knows path, query and body,
//!    and refuses what the account's labels do not cover.
//! 3. Lists leave out what the caller may not see, by [`crate::registry::Caller::sees`].
//!
//! A request that comes to a handler without a permit is refused, so no way into the router passes this by.

use std::sync::Arc;

use access::decision::{audit_needs_an_account, authorization, shows_token};
use access::denial::DenialCode;
use access::token::Verifier;
use access::{
    Access, Admitted, Certified, Denial, Grant, Identity, LabelSource, Labels, Need, Policy, Verb, access_of,
};
use axum::body::Body;
use host::certificates::{Certificates, CertifiedAccount, NotAGateway};
use http::{Method, Request};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use shared::clock::Clock;
use shared::model::{Revision, Service, ServiceKey, ServiceRef, null_default};

mod operators;

use super::call::Call;
use super::failure::Failure;
use super::state::Api;
use crate::registry::service::existing;
use crate::registry::{Caller, RegistryError};
use crate::view::{Snapshot, View};

/// Decides about requests before they reach the router. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Gate {
    /// False when every request is admitted.
    is_closed: bool,
    verifier: Arc<Verifier>,
    certificates: Arc<Certificates>,
    view: View,
    clock: Clock,
}

/// The reason for which a request does not reach the router.
#[derive(Debug)]
pub(super) enum NotAdmitted {
    /// The caller may not do this, or nobody can tell at the moment.
    Refused(Failure),
    /// There is no such path. Only clients with a token are told so.
    NoRoute,
    /// The path has no such method.
    OtherMethod,
}

/// The rights with which a request is handled.
#[derive(Clone, Debug)]
pub(super) enum Permit {
    /// Access control does not concern the request.
    Open,
    /// The request is one of an account.
    Of(Arc<Held>),
}

/// An account's rights for one request.
#[derive(Debug)]
pub(super) struct Held {
    account: Arc<Admitted>,
    /// The state of access control that the decision is made by.
    pub(super) policy: Arc<Policy>,
    /// The need of the route, and its part that is granted. `None` when the handler itself decides.
    granted: Option<(Need, LabelSource, Grant)>,
}

impl Gate {
    pub(crate) fn new(is_closed: bool, certificates: Certificates, view: View, clock: Clock) -> Self {
        Self { is_closed, verifier: Arc::default(), certificates: Arc::new(certificates), view, clock }
    }

    /// True while access control is on.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// The revision of the present policy; zero while nobody knows it.
    pub(super) fn revision(&self) -> Revision {
        self.view.now().map_or(Revision::ZERO, |snapshot| snapshot.policy.revision)
    }

    /// The account behind a request that was refused, with the revision of the policy, for the audit log.
    pub(super) fn identify(&self, request: &Request<Body>) -> Option<(Arc<Admitted>, Revision)> {
        let policy = &self.view.now().ok()?.policy;
        Some((self.account(policy, request).ok()?, policy.revision))
    }

    /// The account that a request shows, by its token or by a certificate.
    fn account(&self, policy: &Arc<Policy>, request: &Request<Body>) -> Result<Arc<Admitted>, Denial> {
        let header = authorization(request.headers())?;
        let now = self.clock.micros() / 1_000_000;
        if shows_token(header) {
            return policy.identify(header, None, &self.verifier, now);
        }
        let certified = self.certificates.of_request(request).map_err(|NotAGateway| {
            let detail =
                "only gateways (rbac.gateways) may name an account, and only one of rbac.certificates";
            Denial::new(DenialCode::Unauthorized, detail)
        })?;
        let certified = certified.map(|CertifiedAccount { account, ends }| Certified { account, ends });
        policy.identify(header, certified, &self.verifier, now)
    }

    /// The revision up to which the policy is known; zero without a view. A decision that is made after this
    /// call is made by a policy that is as new at least.
    pub(super) fn known(&self) -> Revision {
        self.view.now().map_or(Revision::ZERO, |snapshot| snapshot.revision)
    }

    /// The revision that the view has to reach before the refusal of a request is final: its token was made
    /// at another replica, and its account or role may be newer than this view. `None` when it is final now.
    ///
    /// `known` is the value of [`Self::known`] from before the decision. A change that arrives between the
    /// decision and this call would otherwise make the refusal by the older view final.
    pub(super) fn owed_to(&self, request: &Request<Body>, known: Revision) -> Option<Revision> {
        let snapshot = self.view.now().ok()?;
        let header = authorization(request.headers()).ok()?;
        snapshot.policy.owed_to(header, &self.verifier, self.clock.micros() / 1_000_000, known)
    }

    /// The permit of a request, which travels in its extensions.
    pub(super) fn admit(&self, request: &Request<Body>) -> Result<Permit, NotAdmitted> {
        if !self.is_closed {
            return Ok(Permit::Open);
        }
        let access = access_of(request.method(), request.uri().path());
        if access == Access::Free {
            return Ok(Permit::Open);
        }
        // Without a view nobody knows the accounts, and what cannot be decided is refused.
        let snapshot = self.view.now().map_err(|error| refused(RegistryError::ReadView(error)))?;
        let policy = &snapshot.policy;
        if let Access::Needs(need, _) = access
            && !policy.scope.contains(need.resource)
        {
            return Ok(Permit::Open);
        }
        let account = self.account(policy, request).map_err(refused)?;
        let granted = match access {
            Access::Needs(need, labels) => {
                let grant = account.grant(policy, need).map_err(refused)?;
                Some((need, labels, grant))
            }
            Access::Free | Access::Authenticated => None,
            Access::OtherMethod => return Err(NotAdmitted::OtherMethod),
            Access::Unknown => return Err(NotAdmitted::NoRoute),
        };
        Ok(Permit::Of(Arc::new(Held { account, policy: policy.clone(), granted })))
    }
}

fn refused(reason: impl Into<Failure>) -> NotAdmitted {
    NotAdmitted::Refused(reason.into())
}

impl Held {
    /// The account behind the request.
    pub(super) fn identity(&self) -> &Identity {
        self.account.identity()
    }

    /// The same, with what the policy has decided about it.
    pub(super) fn account(&self) -> Arc<Admitted> {
        self.account.clone()
    }
}

impl Permit {
    /// The account behind the request; `None` where requests need no account.
    pub(super) fn account(&self) -> Option<&str> {
        match self {
            Self::Open => None,
            Self::Of(held) => Some(held.identity().account()),
        }
    }

    /// The part of the needed resource that the caller may touch.
    pub(super) fn grant(&self) -> Grant {
        match self {
            Self::Open => Grant::All,
            Self::Of(held) => held.granted.as_ref().map_or(Grant::All, |(_, _, grant)| grant.clone()),
        }
    }

    /// Refuses a caller who may not read the audit records of this process. Everybody may while access
    /// control is off. While it is on (`is_guarded`), a caller needs an account that may operate processes,
    /// also where `rbac.scope` leaves administration open.
    pub(super) fn read_audit(&self, is_guarded: bool) -> Result<(), Failure> {
        match self {
            Self::Of(held) => Ok(held.policy.operate(held.identity(), &Method::GET)?),
            Self::Open if is_guarded => Err(audit_needs_an_account().into()),
            Self::Open => Ok(()),
        }
    }

    /// Refuses a tenant that the account is not bound to.
    pub(super) fn enter(&self, caller: &Caller) -> Result<(), Failure> {
        let Self::Of(held) = self else { return Ok(()) };
        match &held.granted {
            // Such a request shows or changes things of all tenants, whichever one it names.
            Some((_, LabelSource::AllTenants, _)) => held.policy.enter_all(held.identity())?,
            Some(_) => held.account.enter(&held.policy, &caller.tenant)?,
            None => {}
        }
        Ok(())
    }

    /// Refuses a request for something whose labels the account's roles do not cover.
    pub(super) async fn check(&self, api: &Api, call: &Call) -> Result<(), Failure> {
        let Self::Of(held) = self else { return Ok(()) };
        let Some((need, source, grant)) = &held.granted else { return Ok(()) };
        if *grant == Grant::All {
            return Ok(());
        }
        let check = LabelCheck { api, call, need: *need, grant };
        match source {
            LabelSource::Path => check.service(call.param("serviceId")).await,
            LabelSource::Query => check.query().await,
            LabelSource::Registration => check.registration(),
            LabelSource::Elements => check.elements().await,
            // The reply is made for the caller's grant.
            LabelSource::Reply | LabelSource::Nothing | LabelSource::AllTenants => Ok(()),
            // Watches and dialects are the gateway's. This plane has no such route.
            LabelSource::Watch | LabelSource::Dialect => {
                Err(Failure::from(access::decision::no_permission(*need, None)))
            }
        }
    }
}

/// One request of an account whose rights are limited by labels.
struct LabelCheck<'a> {
    api: &'a Api,
    call: &'a Call,
    need: Need,
    grant: &'a Grant,
}

impl LabelCheck<'_> {
    fn labels(&self, labels: Labels<'_>) -> Result<(), Failure> {
        // Every consumer finds the shared services, as the registry's own, whatever it may see otherwise.
        let shared = self.need.verb == Verb::Get
            && self.api.registry().is_shared_name(labels.app_id, labels.service_name);
        if shared { Ok(()) } else { Ok(self.grant.check(self.need, labels)?) }
    }

    fn key(&self, key: &ServiceKey) -> Result<(), Failure> {
        self.labels(Labels {
            environment: &key.environment,
            app_id: or_default(&key.app_id),
            service_name: &key.service_name,
        })
    }

    fn record(&self, service: &Service) -> Result<(), Failure> {
        self.labels(labels_of(service))
    }

    /// The service with this id. That it does not exist is said as it always is, and only when that is
    /// certain: the labels of a service that this replica has not seen yet are unknown.
    async fn service(&self, id: &str) -> Result<(), Failure> {
        let caller = &self.call.caller;
        let service = caller.service(id);
        let read = self.api.registry().answer(caller, |snapshot| {
            let view = existing(snapshot, &service)?;
            view.service.clone().ok_or_else(RegistryError::no_service)
        });
        match read.await {
            Ok(record) => self.record(&record),
            // Clients take any other answer to a heartbeat for a fault that will pass.
            Err(RegistryError::ServiceNotFound(_)) if self.call.is_heartbeat() => {
                Err(RegistryError::InstanceNotFound.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn query(&self) -> Result<(), Failure> {
        let call = self.call;
        if !call.query("serviceId").is_empty() {
            return self.service(call.query("serviceId")).await;
        }
        let snapshot = self.api.registry().read(&call.caller).await?;
        let environment = match call.query("env") {
            "" => environment_of_consumer(&snapshot, &call.caller),
            environment => environment.to_owned(),
        };
        self.labels(Labels {
            environment: &environment,
            app_id: or_default(call.query("appId")),
            service_name: call.query("serviceName"),
        })
    }

    fn registration(&self) -> Result<(), Failure> {
        #[derive(Deserialize)]
        struct Body {
            service: Option<Service>,
        }
        // A body that says nothing about a service is refused by the handler, which has the words for it.
        let Some(service) = self.call.json::<Body>()?.service else { return Ok(()) };
        self.record(&service)
    }

    /// Every element must be covered: one that is not refuses the whole batch.
    async fn elements(&self) -> Result<(), Failure> {
        let body: Elements = self.call.json()?;
        let mut snapshot = self.api.registry().read(&self.call.caller).await?;
        let ids: Vec<ServiceRef> = body.ids().map(|id| self.call.caller.service(id)).collect();
        if ids.iter().any(|service| snapshot.service(service).is_none()) {
            // Once for all of them. A service that this replica has not seen yet would otherwise pass as
            // absent.
            if let Some(confirmed) = self.api.registry().confirmed().await? {
                snapshot = confirmed;
            } else {
                return Err(RegistryError::NotConfirmed.into());
            }
        }
        for service in &ids {
            // An absent one has its own outcome in the reply.
            if let Some((_, record)) = snapshot.service(service) {
                self.record(record)?;
            }
        }
        let environment = environment_of_consumer(&snapshot, &self.call.caller);
        for key in body.keys() {
            match key.environment.as_str() {
                "" => self.key(&ServiceKey { environment: environment.clone(), ..key.clone() })?,
                _ => self.key(key)?,
            }
        }
        Ok(())
    }
}

/// The elements of all batches, as far as they name services. Each route has its own member.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Elements {
    /// Of a deletion of many services.
    #[serde(deserialize_with = "null_default")]
    service_ids: Vec<String>,
    /// Of an override.
    #[serde(deserialize_with = "null_default")]
    service_id: String,
    /// Of a shift.
    #[serde(deserialize_with = "null_default")]
    from: SideElement,
    /// Of a shift.
    #[serde(deserialize_with = "null_default")]
    to: SideElement,
    /// Of many heartbeats, and of many finds by instance.
    #[serde(deserialize_with = "null_default")]
    instances: Vec<InstanceElement>,
    /// Of many finds by name.
    #[serde(deserialize_with = "null_default")]
    services: Vec<ServiceElement>,
    /// Of declarations. A consumer is changed by them; its providers are not.
    #[serde(deserialize_with = "null_default")]
    dependencies: Vec<DependencyElement>,
}

/// Takes whatever a body has under such a common name. The handler of a shift is strict about it.
#[derive(Default)]
struct SideElement {
    service_id: String,
}

impl<'de> Deserialize<'de> for SideElement {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        Ok(Self { service_id: value["serviceId"].as_str().unwrap_or_default().to_owned() })
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct InstanceElement {
    #[serde(deserialize_with = "null_default")]
    service_id: String,
    instance: Option<NestedInstance>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct NestedInstance {
    #[serde(deserialize_with = "null_default")]
    service_id: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ServiceElement {
    service: Option<ServiceKey>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DependencyElement {
    consumer: Option<ServiceKey>,
    #[serde(rename = "providers")]
    _providers: Option<IgnoredAny>,
}

impl Elements {
    fn ids(&self) -> impl Iterator<Item = &str> {
        let nested = self.instances.iter().filter_map(|element| element.instance.as_ref());
        let direct = self.instances.iter().map(|element| element.service_id.as_str());
        let ids = self.service_ids.iter().map(String::as_str).chain(direct);
        let ids =
            ids.chain([&self.service_id, &self.from.service_id, &self.to.service_id].map(String::as_str));
        ids.chain(nested.map(|instance| instance.service_id.as_str())).filter(|id| !id.is_empty())
    }

    fn keys(&self) -> impl Iterator<Item = &ServiceKey> {
        let consumers = self.dependencies.iter().filter_map(|element| element.consumer.as_ref());
        self.services.iter().filter_map(|element| element.service.as_ref()).chain(consumers)
    }
}

/// The labels of a service.
pub(super) fn labels_of(service: &Service) -> Labels<'_> {
    Labels {
        environment: &service.environment,
        app_id: or_default(&service.app_id),
        service_name: &service.service_name,
    }
}

/// The registry gives a service without an application this one.
fn or_default(app_id: &str) -> &str {
    if app_id.is_empty() { "default" } else { app_id }
}

fn environment_of_consumer(snapshot: &Snapshot, caller: &Caller) -> String {
    let consumer = caller.consumer.as_ref().map(|id| caller.service(id));
    let record = consumer.and_then(|consumer| snapshot.service(&consumer).map(|(_, record)| record));
    record.map(|record| record.environment.clone()).unwrap_or_default()
}
