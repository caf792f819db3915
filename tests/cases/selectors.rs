//! Watches of services by what they are: application, environment, everything of a tenant.
//!
//! Two control planes, two gateways; each watcher sits on a gateway of its own, over WebSocket or gRPC.

use std::collections::BTreeSet;

use harness::{Client, Watcher, World};
use proto::watch::v1::watch_client::WatchClient;
use proto::watch::v1::watch_response::What;
use proto::watch::v1::{Selection, WatchRequest, WatchResponse};
use serde_json::{Value, json};
use tonic::transport::Channel;
use tonic::{Code, Streaming};

/// A service of an application in an environment.
async fn service(client: &Client, app: &str, environment: &str, name: &str) -> String {
    let body = json!({"service": {"appId": app, "serviceName": name, "version": "1.0.0", "environment": environment}});
    let answer = client.call("POST", "/microservices", "", &body).await.ok();
    answer["serviceId"].as_str().expect("an id").to_owned()
}

async fn delete(client: &Client, service: &str) {
    client.call("DELETE", &format!("/microservices/{service}?force=1"), "", &Value::Null).await.ok();
}

fn id_of(instance: &Value) -> String {
    instance["instanceId"].as_str().expect("an id").to_owned()
}

/// A watcher by selection, and what it makes of the frames: the instances there are.
struct Observer {
    watcher: Watcher,
    instances: BTreeSet<String>,
    /// From where it would go on, and the revision of the newest change.
    since: u64,
    newest: u64,
}

impl Observer {
    async fn open(world: &World, gateway: usize, query: &str) -> Self {
        let watcher = Watcher::open(world.gateways[gateway].api, &format!("watcher{query}")).await;
        Self { watcher, instances: BTreeSet::new(), since: 0, newest: 0 }
    }

    async fn take(&mut self) {
        let frame = self.watcher.event().await;
        let name = frame["key"]["serviceName"].as_str().unwrap_or_default();
        // The registry is a service of its own.
        let is_own = name == "SERVICECENTER";
        match frame["action"].as_str().expect("an action") {
            "BOOKMARK" => {}
            _ if is_own => {}
            "RESET" => {
                let prefix = format!("{name}-");
                self.instances.retain(|instance| !instance.starts_with(&prefix));
                self.instances.extend(frame["instances"].as_array().into_iter().flatten().map(id_of));
            }
            "CREATE" => assert!(self.instances.insert(id_of(&frame["instance"])), "twice: {frame}"),
            "DELETE" => assert!(self.instances.remove(&id_of(&frame["instance"])), "never there: {frame}"),
            _ => assert!(self.instances.contains(&id_of(&frame["instance"])), "never there: {frame}"),
        }
        let told = frame["since"].as_u64().or(frame["rev"].as_u64()).unwrap_or_default();
        self.since = self.since.max(told);
        if !frame["instance"].is_null() {
            self.newest = self.newest.max(frame["rev"].as_u64().unwrap_or_default());
        }
    }

    /// Takes frames until a bookmark covers the newest change.
    async fn is_certain(&mut self) {
        while self.since < self.newest {
            self.take().await;
        }
    }

    /// Takes frames until these instances are there, and no others.
    async fn reaches(&mut self, instances: &[&str]) {
        let wanted: BTreeSet<String> = instances.iter().map(|&id| id.to_owned()).collect();
        while self.instances != wanted {
            self.take().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_watched_by_application_or_environment() {
    let world = World::with().planes(2).gateways(2).start().await;
    let a = world.client(0);
    let b = world.client(1);
    let order = service(&a, "shop", "", "order").await;
    a.instance(&order, "order-1").await;
    let queries =
        ["?app=shop&rev=0", "?env=&rev=0", "?env=testing&rev=0", "?app=shop&env=testing&rev=0", "?all&rev=0"];
    let mut observers = Vec::new();
    for (n, query) in queries.iter().enumerate() {
        observers.push(Observer::open(&world, n % 2, query).await);
    }
    // Services that are registered later belong to the selection from their first instance on.
    let cart = service(&b, "shop", "testing", "cart").await;
    b.instance(&cart, "cart-1").await;
    let loans = service(&a, "bank", "testing", "loans").await;
    a.instance(&loans, "loans-1").await;
    a.instance(&loans, "loans-2").await;
    let there: [&[&str]; 5] = [
        &["order-1", "cart-1"],
        &["order-1"],
        &["cart-1", "loans-1", "loans-2"],
        &["cart-1"],
        &["order-1", "cart-1", "loans-1", "loans-2"],
    ];
    for (observer, there) in observers.iter_mut().zip(there) {
        observer.reaches(there).await;
    }
    // A service that is deleted is told instance by instance.
    delete(&b, &loans).await;
    a.unregister(&order, "order-1").await;
    let left: [&[&str]; 5] = [&["cart-1"], &[], &["cart-1"], &["cart-1"], &["cart-1"]];
    for (observer, left) in observers.iter_mut().zip(left) {
        observer.reaches(left).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_by_selection_resumes_on_another_gateway() {
    let world = World::with().planes(2).gateways(2).start().await;
    let client = world.client(0);
    let order = service(&client, "shop", "", "order").await;
    client.instance(&order, "order-1").await;
    let mut observer = Observer::open(&world, 0, "?app=shop&rev=0").await;
    observer.reaches(&["order-1"]).await;
    world.gateways[0].process.kill();
    let other = world.client(1);
    // While it is away: a service comes, one changes, one comes and goes.
    let cart = service(&other, "shop", "", "cart").await;
    other.instance(&cart, "cart-1").await;
    other.unregister(&order, "order-1").await;
    other.instance(&order, "order-2").await;
    let watcher =
        Watcher::open(world.gateways[1].api, &format!("watcher?app=shop&rev={}", observer.since)).await;
    let mut observer = Observer { watcher, ..observer };
    observer.reaches(&["cart-1", "order-2"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_of_a_missed_service_come_before_the_bookmark() {
    // Each observer waits for a bookmark, and leaves what was registered first alone for as long as it takes.
    let world =
        World::with().planes(2).gateways(2).variable("MUSTER_WATCH_BOOKMARK_INTERVAL", "1s").start().await;
    let client = world.client(0);
    let consumer = client.service("cart").await;
    let order = service(&client, "shop", "", "order").await;
    let loans = client.service("loans").await;
    for name in ["order", "loans"] {
        client.find(&consumer, name, "").await.ok();
    }
    client.instance_with(&loans, "loans-1", 300).await;
    let own = format!("microservices/{consumer}/watcher");
    let queries =
        [format!("{own}?"), format!("{own}?providers={order},{loans}&"), "watcher?app=shop&".to_owned()];
    let mut observers = Vec::new();
    for query in &queries {
        let watcher = Watcher::open(world.gateways[0].api, &format!("{query}rev=0")).await;
        let mut observer = Observer { watcher, instances: BTreeSet::new(), since: 0, newest: 0 };
        observer.reaches(&["loans-1"]).await;
        observers.push(observer);
    }
    client.instance_with(&order, "order-1", 300).await;
    client.instance_with(&order, "order-2", 300).await;
    for observer in &mut observers {
        observer.reaches(&["loans-1", "order-1", "order-2"]).await;
        observer.is_certain().await;
    }
    let since: Vec<u64> = observers.iter().map(|observer| observer.since).collect();
    // They go away; then the service does, with its instances, and after that something else happens.
    let instances: Vec<_> = observers.into_iter().map(|observer| observer.instances).collect();
    delete(&client, &order).await;
    client.instance_with(&loans, "loans-2", 300).await;
    for gateway in [0, 1] {
        for ((query, since), instances) in queries.iter().zip(&since).zip(&instances) {
            let watcher = Watcher::open(world.gateways[gateway].api, &format!("{query}rev={since}")).await;
            let mut observer =
                Observer { watcher, instances: instances.clone(), since: *since, newest: *since };
            while !observer.instances.contains("loans-2") {
                observer.take().await;
            }
            observer.is_certain().await;
            let left: Vec<&str> = observer.instances.iter().map(String::as_str).collect();
            assert_eq!(left, ["loans-1", "loans-2"], "{query} at gateway {gateway}: before the bookmark");
        }
        let request = WatchRequest { consumer_id: consumer.clone(), rev: Some(since[0]), ..selecting(None) };
        let mut stream = grpc(&world, gateway, request).await.expect("a watch is granted");
        let mut told = Vec::new();
        while told.last().is_none_or(|(_, instance)| instance != "loans-2") {
            match stream.message().await.expect("goes on").expect("no end").what {
                Some(What::Event(event)) => {
                    told.push((event.action, event.instance.unwrap_or_default().instance_id))
                }
                Some(What::Bookmark(_)) => {}
                other => panic!("nothing is so old that a state is told: {other:?}"),
            }
        }
        told.sort();
        assert_eq!(told, [(1, "loans-2".to_owned()), (3, "order-1".to_owned()), (3, "order-2".to_owned())]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selection_is_watched_over_grpc_and_a_bad_one_is_refused() {
    let world = World::with().planes(2).gateways(2).start().await;
    let client = world.client(0);
    let mut stream =
        grpc(&world, 1, selecting(Some(Selection { app_id: Some("shop".into()), environment: None })))
            .await
            .expect("a watch is granted");
    let order = service(&client, "shop", "testing", "order").await;
    client.instance(&order, "order-1").await;
    let other = service(&client, "bank", "testing", "loans").await;
    client.instance(&other, "loans-1").await;
    delete(&client, &order).await;
    for action in [1, 3] {
        let event = loop {
            if let Some(What::Event(event)) = stream.message().await.expect("goes on").expect("no end").what {
                break event;
            }
        };
        let instance = event.instance.expect("an instance").instance_id;
        assert_eq!((event.action, instance.as_str()), (action, "order-1"));
    }
    let empty = Selection { app_id: Some(String::new()), environment: None };
    for bad in [Some(empty), None] {
        let refused = grpc(&world, 1, selecting(bad)).await.expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    for bad in ["", "?app=", "?all=maybe", "?all&providers=x"] {
        let headers = [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let path = format!("/v4/default/registry/watcher{bad}");
        let answer = client.try_send("GET", &path, &headers, String::new()).await.expect("an answer");
        assert_eq!(answer.status, 400, "{bad}");
        assert!(answer.text().contains(r#""errorCode":"400001""#), "{}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selection_beyond_the_limit_is_refused_before_the_upgrade() {
    let world = World::with().gateway_flag("--watch-services", "2").start().await;
    let client = world.client(0);
    for name in ["a", "b", "c"] {
        service(&client, "shop", "", name).await;
    }
    let refused = tokio_tungstenite::connect_async(format!(
        "ws://{}/v4/default/registry/watcher?all",
        world.gateways[0].api
    ))
    .await;
    let Err(tokio_tungstenite::tungstenite::Error::Http(answer)) = refused else { panic!("{refused:?}") };
    assert_eq!(answer.status(), 503);
    Observer::open(&world, 0, "?app=other").await;
}

fn selecting(selection: Option<Selection>) -> WatchRequest {
    WatchRequest { project: "default".into(), selection, rev: Some(0), ..WatchRequest::default() }
}

async fn grpc(
    world: &World,
    gateway: usize,
    request: WatchRequest,
) -> Result<Streaming<WatchResponse>, tonic::Status> {
    let endpoint = format!("http://{}", world.gateways[gateway].api);
    let channel = Channel::from_shared(endpoint).expect("an address").connect().await.expect("connects");
    WatchClient::new(channel).watch(request).await.map(tonic::Response::into_inner)
}
