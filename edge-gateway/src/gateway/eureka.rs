//! Eureka's REST interface, for applications on Spring Cloud and every other client of Eureka.
//!
//! In: requests below `/eureka/`. Out: reads from the catalogue, with bodies that are made once for each
//! state; writes as requests of the registry's API, forwarded in the client's name. No gateway keeps anything
//! of a registration, so any of them may renew or end what another has taken.
//!
//! While the services are not known, everything that needs them is answered 503: a client of Eureka keeps
//! what it has, and an empty list or a 404 would take it away.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use bytes::Bytes;
use host::fairness::{self, Wait};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use shared::model::{Revision, Tenant};
use tokio::time::{Instant, timeout};

use super::gate::Caller;
use super::proxy::no_place;
use super::{GatewayParts, refusal, route};
use crate::catalogue::{Followed, Services};
use crate::eureka::{
    self, ActionType, Amount, Application, Applications, Asked, Detail, Feeds, Form, Format, Listed, Member,
    Operation, Place,
};
use crate::metrics::Dialect;
use crate::policy::labels_of;

mod call;
mod write;

/// The header with which a client asks for less.
const EUREKA_ACCEPT: &str = "x-eureka-accept";
/// The time in which what was written through this gateway has to be known here.
const PATIENCE: Duration = Duration::from_secs(3);
/// The longest pause between two looks at a tenant of which nothing changes: bookmarks come every second.
const LOOK: Duration = Duration::from_millis(100);
const NOT_PROVEN: &str = "this gateway cannot tell yet whether this is registered; try again";

/// The client in whose name requests are sent.
struct Client {
    headers: HeaderMap,
    query: String,
    peer: Option<ConnectInfo<SocketAddr>>,
}

impl Client {
    /// The client behind a request, and the request's body.
    fn of(request: Request<Body>) -> (Self, Body) {
        let (parts, body) = request.into_parts();
        let peer = parts.extensions.get().copied();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        (Self { headers: parts.headers, query, peer }, body)
    }

    /// The value of a parameter of the query.
    fn parameter(&self, name: &str) -> Option<String> {
        let mut all = form_urlencoded::parse(self.query.as_bytes());
        all.find(|(own, _)| own == name).map(|(_, value)| value.into_owned())
    }
}

/// A request's way to what its tenant has.
struct Asking<'a> {
    parts: &'a GatewayParts,
    feeds: &'a Feeds,
    caller: &'a Caller,
    tenant: Tenant,
    place: Place,
}

impl GatewayParts {
    /// Answers a request below `/eureka/`.
    pub(super) async fn eureka(&self, request: Request<Body>, caller: &Caller) -> Response<Body> {
        let Some(feeds) = &self.eureka else { return refusal::not_found() };
        let asked = match Asked::read(request.method(), request.uri().path()) {
            Some(Ok(asked)) => asked,
            Some(Err(problem)) => return refusal::bad_request(problem),
            None => return refusal::not_found(),
        };
        let Asked { place, operation } = asked;
        let tenant = match route::tenant_of_place(&place, request.headers()) {
            Ok(tenant) => tenant,
            Err(problem) => return refusal::bad_request(problem),
        };
        // Before anything is done: the path names the tenant in its own way, so the gate could not decide.
        if let Some((identity, policy)) = &caller.account
            && let Err(denial) = policy.enter(identity, &tenant)
        {
            return refusal::denied(&denial);
        }
        // Writes get their place when they are sent on.
        if request.method() == Method::GET
            && let Err(refusal) = self.take_place(&tenant).await
        {
            return refusal;
        }
        let asking = Asking { parts: self, feeds, caller, tenant, place };
        match asking.answer(operation, request).await {
            Ok(response) | Err(response) => response,
        }
    }
}

/// An answer, or a response that says why there is none.
type Answered<T = Response<Body>> = Result<T, Response<Body>>;

impl Asking<'_> {
    async fn answer(&self, operation: Operation, request: Request<Body>) -> Answered {
        let form = form_of(request.headers());
        match operation {
            Operation::Apps => self.applications(Amount::Full, form).await,
            Operation::Delta => self.applications(Amount::Delta, form).await,
            Operation::App(app) => self.application(&app, form).await,
            Operation::Instance(app, id) => {
                let member = self.member(&app, &id, |_| true).await?.filter(|member| self.may_see(member));
                let member = member.ok_or_else(nothing_there)?;
                Ok(body_of(form, form.encode_instance(&member.info)))
            }
            Operation::ById(id) => self.by_id(&id, form).await,
            Operation::Vip { name, secure } => self.by_name(&name, secure, form).await,
            Operation::Register(app) => {
                let (client, body) = Client::of(request);
                self.register(&client, &app, body).await
            }
            Operation::Renew(app, id) => self.renew(&Client::of(request).0, &app, &id).await,
            Operation::Cancel(app, id) => self.cancel(&Client::of(request).0, &app, &id).await,
            Operation::SetStatus(app, id) => self.set_status(&Client::of(request).0, &app, &id).await,
            Operation::ClearStatus(app, id) => self.clear_status(&Client::of(request).0, &app, &id).await,
            Operation::SetMetadata(app, id) => self.set_metadata(&Client::of(request).0, &app, &id).await,
        }
    }

    fn may_see(&self, member: &Member) -> bool {
        self.caller.grant.admits(labels_of(&member.key))
    }

    async fn followed(&self) -> Answered<Followed> {
        self.parts.open_catalogue(&self.tenant, self.caller, Dialect::Eureka).await
    }

    /// The page of the request's scope. The catalogue is asked each time, because it is what tells whether
    /// the tenant is known.
    async fn page(&self) -> Answered<(Arc<eureka::Page>, Services)> {
        let mut followed = self.followed().await?;
        let services = followed.now();
        if services.iter().next().is_none() {
            // A name that somebody has made up must not be followed for longer than the question takes.
            return Ok((Arc::new(eureka::Page::empty(services.contained())), services));
        }
        let state = match self.feeds.known(&self.tenant) {
            Some(state) => state,
            // Nothing is told from one remembered state to the next: there is none.
            None if services.is_remembered() => self.feeds.once(&services),
            None => self.feeds.begin(&self.tenant, followed),
        };
        let page = state.pages.get(&self.place.scope).cloned();
        Ok((page.unwrap_or_else(|| Arc::new(eureka::Page::empty(state.revision))), services))
    }

    async fn applications(&self, amount: Amount, form: Form) -> Answered {
        let (page, services) = self.page().await?;
        // A client takes an empty list for the truth, and forgets whom it calls.
        let is_empty = !page.applications.iter().any(|member| self.may_see(member));
        if is_empty && !services.prove_absence(Revision::ZERO) {
            return Err(refusal::unavailable(NOT_PROVEN));
        }
        let body = if self.caller.grant == access::Grant::All {
            eureka::body(&page, amount, form).await
        } else {
            let (page, grant) = (page.clone(), self.caller.grant.clone());
            let making = self.parts.encoding.run(move || {
                let admits = |member: &Member| grant.admits(labels_of(&member.key));
                let listed = match amount {
                    Amount::Full => page.full(admits),
                    Amount::Delta => page.delta(admits),
                };
                compressed(form, form.encode(&listed))
            });
            Some(making.await?)
        };
        let body = body.ok_or_else(|| refusal::unavailable("the answer could not be made; try again"))?;
        let mut response = response(form, body);
        self.parts.answered(Dialect::Eureka, &services, response.headers_mut());
        Ok(response)
    }

    async fn application(&self, app: &str, form: Form) -> Answered {
        let (page, services) = self.page().await?;
        let mut found = page.applications.clone();
        if found.of_name(app).next().is_none() {
            found =
                self.application_after_writes(app, |found| found.of_name(app).next().is_some()).await?.into();
        }
        let visible = found.of_name(app).filter(|member| self.may_see(member));
        let instances: Vec<_> = visible.map(|member| (&member.info, ActionType::Added)).collect();
        if instances.is_empty() {
            return Err(nothing_there());
        }
        let mut response = body_of(form, form.encode_application(&Application { name: app, instances }));
        self.parts.answered(Dialect::Eureka, &services, response.headers_mut());
        Ok(response)
    }

    async fn by_id(&self, id: &str, form: Form) -> Answered {
        let (page, services) = self.page().await?;
        let seen = |page: &eureka::Page| {
            let mut found = page.applications.by_id(id).filter(|member| self.may_see(member));
            found.next().map(|member| form.encode_instance(&member.info))
        };
        let body = match seen(&page) {
            Some(body) => body,
            None => seen(&*self.page_after_writes().await?).ok_or_else(nothing_there)?,
        };
        let mut response = body_of(form, body);
        self.parts.answered(Dialect::Eureka, &services, response.headers_mut());
        Ok(response)
    }

    async fn by_name(&self, name: &str, secure: bool, form: Form) -> Answered {
        let (mut page, services) = self.page().await?;
        let is_wanted =
            |member: &&Arc<Member>| self.may_see(member) && eureka::is_found_by(&member.info, name, secure);
        if !page.applications.iter().any(|member| is_wanted(&member)) {
            page = self.page_after_writes().await?;
        }
        let found = || page.applications.iter().filter(is_wanted);
        let listed: Listed<'_> = eureka::listed(
            page.version,
            eureka::hash(found()),
            found().map(|member| (&**member, ActionType::Added)),
        );
        let mut response = body_of(form, form.encode(&listed));
        self.parts.answered(Dialect::Eureka, &services, response.headers_mut());
        Ok(response)
    }

    /// An instance, if it is registered in a state that `is_enough` takes. A state that it does not take is
    /// returned only when this gateway has seen everything that was written through it.
    async fn member(
        &self,
        app: &str,
        id: &str,
        is_enough: impl Fn(&Member) -> bool,
    ) -> Answered<Option<Arc<Member>>> {
        let page = self.page().await?.0;
        if let Some(member) = page.applications.get(app, id).filter(|member| is_enough(member)) {
            return Ok(Some(member.clone()));
        }
        let has_enough = |found: &Applications| found.get(app, id).is_some_and(|member| is_enough(member));
        Ok(self.application_after_writes(app, has_enough).await?.get(app, id).cloned())
    }

    /// One application: as soon as `is_enough` says so, or when every write that this gateway has passed on
    /// is contained. An absence needs that proof: a client that is told 404 registers again.
    async fn application_after_writes(
        &self,
        app: &str,
        is_enough: impl Fn(&Applications) -> bool,
    ) -> Answered<Applications> {
        self.after_writes(|services, is_proven| {
            let found = eureka::application_of(services.iter(), &self.place.scope, app);
            (is_proven || is_enough(&found)).then_some(found)
        })
        .await
    }

    /// The page of the request's scope with every write that this gateway has passed on. Nothing is made for
    /// it, because somebody may ask for names that nobody has, again and again.
    async fn page_after_writes(&self) -> Answered<Arc<eureka::Page>> {
        let required = self.required();
        self.after_writes(|services, is_proven| {
            let empty = || Arc::new(eureka::Page::empty(services.contained()));
            if !is_proven || services.iter().next().is_none() {
                return is_proven.then(empty);
            }
            let state = self.feeds.known(&self.tenant).unwrap_or_else(|| self.feeds.once(services));
            let is_new = state.revision >= required || state.version == services.version();
            is_new.then(|| state.pages.get(&self.place.scope).cloned().unwrap_or_else(empty))
        })
        .await
    }

    /// The revision of the last write that this gateway has passed on for the tenant.
    fn required(&self) -> Revision {
        self.parts.upstream.required_of(Some(&self.tenant))
    }

    /// What `look` returns as soon as it returns something. Its second argument is true once the services
    /// contain every write that this gateway has passed on until now.
    async fn after_writes<T>(&self, look: impl Fn(&Services, bool) -> Option<T>) -> Answered<T> {
        let required = self.required();
        let mut followed = self.followed().await?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let services = followed.now();
            let is_proven = services.prove_absence(required);
            if let Some(found) = look(&services, is_proven) {
                return Ok(found);
            }
            if Instant::now() >= deadline {
                return Err(refusal::unavailable(NOT_PROVEN));
            }
            fairness::wait(Wait::News).await.map_err(no_place)?;
            // A bookmark alone is no change of the tenant.
            let _ = timeout(LOOK, followed.changed()).await;
        }
    }
}

/// 404, without a body, as Eureka has it.
fn nothing_there() -> Response<Body> {
    status(StatusCode::NOT_FOUND)
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// The form in which a client wants its answer: XML unless it asks for JSON, as Eureka has it.
fn form_of(headers: &HeaderMap) -> Form {
    let has = |name: &str, word: &str| {
        let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.any(|value| value.to_ascii_lowercase().contains(word))
    };
    Form {
        format: if has(ACCEPT.as_str(), "json") { Format::Json } else { Format::Xml },
        detail: if has(EUREKA_ACCEPT, "compact") { Detail::Compact } else { Detail::Full },
        gzip: answer::gzip::is_accepted(headers),
    }
}

fn compressed(form: Form, plain: Bytes) -> Bytes {
    if form.gzip { answer::gzip::once(&plain) } else { plain }
}

/// An answer with a body that is made for it.
fn body_of(form: Form, plain: Bytes) -> Response<Body> {
    response(form, compressed(form, plain))
}

/// An answer with a body in its final form.
fn response(form: Form, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    let kind = match form.format {
        Format::Json => "application/json",
        Format::Xml => "application/xml",
    };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if form.gzip {
        answer::gzip::mark(response.headers_mut());
    }
    response
}
