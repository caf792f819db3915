//! Operations on the schemas of a service.

use axum::extract::State;
use http::HeaderValue;
use serde::Deserialize;
use serde_json::json;
use shared::model::null_default;

use super::call::Call;
use super::failure::Code::{NotEnoughQuota, SchemaNotFound, ServiceNotFound};
use super::failure::Failure;
use super::operation::{Operation, delete, get, object, of, post, put};
use super::reply::{self, Reply};
use super::state::Api;
use crate::registry::schema::Schema;
use crate::registry::validate;

/// The header with the summary of a schema.
pub(super) const SUMMARY: &str = "X-Schema-Summary";

pub(super) fn operations() -> Vec<Operation> {
    vec![
        get(
            "/microservices/{serviceId}/schemas",
            list,
            "ListSchema",
            "List the schemas of a service in the order of their declaration.",
        )
        .query(&[("withSchema", "`1`: include the contents.")])
        .returns(object! { "schemas": Vec<Schema> })
        .fails_with(&[ServiceNotFound]),
        post(
            "/microservices/{serviceId}/schemas",
            replace,
            "PutSchemas",
            "Replace all schemas of a service.",
        )
        .takes(object! { "schemas": Vec<Schema> })
        .fails_with(&[ServiceNotFound]),
        get(
            "/microservices/{serviceId}/schemas/{schemaId}",
            get_one,
            "GetSchema",
            "Get the content of a schema.",
        )
        .returns(object! { "schema": String })
        .header(SUMMARY, "Summary of the schema; may be empty.")
        .fails_with(&[ServiceNotFound, SchemaNotFound]),
        put("/microservices/{serviceId}/schemas/{schemaId}", put_one, "PutSchema", "Store a schema.")
            .takes(of::<Schema>())
            .fails_with(&[ServiceNotFound, NotEnoughQuota]),
        delete(
            "/microservices/{serviceId}/schemas/{schemaId}",
            delete_one,
            "DeleteSchema",
            "Delete a schema. Its id stays in the list of the service.",
        )
        .fails_with(&[ServiceNotFound, SchemaNotFound]),
    ]
}

fn schema_id(call: &Call) -> Result<&str, Failure> {
    let id = call.param("schemaId");
    validate::schema_id(id)?;
    Ok(id)
}

async fn get_one(State(api): State<Api>, call: Call) -> Reply {
    let schema = api.registry().schema(&call.caller, &call.service()?, schema_id(&call)?).await?;
    let mut response = reply::json(&json!({ "schema": schema.schema }))?;
    // Another writer may have stored a summary with characters that no header may have.
    let summary = HeaderValue::from_str(&schema.summary).unwrap_or(HeaderValue::from_static(""));
    response.headers_mut().insert("x-schema-summary", summary);
    Ok(response)
}

async fn list(State(api): State<Api>, call: Call) -> Reply {
    let with_content = call.strict_flag("withSchema")?;
    let schemas = api.registry().schemas(&call.caller, &call.service()?, with_content).await?;
    reply::list("schemas", &schemas)
}

async fn put_one(State(api): State<Api>, call: Call) -> Reply {
    // The id of the path counts; one in the body is ignored.
    let schema = Schema { schema_id: schema_id(&call)?.to_owned(), ..call.json::<Schema>()? };
    api.registry().put_schema(&call.service()?, schema).await?;
    reply::empty()
}

async fn replace(State(api): State<Api>, call: Call) -> Reply {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default, deserialize_with = "null_default")]
        schemas: Vec<Schema>,
    }
    let body: Body = call.json()?;
    api.registry().replace_schemas(&call.service()?, body.schemas).await?;
    reply::empty()
}

async fn delete_one(State(api): State<Api>, call: Call) -> Reply {
    api.registry().delete_schema(&call.service()?, schema_id(&call)?).await?;
    reply::empty()
}
