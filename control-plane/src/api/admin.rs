//! Operations for administrators: the contents of the view, the store's addresses, alarms, held instances,
//! the last records of the audit log, and the figures of this process.

use std::collections::BTreeMap;

use axum::extract::State;
use host::audit::{AuditAnswer, Question};
use host::figures::sampler::FleetFigures;
use schemars::JsonSchema;
use serde_json::{Value, json};
use shared::model::Tenant;

use super::call::Call;
use super::failure::Code::{Forbidden, InvalidParams, ServiceNotFound};
use super::failure::Failure;
use super::operation::{Operation, delete, get, object};
use super::reply::{self, Reply};
use super::state::Api;
use super::{dump, health};
use crate::registry::protection::Protected;

pub(super) fn operations() -> Vec<Operation> {
    vec![
        get("/dump", show_dump, "Dump", "Show everything that this node's view contains, of all tenants.")
            .query(&[("options", "Comma list of `cache`, `info`, or `all`; `cache` if it is absent.")])
            .returns(
                object! { "info": BTreeMap<String, String>, "cache": BTreeMap<String, Vec<dump::DumpEntry>> },
            )
            .fails_with(&[Forbidden]),
        get("/clusters", clusters, "Clusters", "List the addresses of the store.")
            .returns(object! { "clusters": BTreeMap<String, Vec<String>> }),
        get("/alarms", alarms, "ListAlarm", "List the alarms of this node.")
            .returns(object! { "alarms": Vec<AlarmEntry> }),
        delete("/alarms", forget_alarms, "ClearAlarm", "Remove the alarms of this node from the list."),
        get(
            "/audit",
            audit,
            "ListAudit",
            "List the last records of this process's audit log, the newest first.",
        )
        .query(&[
            ("account", "Only those of this account."),
            ("decision", "Only those that were `allowed`, or `denied`."),
            ("kind", "Only those of this operation, transport of a gateway, or route of the admin port."),
            ("limit", "At most so many of each process, 1 to 1000; 1000 if it is absent."),
        ])
        .returns(object! { "processes": Vec<AuditProcess>, "silent": usize })
        .fails_with(&[InvalidParams]),
        get(
            "/processes",
            processes,
            "ListProcess",
            "Show the activity of this process: connections, rates, latency by stage.",
        )
        .returns(object! { "processes": Vec<Process>, "silent": usize }),
        get("/protections", protections, "ListProtection", "List the services that have held instances.")
            .returns(object! { "protections": Vec<Protected> }),
        delete(
            "/protections/{serviceId}",
            release,
            "ReleaseProtection",
            "Release the held instances of a service.",
        )
        .fails_with(&[ServiceNotFound]),
    ]
}

async fn show_dump(State(api): State<Api>, call: Call) -> Reply {
    // The dump shows all tenants, and the default one is that of administrators.
    if call.caller.tenant != Tenant::default() {
        return Err(Failure::new(Forbidden, "Required admin permission"));
    }
    let options = call.list("options");
    let all = options.iter().any(|option| option == "all");
    let info = all || options.iter().any(|option| option == "info");
    let cache = all || options.is_empty() || options.iter().any(|option| option == "cache");
    let snapshot = api.registry().read(&call.caller).await?;
    let mut body = serde_json::Map::new();
    if info {
        body.insert("info".into(), health::version_body("4.0.0"));
    }
    if cache {
        body.insert("cache".into(), Value::Object(dump::cache(&snapshot)));
    }
    reply::json(&body)
}

async fn protections(State(api): State<Api>, call: Call) -> Reply {
    let protected = api.registry().protected(&call.caller.tenant).await?;
    if protected.is_empty() {
        reply::json(&json!({}))
    } else {
        reply::json(&json!({ "protections": protected }))
    }
}

async fn release(State(api): State<Api>, call: Call) -> Reply {
    api.registry().release(&call.service()?).await?;
    reply::empty()
}

/// An alarm.
// For the document only: `registry::alarm` renders it.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct AlarmEntry {
    status: String,
    id: String,
    fields: BTreeMap<String, String>,
}

async fn alarms(State(api): State<Api>, _call: Call) -> Reply {
    reply::list("alarms", &api.registry().alarms().list())
}

async fn forget_alarms(State(api): State<Api>, _call: Call) -> Reply {
    api.registry().alarms().forget();
    reply::empty()
}

/// The last audit records of a process.
// For the document only: `host::audit::RecentRecords` is told.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct AuditProcess {
    process: String,
    complete: bool,
    records: Vec<AuditRecord>,
}

/// An audit record.
// For the document only: `host::audit::Record` has all fields.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "only its schema is used")]
struct AuditRecord {
    time: String,
    plane: String,
    decision: String,
    account: Option<String>,
    method: String,
    operation: Option<String>,
    target: String,
    status: u16,
    source: Option<String>,
    request_id: Option<String>,
    revision: u64,
}

/// The figures of a process. One that it does not have is absent.
// For the document only: `host::figures::sampler::ProcessFigures` is told.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "only its schema is used")]
struct Process {
    process: String,
    address: String,
    role: String,
    release: Option<String>,
    age: f64,
    seconds: Option<f64>,
    connections: Option<f64>,
    watchers: Option<f64>,
    pushes_per_second: Option<f64>,
    requests_per_second: Option<f64>,
    pending: Option<f64>,
    revision: Option<f64>,
    stale_seconds: Option<f64>,
    divergences: Option<f64>,
    cores: Option<f64>,
    memory_mib: Option<f64>,
    stages: Vec<Stage>,
    dialects: Option<Vec<Dialect>>,
}

/// The use of a dialect, such as xDS or DNS, at a gateway.
// For the document only: `host::figures::DialectFigures` is told.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "only its schema is used")]
struct Dialect {
    dialect: String,
    clients: Option<f64>,
    answers_per_second: Option<f64>,
}

/// The latency of a stage on the way from a commit to the watchers.
// For the document only: `host::figures::StageFigures` is told.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "only its schema is used")]
struct Stage {
    stage: String,
    count: u64,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
}

async fn processes(State(api): State<Api>, _call: Call) -> Reply {
    // A gateway asks every control plane, and adds itself and the other gateways.
    reply::json(&FleetFigures { processes: api.figures().into_iter().collect(), silent: 0 })
}

async fn audit(State(api): State<Api>, call: Call) -> Reply {
    call.permit.read_audit(api.has_accounts())?;
    let query = ["account", "decision", "kind", "limit"].map(|name| (name, call.query(name)));
    let question = Question::read(query).map_err(|problem| Failure::new(InvalidParams, problem))?;
    // A gateway asks every control plane, and adds its own.
    reply::json(&AuditAnswer { processes: vec![api.audit().recent(&question)], silent: 0 })
}

async fn clusters(State(api): State<Api>, _call: Call) -> Reply {
    reply::json(&json!({ "clusters": { "default": api.registry().store().endpoints() } }))
}
