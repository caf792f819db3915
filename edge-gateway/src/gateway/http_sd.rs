//! Discovery for Prometheus: `GET /prometheus/v1/targets`.
//!
//! In: a request with a choice of services. Out: 200 with every target of the choice, or a refusal. 503 while
//! the services are not known: Prometheus then keeps its targets, while after an empty list it would have
//! none.

use axum::body::Body;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use shared::model::{Revision, Tenant};

use super::gate::Caller;
use super::{GatewayParts, refusal, route};
use crate::http_sd::{Choice, Target};
use crate::metrics::{Dialect, Outcome};
use crate::policy::labels_of;

/// The path of the discovery.
pub(super) const PATH: &str = "/prometheus/v1/targets";
const NOT_PROVEN: &str = "this gateway cannot tell yet whether there are such targets; try again";

impl GatewayParts {
    /// Answers a request for targets.
    pub(super) async fn targets(&self, request: Request<Body>, caller: &Caller) -> Response<Body> {
        if !self.http_sd {
            return refusal::not_found();
        }
        if request.method() != Method::GET {
            return refusal::method_not_allowed();
        }
        let (tenant, choice) = match read(request.uri().query().unwrap_or_default(), request.headers()) {
            Ok(asked) => asked,
            Err(problem) => return refusal::bad_request(problem),
        };
        // Its body is not needed, and could not be shared while this waits.
        drop(request);
        if let Err(refusal) = self.take_place(&tenant).await {
            return refusal;
        }
        let mut followed = match self.open_catalogue(&tenant, caller, Dialect::HttpSd).await {
            Ok(followed) => followed,
            Err(refusal) => return refusal,
        };
        let services = followed.now();
        let (listed, grant) = (services.clone(), caller.grant.clone());
        let making = self.encoding.run(move || {
            let mut targets = Vec::new();
            for (_, service) in listed.iter() {
                let Some(key) = &service.key else { continue };
                if choice.matches(key) && grant.admits(labels_of(key)) {
                    let instances = service.instances.values();
                    targets.extend(instances.filter_map(|(instance, _)| Target::of(key, instance, &choice)));
                }
            }
            let body = serde_json::to_vec(&targets).expect("texts always serialise");
            (targets.is_empty(), body)
        });
        let (is_empty, body) = match making.await {
            Ok(made) => made,
            Err(refusal) => return refusal,
        };
        if is_empty && !services.prove_absence(Revision::ZERO) {
            self.dialects.answered(Dialect::HttpSd, Outcome::Unknown);
            return refusal::unavailable(NOT_PROVEN);
        }
        let mut response = Response::new(Body::from(body));
        let headers = response.headers_mut();
        // Prometheus takes exactly this type.
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        self.answered(Dialect::HttpSd, &services, headers);
        response
    }
}

/// The tenant and the choice of a request.
///
/// # Errors
/// The problem, when something is named twice, or has a name that the registry does not take.
fn read(query: &str, headers: &HeaderMap) -> Result<(Tenant, Choice), &'static str> {
    let mut choice = Choice::default();
    let (mut domain, mut project) = (None, None);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let place = match &*name {
            "app" => &mut choice.app,
            "env" => &mut choice.env,
            "service" => &mut choice.service,
            "port-name" => &mut choice.port_name,
            // Not every version of Prometheus can send a header.
            "domain" => &mut domain,
            "project" => &mut project,
            // A misspelt choice would be one of everything.
            _ => return Err("only app, env, service, port-name, domain and project may be named"),
        };
        if place.replace(value.into_owned()).is_some() {
            return Err("something is named twice");
        }
    }
    let project = project.filter(|project| !project.is_empty());
    let tenant = route::tenant(headers, domain, Some(project.unwrap_or_else(|| route::DEFAULT.to_owned())))?;
    Ok((tenant, choice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_names_each_thing_once() {
        let mut headers = HeaderMap::new();
        let (tenant, choice) = read("app=shop&env=&port-name=rest", &headers).expect("a choice");
        assert_eq!(tenant, Tenant::default());
        let expected = Choice {
            app: Some("shop".into()),
            env: Some(String::new()),
            port_name: Some("rest".into()),
            ..Choice::default()
        };
        assert_eq!(choice, expected);
        headers.insert("x-domain-name", HeaderValue::from_static("a"));
        assert_eq!(read("project=p", &headers).expect("a choice").0, Tenant::new("a", "p"));
        assert_eq!(read("domain=b", &headers).expect("a choice").0, Tenant::new("b", "default"));
        for wrong in ["app=a&app=b", "application=a", &format!("project={}", "p".repeat(129))] {
            assert!(read(wrong, &headers).is_err(), "{wrong}");
        }
    }
}
