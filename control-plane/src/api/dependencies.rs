//! Routes of dependencies.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use serde::{Deserialize, Serialize};
use shared::model::{Service, ServiceKey, null_default};

use super::reply::{self, Answer};
use super::{Api, Call};
use crate::failure::{Code, Failure};
use crate::registry::dependency::{Declaration, Mode, PartnerFilter};

pub(super) async fn add(State(api): State<Api>, call: Call) -> Response {
    declare(&api, &call, Mode::Add).await
}

pub(super) async fn overwrite(State(api): State<Api>, call: Call) -> Response {
    declare(&api, &call, Mode::Overwrite).await
}

/// The header tells of the old deprecation, on errors too.
async fn declare(api: &Api, call: &Call, mode: Mode) -> Response {
    let mut response = try_declare(api, call, mode).await.unwrap_or_else(IntoResponse::into_response);
    response.headers_mut().insert("deprecation", HeaderValue::from_static("version=\"v4\""));
    response
}

async fn try_declare(api: &Api, call: &Call, mode: Mode) -> Answer {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default, deserialize_with = "null_default")]
        dependencies: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        consumer: Option<ServiceKey>,
        #[serde(default, deserialize_with = "null_default")]
        providers: Vec<ServiceKey>,
    }
    let body: Body = call.json()?;
    let declarations = body
        .dependencies
        .into_iter()
        .map(|Entry { consumer, providers }| {
            let consumer = consumer.ok_or_else(|| Failure::invalid("Required consumer"))?;
            Ok(Declaration { consumer, providers })
        })
        .collect::<Result<Vec<_>, Failure>>()?;
    api.registry().declare(&call.caller.tenant, declarations, mode).await?;
    reply::empty()
}

fn filter(call: &Call) -> PartnerFilter {
    PartnerFilter { same_domain: call.query("sameDomain") == "1", no_self: call.query("noSelf") == "1" }
}

pub(super) async fn providers(State(api): State<Api>, call: Call) -> Answer {
    #[derive(Serialize)]
    struct Body {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        providers: Vec<Arc<Service>>,
    }
    let consumer = call.service()?;
    let registry = api.registry();
    let work = |snapshot: &Arc<crate::view::Snapshot>| {
        let absent = || Failure::new(Code::ServiceNotFound, "Consumer does not exist");
        snapshot.service(&consumer).ok_or_else(absent)?;
        let found = registry.providers_of(snapshot, &consumer);
        Ok(registry.partners(snapshot, &consumer, found, filter(&call)))
    };
    reply::json(&Body { providers: registry.answer(&call.caller, work).await? })
}

pub(super) async fn consumers(State(api): State<Api>, call: Call) -> Answer {
    #[derive(Serialize)]
    struct Body {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        consumers: Vec<Arc<Service>>,
    }
    let provider = call.service()?;
    let registry = api.registry();
    let work = |snapshot: &Arc<crate::view::Snapshot>| {
        let absent = || Failure::new(Code::ServiceNotFound, "Provider does not exist");
        snapshot.service(&provider).ok_or_else(absent)?;
        let found = registry.consumers_of(snapshot, &provider);
        Ok(registry.partners(snapshot, &provider, found, filter(&call)))
    };
    reply::json(&Body { consumers: registry.answer(&call.caller, work).await? })
}
