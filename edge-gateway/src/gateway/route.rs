//! Reads which requests are watches, and what they watch. Everything else is for the proxy.
//!
//! In: path, query and tenant headers, or the fields of a gRPC request. Out: a [`WatchRequest`] that makes
//! sense, or the problem in words for the client.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::{HeaderMap, Uri};
use percent_encoding::percent_decode_str;
use shared::model::{Revision, Scope, ServiceRef, Tenant, is_service_id, is_tenant_name};

use crate::eureka::{Place, is_eureka};
use crate::watch::Selector;
use crate::xds::Method;

/// Domain and project of requests that name none.
pub(super) const DEFAULT: &str = "default";
/// The path of Service-Center's watch over gRPC.
pub(super) const HISTORICAL_GRPC: &str = "/proto.ServiceInstanceCtrl/watch";
/// The path of `muster.watch.v1.Watch`.
pub(super) const WATCH_GRPC: &str = "/muster.watch.v1.Watch/Watch";
/// Providers that one watch may name.
const MAX_PROVIDERS: usize = 1000;
/// Characters in the name of an application or an environment, as the registry accepts them.
const MAX_NAME: usize = 160;
/// The header with a request's domain.
pub(super) const DOMAIN: &str = "x-domain-name";
/// The header with a request's domain on the paths of v3, where it has precedence.
pub(super) const TENANT: &str = "x-tenant-name";

/// The header in which a client of server-sent events names the last one that it has read.
const LAST_EVENT_ID: &str = "last-event-id";

const BAD_TENANT: &str = "the domain and the project have 1 to 128 characters, no slash and no control characters, and the domain is \
     printable ASCII";
const BAD_ID: &str = "the id of a service or an instance has 1 to 64 characters, no blanks and no slash";

/// A request for a watch, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WatchRequest {
    /// The service that watches, for limits and counts. Its id is empty when the client names none.
    pub watcher: ServiceRef,
    /// The services that are watched.
    pub selector: Selector,
    /// The revision up to which the client has everything, if it resumes.
    pub since: Option<Revision>,
}

/// The terms of a watch as a client names them, unchecked.
#[derive(Debug, Default)]
pub(super) struct WatchQuery {
    /// The id of the service that watches; empty when none is named.
    pub consumer: String,
    /// The ids of the providers to watch; empty when none are named.
    pub providers: Vec<String>,
    /// The attributes of the services to watch; `None` when none are named.
    pub selection: Option<Selection>,
    /// The revision up to which the client has everything, if it resumes.
    pub since: Option<Revision>,
}

/// Attributes of services; `None` matches every value.
#[derive(Debug, Default)]
pub(super) struct Selection {
    /// The application.
    pub app_id: Option<String>,
    /// The environment; the default one is the empty text.
    pub environment: Option<String>,
}

impl WatchRequest {
    /// A watch over the named providers, over a selection, or over the consumer's providers.
    ///
    /// # Errors
    /// The problem, when nothing is named, when too much is named, when a name is longer than the registry
    /// takes it, or when two terms exclude each other.
    pub(super) fn new(tenant: Tenant, query: WatchQuery) -> Result<Self, &'static str> {
        // Every watch of every transport passes here, before its names reach a subject of the bus, a limit's
        // table or a question to a control plane.
        check_tenant(&tenant)?;
        if !query.consumer.is_empty() {
            check_id(&query.consumer)?;
        }
        let providers: BTreeSet<ServiceRef> = query
            .providers
            .into_iter()
            .filter(|id| !id.is_empty())
            .map(|id| ServiceRef::new(tenant.clone(), id))
            .collect();
        if providers.len() > MAX_PROVIDERS {
            return Err("more than 1000 providers are named");
        }
        providers.iter().try_for_each(|provider| check_id(&provider.id))?;
        let watcher = ServiceRef::new(tenant, query.consumer);
        let selector = match query.selection {
            Some(_) if !providers.is_empty() => {
                return Err("providers and a selection exclude each other");
            }
            Some(selection) => Selector::Scope(selection.into_scope(&watcher.tenant)?),
            None if !providers.is_empty() => Selector::Providers(Arc::new(providers)),
            None if watcher.id.is_empty() => {
                return Err("nothing to watch is named: neither a consumer, nor providers, nor a selection");
            }
            None => Selector::Consumer(watcher.clone()),
        };
        Ok(Self { watcher, selector, since: query.since })
    }
}

impl Selection {
    fn into_scope(self, tenant: &Tenant) -> Result<Scope, &'static str> {
        let Self { app_id, environment } = self;
        // The registry gives a service without an application the name "default", so an empty name matches
        // nothing. An empty environment, however, is the default one.
        if app_id.as_deref() == Some("") {
            return Err("the name of the application is empty");
        }
        for name in [&app_id, &environment].into_iter().flatten() {
            if !has_at_most(name, MAX_NAME) {
                return Err("the name of an application or of an environment has at most 160 characters");
            }
        }
        Ok(Scope { tenant: tenant.clone(), app_id, environment })
    }
}

/// Reads a request's path, query and tenant headers. `None` when the path is not that of a watch, an error
/// when the path is and the query makes no sense.
pub(super) fn watch(uri: &Uri, headers: &HeaderMap) -> Option<Result<WatchRequest, &'static str>> {
    let segments: Vec<&str> = uri.path().strip_prefix('/')?.split('/').collect();
    let (project, id) = match segments[..] {
        ["v4", project, "registry", "microservices", id, "watcher"] => {
            (Some(decoded(project)?), decoded(id)?)
        }
        ["registry", "v3", "microservices", id, "watcher"] => (None, decoded(id)?),
        // For observers, which need not be a service themselves.
        ["v4", project, "registry", "watcher"] => (Some(decoded(project)?), String::new()),
        _ => return None,
    };
    Some(read_watch(headers, project, id, uri.query().unwrap_or_default(), Dialect::Watcher))
}

/// Reads a request for server-sent events: the query of a watch, the consumer among it. `None` when the path
/// is another one.
pub(super) fn events(uri: &Uri, headers: &HeaderMap) -> Option<Result<WatchRequest, &'static str>> {
    if !is_event_stream(uri.path()) {
        return None;
    }
    let project = decoded(uri.path().split('/').nth(2)?)?;
    Some(read_events(headers, project, uri.query().unwrap_or_default()))
}

fn read_events(headers: &HeaderMap, project: String, query: &str) -> Result<WatchRequest, &'static str> {
    let mut consumers = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "consumer");
    let consumer = consumers.next().map(|(_, id)| id.into_owned()).unwrap_or_default();
    if consumers.next().is_some() {
        return Err("more than one consumer is named");
    }
    let mut watch = read_watch(headers, Some(project), consumer, query, Dialect::Events)?;
    // A client that opens the stream again repeats the query of the first time, so the header has precedence.
    if let Some(last) = headers.get(LAST_EVENT_ID) {
        let rev = last.to_str().ok().and_then(|text| text.parse().ok());
        watch.since = Some(rev.ok_or("Last-Event-ID is not the id of an event of this stream")?);
    }
    Ok(watch)
}

/// True for the path of server-sent events.
pub(super) fn is_event_stream(path: &str) -> bool {
    // Taken one by one and not collected: every request passes here.
    let mut segments = path.split('/');
    let mut next = || segments.next().unwrap_or_default();
    let matches =
        [next(), next()] == ["", "v4"] && !next().is_empty() && [next(), next()] == ["registry", "events"];
    matches && segments.next().is_none()
}

/// True for a question for the last records of the audit logs.
pub(super) fn is_audit(method: &http::Method, path: &str) -> bool {
    asks_all(method, path, "/admin/audit")
}

/// True for a question for the figures of all processes.
pub(super) fn is_processes(method: &http::Method, path: &str) -> bool {
    asks_all(method, path, "/admin/processes")
}

fn asks_all(method: &http::Method, path: &str, operation: &str) -> bool {
    let project = path.strip_prefix("/v4/").and_then(|rest| rest.strip_suffix(operation));
    method == http::Method::GET
        && project.is_some_and(|project| !project.is_empty() && !project.contains('/'))
}

/// True for the paths of watches, whatever their transport.
pub(super) fn is_watch(path: &str) -> bool {
    matches!(path, HISTORICAL_GRPC | WATCH_GRPC)
        || Method::of(path).is_some()
        || path.ends_with("/watcher")
        || is_event_stream(path)
}

/// The kind of a watch's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    /// That of a consumer, or of an observer, over WebSocket.
    Watcher,
    /// That of server-sent events.
    Events,
}

fn read_watch(
    headers: &HeaderMap,
    project: Option<String>,
    id: String,
    query: &str,
    dialect: Dialect,
) -> Result<WatchRequest, &'static str> {
    let tenant = tenant(headers, None, project)?;
    WatchRequest::new(tenant, parse_query(query, id, dialect)?)
}

fn parse_query(text: &str, consumer: String, dialect: Dialect) -> Result<WatchQuery, &'static str> {
    let mut revisions = Vec::new();
    let mut query = WatchQuery { consumer, ..WatchQuery::default() };
    let mut selection = Selection::default();
    let mut all = false;
    for (name, value) in form_urlencoded::parse(text.as_bytes()) {
        match &*name {
            "rev" => revisions.push(value),
            "providers" => query.providers.extend(value.split(',').map(str::to_owned)),
            "app" if selection.app_id.is_some() => return Err("more than one application is named"),
            "app" => selection.app_id = Some(value.into_owned()),
            "env" if selection.environment.is_some() => return Err("more than one environment is named"),
            "env" => selection.environment = Some(value.into_owned()),
            "all" if matches!(&*value, "" | "true") => all = true,
            "all" => return Err("`all` takes no value but `true`"),
            // Unknown parameters are ignored, as Service-Center ignores them.
            _ => {}
        }
    }
    if all || selection.app_id.is_some() || selection.environment.is_some() {
        query.selection = Some(selection);
    }
    // Old clients may send an opaque `rev` with any request, and ask for nothing else. To all others a watch that does
    // not resume would seem to have missed nothing.
    let may_be_old = dialect == Dialect::Watcher
        && !query.consumer.is_empty()
        && query.providers.is_empty()
        && query.selection.is_none();
    query.since = match &revisions[..] {
        [] => None,
        [rev] => match rev.parse() {
            Ok(rev) => Some(rev),
            Err(_) if may_be_old => None,
            Err(_) => return Err("`rev` is no revision of a watch"),
        },
        _ => return Err("more than one revision is named"),
    };
    Ok(query)
}

/// The tenant of a request, for every transport and every path. A `domain` that the message itself names has
/// precedence over headers. Paths of v3 name no `project`, and have a header of their own for the domain.
///
/// # Errors
/// The problem, when the tenant is not one that the registry can have.
pub(super) fn tenant(
    headers: &HeaderMap,
    domain: Option<String>,
    project: Option<String>,
) -> Result<Tenant, &'static str> {
    let domain = match (domain, &project) {
        (Some(domain), _) => Some(domain.trim().to_owned()).filter(|domain| !domain.is_empty()),
        (None, Some(_)) => header(headers, DOMAIN)?,
        (None, None) => match header(headers, TENANT)? {
            Some(domain) => Some(domain),
            None => header(headers, DOMAIN)?,
        },
    };
    let domain = domain.unwrap_or_else(|| DEFAULT.to_owned());
    let tenant = Tenant::new(domain, project.unwrap_or_else(|| DEFAULT.to_owned()));
    check_tenant(&tenant)?;
    Ok(tenant)
}

/// The tenant of a request for the registry's API. `None` when the registry can have no such tenant; a
/// control plane then says so.
pub(super) fn tenant_of(path: &str, headers: &HeaderMap) -> Option<Tenant> {
    if is_eureka(path) {
        return tenant_of_place(&Place::of_path(path)?.ok()?, headers).ok();
    }
    let mut segments = path.strip_prefix('/')?.split('/');
    let project = match segments.next()? {
        "v4" => Some(decoded(segments.next()?)?),
        _ => None,
    };
    tenant(headers, None, project).ok()
}

/// The tenant of a place in a path of Eureka: what the path names has precedence over the headers.
///
/// # Errors
/// The problem, when the registry can have no such tenant.
pub(super) fn tenant_of_place(place: &Place, headers: &HeaderMap) -> Result<Tenant, &'static str> {
    let project = place.project.clone().unwrap_or_else(|| DEFAULT.to_owned());
    tenant(headers, place.domain.clone(), Some(project))
}

/// The service and the instance in the path of a heartbeat.
pub(super) fn instance_of_heartbeat(path: &str) -> Option<(String, String)> {
    instance_in(path.strip_suffix("/heartbeat")?)
}

/// The service and the instance of a path that names nothing more than these.
pub(super) fn instance_in(path: &str) -> Option<(String, String)> {
    let (service, rest) = below_registry(path)?.strip_prefix("microservices/")?.split_once('/')?;
    let instance = rest.strip_prefix("instances/").filter(|instance| !instance.contains('/'))?;
    Some((decoded(service)?, decoded(instance)?))
}

/// True for the path of one service, or of many.
pub(super) fn is_services(path: &str) -> bool {
    below_registry(path).is_some_and(|rest| {
        rest == "microservices" || rest.strip_prefix("microservices/").is_some_and(|id| !id.contains('/'))
    })
}

/// The part of a path of the registry's API that both versions have in common.
fn below_registry(path: &str) -> Option<&str> {
    match path.strip_prefix("/registry/v3/") {
        Some(rest) => Some(rest),
        None => path.strip_prefix("/v4/")?.split_once('/')?.1.strip_prefix("registry/"),
    }
}

/// The service whose instances a path of the registry's API is about.
pub(super) fn service_of_instances(path: &str) -> Option<String> {
    let (service, rest) = below_registry(path)?.strip_prefix("microservices/")?.split_once('/')?;
    (rest == "instances" || rest.starts_with("instances/")).then(|| decoded(service)).flatten()
}

fn check_tenant(tenant: &Tenant) -> Result<(), &'static str> {
    let is_bounded = is_tenant_name(&tenant.domain) && is_tenant_name(&tenant.project);
    // The registry takes the domain from a header, so no other text can be a domain; and none could be asked
    // for when a control plane must consent to a watch.
    let is_printable = tenant.domain.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if is_bounded && is_printable { Ok(()) } else { Err(BAD_TENANT) }
}

fn check_id(id: &str) -> Result<(), &'static str> {
    if is_service_id(id) { Ok(()) } else { Err(BAD_ID) }
}

/// The registry counts characters and not bytes.
fn has_at_most(text: &str, characters: usize) -> bool {
    text.chars().count() <= characters
}

/// Checks the names in the path and the headers of a request that [`is_heartbeat_channel`].
///
/// # Errors
/// The problem, when one of them is longer than the registry takes it.
pub(super) fn check_heartbeat_channel(path: &str, headers: &HeaderMap) -> Result<(), &'static str> {
    let names: Option<Vec<String>> = path.split('/').skip(2).map(decoded).collect();
    let names = names.unwrap_or_default();
    let [project, _, _, service, _, instance, _] = &names[..] else { return Err(BAD_ID) };
    tenant(headers, None, Some(project.clone()))?;
    check_id(service)?;
    check_id(instance)
}

/// True for the request that upgrades a connection to carry the heartbeats of an instance.
pub(super) fn is_heartbeat_channel(method: &http::Method, path: &str) -> bool {
    if method != http::Method::GET {
        return false;
    }
    // Taken one by one and not collected: every forwarded request passes here.
    let mut segments = path.split('/');
    let mut next = || segments.next().unwrap_or_default();
    let matches = [next(), next()] == ["", "v4"]
        && !next().is_empty()
        && [next(), next()] == ["registry", "microservices"]
        && !next().is_empty()
        && next() == "instances"
        && !next().is_empty()
        && next() == "heartbeat";
    matches && segments.next().is_none()
}

fn decoded(segment: &str) -> Option<String> {
    let text = percent_decode_str(segment).decode_utf8().ok()?;
    // An empty id names no service; the path goes to a control plane, which words the refusal.
    (!text.is_empty()).then(|| text.into_owned())
}

/// The trimmed value of a header; `None` when it is absent or empty.
fn header(headers: &HeaderMap, name: &str) -> Result<Option<String>, &'static str> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    // Not the default instead: the control plane refuses such a value, and must not be asked for one tenant
    // while another is watched.
    let text = value.to_str().map_err(|_| BAD_TENANT)?.trim();
    Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WATCHER: &str = "/v4/p/registry/microservices/c/watcher";

    /// The service that a path and headers name as the watcher.
    fn watcher(path: &str, headers: &[(&'static str, &'static str)]) -> Option<String> {
        let headers = headers.iter().map(|(name, value)| {
            (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
        });
        let request = watch(&path.parse().ok()?, &headers.collect())?;
        Some(request.expect("the request makes sense").watcher.to_string())
    }

    fn read(uri: &str) -> Result<WatchRequest, &'static str> {
        watch(&uri.parse().expect("a uri"), &HeaderMap::new()).expect("a watch")
    }

    #[test]
    fn both_paths_name_a_consumer_in_its_tenant() {
        let v4 = "/v4/p1/registry/microservices/abc/watcher";
        let v3 = "/registry/v3/microservices/abc/watcher";
        assert_eq!(watcher(v4, &[]).as_deref(), Some("default/p1/abc"));
        assert_eq!(watcher(v4, &[("x-domain-name", "d")]).as_deref(), Some("d/p1/abc"));
        assert_eq!(watcher(v4, &[("x-tenant-name", "t")]).as_deref(), Some("default/p1/abc"));
        assert_eq!(watcher(v3, &[("x-domain-name", "d")]).as_deref(), Some("d/default/abc"));
        assert_eq!(
            watcher(v3, &[("x-domain-name", "d"), ("x-tenant-name", "t")]).as_deref(),
            Some("t/default/abc")
        );
        assert_eq!(
            watcher("/v4/p%201/registry/microservices/a%2Bb/watcher", &[]).as_deref(),
            Some("default/p 1/a+b")
        );
    }

    #[test]
    fn new_clients_ask_for_more_in_the_query() {
        let plain = read(WATCHER);
        let consumer = ServiceRef::new(Tenant::new("default", "p"), "c");
        let expected =
            WatchRequest { watcher: consumer.clone(), selector: Selector::Consumer(consumer), since: None };
        assert_eq!(plain, Ok(expected));
        assert_eq!(
            read(&format!("{WATCHER}?rev=3a5f0c.7,&noCache=1")),
            plain,
            "old clients' opaque revision"
        );
        assert_eq!(read(&format!("{WATCHER}?rev=7")).map(|watch| watch.since), Ok(Some(7.into())));
        let watch = read(&format!("{WATCHER}?providers=b,a&rev=0")).expect("makes sense");
        let providers: Vec<&str> = watch.selector.services().map(|service| service.id.as_str()).collect();
        assert_eq!(providers, ["a", "b"]);
        let many: Vec<String> = (0..=MAX_PROVIDERS).map(|n| n.to_string()).collect();
        assert!(read(&format!("{WATCHER}?providers={}", many.join(","))).is_err());
    }

    #[test]
    fn names_that_the_registry_does_not_take_are_refused() {
        for (path, problem) in [
            ("/v4/a%00/registry/watcher?all", BAD_TENANT),
            ("/v4/a%2Fb/registry/watcher?all", BAD_TENANT),
            ("/v4/p/registry/microservices/a%2Fb/watcher", BAD_ID),
            ("/v4/p/registry/microservices/a%0Ab/watcher", BAD_ID),
            ("/v4/p/registry/watcher?providers=a,b%20c", BAD_ID),
        ] {
            assert_eq!(read(path), Err(problem), "{path}");
            assert_eq!(tenant_of(path, &HeaderMap::new()).is_none(), problem == BAD_TENANT, "{path}");
        }
    }

    fn scope(app_id: Option<&str>, environment: Option<&str>) -> Selector {
        Selector::Scope(Scope {
            tenant: Tenant::new("default", "p"),
            app_id: app_id.map(str::to_owned),
            environment: environment.map(str::to_owned),
        })
    }

    #[test]
    fn a_watch_may_select_services_by_their_attributes() {
        for (query, wanted) in [
            ("?app=shop", scope(Some("shop"), None)),
            ("?env=&rev=0", scope(None, Some(""))),
            ("?app=a%20b&env=test", scope(Some("a b"), Some("test"))),
            ("?all", scope(None, None)),
            ("?all=true&app=shop", scope(Some("shop"), None)),
        ] {
            let watch = read(&format!("/v4/p/registry/watcher{query}"));
            assert_eq!(watch.map(|watch| watch.selector), Ok(wanted), "{query}");
        }
        let of_a_service =
            read("/v4/p/registry/microservices/me/watcher?app=shop").expect("the request makes sense");
        assert_eq!(of_a_service.watcher.id, "me");
        assert_eq!(of_a_service.selector, scope(Some("shop"), None));
    }

    #[test]
    fn a_query_that_makes_no_sense_is_refused() {
        let long = format!("?app={}", "a".repeat(MAX_NAME + 1));
        for bad in
            ["", "?rev=0", "?app=", "?app=a&app=b", "?env=a&env=b", "?all=no", "?all&providers=a", &long]
        {
            assert!(read(&format!("/v4/p/registry/watcher{bad}")).is_err(), "{bad}");
        }
        // A client that means to resume must not be given a watch from now on.
        for bad in ["rev=abc", "rev=", "rev=-1", "rev=18446744073709551616", "rev=1&rev=2"] {
            for path in [
                format!("/v4/p/registry/watcher?all&{bad}"),
                format!("{WATCHER}?providers=a&{bad}"),
                format!("{WATCHER}?app=a&{bad}"),
            ] {
                assert!(read(&path).is_err(), "{path}");
            }
        }
        assert!(read(&format!("{WATCHER}?rev=1&rev=2")).is_err());
    }

    #[test]
    fn the_channel_for_heartbeats_has_one_path() {
        let path = "/v4/default/registry/microservices/s/instances/i/heartbeat";
        assert!(is_heartbeat_channel(&http::Method::GET, path));
        assert!(!is_heartbeat_channel(&http::Method::PUT, path));
        for other in [
            "/v4/p/registry/microservices/s/instances/i/heartbeat/",
            "/v4/p/registry/microservices/s/heartbeat",
            "",
        ] {
            assert!(!is_heartbeat_channel(&http::Method::GET, other), "{other}");
        }
    }

    #[test]
    fn a_stream_resumes_after_the_last_event_that_the_client_names() {
        let read = |query: &str, last: Option<&'static str>| {
            let uri: Uri = format!("/v4/p/registry/events{query}").parse().expect("a path");
            let headers = last.map(|last| {
                (http::HeaderName::from_static(LAST_EVENT_ID), http::HeaderValue::from_static(last))
            });
            events(&uri, &headers.into_iter().collect()).expect("the path of a stream")
        };
        let since = |query, last| read(query, last).map(|watch| watch.since);
        assert_eq!(since("?all", None), Ok(None));
        assert_eq!(since("?all&rev=0", None), Ok(Some(0.into())));
        assert_eq!(since("?all&rev=0", Some("7")), Ok(Some(7.into())));
        let of_a_consumer = read("?consumer=me", None).expect("makes sense");
        assert!(matches!(of_a_consumer.selector, Selector::Consumer(_)) && of_a_consumer.watcher.id == "me");
        for (bad, last) in [
            ("", None),
            ("?all", Some("abc")),
            ("?all&rev=abc", None),
            ("?consumer=me&rev=abc", None),
            ("?consumer=a&consumer=b", None),
            ("?app=a&providers=b", None),
        ] {
            assert!(read(bad, last).is_err(), "{bad} {last:?}");
        }
        for other in ["/v4/p/registry/events/", "/v4//registry/events", "/registry/v3/events", "/events"] {
            assert!(!is_event_stream(other), "{other}");
        }
    }

    #[test]
    fn only_questions_for_the_audit_log_are_taken() {
        assert!(is_audit(&http::Method::GET, "/v4/default/admin/audit"));
        for other in ["/v4//admin/audit", "/v4/a/b/admin/audit", "/v4/default/admin/alarms", "/admin/audit"] {
            assert!(!is_audit(&http::Method::GET, other), "{other}");
        }
        assert!(!is_audit(&http::Method::POST, "/v4/default/admin/audit"));
        assert!(is_processes(&http::Method::GET, "/v4/default/admin/processes"));
        assert!(!is_processes(&http::Method::GET, "/v4/default/admin/audit"));
    }

    #[test]
    fn other_paths_are_not_watches() {
        for path in [
            "/",
            "/v4/default/registry/microservices/abc",
            "/v4/default/registry/microservices/abc/listwatcher",
            "/v4/default/registry/microservices//watcher",
            "/v4/default/registry/microservices/abc/watcher/",
            "/registry/v3/microservices/abc/watchers",
        ] {
            assert_eq!(watcher(path, &[]), None, "{path}");
        }
    }
}
