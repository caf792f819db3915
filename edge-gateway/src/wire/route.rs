//! Which requests are watches; everything else is passed on.

use std::collections::BTreeSet;

use http::{HeaderMap, Uri};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use shared::model::{Revision, Scope, ServiceRef, Tenant};

use crate::watch::Selector;

const DEFAULT: &str = "default";
/// Providers that one watch may name.
const MAX_PROVIDERS: usize = 1000;
/// Bytes that the name of an application or an environment has at most, generously.
const MAX_NAME: usize = 256;

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

/// What a request says of whom it watches.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// The consumer, or who the watcher is; empty when nobody is named.
    pub consumer: String,
    /// These services.
    pub providers: Vec<String>,
    /// Services that are so; `None` when none is asked for by what it is.
    pub selection: Option<Selection>,
    /// What the client has already, if it can resume.
    pub since: Option<Revision>,
}

/// Services by what they are; what is `None` matches everything.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    /// The application.
    pub app_id: Option<String>,
    /// The environment; the default one is empty.
    pub environment: Option<String>,
}

impl WatchRoute {
    /// A consumer's watch over its providers, from now on.
    pub(crate) fn of(consumer: ServiceRef) -> Self {
        Self { who: consumer.clone(), selector: Selector::Consumer(consumer), since: None }
    }

    /// A watch over what is asked for: named providers, a selection, or the consumer's providers.
    ///
    /// # Errors
    /// When nothing is named, too much is, or two things that exclude each other.
    pub(crate) fn new(tenant: Tenant, asked: Asked) -> Result<Self, &'static str> {
        let providers: BTreeSet<ServiceRef> = asked
            .providers
            .into_iter()
            .filter(|id| !id.is_empty())
            .map(|id| ServiceRef::new(tenant.clone(), id))
            .collect();
        if providers.len() > MAX_PROVIDERS {
            return Err("too many providers");
        }
        let who = ServiceRef::new(tenant, asked.consumer);
        let selector = match asked.selection {
            Some(_) if !providers.is_empty() => {
                return Err("providers and a selection exclude each other");
            }
            Some(Selection { app_id, environment }) => {
                if app_id.as_deref() == Some("") {
                    return Err("the application is empty");
                }
                if [&app_id, &environment].into_iter().flatten().any(|it| it.len() > MAX_NAME) {
                    return Err("the application or the environment is longer than any name");
                }
                Selector::Scope(Scope { tenant: who.tenant.clone(), app_id, environment })
            }
            None if !providers.is_empty() => Selector::Providers(providers),
            None if who.id.is_empty() => {
                return Err("nothing is named: neither a consumer, nor providers, nor a selection");
            }
            None => Selector::Consumer(who.clone()),
        };
        Ok(Self { who, selector, since: asked.since })
    }
}

/// Reads a request's path, query and tenant headers; `None` when it is not a watch, an error when it is one
/// that cannot be understood.
pub(crate) fn watch(uri: &Uri, headers: &HeaderMap) -> Option<Result<WatchRoute, &'static str>> {
    let segments: Vec<&str> = uri.path().strip_prefix('/')?.split('/').collect();
    let (project, id, tenant_header) = match segments[..] {
        ["v4", project, "registry", "microservices", id, "watcher"] => {
            (decoded(project)?, decoded(id)?, None)
        }
        ["registry", "v3", "microservices", id, "watcher"] => {
            (DEFAULT.to_owned(), decoded(id)?, header(headers, "x-tenant-name"))
        }
        // For observers, who need not be a service themselves.
        ["v4", project, "registry", "watcher"] => (decoded(project)?, String::new(), None),
        _ => return None,
    };
    let domain = tenant_header.unwrap_or_else(|| tenant(headers).domain);
    let asked = query(uri.query().unwrap_or_default(), id);
    Some(asked.and_then(|asked| WatchRoute::new(Tenant::new(domain, project), asked)))
}

fn query(query: &str, consumer: String) -> Result<Asked, &'static str> {
    let mut asked = Asked { consumer, ..Asked::default() };
    let (mut app_id, mut environment, mut all) = (None, None, false);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            // Old clients may send an opaque `rev` on any request; only a number asks to resume.
            "rev" => asked.since = value.parse().ok(),
            "providers" => asked.providers.extend(value.split(',').map(str::to_owned)),
            "app" if app_id.is_some() => return Err("more than one application is named"),
            "app" => app_id = Some(value.into_owned()),
            "env" if environment.is_some() => return Err("more than one environment is named"),
            "env" => environment = Some(value.into_owned()),
            "all" if matches!(&*value, "" | "true") => all = true,
            "all" => return Err("`all` takes no value but `true`"),
            _ => {}
        }
    }
    if all || app_id.is_some() || environment.is_some() {
        asked.selection = Some(Selection { app_id, environment });
    }
    Ok(asked)
}

/// The tenant that headers name: the domain, and the default project.
pub(crate) fn tenant(headers: &HeaderMap) -> Tenant {
    Tenant::new(header(headers, "x-domain-name").unwrap_or_else(|| DEFAULT.to_owned()), DEFAULT)
}

/// What somebody must be allowed to read to watch this.
pub(crate) fn read_paths(selector: &Selector) -> Vec<String> {
    match selector {
        Selector::Scope(scope) => vec![scope_path(scope)],
        Selector::Consumer(_) | Selector::Providers(_) => selector.services().map(service_path).collect(),
    }
}

/// Where a control plane tells about a service.
fn service_path(service: &ServiceRef) -> String {
    let encode = |segment| utf8_percent_encode(segment, NON_ALPHANUMERIC);
    format!("/v4/{}/registry/microservices/{}", encode(&service.tenant.project), encode(&service.id))
}

/// Where a control plane tells whether somebody may read the services of a scope. A part that matches
/// everything is asked for as `*`, which no name is: who may read only some of it is refused.
fn scope_path(scope: &Scope) -> String {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let any = |part: &Option<String>| encode(part.as_deref().unwrap_or("*"));
    format!(
        "/v4/{}/registry/existence?type=microservice&serviceName=%2A&version=0%2B&appId={}&env={}",
        encode(&scope.tenant.project),
        any(&scope.app_id),
        any(&scope.environment)
    )
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
    fn a_watch_selects_by_what_services_are_or_is_told_what_is_wrong() {
        let read = |uri: &str| watch(&uri.parse().expect("a uri"), &HeaderMap::new()).expect("a watch");
        let tenant = Tenant::new("default", "p");
        let scope = |app: Option<&str>, environment: Option<&str>| {
            let (app_id, environment) = (app.map(str::to_owned), environment.map(str::to_owned));
            Ok(Selector::Scope(Scope { app_id, environment, ..Scope::all(tenant.clone()) }))
        };
        let observer = |query: &str| read(&format!("/v4/p/registry/watcher{query}"));
        for (query, wanted) in [
            ("?app=shop", scope(Some("shop"), None)),
            ("?env=&rev=0", scope(None, Some(""))),
            ("?app=a%20b&env=test", scope(Some("a b"), Some("test"))),
            ("?all", scope(None, None)),
            ("?all=true&app=shop", scope(Some("shop"), None)),
        ] {
            assert_eq!(observer(query).map(|it| it.selector), wanted, "{query}");
        }
        let of_a_service = read("/v4/p/registry/microservices/me/watcher?app=shop").expect("understood");
        assert_eq!(
            (of_a_service.who.id.as_str(), Ok(of_a_service.selector)),
            ("me", scope(Some("shop"), None))
        );
        let long = format!("?app={}", "a".repeat(MAX_NAME + 1));
        for bad in
            ["", "?rev=0", "?app=", "?app=a&app=b", "?env=a&env=b", "?all=no", "?all&providers=a", &long]
        {
            assert!(observer(bad).is_err(), "{bad}");
        }
        let path = scope_path(&Scope { app_id: Some("a&b".into()), ..Scope::all(tenant.clone()) });
        assert!(path.ends_with("&appId=a%26b&env=%2A"), "{path}");
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
