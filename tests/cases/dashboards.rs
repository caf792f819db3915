//! Every query of our dashboards, rules and alerts, and of Service-Center's dashboard, asked of a real
//! Prometheus that scrapes our real programs: it must be understood, and its series must be there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use harness::prometheus::rule_files;
use harness::{Client, Prometheus, Watcher, World, deadline};
use serde_json::Value;

use crate::deploy::yaml;

/// Selectors of series that are there only when something is set up that the test has not, or has gone wrong.
const ABSENT: [(&str, &str); 6] = [
    ("muster_telemetry_items_total", "only with a collector (OTEL_*)"),
    ("muster_tls_certificate_expiry_timestamp_seconds", "only with TLS"),
    ("service_center_http_request_total{code=~\"401|403\"}", "only after a refusal"),
    ("service_center_http_request_total{api=\"LoginAccount\"}", "only with access control"),
    (
        "service_center_http_request_total{api=\"LoginAccount\", code=\"403\"}",
        "only while an account is locked",
    ),
    ("service_center_http_request_total{code=~\"5..\"}", "only after a server error; queries add zero"),
];

/// The dashboard of Service-Center, less the panels that have no meaning here (garbage collection, bytes of
/// caches).
const OLD: [&str; 33] = [
    "sum(service_center_db_sc_total{J})",
    "max(service_center_db_backend_total{J})",
    "max(service_center_db_service_total{J})",
    "max(service_center_db_service_total{J}) by (framework)",
    "max(service_center_db_domain_total{J})",
    "max(service_center_db_instance_total{J})",
    "max(service_center_db_service_total{J, framework=\"Go-Chassis\"}) by (frameworkVersion)",
    "max(sum(service_center_db_service_total{J}) by (instance))",
    "max(service_center_db_schema_total{J})",
    "sum(irate(service_center_http_request_total{J}[1m]))",
    "max(avg_over_time(service_center_db_heartbeat_durations_microseconds{J}[1m])) by (status)",
    "max(avg_over_time(service_center_notify_publish_durations_microseconds{J}[1m])) by (source)",
    "sum(irate(service_center_http_request_total{J,code=~\"4.+\"}[1m]))",
    "sum(service_center_http_success_total{J})/sum(service_center_http_request_total{J})",
    "sum(service_center_http_request_total{J}) by (api,code)",
    "sum(irate(service_center_http_request_total{J}[1m])) by (method,api,instance)",
    "sum(irate(service_center_db_heartbeat_total{J}[1m])) by (instance)",
    "max(avg_over_time(service_center_http_request_durations_microseconds{J,method=\"GET\"}[1m])) by (method,api,instance)",
    "max(avg_over_time(service_center_http_request_durations_microseconds{J,method!=\"GET\"}[1m])) by (method,api,instance)",
    "sum(irate(service_center_db_dispatch_event_total{J}[1m])) by (instance,prefix)",
    "max(avg_over_time(service_center_db_dispatch_event_durations_microseconds{J}[1m])) by (instance, prefix)",
    "sum(irate(service_center_notify_publish_total{J}[1m])) by (instance,source)",
    "max(avg_over_time(service_center_notify_publish_durations_microseconds{J}[1m])) by (instance,source)",
    "sum(service_center_notify_pending_total{J}) by (instance,source)",
    "service_center_notify_subscriber_total{J}",
    "sum(irate(service_center_db_backend_operation_total{J}[1m])) by (instance,operation)",
    "max(avg_over_time(service_center_db_backend_operation_durations_microseconds{J}[1m])) by (instance,operation)",
    "service_center_process_cpu_usage{J}",
    "process_resident_memory_bytes{J}",
    "go_threads{J}",
    "process_open_fds{J}",
    "go_goroutines{J}",
    "service_center_http_query_per_seconds{J}",
];

/// A query and where it stands.
struct Query {
    place: String,
    text: String,
}

fn grafana() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../grafana")
}

/// Every text called `expr`, at any depth.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("expr").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|value| expressions(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

fn queries(file: &Path, document: &Value) -> Vec<Query> {
    let mut texts = Vec::new();
    expressions(document, &mut texts);
    let place = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    texts.iter().map(|text| Query { place: place.clone(), text: with_variables(text) }).collect()
}

/// Replaces Grafana's variables, as it does when all values are chosen.
fn with_variables(text: &str) -> String {
    text.replace("$instance", ".*").replace("$__rate_interval", "1m")
}

fn of_dashboards() -> Vec<Query> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(grafana().join("dashboards")).expect("a folder") {
        let file = entry.expect("a file").path();
        let text = std::fs::read_to_string(&file).expect("is readable");
        found.extend(queries(&file, &serde_json::from_str(&text).expect("is JSON")));
    }
    found
}

fn of_rules() -> Vec<Query> {
    let mut found = Vec::new();
    for file in rule_files() {
        let text = std::fs::read_to_string(&file).expect("is readable");
        found.extend(queries(&file, &serde_yaml(&text)));
    }
    found
}

fn serde_yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).expect("is YAML")
}

/// The selectors of series in a query: a name of ours with the labels that follow it.
fn selectors(query: &str) -> BTreeSet<String> {
    let ours = ["muster_", "muster:", "service_center_", "process_", "go_", "up"];
    let mut found = BTreeSet::new();
    let mut rest = query;
    while let Some(begin) = rest.find(may_be_in_a_name) {
        let quoted = rest[..begin].matches('"').count() % 2 == 1;
        let from = &rest[begin..];
        let name = &from[..from.find(|c| !may_be_in_a_name(c)).unwrap_or(from.len())];
        let after = &from[name.len()..];
        let labels = after.strip_prefix('{').and_then(|rest| rest.split_once('}')).map(|(labels, _)| labels);
        let known = ours.iter().any(|prefix| name.starts_with(prefix)) && (name != "up" || labels.is_some());
        if known && !quoted {
            found.insert(labels.map_or_else(|| name.to_owned(), |labels| format!("{name}{{{labels}}}")));
        }
        let skipped = labels.map_or(0, |labels| labels.len() + 2);
        rest = &after[skipped..];
    }
    found
}

fn may_be_in_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

#[test]
fn selectors_are_found_in_queries() {
    let query =
        r#"sum by (le) (rate(muster_x_bucket{a="b c"}[1m])) / on () muster:y > 3 or up{job="go_z"} == 0"#;
    let expected = [r#"muster_x_bucket{a="b c"}"#, "muster:y", r#"up{job="go_z"}"#];
    assert_eq!(selectors(query), expected.map(str::to_owned).into());
}

/// Everything that leaves a trace in figures, once or more.
async fn load(world: &World) -> Vec<Watcher> {
    let client = world.client(0);
    let body = serde_json::json!({"service": {"appId": "shop", "serviceName": "order", "version": "1.0.0",
        "framework": {"name": "Go-Chassis", "version": "2.0"}}});
    let provider = client.call("POST", "/microservices", "", &body).await.ok();
    let provider = provider["serviceId"].as_str().expect("an id").to_owned();
    let mut watchers = Vec::new();
    for gateway in 0..world.gateways.len() {
        let consumer = client.service(&format!("cart{gateway}")).await;
        client.find(&consumer, "order", "").await.ok();
        watchers.push(world.watch(gateway, &consumer).await);
    }
    client.instance(&provider, "i").await;
    client.find("", "order", "").await;
    client.find("", "nobody", "").await;
    watchers
}

async fn beat(client: &Client, provider: &str, n: usize) {
    client.tag(provider, "i", &n.to_string()).await;
    let path = format!("/microservices/{provider}/instances/i/heartbeat");
    client.call("PUT", &path, "", &Value::Null).await.ok();
    client.call("GET", &format!("/microservices/{provider}"), "", &Value::Null).await.ok();
    client.call("GET", "/microservices/none", "", &Value::Null).await;
}

/// The queries without an answer, each with the reason: an error, or a selector without series.
async fn unanswered(prometheus: &Prometheus, queries: &[Query]) -> BTreeMap<String, String> {
    let mut wrong = BTreeMap::new();
    for Query { place, text } in queries {
        let answer = prometheus.query(text).await;
        if let Err(error) = &answer {
            wrong.insert(format!("{place}: {text}"), error.clone());
            continue;
        }
        for selector in selectors(text) {
            let name = selector.split('{').next().unwrap_or_default();
            let expected = ABSENT.iter().any(|(absent, _)| *absent == name || *absent == selector);
            let series = prometheus.query(&format!("count({selector})")).await;
            if !expected && series.as_ref().is_ok_and(Vec::is_empty) {
                wrong.insert(format!("{place}: {text}"), format!("no series {selector}"));
            }
        }
    }
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_dashboards_and_rules_is_answered() {
    let world = World::with().planes(2).gateways(2).start().await;
    let planes: Vec<_> = world.control_planes.iter().map(|node| node.admin).collect();
    let gateways: Vec<_> = world.gateways.iter().map(|node| node.admin).collect();
    let all = [planes.clone(), gateways.clone()].concat();
    let jobs = [("control-plane", planes), ("edge-gateway", gateways), ("service-center", all)];
    let prometheus = Prometheus::start(&jobs).await;
    let mut watchers = load(&world).await;
    let client = world.client(1);
    let found = client.try_call("GET", "/microservices", &Value::Null).await.expect("an answer").ok();
    let services = found["services"].as_array().cloned().unwrap_or_default();
    let provider = services.iter().find(|service| service["serviceName"] == "order").expect("is registered");
    let provider = provider["serviceId"].as_str().expect("an id").to_owned();

    let mut queries = of_dashboards();
    queries.extend(of_rules());
    assert!(queries.len() > 100, "only {}", queries.len());
    let old: Vec<String> = OLD.iter().map(|text| text.replace("{J", "{job=\"service-center\"")).collect();
    queries.extend(old.iter().map(|text| Query { place: "Service-Center's".to_owned(), text: text.clone() }));

    // Rates need two scrapes, rules what was scraped; so the load goes on until all is there.
    let give_up = Instant::now() + deadline();
    for n in 0.. {
        beat(&client, &provider, n).await;
        for watcher in &mut watchers {
            watcher.event().await;
        }
        let wrong = unanswered(&prometheus, &queries).await;
        if wrong.is_empty() {
            break;
        }
        assert!(Instant::now() < give_up, "{wrong:#?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // A panel shows something, not only series that cancel out.
    for text in &old {
        let answer = prometheus.query(text).await.expect("is understood");
        assert!(!answer.is_empty(), "{text}");
    }
    let rules = prometheus.rules().await;
    assert!(rules.len() >= 30, "{}", rules.len());
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule:#}");
    }
}

/// promtool: that of `MUSTER_TEST_PROMTOOL`, else the one that Debian installs.
fn promtool(arguments: &[&str]) {
    let program = std::env::var_os("MUSTER_TEST_PROMTOOL").unwrap_or_else(|| "promtool".into());
    let output = Command::new(program).args(arguments).current_dir(grafana()).output();
    let output = output.expect("promtool is installed: apt-get install --no-install-recommends prometheus");
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{out}\n{err}");
}

#[test]
fn rules_and_alerts_are_well_formed_and_do_what_their_tests_say() {
    promtool(&["check", "rules", "rules.yml", "alerts.yml"]);
    promtool(&["test", "rules", "rules_test.yml"]);
}

#[test]
fn each_alert_has_a_case_and_prints_rounded_values() {
    let alerts = yaml("grafana/alerts.yml");
    let cases = yaml("grafana/rules_test.yml");
    let mut shown = BTreeSet::new();
    for test in cases["tests"].as_array().into_iter().flatten() {
        for case in test["alert_rule_test"].as_array().into_iter().flatten() {
            if case["exp_alerts"].as_array().is_some_and(|expected| !expected.is_empty()) {
                shown.insert(case["alertname"].as_str().expect("a name").to_owned());
            }
        }
    }
    for group in alerts["groups"].as_array().into_iter().flatten() {
        for rule in group["rules"].as_array().into_iter().flatten() {
            let name = rule["alert"].as_str().expect("a name");
            assert!(shown.contains(name), "no case of rules_test.yml makes {name} fire");
            // Versions of Prometheus differ in the last digits of a rate, and people read none of them.
            let summary = rule["annotations"]["summary"].as_str().expect("a summary");
            assert!(!summary.contains("$value }}"), "{name} prints a raw value: {summary}");
        }
    }
}
