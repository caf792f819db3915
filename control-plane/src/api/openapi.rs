//! The OpenAPI 3.1 document: declared operations go in, JSON comes out, and a page to read it on.

use std::collections::BTreeMap;

use axum::response::Html;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::operation::{Gives, Operation, Part};
use crate::failure::Code;

/// Why any operation of a tenant may refuse.
const ALWAYS: &[Code] = &[Code::InvalidParams, Code::Internal, Code::Unavailable, Code::NotReady];

const ABOUT: &str = "The registry API of Service-Center, version 4, with the paths of version 3 beside it. \
    What is empty is absent: an empty text, zero, list or map is left out of every answer, and a `null` in a \
    request counts as absent. Unknown members are ignored. A missing object is answered with 400 and a code. \
    A request target of 2048 bytes or more, with `//` in it, or ending in one of `;&?+@` is answered with 400 \
    in plain text. Answers from 1400 bytes on are compressed for those who accept gzip.";

/// What the placeholders of paths stand for.
const SEGMENTS: &[(&str, &str)] = &[
    ("project", "Project of the tenant; `default` unless projects are used."),
    ("serviceId", "Id of a service: 1 to 64 characters without blanks."),
    ("instanceId", "Id of an instance: 1 to 64 letters, digits, `_`, `.`, `-`."),
    ("schemaId", "Id of a schema: 1 to 160 letters, digits, `_`, `.`, `-`."),
    ("key", "Key of a tag; when deleting, a comma list of keys."),
    ("ruleId", "Id of a rule; when deleting, a comma list of ids."),
];

/// A document in the making.
pub(super) struct Document {
    paths: BTreeMap<String, Map<String, Value>>,
    generator: SchemaGenerator,
}

impl Default for Document {
    fn default() -> Self {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
        });
        Self { paths: BTreeMap::new(), generator: settings.into_generator() }
    }
}

impl Document {
    /// Adds an operation under its full path.
    pub(super) fn add(&mut self, part: Part, path: &str, operation: &Operation) {
        let mut entry = json!({
            "operationId": format!("{}{}", operation.name, part.suffix),
            "summary": operation.summary,
            "tags": [part.tag],
            "parameters": parameters(path, operation),
            "responses": self.responses(operation),
        });
        if part.deprecated {
            entry["deprecated"] = true.into();
        }
        if let Some(takes) = &operation.takes {
            let schema = takes(&mut self.generator).to_value();
            entry["requestBody"] =
                json!({ "required": true, "content": { "application/json": { "schema": schema } } });
        }
        let method = operation.method.as_str().to_ascii_lowercase();
        self.paths.entry(path.to_owned()).or_default().insert(method, entry);
    }

    fn responses(&mut self, operation: &Operation) -> Value {
        let mut success = match &operation.gives {
            Gives::Nothing => json!({ "description": "Done; the body is empty." }),
            Gives::Html => {
                json!({ "description": "A page.", "content": { "text/html": { "schema": { "type": "string" } } } })
            }
            Gives::Json(schema) => {
                let schema = schema(&mut self.generator).to_value();
                json!({ "description": "The answer.", "content": { "application/json": { "schema": schema } } })
            }
        };
        let revision = ("X-Resource-Revision", "Revision of the answer, to be sent back as `rev`.");
        let text = |meaning: &str| json!({ "description": meaning, "schema": { "type": "string" } });
        if let Some((name, meaning)) = operation.header.or(operation.revision.then_some(revision)) {
            success["headers"] = json!({ name: text(meaning) });
        }
        let mut responses = Map::new();
        responses.insert("200".into(), success);
        if operation.revision {
            let headers = json!({ revision.0: text(revision.1) });
            let same = json!({ "description": "Nothing changed since `rev`; no body.", "headers": headers });
            responses.insert("304".into(), same);
        }
        for (status, codes) in refusals(operation) {
            responses.insert(status.to_string(), refusal(&codes));
        }
        responses.into()
    }

    /// The whole.
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

/// Codes by status.
fn refusals(operation: &Operation) -> BTreeMap<u16, Vec<Code>> {
    let always = if operation.tenantless { &[] } else { ALWAYS };
    let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in always.iter().chain(operation.refuses) {
        by_status.entry(code.status()).or_default().push(*code);
    }
    by_status
}

fn refusal(codes: &[Code]) -> Value {
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
    let text = |description: &str| json!({ "type": "string", "description": description });
    json!({
        "type": "object",
        "description": "Why a request was refused.",
        "required": ["errorCode", "errorMessage"],
        "properties": {
            "errorCode": text("Six digits; the first three are the status."),
            "errorMessage": text("The text of the code."),
            "detail": text("What was wrong in this case; for people."),
        },
    })
}

fn parameters(path: &str, operation: &Operation) -> Vec<Value> {
    let parameter = |place: &str, name: &str, meaning: &str| {
        json!({ "name": name, "in": place, "required": place == "path", "description": meaning,
            "schema": { "type": "string" } })
    };
    let in_path = SEGMENTS.iter().filter(|(name, _)| path.contains(&format!("{{{name}}}")));
    let mut parameters: Vec<Value> =
        in_path.map(|(name, meaning)| parameter("path", name, meaning)).collect();
    parameters.extend(operation.query.iter().map(|(name, meaning)| parameter("query", name, meaning)));
    if operation.revision {
        parameters.push(parameter(
            "query",
            "rev",
            "Revision that the caller has; the same is answered with 304.",
        ));
    }
    if !operation.tenantless {
        parameters.push(parameter("header", "X-Domain-Name", "Domain of the tenant; `default` without it."));
    }
    if operation.for_consumer {
        parameters.push(parameter("header", "X-ConsumerId", "Id of the service that asks."));
    }
    parameters
}

/// The page; it reads the document and needs nothing else.
pub(super) async fn page() -> Html<&'static str> {
    Html(include_str!("openapi/page.html"))
}
