//! The exports to an OpenTelemetry collector: one trace from the request to the frame, and the fate of all
//! exports when the collector is away.

use std::time::{Duration, Instant};

use harness::collector::Seen;
use harness::{Client, Collector, Pair, Process, World, eventually, port};
use serde_json::json;

/// A client's span: a trace of its own for each `n`.
fn client_span(n: usize) -> (String, String, String) {
    let trace = format!("4bf92f3577b34da6a3ce929d0e0e{n:04x}");
    let span = format!("00f067aa0ba9{n:04x}");
    (format!("00-{trace}-{span}-01"), trace, span)
}

async fn register_traced(client: &Client, service: &str, id: &str, traceparent: &str) {
    let body = json!({"instance": {"instanceId": id, "hostName": "node", "endpoints": [format!("rest://10.0.0.1:80/{id}")]}});
    let path = format!("/v4/default/registry/microservices/{service}/instances");
    let headers = [("traceparent", traceparent)];
    let answer = client.try_send("POST", &path, &headers, body.to_string()).await.expect("an answer");
    answer.ok();
}

fn named<'a>(spans: &'a [Seen], name: &str) -> Vec<&'a Seen> {
    spans.iter().filter(|span| span.name == name).collect()
}

/// The one child of that name; the whole trace is shown when there is none.
#[track_caller]
fn child<'a>(spans: &'a [Seen], parent: &Seen, name: &str) -> &'a Seen {
    let found = named(spans, name).into_iter().find(|span| span.parent == parent.id);
    found.unwrap_or_else(|| panic!("{} has no child {name}: {spans:#?}", parent.name))
}

/// Waits until a change's trace is complete and checks its way from the request to the frame.
///
/// Returns whether one replica has committed the change and another one has published it.
async fn assert_leads_to_the_frame(collector: &Collector, trace: &str, root: &str) -> bool {
    let complete = |spans: &Vec<Seen>| {
        ["POST forward", "publish", "dispatch", "write"].iter().all(|name| !named(spans, name).is_empty())
            && named(spans, "view").len() == 2
    };
    let spans =
        eventually("the trace is complete", || async { Some(collector.spans(trace)).filter(complete) }).await;
    let forward = named(&spans, "POST forward")[0];
    assert_eq!((forward.parent.as_str(), forward.service.as_str()), (root, "muster-edge-gateway"));
    let request = spans.iter().find(|span| span.parent == forward.id).expect("a request of the gateway's");
    assert!(request.name.starts_with("POST ") && request.service == "muster-control-plane", "{request:?}");
    let publish = named(&spans, "publish")[0];
    let view = spans.iter().find(|span| span.id == publish.parent).expect("published out of a view");
    let commit = spans.iter().find(|span| span.id == view.parent).expect("a view of a transaction");
    assert_eq!((view.name.as_str(), commit.name.as_str()), ("view", "transaction"));
    assert_eq!(commit.parent, request.id);
    assert_eq!(named(&spans, "publish").len(), 1, "published once: {spans:#?}");
    let dispatch = child(&spans, publish, "dispatch");
    let write = child(&spans, dispatch, "write");
    assert_eq!(write.service, "muster-edge-gateway");
    assert_eq!(write.events, ["first frame written", "last frame written"]);
    assert!(write.time.1 >= dispatch.time.0, "{write:?} {dispatch:?}");
    publish.process != commit.process
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_from_the_request_to_the_frame() {
    let collector = Collector::start().await;
    let endpoint = format!("http://{}", collector.address);
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        // As in an image without authorities: over http none are needed.
        ("SSL_CERT_FILE", "/nowhere/authorities.pem"),
        ("SSL_CERT_DIR", "/nowhere"),
        // Only what the test asks for.
        ("OTEL_TRACES_SAMPLER", "parentbased_always_off"),
        // By default spans leave every five seconds, and metrics every minute.
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "100"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "500"),
    ];
    let mut plan = World::with().planes(2);
    for (name, value) in environment {
        plan = plan.variable(name, value);
    }
    let world = plan.start().await;
    let client = world.client(0);
    let Pair { provider, mut watcher, .. } = world.pair(0).await;

    // The gateway chooses a control plane for each request. One replica publishes everything, so after some
    // changes one of them was committed by the other replica.
    let mut changes = 0;
    let mut crossed = false;
    while changes < 6 || !crossed {
        assert!(changes < 64, "no change was committed by one replica and published by the other");
        let (traceparent, trace, root) = client_span(changes);
        let id = format!("i{changes}");
        register_traced(&client, &provider, &id, &traceparent).await;
        watcher.expect("CREATE", &id, "").await;
        client.tag(&provider, &id, "untraced").await;
        watcher.expect("UPDATE", &id, "untraced").await;
        // Replicas take turns at requests: with two in each round, the first would always go to the same one.
        if changes % 2 == 0 {
            client.tag(&provider, &id, "once more").await;
            watcher.expect("UPDATE", &id, "once more").await;
        }
        crossed |= assert_leads_to_the_frame(&collector, &trace, &root).await;
        changes += 1;
    }
    for span in collector.all_spans() {
        let ours = (0..changes).any(|n| client_span(n).1 == span.trace);
        assert!(ours, "a request is traced although its client did not ask for it: {span:?}");
    }

    eventually("figures and lines come too", || async {
        let has = |service: &str, name: &str| collector.metrics(service).iter().any(|metric| metric == name);
        let lines = collector.logs("muster-edge-gateway");
        (has("muster-control-plane", "muster_publisher_events_total")
            && has("muster-edge-gateway", "muster_edge_event_lag_seconds")
            && lines.iter().any(|line| line == "listening"))
        .then_some(())
    })
    .await;
}

/// A whole registry in one process, with these variables.
async fn standalone(environment: &[(&str, &str)]) -> (Process, Client) {
    let api = port::local();
    let arguments = ["standalone", "--data-dir", "data", "--listen", &api.to_string()];
    let process = Process::ours("muster").args(arguments);
    let process = environment.iter().fold(process, |process, (name, value)| process.env(name, value));
    process.start();
    let client = Client::new(api);
    eventually("the registry is ready", || async {
        assert!(process.is_running(), "it has ended: {}", process.log());
        (client.try_get("/ready").await?.status == 200).then_some(())
    })
    .await;
    (process, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn telemetry_that_waits_is_handed_over_at_the_end() {
    let collector = Collector::start().await;
    let endpoint = format!("http://{}", collector.address);
    // Nothing leaves before an hour is over, unless the process ends; and this time over HTTP.
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_SERVICE_NAME", "my-registry"),
        ("OTEL_BSP_SCHEDULE_DELAY", "3600000"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "3600000"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "3600000"),
    ];
    let (process, client) = standalone(&environment).await;
    let provider = client.service("order").await;
    let (traceparent, trace, _) = client_span(1);
    register_traced(&client, &provider, "i", &traceparent).await;
    assert_eq!(process.terminate().await, Some(0), "a drain ends well");
    let spans = collector.spans(&trace);
    for name in ["POST forward", "transaction", "view", "publish"] {
        assert_eq!(named(&spans, name).len(), 1, "{name}: {spans:#?}");
    }
    assert!(spans.iter().all(|span| span.service == "my-registry"));
    assert!(collector.metrics("my-registry").iter().any(|metric| metric == "muster_view_revision"));
    assert!(collector.logs("my-registry").iter().any(|line| line == "listening"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_keeps_nobody_waiting() {
    let away = format!("http://127.0.0.1:{}", port::free());
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", away.as_str()),
        ("OTEL_TRACES_SAMPLER", "always_on"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "200"),
    ];
    let (process, client) = standalone(&environment).await;
    let provider = client.service("order").await;
    for n in 0..50 {
        client.instance(&provider, &format!("i{n}")).await;
    }
    eventually("the loss is counted", || async {
        let text = client.try_get("/metrics").await?.text();
        let line = text.lines().find(|line| {
            line.starts_with("muster_telemetry_items_total{fate=\"failed\",signal=\"traces\"")
        })?;
        (line.rsplit(' ').next()?.parse::<f64>().ok()? > 0.0).then_some(())
    })
    .await;
    let log = process.log();
    assert!(log.matches("the collector does not take our telemetry").count() <= 2, "once a signal:\n{log}");
    let begun = Instant::now();
    assert_eq!(process.terminate().await, Some(0), "a drain ends well");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variable_that_is_not_understood_is_told_at_the_start() {
    let process = Process::ours("muster")
        .args(["standalone", "--data-dir", "data", "--listen", "127.0.0.1:0"])
        .env("OTEL_TRACES_EXPORTER", "zipkin");
    process.start();
    assert_ne!(process.ended().await, Some(0));
    assert!(process.log().contains("OTEL_TRACES_EXPORTER=zipkin"), "{}", process.log());
}
