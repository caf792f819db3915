//! Questions that may be answered here, read from requests as a control plane reads them.

use answer::query::Query;
use answer::{gzip, target};
use http::{HeaderMap, Method, Request, header};
use percent_encoding::percent_decode_str;
use shared::model::{MAX_ID, ServiceRef, Tenant, is_service_id};

pub(super) const CONSUMER: &str = "x-consumerid";
/// Parameters with which an answer depends on more than a gateway knows, or must not come from it.
const NOT_HERE: [&str; 3] = ["noCache", "cacheOnly", "tags"];

/// Between the parts of a key.
const SEPARATOR: char = '\0';

/// A question of a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// The consumer that asks.
    pub(crate) reader: Reader,
    /// The instances that it asks for.
    pub(crate) asked: Asked,
}

/// The consumer that asks, and the form in which it gets its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reader {
    /// The consumer.
    pub(crate) consumer: ServiceRef,
    /// The client accepts gzip.
    pub(crate) accepts_gzip: bool,
    /// The client is a browser.
    pub(crate) from_browser: bool,
}

/// One question, alone or in a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The instances that are asked for.
    pub(crate) about: About,
    /// The labels of a find by name, which a role may be limited to.
    pub(crate) labels: Option<AskedLabels>,
    /// The revision of the reply that the client already has; empty for none.
    pub(crate) rev: String,
}

/// The instances that a question is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// The instances of a provider by name: application, name, version and environment as the client sent them.
    Find { key: Box<str> },
    /// The instances of one service.
    List { service: ServiceRef },
    /// One of them.
    One { service: ServiceRef, instance: String },
}

/// The services that a read of instances is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Polled {
    /// The instances that answer a find by name.
    Find,
    /// This one.
    Of(ServiceRef),
    /// The instances for each element of a batch in the body.
    Batch,
}

impl Polled {
    /// The services of a request, whichever program answers it. `None` for one that reads no instances.
    pub(crate) fn read<B>(request: &Request<B>, tenant: &Tenant) -> Option<Self> {
        let rest = registry_path(request.uri().path())?;
        match *request.method() {
            Method::POST => (rest == "instances/action").then_some(Self::Batch),
            Method::GET if rest == "instances" => Some(Self::Find),
            Method::GET if rest.starts_with("microservices/") => match provider(rest, tenant)? {
                About::List { service } | About::One { service, .. } => Some(Self::Of(service)),
                About::Find { .. } => None,
            },
            _ => None,
        }
    }
}

/// The labels in the query of a find.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AskedLabels {
    pub(crate) environment: String,
    pub(crate) app_id: String,
    pub(crate) service_name: String,
}

impl Question {
    /// The question of a request in this tenant. `None` for a request that only a control plane answers.
    pub(crate) fn read<B>(request: &Request<B>, tenant: &Tenant) -> Option<Self> {
        if request.method() != Method::GET {
            return None;
        }
        let uri = request.uri();
        let path = uri.path();
        let rest = registry_path(path)?;
        if !(rest == "instances" || rest.starts_with("microservices/")) {
            return None;
        }
        let (reader, query) = Reader::read(request, tenant)?;
        let rev = query.get("rev").to_owned();
        let asked = match rest {
            "instances" => {
                let labels = AskedLabels {
                    environment: query.get("env").to_owned(),
                    app_id: query.get("appId").to_owned(),
                    service_name: query.get("serviceName").to_owned(),
                };
                Asked::find(labels, query.get("version"), rev, "")?
            }
            rest => Asked { about: provider(rest, tenant)?, labels: None, rev },
        };
        Some(Self { reader, asked })
    }
}

impl Reader {
    /// The consumer that asks, and the query. `None` for a request that only a control plane answers.
    pub(super) fn read<'a, B>(request: &'a Request<B>, tenant: &Tenant) -> Option<(Self, Query<'a>)> {
        let target = request.uri().path_and_query()?.as_str();
        // Without a consumer there is no interest by which the answer would be known to hold.
        let consumer = consumer(request.headers())?;
        let query = Query::parse(request.uri().query().unwrap_or_default());
        if !target::is_acceptable(target) || NOT_HERE.iter().any(|name| !query.get(name).is_empty()) {
            return None;
        }
        let reader = Self {
            consumer: ServiceRef::new(tenant.clone(), consumer),
            accepts_gzip: gzip::is_accepted(request.headers()),
            from_browser: request.headers().contains_key(header::ORIGIN),
        };
        Some((reader, query))
    }
}

impl Asked {
    /// A find by name. `kind` tells apart finds that a control plane may answer with other services.
    pub(super) fn find(labels: AskedLabels, version: &str, rev: String, kind: &str) -> Option<Self> {
        let AskedLabels { environment, app_id, service_name } = &labels;
        let parts = [app_id, service_name, version, environment];
        // No name holds this character, and a control plane refuses the find.
        if parts.iter().any(|part| part.contains(SEPARATOR)) {
            return None;
        }
        let key = parts.join("\0") + kind;
        Some(Self { about: About::Find { key: key.into() }, labels: Some(labels), rev })
    }
}

/// The path below that of the registry, in both versions of the API.
pub(super) fn registry_path(path: &str) -> Option<&str> {
    if let Some(rest) = path.strip_prefix("/registry/v3/") {
        return Some(rest);
    }
    path.strip_prefix("/v4/")?.split_once('/')?.1.strip_prefix("registry/")
}

/// The instances of one service, or one of them.
fn provider(rest: &str, tenant: &Tenant) -> Option<About> {
    let mut segments = rest.split('/').skip(1);
    let service = ServiceRef::new(tenant.clone(), id(segments.next()?)?);
    if segments.next()? != "instances" {
        return None;
    }
    match (segments.next(), segments.next()) {
        (None, _) => Some(About::List { service }),
        (Some(instance), None) => Some(About::One { service, instance: id(instance)? }),
        (Some(_), Some(_)) => None,
    }
}

fn id(segment: &str) -> Option<String> {
    let id = percent_decode_str(segment).decode_utf8().ok()?;
    is_service_id(&id).then(|| id.into_owned())
}

/// The consumer that a request names.
pub(crate) fn consumer(headers: &HeaderMap) -> Option<&str> {
    let consumer = headers.get(CONSUMER)?.to_str().ok()?.trim();
    (!consumer.is_empty() && consumer.chars().count() <= MAX_ID).then_some(consumer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: Method, uri: &str, consumer: &'static str) -> Option<About> {
        let mut request = Request::builder().method(method).uri(uri).body(()).expect("a request");
        if !consumer.is_empty() {
            request.headers_mut().insert(CONSUMER, http::HeaderValue::from_static(consumer));
        }
        Question::read(&request, &Tenant::default()).map(|question| question.asked.about)
    }

    #[test]
    fn only_questions_of_consumers_are_answered_here() {
        let find = "/v4/default/registry/instances?appId=a&serviceName=b&version=1%2B";
        let key = "a\0b\x001+\0".into();
        assert_eq!(read(Method::GET, find, "c"), Some(About::Find { key }));
        let v3 = "/registry/v3/instances?serviceName=b&appId=a&env=e&rev=7";
        assert_eq!(read(Method::GET, v3, "c"), Some(About::Find { key: "a\0b\0\0e".into() }));
        assert_eq!(read(Method::GET, find, ""), None);
        assert_eq!(read(Method::HEAD, find, "c"), None);
        let service = ServiceRef::new(Tenant::default(), "s+1");
        let list = "/v4/p/registry/microservices/s%2B1/instances";
        assert_eq!(read(Method::GET, list, "c"), Some(About::List { service: service.clone() }));
        let one = format!("{list}/i");
        assert_eq!(read(Method::GET, &one, "c"), Some(About::One { service, instance: "i".into() }));
    }

    #[test]
    fn everything_else_is_for_a_control_plane() {
        for other in [
            "/v4/default/registry/instances?serviceName=b&noCache=1",
            "/v4/default/registry/instances?serviceName=b&tags=x",
            "/v4/default/registry/instances?serviceName=b&cacheOnly=1",
            "/v4/default/registry/instances?serviceName=b&",
            "/v4/default/registry/instances?appId=a%00b",
            "/v4/default/registry/microservices/s",
            "/v4/default/registry/microservices/s/tags",
            "/v4/default/registry/microservices/s/instances/i/heartbeat",
            "/v4/default/registry/microservices//instances",
            "/v4/default/govern/microservices/s/instances",
            "/registry/v3/microservices",
            "/",
        ] {
            assert_eq!(read(Method::GET, other, "c"), None, "{other}");
        }
    }
}
