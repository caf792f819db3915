//! The watchers of a service: how many there are at each gateway, and which of them have not been given
//! everything that is known now.
//!
//! A survey asks the same question as a drain does, about the present revision and without a change before
//! it. Watchers answer a ping within a round trip, so a few rounds in a second or two tell those that do not.

use std::time::Duration;

use axum::body::Body;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde::Serialize;
use shared::model::{Revision, ServiceRef};
use tokio::time::{Instant, sleep};

use super::client::Client;
use super::target::{Target, names_of};
use super::{GatewayParts, NoAnswer, refusal, route};
use crate::survey::{Findings, GatewayFindings};
use crate::upstream::Change;

/// The time that watchers have to acknowledge. A healthy one needs a round trip.
const PATIENCE: Duration = Duration::from_millis(1500);
/// The pause between two rounds.
const PAUSE: Duration = Duration::from_millis(200);

/// The answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Watchers<'a> {
    /// The revision up to which watchers were asked to have everything.
    revision: u64,
    /// All of them have.
    proven: bool,
    #[serde(flatten)]
    findings: &'a Findings,
    /// The same for each gateway that has answered.
    at: &'a [GatewayFindings],
}

impl GatewayParts {
    /// Answers with the watchers of a service, and how far the gateways and the watchers are.
    pub(in crate::gateway) async fn watchers(
        &self,
        target: Target,
        request: Request<Body>,
    ) -> Result<Response<Body>, NoAnswer> {
        let names = match names_of(request.uri().query().unwrap_or_default()) {
            Ok(names) => names,
            Err(problem) => return Ok(refusal::bad_request(problem)),
        };
        let Some(tenant) = route::tenant_of(request.uri().path(), request.headers()) else {
            return Ok(refusal::bad_request("the tenant is not one that the registry can have"));
        };
        let Ok(_place) = self.drains.looks.here().try_acquire() else {
            return Ok(refusal::too_many("this gateway asks about four services already; try again"));
        };
        // A control plane knows whether there is such a service, and whether the caller may read it.
        let client = Client::of(&request, &target, &tenant);
        let Some(question) = client.request(Method::GET, &target.base) else {
            return Ok(refusal::bad_request("the path is not one of a service"));
        };
        let service = self.pass_on(question).await?;
        if service.status() != StatusCode::OK {
            return Ok(service);
        }
        let Ok(mut survey) = self.surveys.begin().await else {
            return Ok(refusal::unavailable(
                "the bus cannot be reached, so no watcher can be asked; try again",
            ));
        };
        let change = Change {
            provider: ServiceRef::new(tenant, target.service),
            // There is no change, so nobody is sent anything but a ping.
            after: Revision::new(u64::MAX),
            rev: self.upstream.seen(),
            instances: Vec::new(),
            age: Duration::ZERO,
            incarnation: self.upstream.incarnation(),
            most: names,
        };
        let until = Instant::now() + PATIENCE;
        let mut findings = survey.ask(&change).await;
        while !findings.is_proof() && Instant::now() + PAUSE < until {
            sleep(PAUSE).await;
            findings = survey.ask(&change).await;
        }
        findings.shorten();
        Ok(answer(&Watchers {
            revision: change.rev.get(),
            proven: findings.is_proof(),
            findings: &findings,
            at: findings.at(),
        }))
    }
}

fn answer(watchers: &Watchers<'_>) -> Response<Body> {
    let bytes = serde_json::to_vec(watchers).expect("a struct of texts and numbers always serialises");
    let mut response = Response::new(Body::from(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=UTF-8"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
