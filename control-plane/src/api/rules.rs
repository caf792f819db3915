//! Operations on the black and white rules of a service.

use axum::extract::State;
use serde::Deserialize;
use shared::model::null_default;

use super::call::{Call, comma_list};
use super::failure::Code::{MixedRules, NotEnoughQuota, RuleNotFound, RuleTypeFixed, ServiceNotFound};
use super::operation::{Operation, delete, get, object, of, post, put};
use super::reply::{self, Reply};
use super::state::Api;
use crate::view::ServiceRule;

pub(super) fn operations() -> Vec<Operation> {
    vec![
        get(
            "/microservices/{serviceId}/rules",
            list,
            "GetRules",
            "List the black or white rules of a service.",
        )
        .returns(object! { "rules": Vec<ServiceRule> })
        .fails_with(&[ServiceNotFound]),
        post(
            "/microservices/{serviceId}/rules",
            add,
            "AddRule",
            "Add rules. A rule that exists already is skipped.",
        )
        .takes(object! { "rules": Vec<ServiceRule> })
        .returns(object! { "RuleIds": Vec<String> })
        .fails_with(&[MixedRules, NotEnoughQuota]),
        put(
            "/microservices/{serviceId}/rules/{ruleId}",
            update,
            "UpdateRule",
            "Change a rule. Its type cannot change.",
        )
        .takes(of::<ServiceRule>())
        .fails_with(&[ServiceNotFound, RuleNotFound, RuleTypeFixed]),
        delete(
            "/microservices/{serviceId}/rules/{ruleId}",
            delete_listed,
            "DeleteRule",
            "Delete rules, all of which must exist.",
        )
        .fails_with(&[ServiceNotFound, RuleNotFound]),
    ]
}

async fn list(State(api): State<Api>, call: Call) -> Reply {
    reply::list("rules", &api.registry().rules(&call.caller, &call.service()?).await?)
}

async fn add(State(api): State<Api>, call: Call) -> Reply {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default, deserialize_with = "null_default")]
        rules: Vec<ServiceRule>,
    }
    let body: Body = call.json()?;
    let ids = api.registry().add_rules(&call.service()?, body.rules).await?;
    reply::list("RuleIds", &ids)
}

async fn update(State(api): State<Api>, call: Call) -> Reply {
    api.registry().update_rule(&call.service()?, call.param("ruleId"), call.json()?).await?;
    reply::empty()
}

async fn delete_listed(State(api): State<Api>, call: Call) -> Reply {
    api.registry().delete_rules(&call.service()?, &comma_list(call.param("ruleId"))).await?;
    reply::empty()
}
