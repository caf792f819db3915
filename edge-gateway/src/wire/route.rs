//! Which requests are watches; everything else is passed on.

use std::collections::BTreeSet;

use http::{HeaderMap, Uri};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use shared::model::{Revision, ServiceRef, Tenant};

use crate::upstream::Selector;

const DEFAULT: &str = "default";
/// Providers that one watch may name.
const MAX_PROVIDERS: usize = 1000;

/// A request for a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WatchRoute {
    /// Who watches, for limits and counts.
    pub who: ServiceRef,
    /// What is watched.
    pub selector: Selector,
    /// What the client has already, if it can resume.
    pub since: Option<Revision>,
}

impl WatchRoute {
    /// A consumer's watch over its providers, from now on.
    pub(crate) fn of(consumer: ServiceRef) -> Self {
        Self { who: consumer.clone(), selector: Selector::Consumer(consumer), since: None }
    }

    /// A watch over these providers, or over the consumer's when none is named.
    ///
    /// # Errors
    /// When neither is named, or too many are.
    pub(crate) fn new(
        tenant: Tenant,
        consumer: String,
        providers: Vec<String>,
        since: Option<Revision>,
    ) -> Result<Self, &'static str> {
        let providers: BTreeSet<ServiceRef> = providers
            .into_iter()
            .filter(|id| !id.is_empty())
            .map(|id| ServiceRef::new(tenant.clone(), id))
            .collect();
        if providers.len() > MAX_PROVIDERS {
            return Err("too many providers");
        }
        if consumer.is_empty() && providers.is_empty() {
            return Err("neither a consumer nor providers are named");
        }
        let who = ServiceRef::new(tenant, consumer);
        let selector = if providers.is_empty() {
            Selector::Consumer(who.clone())
        } else {
            Selector::Providers(providers)
        };
        Ok(Self { who, selector, since })
    }
}

/// Reads a request's path, query and tenant headers; `None` when it is not a watch, an error when it is one
/// that cannot be understood.
pub(crate) fn watch(uri: &Uri, headers: &HeaderMap) -> Option<Result<WatchRoute, &'static str>> {
    let segments: Vec<&str> = uri.path().strip_prefix('/')?.split('/').collect();
    let (project, id, tenant_header) = match segments[..] {
        ["v4", project, "registry", "microservices", id, "watcher"] => (decoded(project)?, id, None),
        ["registry", "v3", "microservices", id, "watcher"] => {
            (DEFAULT.to_owned(), id, header(headers, "x-tenant-name"))
        }
        _ => return None,
    };
    let id = decoded(id)?;
    let domain = tenant_header.unwrap_or_else(|| tenant(headers).domain);
    let (mut since, mut providers) = (None, Vec::new());
    for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        match &*name {
            // Old clients may send an opaque `rev` on any request; only a number asks to resume.
            "rev" => since = value.parse().ok(),
            "providers" => providers.extend(value.split(',').map(str::to_owned)),
            _ => {}
        }
    }
    Some(WatchRoute::new(Tenant::new(domain, project), id, providers, since))
}

/// The tenant that headers name: the domain, and the default project.
pub(crate) fn tenant(headers: &HeaderMap) -> Tenant {
    Tenant::new(header(headers, "x-domain-name").unwrap_or_else(|| DEFAULT.to_owned()), DEFAULT)
}

/// Where a control plane tells about a service.
pub(crate) fn service_path(service: &ServiceRef) -> String {
    let encode = |segment| utf8_percent_encode(segment, NON_ALPHANUMERIC);
    format!("/v4/{}/registry/microservices/{}", encode(&service.tenant.project), encode(&service.id))
}

/// The path over which a connection carries the heartbeats of an instance, when it is upgraded.
pub(crate) fn is_heartbeat_channel(method: &http::Method, path: &str) -> bool {
    let mut segments = path.split('/');
    let mut next = || segments.next().unwrap_or_default();
    let fixed = [next(), next()] == ["", "v4"]
        && !next().is_empty()
        && [next(), next()] == ["registry", "microservices"]
        && !next().is_empty()
        && next() == "instances"
        && !next().is_empty()
        && next() == "heartbeat";
    fixed && segments.next().is_none() && method == http::Method::GET
}

/// A heartbeat of an instance: `PUT …/heartbeat` and the batch `PUT …/heartbeats`.
pub(crate) fn is_heartbeat(method: &http::Method, path: &str) -> bool {
    method == http::Method::PUT && (path.ends_with("/heartbeat") || path.ends_with("/heartbeats"))
}

fn decoded(segment: &str) -> Option<String> {
    let text = percent_decode_str(segment).decode_utf8().ok()?;
    (!text.is_empty()).then(|| text.into_owned())
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().filter(|value| !value.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(path: &str, headers: &[(&'static str, &'static str)]) -> Option<String> {
        let headers = headers.iter().map(|(name, value)| {
            (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
        });
        let route = watch(&path.parse().ok()?, &headers.collect())?;
        Some(route.expect("is understood").who.to_string())
    }

    #[test]
    fn both_paths_name_a_consumer_in_its_tenant() {
        let v4 = "/v4/p1/registry/microservices/abc/watcher";
        let v3 = "/registry/v3/microservices/abc/watcher";
        assert_eq!(route(v4, &[]).as_deref(), Some("default/p1/abc"));
        assert_eq!(route(v4, &[("x-domain-name", "d")]).as_deref(), Some("d/p1/abc"));
        assert_eq!(route(v4, &[("x-tenant-name", "t")]).as_deref(), Some("default/p1/abc"));
        assert_eq!(route(v3, &[("x-domain-name", "d")]).as_deref(), Some("d/default/abc"));
        assert_eq!(
            route(v3, &[("x-domain-name", "d"), ("x-tenant-name", "t")]).as_deref(),
            Some("t/default/abc")
        );
        assert_eq!(
            route("/v4/p%201/registry/microservices/a%2Fb/watcher", &[]).as_deref(),
            Some("default/p 1/a/b")
        );
    }

    #[test]
    fn new_clients_ask_for_more_in_the_query() {
        let read = |query: &str| {
            let uri = format!("/v4/p/registry/microservices/c/watcher{query}").parse().expect("a uri");
            watch(&uri, &HeaderMap::new()).expect("a watch")
        };
        let plain = read("");
        assert_eq!(plain, Ok(WatchRoute::of(ServiceRef::new(Tenant::new("default", "p"), "c"))));
        assert_eq!(read("?rev=3a5f0c.7,&noCache=1"), plain, "an opaque revision of old clients");
        assert_eq!(read("?rev=7").map(|it| it.since), Ok(Some(7)));
        let providers =
            read("?providers=b,a&rev=0").map(|it| it.selector.services().map(|it| it.id.clone()).collect());
        assert_eq!(providers, Ok(vec!["a".to_owned(), "b".to_owned()]));
        let many: Vec<String> = (0..=MAX_PROVIDERS).map(|n| n.to_string()).collect();
        assert!(read(&format!("?providers={}", many.join(","))).is_err());
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
            assert_eq!(route(path, &[]), None, "{path}");
        }
    }
}
