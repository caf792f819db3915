//! Reads which requests are watches, and what they watch. Everything else is for the proxy.
//!
//! In: path, query and tenant headers, or the fields of a gRPC request. Out: a [`WatchRequest`] that makes
//! sense, or the problem in words for the client.

use std::collections::BTreeSet;

use http::{HeaderMap, Uri};
use percent_encoding::percent_decode_str;
use shared::model::{Revision, Scope, ServiceRef, Tenant};

use crate::watch::Selector;

/// Domain and project of requests that name none.
const DEFAULT: &str = "default";
/// Providers that one watch may name.
const MAX_PROVIDERS: usize = 1000;
/// Bytes in the name of an application or an environment; the registry accepts 160 characters.
const MAX_NAME: usize = 256;

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
    /// A consumer's watch over its providers, from now on.
    pub(super) fn of_consumer(consumer: ServiceRef) -> Self {
        Self { watcher: consumer.clone(), selector: Selector::Consumer(consumer), since: None }
    }

    /// A watch over the named providers, over a selection, or over the consumer's providers.
    ///
    /// # Errors
    /// The problem, when nothing is named, when too much is named, or when two terms exclude each other.
    pub(super) fn new(tenant: Tenant, query: WatchQuery) -> Result<Self, &'static str> {
        let providers: BTreeSet<ServiceRef> = query
            .providers
            .into_iter()
            .filter(|id| !id.is_empty())
            .map(|id| ServiceRef::new(tenant.clone(), id))
            .collect();
        if providers.len() > MAX_PROVIDERS {
            return Err("more than 1000 providers are named");
        }
        let watcher = ServiceRef::new(tenant, query.consumer);
        let selector = match query.selection {
            Some(_) if !providers.is_empty() => {
                return Err("providers and a selection exclude each other");
            }
            Some(selection) => Selector::Scope(selection.into_scope(&watcher.tenant)?),
            None if !providers.is_empty() => Selector::Providers(providers),
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
            if name.len() > MAX_NAME {
                return Err("the name of the application or of the environment is too long");
            }
        }
        Ok(Scope { tenant: tenant.clone(), app_id, environment })
    }
}

/// Reads a request's path, query and tenant headers. `None` when the path is not that of a watch, an error
/// when the path is and the query makes no sense.
pub(super) fn watch(uri: &Uri, headers: &HeaderMap) -> Option<Result<WatchRequest, &'static str>> {
    let segments: Vec<&str> = uri.path().strip_prefix('/')?.split('/').collect();
    let (project, id, tenant_header) = match segments[..] {
        ["v4", project, "registry", "microservices", id, "watcher"] => {
            (decoded(project)?, decoded(id)?, None)
        }
        ["registry", "v3", "microservices", id, "watcher"] => {
            (DEFAULT.to_owned(), decoded(id)?, header(headers, "x-tenant-name"))
        }
        // For observers, which need not be a service themselves.
        ["v4", project, "registry", "watcher"] => (decoded(project)?, String::new(), None),
        _ => return None,
    };
    let domain = tenant_header.unwrap_or_else(|| tenant(headers).domain);
    let query = match parse_query(uri.query().unwrap_or_default(), id) {
        Ok(query) => query,
        Err(problem) => return Some(Err(problem)),
    };
    Some(WatchRequest::new(Tenant::new(domain, project), query))
}

fn parse_query(text: &str, consumer: String) -> Result<WatchQuery, &'static str> {
    let mut query = WatchQuery { consumer, ..WatchQuery::default() };
    let mut selection = Selection::default();
    let mut all = false;
    for (name, value) in form_urlencoded::parse(text.as_bytes()) {
        match &*name {
            // Old clients may send an opaque `rev` with any request; only a number asks to resume.
            "rev" => query.since = value.parse().ok(),
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
    Ok(query)
}

/// The tenant that headers name: the domain, and the default project.
pub(super) fn tenant(headers: &HeaderMap) -> Tenant {
    Tenant::new(header(headers, "x-domain-name").unwrap_or_else(|| DEFAULT.to_owned()), DEFAULT)
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

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().filter(|value| !value.is_empty()).map(str::to_owned)
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
            watcher("/v4/p%201/registry/microservices/a%2Fb/watcher", &[]).as_deref(),
            Some("default/p 1/a/b")
        );
    }

    #[test]
    fn new_clients_ask_for_more_in_the_query() {
        let plain = read(WATCHER);
        let consumer = ServiceRef::new(Tenant::new("default", "p"), "c");
        assert_eq!(plain, Ok(WatchRequest::of_consumer(consumer)));
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
