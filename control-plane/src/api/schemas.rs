//! Routes of schemas.

use axum::extract::State;
use http::HeaderValue;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::model::null_default;

use super::reply::{self, Answer};
use super::{Api, Call};
use crate::failure::Failure;
use crate::registry::schema::Schema;
use crate::registry::validate;

#[derive(Deserialize, Serialize)]
struct List {
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    schemas: Vec<Schema>,
}

fn schema_id(call: &Call) -> Result<&str, Failure> {
    let id = call.param("schemaId");
    validate::schema_id(id)?;
    Ok(id)
}

pub(super) async fn get(State(api): State<Api>, call: Call) -> Answer {
    let schema = api.registry().schema(&call.caller, &call.service()?, schema_id(&call)?).await?;
    let mut response = reply::json(&json!({ "schema": schema.schema }))?;
    let summary = HeaderValue::from_str(&schema.summary).unwrap_or(HeaderValue::from_static(""));
    response.headers_mut().insert("x-schema-summary", summary);
    Ok(response)
}

pub(super) async fn list(State(api): State<Api>, call: Call) -> Answer {
    let with_content = match call.query("withSchema").trim() {
        "" | "0" => false,
        "1" => true,
        _ => return Err(Failure::invalid("parameter withSchema must be 1 or 0")),
    };
    let schemas = api.registry().schemas(&call.caller, &call.service()?, with_content).await?;
    reply::json(&List { schemas })
}

pub(super) async fn put(State(api): State<Api>, call: Call) -> Answer {
    let schema = Schema { schema_id: schema_id(&call)?.to_owned(), ..call.json::<Schema>()? };
    api.registry().put_schema(&call.service()?, schema).await?;
    reply::empty()
}

pub(super) async fn replace(State(api): State<Api>, call: Call) -> Answer {
    let List { schemas } = call.json()?;
    api.registry().replace_schemas(&call.service()?, schemas).await?;
    reply::empty()
}

pub(super) async fn delete(State(api): State<Api>, call: Call) -> Answer {
    api.registry().delete_schema(&call.service()?, schema_id(&call)?).await?;
    reply::empty()
}
