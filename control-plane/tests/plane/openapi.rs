//! The OpenAPI document: complete, and in agreement with the routes.

use std::collections::BTreeSet;

use crate::probe::Probe;
use serde_json::Value;

/// A registry with access control, which has all operations.
async fn guarded() -> Probe {
    Probe::start_with(&[("MUSTER_RBAC_ENABLE", "true"), ("MUSTER_RBAC_ROOT_PASSWORD", PASSWORD)]).await
}

const PASSWORD: &str = "Complicated_password1";

async fn document(probe: &Probe) -> Value {
    probe.send("GET", "/openapi.json", &[], String::new()).await.ok()
}

fn operations(document: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    let paths = document["paths"].as_object().expect("paths");
    paths.iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().expect("methods");
        methods.iter().map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
    })
}

#[tokio::test]
async fn every_documented_operation_is_answered_as_documented() {
    let probe = Probe::start().await;
    assert!(operations(&document(&probe).await).count() > 80, "v4, v3 and the root");
    all_answer_as_documented(&probe, &[]).await;
}

#[tokio::test]
async fn with_access_control_all_answer_as_documented() {
    let probe = guarded().await;
    all_answer_as_documented(&probe, &[]).await;
    let mut revisions = probe.revisions();
    while !probe.view().now().expect("listed").policy.accounts.contains_key("root") {
        revisions.changed().await.expect("the view lives");
    }
    let body = format!(r#"{{"name":"root","password":"{PASSWORD}"}}"#);
    let token = probe.send("POST", "/v4/token", &[], body).await.ok();
    let header = format!("Bearer {}", token["token"].as_str().expect("a token"));
    all_answer_as_documented(&probe, &[("authorization", &header)]).await;
}

async fn all_answer_as_documented(probe: &Probe, headers: &[(&str, &str)]) {
    let document = document(probe).await;
    for (path, method, operation) in operations(&document) {
        let filled: String = path
            .split('/')
            .map(|segment| if segment.starts_with('{') { "x" } else { segment })
            .collect::<Vec<_>>()
            .join("/");
        let answer = probe.send(&method.to_uppercase(), &filled, headers, "{}".into()).await;
        assert!(![404, 405].contains(&answer.status), "{method} {path} is not routed");
        let response = &operation["responses"][answer.status.to_string()];
        assert!(response.is_object(), "{method} {path}: {} is not documented", answer.status);
        if answer.status >= 400 {
            let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
            let codes = &response["content"]["application/json"]["schema"]["properties"]["errorCode"]["enum"];
            let documented = codes.as_array().expect("codes").contains(&body["errorCode"]);
            assert!(documented, "{method} {path}: {body} is not among {codes}");
        }
    }
}

#[tokio::test]
async fn a_method_that_is_not_documented_is_not_routed() {
    let probe = Probe::start().await;
    let document = document(&probe).await;
    let paths = document["paths"].as_object().expect("paths");
    for (path, methods) in paths {
        let filled = path.replace(['{', '}'], "");
        for method in ["GET", "POST", "PUT", "DELETE"] {
            let answer = probe.send(method, &filled, &[], "{}".into()).await;
            // Another documented path may take the same segments.
            let documented = paths.iter().any(|(other, methods)| {
                takes(other, &filled) && methods.get(method.to_lowercase()).is_some()
            });
            assert_eq!(answer.status != 405, documented, "{method} {path}: {methods}");
        }
    }
}

fn takes(template: &str, path: &str) -> bool {
    let template: Vec<&str> = template.split('/').collect();
    let path: Vec<&str> = path.split('/').collect();
    template.len() == path.len()
        && template.iter().zip(&path).all(|(expected, sent)| expected == sent || expected.starts_with('{'))
}

#[tokio::test]
async fn the_document_has_the_structure_of_openapi_3_1() {
    let probe = guarded().await;
    let document = document(&probe).await;
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1.")));
    assert!(document["info"]["title"].is_string() && document["info"]["version"].is_string());
    let mut ids = BTreeSet::new();
    for (path, method, operation) in operations(&document) {
        let label = format!("{method} {path}");
        assert!(path.starts_with('/') && ["get", "put", "post", "delete"].contains(&method), "{label}");
        assert!(
            ids.insert(operation["operationId"].as_str().expect("an id")),
            "{label}: its id is not unique"
        );
        assert!(operation["summary"].as_str().is_some_and(|text| text.ends_with('.')), "{label}");
        let parameters = operation["parameters"].as_array().expect("parameters");
        let mut names = BTreeSet::new();
        for parameter in parameters {
            let name = &parameter["name"];
            let location = parameter["in"].as_str().expect("a location");
            assert!(names.insert((location, name.as_str())), "{label}: {name} is declared twice");
            assert!(["path", "query", "header"].contains(&location) && parameter["schema"].is_object());
            assert_eq!(parameter["required"] == true, location == "path", "{label}: {name}");
            assert!(parameter["description"].as_str().is_some_and(|text| !text.is_empty()), "{label}");
        }
        let segments: BTreeSet<_> =
            path.split('/').filter_map(|s| s.strip_prefix('{')?.strip_suffix('}')).collect();
        let in_path: BTreeSet<_> =
            names.iter().filter(|(location, _)| *location == "path").filter_map(|(_, name)| *name).collect();
        assert_eq!(segments, in_path, "{label}");
        for (status, response) in operation["responses"].as_object().expect("responses") {
            assert!(status.parse::<u16>().is_ok_and(|status| (200..600).contains(&status)), "{label}");
            assert!(response["description"].is_string(), "{label}");
        }
        assert!(operation["responses"]["200"].is_object(), "{label}");
    }
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    assert!(!references.is_empty());
    for reference in references {
        let pointer = reference.strip_prefix('#').expect("a reference into the document");
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}

fn collect_references(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, into)),
        Value::Object(members) => {
            into.extend(members.get("$ref").and_then(Value::as_str).map(String::from));
            members.values().for_each(|member| collect_references(member, into));
        }
        _ => {}
    }
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere() {
    let probe = Probe::start().await;
    let page = probe.send("GET", "/openapi", &[], String::new()).await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let text = String::from_utf8(page.body).expect("text");
    assert!(text.contains("openapi.json"));
    for outside in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!text.contains(outside), "{outside}");
    }
}

#[tokio::test]
async fn every_operation_has_a_line_in_the_table_of_access() {
    let probe = guarded().await;
    let document = document(&probe).await;
    for (path, method, _) in operations(&document) {
        let method = method.to_uppercase().parse().expect("a method");
        let access = access::access_of(&method, &path.replace(['{', '}'], ""));
        let is_known = !matches!(access, access::Access::Unknown | access::Access::OtherMethod);
        assert!(is_known, "{method} {path} would be refused wherever access control is on");
    }
    let documented: BTreeSet<String> =
        operations(&document).map(|(path, method, _)| format!("{method} {path}")).collect();
    // Gateways answer these, so this plane's router has none of them.
    let is_of_gateways = |path: &str| {
        path.ends_with("/watcher")
            || path.ends_with("/watchers")
            || path.ends_with("/events")
            || path.ends_with("/Watch")
            || path.starts_with("/grpc.")
            || path.starts_with("/proto.")
    };
    for (method, path, access) in access::route::all() {
        let is_drain = method == "POST" && path.ends_with("/drain");
        let is_of_dialect = matches!(access, access::Access::Needs(_, access::LabelSource::Dialect));
        let is_heartbeat_channel = method == "GET" && path.ends_with("/heartbeat");
        let known = documented.contains(&format!("{} {path}", method.to_lowercase()));
        // The console is answered before the router.
        let is_elsewhere = is_of_gateways(&path)
            || is_drain
            || is_of_dialect
            || is_heartbeat_channel
            || path.starts_with("/console");
        assert!(known || is_elsewhere, "{method} {path} is in the table and has no route");
    }
}
