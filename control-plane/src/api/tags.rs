//! Operations on the tags of a service.

use std::collections::BTreeMap;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use shared::model::null_texts;

use super::call::{Call, comma_list};
use super::failure::Code::{ServiceNotFound, TagNotFound};
use super::operation::{Operation, delete, get, object, post, put};
use super::reply::{self, Reply};
use super::state::Api;

pub(super) fn operations() -> Vec<Operation> {
    vec![
        get("/microservices/{serviceId}/tags", list, "ListTag", "List the tags of a service.")
            .returns(object! { "tags": BTreeMap<String, String> })
            .fails_with(&[ServiceNotFound]),
        post("/microservices/{serviceId}/tags", replace, "PutManyTags", "Replace all tags of a service.")
            .takes(object! { "tags": BTreeMap<String, String> })
            .fails_with(&[ServiceNotFound]),
        put("/microservices/{serviceId}/tags/{key}", update, "PutTag", "Change the value of a tag.")
            .query(&[("value", "The new value.")])
            .fails_with(&[ServiceNotFound, TagNotFound]),
        delete(
            "/microservices/{serviceId}/tags/{key}",
            delete_listed,
            "DeleteManyTags",
            "Delete tags, all of which must exist.",
        )
        .fails_with(&[ServiceNotFound, TagNotFound]),
    ]
}

#[derive(Deserialize, Serialize)]
struct Tags {
    #[serde(default, deserialize_with = "null_texts", skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<String, String>,
}

async fn list(State(api): State<Api>, call: Call) -> Reply {
    reply::json(&Tags { tags: api.registry().tags(&call.caller, &call.service()?).await? })
}

async fn replace(State(api): State<Api>, call: Call) -> Reply {
    api.registry().replace_tags(&call.service()?, call.json::<Tags>()?.tags).await?;
    reply::empty()
}

async fn update(State(api): State<Api>, call: Call) -> Reply {
    api.registry().update_tag(&call.service()?, call.param("key"), call.query("value")).await?;
    reply::empty()
}

async fn delete_listed(State(api): State<Api>, call: Call) -> Reply {
    api.registry().delete_tags(&call.service()?, &comma_list(call.param("key"))).await?;
    reply::empty()
}
