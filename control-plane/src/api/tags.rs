//! Routes of tags and of black and white rules.

use std::collections::BTreeMap;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::model::{null_default, null_texts};

use super::reply::{self, Answer};
use super::{Api, Call};
use crate::view::ServiceRule;

#[derive(Deserialize, Serialize)]
struct Tags {
    #[serde(default, deserialize_with = "null_texts", skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<String, String>,
}

#[derive(Deserialize, Serialize)]
struct Rules {
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    rules: Vec<ServiceRule>,
}

fn ids(list: &str) -> Vec<String> {
    list.split(',').filter(|id| !id.is_empty()).map(String::from).collect()
}

pub(super) async fn get(State(api): State<Api>, call: Call) -> Answer {
    reply::json(&Tags { tags: api.registry().tags(&call.caller, &call.service()?).await? })
}

pub(super) async fn replace(State(api): State<Api>, call: Call) -> Answer {
    api.registry().replace_tags(&call.service()?, call.json::<Tags>()?.tags).await?;
    reply::empty()
}

pub(super) async fn update(State(api): State<Api>, call: Call) -> Answer {
    api.registry().update_tag(&call.service()?, call.param("key"), call.query("value")).await?;
    reply::empty()
}

pub(super) async fn delete(State(api): State<Api>, call: Call) -> Answer {
    api.registry().delete_tags(&call.service()?, &ids(call.param("key"))).await?;
    reply::empty()
}

pub(super) async fn rules(State(api): State<Api>, call: Call) -> Answer {
    reply::json(&Rules { rules: api.registry().rules(&call.caller, &call.service()?).await? })
}

pub(super) async fn add_rules(State(api): State<Api>, call: Call) -> Answer {
    let ids = api.registry().add_rules(&call.service()?, call.json::<Rules>()?.rules).await?;
    if ids.is_empty() { reply::json(&json!({})) } else { reply::json(&json!({ "RuleIds": ids })) }
}

pub(super) async fn update_rule(State(api): State<Api>, call: Call) -> Answer {
    api.registry().update_rule(&call.service()?, call.param("ruleId"), call.json()?).await?;
    reply::empty()
}

pub(super) async fn delete_rules(State(api): State<Api>, call: Call) -> Answer {
    api.registry().delete_rules(&call.service()?, &ids(call.param("ruleId"))).await?;
    reply::empty()
}
