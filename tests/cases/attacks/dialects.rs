//! Five accounts whose roles see different parts of eight services, over every transport at once: each is
//! told the same on all of them, and nothing else, also after its role has changed, and nothing without its
//! account or after its token's time. DNS, which has no tokens, is told what one account may see.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use harness::deadline;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::Client as Http;
use hyper_util::rt::TokioExecutor;
use prost::Message as _;
use proto::envoy as pb;
use proto::watch::v1::watch_client::WatchClient;
use proto::watch::v1::{Selection, WatchRequest};
use shared::clock::Clock;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use super::*;
use crate::dns;

const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// The words with which a watch ends, by its reason.
const EXPIRED: &str = "the token has expired";
const CHANGED: &str = "the rights of the account have changed";
const DELETED: &str = "the account of the token is deleted";

/// Environment, application and name of a service.
type Key = (&'static str, &'static str, &'static str);

/// The services. Each has one instance, at the address 10.0.0.(its place here + 1).
const SERVICES: [Key; 8] = [
    ("", "shop", "order"),
    ("", "shop", "cart"),
    ("", "bank", "order"),
    ("", "bank", "cart"),
    ("production", "shop", "order"),
    ("production", "shop", "cart"),
    ("production", "bank", "order"),
    ("production", "bank", "cart"),
];

/// The last numbers of addresses.
type Seen = BTreeSet<usize>;

/// A role: its name, the label sets that it names, and the plain rule that they are.
struct Case {
    name: &'static str,
    labels: Value,
    sees: fn(Key) -> bool,
}

fn cases() -> [Case; 5] {
    [
        Case { name: "shops", labels: json!([{"appId": "shop"}]), sees: |(_, app, _)| app == "shop" },
        Case {
            name: "producers",
            labels: json!([{"environment": "production"}]),
            sees: |(environment, _, _)| environment == "production",
        },
        Case {
            name: "orders",
            labels: json!([{"serviceName": "or*"}]),
            sees: |(_, _, name)| name == "order",
        },
        Case {
            name: "one",
            labels: json!([{"appId": "b*", "serviceName": "cart", "environment": "production"}]),
            sees: |key| key == SERVICES[7],
        },
        Case {
            name: "two",
            labels: json!([{"appId": "shop", "environment": "production"}, {"appId": "bank", "serviceName": "*r"}]),
            sees: |(environment, app, name)| match app {
                "shop" => environment == "production",
                _ => name == "order",
            },
        },
    ]
}

fn permissions(labels: &Value) -> Value {
    let sets = labels.as_array().expect("label sets");
    let resources: Vec<Value> = sets.iter().map(|set| json!({"type": "service", "labels": set})).collect();
    json!([{"resources": resources, "verbs": ["get"]}])
}

fn expected(sees: fn(Key) -> bool) -> Seen {
    (1..=SERVICES.len()).filter(|number| sees(SERVICES[number - 1])).collect()
}

/// The numbers of the addresses in a text of any transport.
fn numbers(text: &str) -> Seen {
    let after = text.split("10.0.0.").skip(1);
    after.filter_map(|rest| rest.chars().next()?.to_digit(10).map(|digit| digit as usize)).collect()
}

/// The answers to finds of all services together; every refusal is one of the account's.
async fn by_finds(site: &Site, token: &str) -> Option<Seen> {
    let mut seen = Seen::new();
    for (environment, app, name) in SERVICES {
        let path = format!(
            "/v4/default/registry/instances?appId={app}&serviceName={name}&env={environment}&version=0%2B"
        );
        let answer = site.get(&path, token).await;
        match answer.status {
            200 => seen.extend(numbers(&answer.text())),
            401 | 403 => {}
            _ => return None,
        }
    }
    Some(seen)
}

async fn by_http_sd(site: &Site, token: &str) -> Option<Seen> {
    let answer = site.get("/prometheus/v1/targets", token).await;
    refused_or(answer.status, || numbers(&answer.text()))
}

async fn by_eureka(site: &Site, token: &str) -> Option<Seen> {
    let mut seen = Seen::new();
    for (environment, app) in [("", "shop"), ("", "bank"), ("production", "shop"), ("production", "bank")] {
        let place = match environment {
            "" => format!("app={app}"),
            _ => format!("env={environment},app={app}"),
        };
        let path = format!("/eureka/in/{place}/apps");
        let headers = [("authorization", token), ("accept", "application/json")];
        let answer = site.client.try_send("GET", &path, &headers, String::new()).await?;
        seen.extend(refused_or(answer.status, || numbers(&answer.text()))?);
    }
    Some(seen)
}

/// Nothing for a refusal of access control; `None` for an answer that says nothing.
fn refused_or(status: u16, seen: impl FnOnce() -> Seen) -> Option<Seen> {
    match status {
        200 => Some(seen()),
        401 | 403 => Some(Seen::new()),
        _ => None,
    }
}

/// A stream of xDS.
struct Discovery {
    requests: tokio::sync::mpsc::Sender<pb::DeltaDiscoveryRequest>,
    answers: tonic::Streaming<pb::DeltaDiscoveryResponse>,
}

impl Discovery {
    /// Opens a stream that asks for the endpoints of all services. `None` without a connection.
    async fn open(site: &Site, token: &str) -> Option<Result<Self, tonic::Status>> {
        let names = SERVICES.map(|(environment, app, name)| match environment {
            "" => format!("{app}/{name}"),
            _ => format!("{environment}/{app}/{name}"),
        });
        let first = pb::DeltaDiscoveryRequest {
            type_url: ENDPOINTS.to_owned(),
            resource_names_subscribe: names.to_vec(),
            ..pb::DeltaDiscoveryRequest::default()
        };
        let channel = Channel::from_shared(format!("http://{}", site.api)).ok()?.connect().await.ok()?;
        let mut client = Grpc::new(channel);
        client.ready().await.ok()?;
        let (requests, received) = tokio::sync::mpsc::channel(4);
        requests.try_send(first).ok()?;
        let mut request = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(received));
        request.metadata_mut().insert("authorization", token.parse().ok()?);
        let codec = ProstCodec::<pb::DeltaDiscoveryRequest, pb::DeltaDiscoveryResponse>::default();
        let opened = client.streaming(request, DELTA.parse().ok()?, codec).await;
        Some(opened.map(|stream| Self { requests, answers: stream.into_inner() }))
    }

    /// The next answer, which is acknowledged at once. `None` after the last.
    async fn next(&mut self) -> Result<Option<pb::DeltaDiscoveryResponse>, tonic::Status> {
        let answer = self.answers.message().await?;
        if let Some(answer) = &answer {
            let taken = pb::DeltaDiscoveryRequest {
                type_url: ENDPOINTS.to_owned(),
                response_nonce: answer.nonce.clone(),
                ..pb::DeltaDiscoveryRequest::default()
            };
            // A stream that has ended says so with the next answer.
            _ = self.requests.try_send(taken);
        }
        Ok(answer)
    }

    /// The messages from now on, and at last the one of the end.
    fn texts(self) -> impl futures_util::Stream<Item = String> + Send {
        futures_util::stream::unfold(Some(self), |stream| async move {
            let mut stream = stream?;
            match stream.next().await {
                Ok(answer) => Some((endpoints_in(answer?), Some(stream))),
                Err(status) => Some((status.message().to_owned(), None)),
            }
        })
    }
}

/// The endpoints in an answer of xDS, as a text.
fn endpoints_in(answer: pb::DeltaDiscoveryResponse) -> String {
    let of_one = |resource: pb::Resource| {
        let value = resource.resource.unwrap_or_default().value;
        format!("{:?}", pb::ClusterLoadAssignment::decode(&*value).expect("endpoints"))
    };
    answer.resources.into_iter().map(of_one).collect()
}

/// The endpoints of all services, as a new stream of xDS tells them.
async fn by_xds(site: &Site, token: &str) -> Option<Seen> {
    let mut stream = match Discovery::open(site, token).await? {
        Ok(stream) => stream,
        Err(status) => return is_refusal(&status).then(Seen::new),
    };
    let (mut known, mut seen) = (BTreeSet::new(), Seen::new());
    while known.len() < SERVICES.len() {
        let answer = match stream.next().await {
            Ok(answer) => answer?,
            Err(status) => return is_refusal(&status).then(Seen::new),
        };
        known.extend(answer.removed_resources.iter().cloned());
        known.extend(answer.resources.iter().map(|resource| resource.name.clone()));
        seen.extend(numbers(&endpoints_in(answer)));
    }
    Some(seen)
}

fn is_refusal(status: &tonic::Status) -> bool {
    matches!(status.code(), tonic::Code::Unauthenticated | tonic::Code::PermissionDenied)
}

/// Waits until every transport that is asked tells exactly this.
async fn are_told(site: &Site, case: &str, token: &str, expected: &Seen) {
    for transport in ["finds", "http_sd", "eureka", "xds"] {
        eventually(&format!("{case} is told {expected:?} by {transport}"), || async {
            let seen = match transport {
                "finds" => by_finds(site, token).await,
                "http_sd" => by_http_sd(site, token).await,
                "eureka" => by_eureka(site, token).await,
                _ => tokio::time::timeout(deadline(), by_xds(site, token)).await.ok()?,
            };
            (seen? == *expected).then_some(())
        })
        .await;
    }
}

/// A watch of everything that has told all that its account may see.
struct Watch {
    transport: &'static str,
    /// Reads on to its end, and returns all that it has told of, with its last words.
    end: Pin<Box<dyn Future<Output = (Seen, String)> + Send>>,
}

impl Watch {
    async fn ends(self, case: &str, expected: &Seen, reason: &str) {
        let seen = tokio::time::timeout(deadline(), self.end).await;
        let transport = self.transport;
        let (seen, last) = seen.unwrap_or_else(|_| panic!("{transport} goes on for {case}"));
        assert_eq!(seen, *expected, "{transport} until its end, for {case}");
        assert!(last.contains(reason), "{transport} ends for {case} with {last:?} and not {reason:?}");
    }
}

/// Takes texts of a watch until the expected numbers are told; afterwards until its end.
async fn watch(
    transport: &'static str,
    texts: impl futures_util::Stream<Item = String> + Send + 'static,
    expected: &Seen,
) -> Watch {
    let mut texts = Box::pin(texts);
    let mut seen = Seen::new();
    while seen != *expected {
        let text = tokio::time::timeout(deadline(), texts.next()).await;
        let text = text.unwrap_or_else(|_| panic!("{transport} tells {seen:?} and not {expected:?}"));
        seen.extend(numbers(&text.expect("the watch goes on")));
        assert!(seen.is_subset(expected), "{transport} tells {seen:?} to one who may see {expected:?}");
    }
    let end = Box::pin(async move {
        let mut last = String::new();
        while let Some(text) = texts.next().await {
            seen.extend(numbers(&text));
            // Nothing but an end of line may follow the last words.
            if !text.trim().is_empty() {
                last = text;
            }
        }
        (seen, last)
    });
    Watch { transport, end }
}

async fn watches(site: &Site, token: &str, expected: &Seen) -> [Watch; 4] {
    let url = format!("ws://{}/v4/default/registry/watcher?all&rev=0", site.api);
    let mut request = url.into_client_request().expect("a request");
    request.headers_mut().insert("authorization", token.parse().expect("a value"));
    let (socket, _) = tokio_tungstenite::connect_async(request).await.expect("a watch is granted");
    // An error is an end, too: a reset may follow the close frame.
    let frames = tokio_stream::StreamExt::map_while(socket, |frame| Some(frame.ok()?.to_string()));

    let http: Http<_, http_body_util::Empty<bytes::Bytes>> = Http::builder(TokioExecutor::new()).build_http();
    let request = http::Request::get(format!("http://{}/v4/default/registry/events?all&rev=0", site.api))
        .header("authorization", token)
        .body(http_body_util::Empty::new())
        .expect("a request");
    let answer = http.request(request).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let mut rest = String::new();
    let events = tokio_stream::StreamExt::map_while(answer.into_body().into_data_stream(), move |bytes| {
        rest.push_str(&String::from_utf8_lossy(&bytes.ok()?));
        // Whole lines, because a piece may end within an address.
        let end = rest.rfind('\n').map_or(0, |at| at + 1);
        Some(rest.drain(..end).collect::<String>())
    });

    let channel = Channel::from_shared(format!("http://{}", site.api)).expect("an address");
    let message =
        WatchRequest { rev: Some(0), selection: Some(Selection::default()), ..WatchRequest::default() };
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("authorization", token.parse().expect("a value"));
    let stream = WatchClient::new(channel.connect().await.expect("connects")).watch(request).await;
    let stream = stream.expect("a watch is granted").into_inner();
    let answers = stream.map(|answer| match answer {
        Ok(answer) => format!("{answer:?}"),
        Err(status) => status.message().to_owned(),
    });
    let discovery = Discovery::open(site, token).await.expect("connects").expect("a stream is granted");
    [
        watch("WebSocket", frames, expected).await,
        watch("server-sent events", events, expected).await,
        watch("gRPC", answers, expected).await,
        watch("xDS", discovery.texts(), expected).await,
    ]
}

/// Registers the services, and returns their ids.
async fn register(site: &Site) -> Vec<String> {
    let mut ids = Vec::new();
    for (number, (environment, app, name)) in SERVICES.into_iter().enumerate() {
        let id = site.service(environment, app, name).await;
        let body = json!({"instance": {"instanceId": format!("i{number}"), "hostName": "n",
            "endpoints": [format!("rest://10.0.0.{}:80", number + 1)],
            "healthCheck": {"mode": "push", "interval": 3600, "times": 3}}});
        site.send("POST", &format!("{LIST}/{id}/instances"), &site.root, &body).await.ok();
        ids.push(id);
    }
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_sees_the_same_on_every_transport() {
    let site = Site::start().await;
    let ids = register(&site).await;
    let cases = cases();
    let mut open = Vec::new();
    for case in &cases {
        site.role(case.name, permissions(&case.labels)).await;
        site.account(case.name, case.name, json!({})).await;
        let token = site.login(case.name).await;
        let expected = expected(case.sees);
        are_told(&site, case.name, &token, &expected).await;
        let watches = watches(&site, &token, &expected).await;
        open.push((token, expected, watches));
    }
    // Each change reaches those who may see its service, and ends no watch.
    for (number, id) in ids.iter().enumerate() {
        let path = format!("{LIST}/{id}/instances/i{number}/properties");
        site.send("PUT", &path, &site.root, &json!({"properties": {"turn": "2"}})).await.ok();
    }
    // Each role becomes that of the next case, while the watches are open.
    for (case, next) in cases.iter().zip(cases.iter().cycle().skip(1)) {
        let path = format!("/v4/roles/{}", case.name);
        let role = json!({"name": case.name, "perms": permissions(&next.labels)});
        site.send("PUT", &path, &site.root, &role).await.ok();
    }
    let mut tokens = Vec::new();
    for ((case, next), (token, before, watches)) in cases.iter().zip(cases.iter().cycle().skip(1)).zip(open) {
        for watch in watches {
            // Nothing of what the new role adds: the client begins anew and is told all of it.
            watch.ends(case.name, &before, CHANGED).await;
        }
        let after = expected(next.sees);
        are_told(&site, case.name, &token, &after).await;
        let watches = self::watches(&site, &token, &after).await;
        tokens.push((token, after, watches));
    }
    // Without its account a token opens nothing, and what it has opened ends.
    for (case, (token, seen, watches)) in cases.iter().zip(tokens) {
        site.send("DELETE", &format!("/v4/accounts/{}", case.name), &site.root, &Value::Null).await;
        for watch in watches {
            watch.ends(case.name, &seen, DELETED).await;
        }
        are_told(&site, case.name, &token, &Seen::new()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_stream_ends_with_its_token() {
    let site = Site::start().await;
    register(&site).await;
    let everything: Seen = (1..=SERVICES.len()).collect();
    // Long enough to open four streams on a busy machine; each of them has to end by itself.
    let life = Duration::from_secs(10);
    let exp = Clock::system().micros() / 1_000_000 + life.as_secs();
    let token = site.signed(&Claims { exp, ..claims() });
    for watch in watches(&site, &token, &everything).await {
        watch.ends("developer", &everything, EXPIRED).await;
    }
    assert!(Clock::system().micros() / 1_000_000 >= exp, "no stream ends before its token");
    are_told(&site, "a token that is over", &token, &Seen::new()).await;
}

/// The addresses of all services that exist for DNS. `None` without an answer to each
/// of them, or while some are refused and others not.
async fn by_dns(server: SocketAddr) -> Option<Result<Seen, ResponseCode>> {
    let mut seen = Seen::new();
    let mut refused = None;
    for (environment, app, name) in SERVICES {
        let name = match environment {
            "" => format!("{name}.{app}.muster."),
            _ => format!("{name}.{app}.{environment}.muster."),
        };
        let answer = dns::try_ask(server, &name, RecordType::A).await?;
        match answer.code {
            ResponseCode::NoError => seen.extend(numbers(&answer.records.join(" "))),
            // A service that the account may not read does not exist.
            ResponseCode::NXDomain => {}
            code => refused = Some(code),
        }
    }
    Some(refused.map_or(Ok(seen), Err))
}

#[tokio::test(flavor = "multi_thread")]
async fn dns_tells_what_its_account_may_see() {
    let server = port::local();
    let site = Site::start_with(&["--dns-listen", &server.to_string(), "--dns-account", "resolver"]).await;
    register(&site).await;
    let becomes = async |what: &str, expected: Result<Seen, ResponseCode>| {
        eventually(&format!("DNS tells {expected:?} to {what}"), || async {
            (by_dns(server).await? == expected).then_some(())
        })
        .await;
    };
    becomes("an account that nobody has made", Err(ResponseCode::Refused)).await;
    let role = |case: &Case| json!({"name": "resolver", "perms": permissions(&case.labels)});
    let cases = cases();
    site.role("resolver", permissions(&cases[0].labels)).await;
    site.account("resolver", "resolver", json!({})).await;
    for case in &cases {
        site.send("PUT", "/v4/roles/resolver", &site.root, &role(case)).await.ok();
        becomes(case.name, Ok(expected(case.sees))).await;
    }
    site.send("DELETE", "/v4/accounts/resolver", &site.root, &Value::Null).await.ok();
    becomes("an account that is gone", Err(ResponseCode::Refused)).await;
}
