//! Which requests are watches; everything else is passed on.

use http::HeaderMap;
use percent_encoding::percent_decode_str;
use shared::model::{ServiceRef, Tenant};

const DEFAULT: &str = "default";

/// A request for a watch: who watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WatchRoute {
    /// The consumer whose providers are watched.
    pub consumer: ServiceRef,
}

/// Reads a request's path and tenant headers; `None` when it is not a watch.
pub(crate) fn watch(path: &str, headers: &HeaderMap) -> Option<WatchRoute> {
    let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    let (project, id, tenant_header) = match segments[..] {
        ["v4", project, "registry", "microservices", id, "watcher"] => (decoded(project)?, id, None),
        ["registry", "v3", "microservices", id, "watcher"] => {
            (DEFAULT.to_owned(), id, header(headers, "x-tenant-name"))
        }
        _ => return None,
    };
    let id = decoded(id)?;
    let domain =
        tenant_header.or_else(|| header(headers, "x-domain-name")).unwrap_or_else(|| DEFAULT.to_owned());
    Some(WatchRoute { consumer: ServiceRef::new(Tenant::new(domain, project), id) })
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
        watch(path, &headers.collect()).map(|route| route.consumer.to_string())
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
    fn other_paths_are_not_watches() {
        for path in [
            "/",
            "/v4/default/registry/microservices/abc",
            "/v4/default/registry/microservices/abc/listwatcher",
            "/v4/default/registry/microservices//watcher",
            "/v4/default/registry/microservices/abc/watcher/",
            "/registry/v3/microservices/abc/watchers",
            "v4/default/registry/microservices/abc/watcher",
        ] {
            assert_eq!(route(path, &[]), None, "{path}");
        }
    }
}
