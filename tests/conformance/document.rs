//! An OpenAPI document as a judge: was this answer promised, and what was promised that nobody has seen?

use std::collections::BTreeSet;

use harness::Answer;
use serde_json::Value;

/// The document, and which of its promises were seen.
pub(crate) struct Document {
    json: Value,
    seen: BTreeSet<(String, String)>,
}

/// Refusals that no client can bring about.
const OURS: [&str; 3] = ["500003", "500011", "400002"];

/// Refusals of access control. It is off at the server of a run; the control plane's own tests and the cases
/// of attacks bring them about at every route.
const ACCESS: [&str; 5] = ["401201", "401204", "401205", "401206", "403205"];

/// Refusals, as operation and code, that depend on the server's settings or on its registering itself.
const SETTINGS: [(&str, &str); 4] = [
    ("RegisterService", "400100"),
    ("RegisterInstance", "400100"),
    ("ClusterHealth", "400012"),
    ("ClusterHealthRoot", "400012"),
];

/// True when a schema's type takes a value of this kind. Whole numbers are numbers too.
fn takes(schema: &str, kind: &str) -> bool {
    schema == kind || schema == "number" && kind == "integer"
}

impl Document {
    pub(crate) fn read(json: &[u8]) -> Self {
        Self { json: serde_json::from_slice(json).expect("an OpenAPI document"), seen: BTreeSet::new() }
    }

    /// Judges an answer.
    pub(crate) fn note(&mut self, method: &str, path: &str, answer: &Answer) -> Result<(), String> {
        let content_type = answer.headers.get("content-type").map_or(&b""[..], |value| value.as_bytes());
        let refused_by_guard = content_type == b"text/plain; charset=utf-8";
        if refused_by_guard || answer.status == 404 || method == "OPTIONS" {
            return Ok(());
        }
        let path = path.split('?').next().unwrap_or_default();
        let operation = self.operation(method, path).ok_or("no such operation is documented")?;
        let id = operation["operationId"].as_str().ok_or("it has no id")?.to_owned();
        let response = &operation["responses"][answer.status.to_string()];
        if response.is_null() {
            return Err(format!("the status is not documented for {id}"));
        }
        if answer.status >= 400 {
            let body: Value = serde_json::from_slice(&answer.body).map_err(|e| e.to_string())?;
            let codes = &response["content"]["application/json"]["schema"]["properties"]["errorCode"]["enum"];
            let known = codes.as_array().is_some_and(|codes| codes.contains(&body["errorCode"]));
            if !known {
                return Err(format!("the code is not documented for {id}: {codes}"));
            }
            let code = body["errorCode"].as_str().unwrap_or_default().to_owned();
            self.seen.insert((id, code));
            return Ok(());
        }
        let schema = &response["content"]["application/json"]["schema"];
        // A compressed body cannot be read as JSON here.
        if !schema.is_null() && !answer.headers.contains_key("content-encoding") {
            let body: Value = serde_json::from_slice(&answer.body).map_err(|e| e.to_string())?;
            self.fits(schema, &body, "the answer")?;
        }
        self.seen.insert((id, answer.status.to_string()));
        Ok(())
    }

    fn operation(&self, method: &str, path: &str) -> Option<&Value> {
        let paths = self.json["paths"].as_object()?;
        let method = method.to_ascii_lowercase();
        let found = paths
            .iter()
            .filter(|(template, methods)| is_of(template, path) && methods.get(&method).is_some());
        // A path without placeholders has precedence.
        found
            .min_by_key(|(template, _)| template.matches('{').count())
            .map(|(_, methods)| &methods[method.as_str()])
    }

    /// Checks that a value has the type of its schema and no member that the schema does not name.
    fn fits(&self, schema: &Value, value: &Value, place: &str) -> Result<(), String> {
        if let Some(name) = schema["$ref"].as_str().and_then(|r| r.strip_prefix("#/components/schemas/")) {
            return self.fits(&self.json["components"]["schemas"][name], value, place);
        }
        if let Some(choices) = schema["anyOf"].as_array() {
            let fits = choices.iter().any(|choice| self.fits(choice, value, place).is_ok());
            return fits.then_some(()).ok_or_else(|| format!("{place} fits none of its schemas"));
        }
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let allowed = match &schema["type"] {
            Value::String(one) => takes(one, kind),
            Value::Array(many) => many.iter().filter_map(Value::as_str).any(|one| takes(one, kind)),
            _ => true,
        };
        if !allowed {
            return Err(format!("{place} is {kind}, not {}", schema["type"]));
        }
        for (index, item) in value.as_array().into_iter().flatten().enumerate() {
            self.fits(&schema["items"], item, &format!("{place}[{index}]"))?;
        }
        for (name, member) in value.as_object().into_iter().flatten() {
            let place = format!("{place}.{name}");
            match (schema["properties"].get(name), schema.get("additionalProperties")) {
                (Some(schema), _) | (None, Some(schema)) => self.fits(schema, member, &place)?,
                (None, None)
                    if schema.get("properties").is_none_or(|p| p == &Value::Object(Default::default())) => {}
                (None, None) => return Err(format!("{place} is not documented")),
            }
        }
        Ok(())
    }

    /// Successes and codes that were promised and not seen, except of what is old, and what only faults bring
    /// about.
    pub(crate) fn unseen(&self) -> Vec<String> {
        let mut unseen = Vec::new();
        let paths = self.json["paths"].as_object().into_iter().flatten();
        for operation in
            paths.flat_map(|(_, methods)| methods.as_object().into_iter().flatten()).map(|(_, o)| o)
        {
            let id = operation["operationId"].as_str().unwrap_or_default();
            let old = operation["deprecated"] == true;
            for (status, response) in operation["responses"].as_object().into_iter().flatten() {
                let codes =
                    response["content"]["application/json"]["schema"]["properties"]["errorCode"]["enum"]
                        .as_array();
                let promises: Vec<&str> = match codes {
                    Some(codes) => codes.iter().filter_map(Value::as_str).collect(),
                    None => vec![status],
                };
                for promise in promises {
                    let excused =
                        [&OURS[..], &ACCESS].concat().contains(&promise) || SETTINGS.contains(&(id, promise));
                    let asked = !(excused || old && promise != "200");
                    if asked && !self.seen.contains(&(id.to_owned(), promise.to_owned())) {
                        unseen.push(format!("{id} {promise}"));
                    }
                }
            }
        }
        unseen
    }
}

/// True when the path is one that the template, with placeholders in braces, stands for.
fn is_of(template: &str, path: &str) -> bool {
    let mut expected = template.split('/');
    let mut found = path.split('/');
    loop {
        match (expected.next(), found.next()) {
            (None, None) => return true,
            (Some(a), Some(b)) if a == b || (a.starts_with('{') && !b.is_empty()) => {}
            _ => return false,
        }
    }
}
