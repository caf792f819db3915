//! The OpenAPI 3.1 document: declared operations go in, JSON comes out. A page beside it shows it in a
//! browser.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use access::{Access, access_of};
use axum::response::Html;
use bytes::Bytes;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::failure::Code;
use super::operation::{Group, Operation, Parameter, ResponseBody, get, object};
use super::reply;

/// The codes with which every operation of a tenant may fail.
const ALWAYS: &[Code] = &[Code::InvalidParams, Code::Internal, Code::Unavailable, Code::NotReady];

/// The codes with which every operation that needs a token may fail while access control is on.
const WITH_ACCESS_CONTROL: &[Code] =
    &[Code::Unauthorized, Code::NoToken, Code::TokenExpired, Code::AccountDeleted, Code::NoPermission];

/// The group of the document's own operations.
pub(super) const GROUP: Group = Group { base: "", tag: "About", suffix: "", deprecated: false };

/// The header of replies that have a revision.
const REVISION: Parameter = ("X-Resource-Revision", "Revision of the reply, to be sent back as `rev`.");

const ABOUT: &str = "The registry API of Service-Center, version 4, and beside it the paths of version 3. \
    Empty members are absent: an empty text, zero, list or map is left out of every reply, and a `null` in a \
    request counts as absent. Unknown members are ignored. A request for a missing object is answered with 400 and \
    a code. A request target of 2048 bytes or more, with `//` in it, or ending in one of `;&?+@` is answered with \
    400 in plain text. The codes of 401 and 403 are those of access control, and so are the operations under \
    Access: without it there are none. Replies of 1400 bytes or more are compressed for clients that accept gzip.";

/// The placeholders of paths and their meanings.
const SEGMENTS: &[Parameter] = &[
    ("project", "Project of the tenant; `default` if projects are not used."),
    ("serviceId", "Id of a service: 1 to 64 characters without blanks."),
    ("instanceId", "Id of an instance: 1 to 64 letters, digits, `_`, `.`, `-`."),
    ("schemaId", "Id of a schema: 1 to 160 letters, digits, `_`, `.`, `-`."),
    ("key", "Key of a tag; when deleting, a comma list of keys."),
    ("lock", "Key of a lock: `account::address`, as the list of locks shows it."),
    ("name", "Name of an account."),
    ("tokenId", "Id of a long-lived token."),
    ("roleName", "Name of a role."),
    ("overrideId", "Id of an override."),
    ("shiftId", "Id of a shift."),
    ("ruleId", "Id of a rule; when deleting, a comma list of ids."),
];

/// A document to which operations can still be added.
pub(super) struct Document {
    paths: BTreeMap<String, Map<String, Value>>,
    generator: SchemaGenerator,
}

impl Default for Document {
    fn default() -> Self {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            // The document names the dialect once for all of its schemas.
            settings.meta_schema = None;
        });
        // Sorted, so that the document does not depend on the order of the declarations.
        Self { paths: BTreeMap::new(), generator: settings.into_generator() }
    }
}

impl Document {
    /// Adds an operation under its full path.
    pub(super) fn add(&mut self, group: Group, path: &str, operation: &Operation) {
        let mut entry = json!({
            "operationId": format!("{}{}", operation.name, group.suffix),
            "summary": operation.summary,
            "tags": [group.tag],
            "parameters": parameters(path, operation),
            "responses": self.responses(path, operation),
        });
        if group.deprecated {
            entry["deprecated"] = true.into();
        }
        if let Some(schema) = &operation.request {
            let schema = schema(&mut self.generator).to_value();
            entry["requestBody"] =
                json!({ "required": true, "content": { "application/json": { "schema": schema } } });
        }
        let method = operation.method.as_str().to_ascii_lowercase();
        self.paths.entry(path.to_owned()).or_default().insert(method, entry);
    }

    fn responses(&mut self, path: &str, operation: &Operation) -> Value {
        let mut success = match &operation.response {
            ResponseBody::Empty => json!({ "description": "Done; the body is empty." }),
            ResponseBody::Html => {
                json!({ "description": "A page.", "content": { "text/html": { "schema": { "type": "string" } } } })
            }
            ResponseBody::Json(schema) => {
                let schema = schema(&mut self.generator).to_value();
                json!({ "description": "The reply.", "content": { "application/json": { "schema": schema } } })
            }
        };
        if let Some((name, meaning)) = operation.header.or(operation.revision.then_some(REVISION)) {
            success["headers"] = json!({ name: header(meaning) });
        }
        let mut responses = Map::new();
        responses.insert("200".into(), success);
        if operation.revision {
            let headers = json!({ REVISION.0: header(REVISION.1) });
            let unchanged =
                json!({ "description": "Nothing changed since `rev`; no body.", "headers": headers });
            responses.insert("304".into(), unchanged);
        }
        for (status, codes) in failures(path, operation) {
            responses.insert(status.to_string(), failure(&codes));
        }
        responses.into()
    }

    /// The complete document.
    pub(super) fn finish(mut self) -> Value {
        let mut schemas = self.generator.take_definitions(true);
        schemas.insert("Error".into(), error_schema());
        json!({
            "openapi": "3.1.0",
            "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
            "info": {
                "title": "Muster registry",
                "version": env!("CARGO_PKG_VERSION"),
                "description": ABOUT,
                "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            },
            "servers": [{ "url": "/" }],
            "paths": self.paths,
            "components": { "schemas": schemas },
        })
    }
}

/// The codes of an operation's failures by status.
fn failures(path: &str, operation: &Operation) -> BTreeMap<u16, Vec<Code>> {
    // Placeholders are segments like others to the table of access.
    let refused = match access_of(&operation.method, path) {
        Access::Free => &[],
        _ => WITH_ACCESS_CONTROL,
    };
    // Operations that are the same for every tenant parse no header and read no tenant's data.
    let always = if operation.tenantless { &[] } else { ALWAYS };
    let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in always.iter().chain(refused).chain(operation.failures) {
        by_status.entry(code.status()).or_default().push(*code);
    }
    by_status
}

fn failure(codes: &[Code]) -> Value {
    let numbers: Vec<_> = codes.iter().map(|code| code.number()).collect();
    let lines: Vec<_> = codes.iter().map(|code| format!("{} {}", code.number(), code.message())).collect();
    json!({
        "description": lines.join("; "),
        "content": { "application/json": { "schema": {
            "allOf": [{ "$ref": "#/components/schemas/Error" }],
            "properties": { "errorCode": { "enum": numbers } },
        } } },
    })
}

fn error_schema() -> Value {
    json!({
        "type": "object",
        "description": "The reason of a refusal.",
        "required": ["errorCode", "errorMessage"],
        "properties": {
            "errorCode": { "type": "string", "description": "Six digits; the first three are the status." },
            "errorMessage": { "type": "string", "description": "The constant text of the code." },
            "detail": { "type": "string", "description": "A sentence about this case, for people." },
        },
    })
}

fn header(meaning: &str) -> Value {
    json!({ "description": meaning, "schema": { "type": "string" } })
}

fn parameter(location: &str, (name, meaning): &Parameter) -> Value {
    // Everything outside of a body is text, and only segments of the path must be present.
    json!({ "name": name, "in": location, "required": location == "path", "description": meaning,
        "schema": { "type": "string" } })
}

fn parameters(path: &str, operation: &Operation) -> Vec<Value> {
    let mut parameters = Vec::new();
    for segment in SEGMENTS.iter().filter(|(name, _)| path.contains(&format!("{{{name}}}"))) {
        parameters.push(parameter("path", segment));
    }
    parameters.extend(operation.query.iter().map(|query| parameter("query", query)));
    if operation.revision {
        let rev =
            ("rev", "Revision of the reply that the caller has; if it is still the same the status is 304.");
        parameters.push(parameter("query", &rev));
    }
    if !operation.tenantless {
        let domain = ("X-Domain-Name", "Domain of the tenant; `default` if it is absent.");
        parameters.push(parameter("header", &domain));
    }
    if operation.for_consumer {
        parameters.push(parameter("header", &("X-ConsumerId", "Id of the service that makes the request.")));
    }
    parameters
}

/// The operations that serve the document, whose text is put into the cell later, and its page.
pub(super) fn operations(text: Arc<OnceLock<Bytes>>) -> [Operation; 2] {
    let document = move || {
        let text = text.get().cloned().unwrap_or_default();
        std::future::ready(reply::raw_json(text))
    };
    [
        get("/openapi", page, "OpenApiPage", "This API as a page for a browser.").tenantless().returns_html(),
        get("/openapi.json", document, "OpenApi", "This API as an OpenAPI 3.1 document.")
            .tenantless()
            .returns(object! {}),
    ]
}

/// The page. It loads the document and nothing else.
async fn page() -> Html<&'static str> {
    Html(include_str!("openapi/page.html"))
}
