//! Eureka's REST interface against whole systems: both worlds see each other's instances, and no gateway
//! keeps what another one would need. The real clients run by `cargo xtask eureka`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use data_encoding::BASE64;
use harness::{Client, Process, World, eventually, port};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::key_files::{KeyFiles, ROOT_PASSWORD};

const JSON: [(&str, &str); 2] = [("accept", "application/json"), ("content-type", "application/json")];
/// Fetching and compiling included; a program that hangs is ended.
const PATIENCE: Duration = Duration::from_mins(9);
/// The application of the registry in which the tests' client registers services.
const SHOP: &str = "/eureka/in/app=shop";

/// A registration as Spring Cloud sends it.
fn registration(app: &str, id: &str, status: &str, dirty: u64) -> Value {
    json!({ "instance": {
        "instanceId": id, "app": app.to_uppercase(), "hostName": "node-1", "ipAddr": "10.0.0.1",
        "vipAddress": app, "secureVipAddress": app, "status": status, "overriddenStatus": "UNKNOWN",
        "port": { "$": 8080, "@enabled": "true" }, "securePort": { "$": 443, "@enabled": "false" },
        "homePageUrl": "http://node-1:8080/", "statusPageUrl": "http://node-1:8080/actuator/info",
        "healthCheckUrl": "http://node-1:8080/actuator/health", "countryId": 1,
        "dataCenterInfo": {
            "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"
        },
        "leaseInfo": { "renewalIntervalInSecs": 30, "durationInSecs": 90 },
        "metadata": { "management.port": "8080", "version": "1.2.0" },
        "lastUpdatedTimestamp": "0", "lastDirtyTimestamp": dirty.to_string(),
        "isCoordinatingDiscoveryServer": "false",
    } })
}

async fn send(client: &Client, method: &str, path: &str, body: &Value) -> u16 {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    client.try_send(method, path, &JSON, body).await.map_or(0, |answer| answer.status)
}

/// Waits until a request has this answer. A gateway that cannot prove an absence in time says 503, which tells
/// its clients to ask again.
async fn is_answered(client: &Client, method: &str, path: &str, expected: u16) {
    eventually(&format!("{method} {path} is answered {expected}"), || async {
        (send(client, method, path, &Value::Null).await == expected).then_some(())
    })
    .await;
}

/// The instance in an answer.
async fn shown(client: &Client, path: &str) -> Option<Value> {
    let answer = client.try_send("GET", path, &JSON, String::new()).await?;
    if answer.status != 200 {
        return None;
    }
    serde_json::from_slice::<Value>(&answer.body).ok()?.get("instance").cloned()
}

async fn becomes(client: &Client, path: &str, field: &str, expected: &str) -> Value {
    eventually(&format!("{path} has {field} {expected}"), || async {
        shown(client, path).await.filter(|instance| instance[field] == *expected)
    })
    .await
}

struct Standalone {
    // Ends with this value.
    _process: Process,
    client: Client,
    api: std::net::SocketAddr,
}

impl Standalone {
    async fn start() -> Self {
        let api = port::local();
        let listen = api.to_string();
        let process = Process::ours("muster").args(["standalone", "--data-dir", "data", "--listen", &listen]);
        process.start();
        let client = Client::new(api);
        eventually("the registry is ready", || async {
            (client.try_get("/ready").await?.status == 200).then_some(())
        })
        .await;
        Self { _process: process, client, api }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_instance_is_there_by_every_kind_of_question() {
    let standalone = Standalone::start().await;
    let client = &standalone.client;
    // The pages are kept up to date from the first question on.
    is_answered(client, "GET", "/eureka/apps", 200).await;
    for n in 0..8 {
        let (name, id) = (format!("job{n}"), format!("node-{n}"));
        let body = registration(&name, &id, "UP", 1);
        assert_eq!(send(client, "POST", &format!("/eureka/apps/{name}"), &body).await, 204);
        for path in [format!("instances/{id}"), format!("vips/{name}"), format!("apps/{name}/{id}")] {
            let answer = client.try_send("GET", &format!("/eureka/{path}"), &JSON, String::new()).await;
            let text = answer.map(|answer| String::from_utf8_lossy(&answer.body).into_owned());
            assert!(text.as_ref().is_some_and(|text| text.contains(&id)), "{path}: {text:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spring_application_lives_its_life_in_the_registry() {
    let standalone = Standalone::start().await;
    let client = &standalone.client;
    let path = "/eureka/apps/ORDERS/node-1:orders:8080";
    // A client that is told so registers.
    is_answered(client, "PUT", path, 404).await;
    for dirty in [7, 7, 8] {
        let body = registration("Orders", "node-1:orders:8080", "STARTING", dirty);
        assert_eq!(send(client, "POST", "/eureka/apps/ORDERS", &body).await, 204, "again as at first");
    }
    let body = registration("Orders", "node-1:orders:8080", "UP", 9);
    assert_eq!(send(client, "POST", "/eureka/apps/ORDERS", &body).await, 204);
    let given = becomes(client, path, "status", "UP").await;
    for field in [
        "instanceId",
        "app",
        "hostName",
        "ipAddr",
        "vipAddress",
        "port",
        "securePort",
        "metadata",
        "homePageUrl",
        "dataCenterInfo",
        "lastDirtyTimestamp",
    ] {
        assert_eq!(given[field], body["instance"][field], "{field} is given back");
    }

    // The other world sees it, by the name that Spring looks up.
    let services = client.call("GET", "/microservices", "", &Value::Null).await.ok();
    let all = services["services"].as_array().expect("a list");
    let service = all.iter().find(|service| service["serviceName"] == "Orders").expect("is there");
    assert_eq!((&service["version"], &service["appId"]), (&json!("1.2.0"), &json!("default")));
    let id = service["serviceId"].as_str().expect("an id");
    let instances =
        client.call("GET", &format!("/microservices/{id}/instances"), "", &Value::Null).await.ok();
    let instances = instances["instances"].as_array().expect("a list");
    assert_eq!(instances.len(), 1, "one instance, however often it registered: {instances:?}");
    assert_eq!(instances[0]["endpoints"], json!(["rest://10.0.0.1:8080"]));
    assert_eq!(instances[0]["properties"]["management.port"], "8080");
    assert_eq!(instances[0]["status"], "UP");

    // Renewals, also of a client that has changed since.
    assert_eq!(
        send(client, "PUT", &format!("{path}?status=UP&lastDirtyTimestamp=9"), &Value::Null).await,
        200
    );
    is_answered(client, "PUT", &format!("{path}?status=UP&lastDirtyTimestamp=10"), 404).await;
    // An operator's status outlives the registrations of the instance, and its own one comes back.
    assert_eq!(send(client, "PUT", &format!("{path}/status?value=OUT_OF_SERVICE"), &Value::Null).await, 200);
    assert_eq!(send(client, "POST", "/eureka/apps/ORDERS", &body).await, 204);
    // The record of the override is written before the status, so a reader may see the record alone.
    let out = becomes(client, path, "status", "OUT_OF_SERVICE").await;
    assert_eq!(out["overriddenStatus"], "OUT_OF_SERVICE");
    assert_eq!(send(client, "DELETE", &format!("{path}/status"), &Value::Null).await, 200);
    becomes(client, path, "overriddenStatus", "UNKNOWN").await;
    becomes(client, path, "status", "UP").await;
    assert_eq!(send(client, "PUT", &format!("{path}/status?value=sleeping"), &Value::Null).await, 400);
    assert_eq!(send(client, "PUT", &format!("{path}/metadata?color=blue"), &Value::Null).await, 200);
    eventually("the metadata has one more", || async {
        (shown(client, path).await?["metadata"]["color"] == "blue").then_some(())
    })
    .await;

    // Another version of the same client is the same instance.
    let mut next = registration("Orders", "node-1:orders:8080", "UP", 11);
    next["instance"]["metadata"]["version"] = json!("1.3.0");
    assert_eq!(send(client, "POST", "/eureka/apps/ORDERS", &next).await, 204);
    let gone = format!("/microservices/{id}/instances");
    eventually("the earlier version has ended", || async {
        let left = client.call("GET", &gone, "", &Value::Null).await;
        let left: Value = serde_json::from_slice(&left.body).ok()?;
        left["instances"].as_array().is_none_or(Vec::is_empty).then_some(())
    })
    .await;
    becomes(client, path, "lastDirtyTimestamp", "11").await;
    assert_eq!(send(client, "DELETE", path, &Value::Null).await, 200);
    is_answered(client, "GET", path, 404).await;
    is_answered(client, "DELETE", path, 404).await;
    for (spoil, value) in [("app", json!("OTHER")), ("hostName", json!("")), ("dataCenterInfo", Value::Null)]
    {
        let mut bad = registration("Orders", "i", "UP", 1);
        bad["instance"][spoil] = value;
        assert_eq!(send(client, "POST", "/eureka/apps/ORDERS", &bad).await, 400, "{spoil}");
    }
    let mut large = registration("Orders", "i", "UP", 1);
    large["instance"]["metadata"]["a"] = json!("x".repeat(62 << 10));
    assert_eq!(
        send(client, "POST", "/eureka/apps/ORDERS", &large).await,
        400,
        "larger than the registry takes"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_never_becomes_an_instances_own() {
    let standalone = Standalone::start().await;
    let client = &standalone.client;
    let path = "/eureka/apps/ORDERS/o:1";
    let body = registration("orders", "o:1", "UP", 7);
    assert_eq!(send(client, "POST", "/eureka/apps/ORDERS", &body).await, 204);
    becomes(client, path, "status", "UP").await;
    let all = client.call("GET", "/microservices", "", &Value::Null).await.ok();
    let of_name = |service: &&Value| service["serviceName"] == "orders";
    let service = all["services"].as_array().expect("a list").iter().find(of_name).expect("is there");
    let wish = json!({
        "serviceId": service["serviceId"], "status": "OUTOFSERVICE", "metadata": { "color": "red" }, "reason": "hot",
    });
    let set = client.call("PUT", "/overrides", "", &wish).await.ok();
    becomes(client, path, "status", "OUT_OF_SERVICE").await;
    // Every write of a client of Eureka: its registration anew, metadata, and a status that is taken back.
    assert_eq!(
        send(client, "POST", "/eureka/apps/ORDERS", &registration("orders", "o:1", "UP", 8)).await,
        204
    );
    assert_eq!(send(client, "PUT", &format!("{path}/metadata?size=5"), &Value::Null).await, 200);
    assert_eq!(send(client, "DELETE", &format!("{path}/status"), &Value::Null).await, 200);
    let id = set["overrideId"].as_str().expect("an id");
    client.call("DELETE", &format!("/overrides/{id}"), "", &Value::Null).await;
    let after = becomes(client, path, "status", "UP").await;
    assert_eq!((&after["metadata"]["size"], &after["metadata"]["color"]), (&json!("5"), &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn any_gateway_renews_what_another_has_registered() {
    let world = World::with().planes(2).gateways(2).start().await;
    let [one, other] = [0, 1].map(|n| Client::new(world.gateways[n].api));
    let body = registration("billing", "b:1", "UP", 7);
    assert_eq!(send(&one, "POST", &format!("{SHOP}/apps/BILLING"), &body).await, 204);
    let path = format!("{SHOP}/apps/BILLING/b:1");
    eventually("the other gateway renews it", || async {
        (send(&other, "PUT", &format!("{path}?lastDirtyTimestamp=7"), &Value::Null).await == 200)
            .then_some(())
    })
    .await;
    // A consumer of the registry finds it, and a client of Eureka finds the registry's.
    let consumer = one.service("cart").await;
    let found = one.find(&consumer, "billing", "").await.ok();
    assert_eq!(found["instances"][0]["endpoints"], json!(["rest://10.0.0.1:8080"]));
    let service = one.service("order").await;
    one.instance(&service, "i").await;
    let native = becomes(&other, &format!("{SHOP}/apps/order/i"), "status", "UP").await;
    assert_eq!((&native["ipAddr"], &native["port"]["$"]), (&json!("10.0.0.1"), &json!(80)));
    assert_eq!(send(&other, "DELETE", &path, &Value::Null).await, 200);
    is_answered(&one, "GET", &path, 404).await;
}

/// A login at a fleet, with headers for requests in JSON.
async fn with_login(client: &Client, method: &str, path: &str, login: &str, body: &Value) -> Option<u16> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let headers = [JSON[0], JSON[1], ("authorization", login)];
    Some(client.try_send(method, path, &headers, body).await?.status)
}

fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{name}:{password}").as_bytes()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_and_a_password_are_enough_at_a_guarded_fleet() {
    let keys = KeyFiles::new();
    let world = keys.guard(World::with().planes(2).gateways(2)).start().await;
    let [one, other] = [0, 1].map(|n| Client::new(world.gateways[n].api));
    let root = json!({"name": "root", "password": ROOT_PASSWORD}).to_string();
    let root = eventually("root logs in", || async {
        let answer = one.try_send("POST", "/v4/token", &[], root.clone()).await?;
        (answer.status == 200).then(|| format!("Bearer {}", answer.ok()["token"].as_str().expect("a token")))
    })
    .await;
    for (name, verbs) in [("app", json!(["*"])), ("reader", json!(["get"]))] {
        let perms = json!([{"resources": [{"type": "service"}], "verbs": verbs}]);
        for (path, body) in [
            ("/v4/roles", json!({"name": name, "perms": perms})),
            ("/v4/accounts", json!({"name": name, "password": ROOT_PASSWORD, "roles": [name]})),
        ] {
            assert_eq!(with_login(&one, "POST", path, &root, &body).await, Some(200), "{path} {name}");
        }
    }
    let [app, reader] = ["app", "reader"].map(|name| basic(name, ROOT_PASSWORD));
    let apps = format!("{SHOP}/apps/BILLING");
    let path = format!("{apps}/b:1");
    let body = registration("billing", "b:1", "UP", 7);
    eventually("the gateway knows the account", || async {
        (with_login(&one, "POST", &apps, &app, &body).await? == 204).then_some(())
    })
    .await;
    // Another gateway logs in for itself.
    eventually("the other gateway renews it", || async {
        (with_login(&other, "PUT", &format!("{path}?lastDirtyTimestamp=7"), &app, &Value::Null).await? == 200)
            .then_some(())
    })
    .await;
    for (method, path, login, body, expected) in [
        ("GET", &path, Some(&reader), &Value::Null, 200),
        ("GET", &path, Some(&root), &Value::Null, 200),
        ("POST", &apps, Some(&reader), &body, 403),
        ("DELETE", &path, Some(&reader), &Value::Null, 403),
        ("GET", &path, Some(&basic("reader", "Wrong_password1")), &Value::Null, 401),
        ("GET", &path, Some(&basic("nobody", ROOT_PASSWORD)), &Value::Null, 401),
        ("GET", &path, None, &Value::Null, 401),
    ] {
        let status = match login {
            Some(login) => with_login(&other, method, path, login, body).await,
            None => Some(send(&other, method, path, body).await),
        };
        assert_eq!(status, Some(expected), "{method} {path} {login:?}");
    }
    assert_eq!(with_login(&other, "DELETE", &path, &app, &Value::Null).await, Some(200));
}

/// Runs a program of `tests/eureka` to its end; each of its lines that begins with `want ` is a wish, which
/// `grant` fulfils.
async fn drive(mut command: Command, grant: impl AsyncFn(&str)) {
    let mut program = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("it is installed");
    let mut lines = BufReader::new(program.stdout.take().expect("its output")).lines();
    let running = async {
        while let Some(line) = lines.next_line().await.expect("text") {
            println!("{line}");
            if let Some(wish) = line.strip_prefix("want ") {
                grant(wish).await;
            }
        }
        program.wait().await.expect("it ends")
    };
    let status = tokio::time::timeout(PATIENCE, running).await.expect("in time");
    assert!(status.success(), "{status}");
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("eureka").join(name)
}

/// Adds and removes instances of the registry's own as a program wishes: `add SERVICE ID`, `remove SERVICE
/// ID`.
async fn grant(client: &Client, wish: &str) {
    let words: Vec<&str> = wish.split(' ').collect();
    let [act, service, id] = words[..] else { panic!("no wish: {wish}") };
    let service = client.service(service).await;
    match act {
        "add" => client.instance(&service, id).await,
        _ => client.unregister(&service, id).await,
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Python and a package of a registry; run by `cargo xtask eureka`"]
async fn py_eureka_client_is_at_home() {
    let standalone = Standalone::start().await;
    let mut command = Command::new(folder("python").join(".venv/bin/python"));
    command.arg("client.py").arg(format!("http://{}{SHOP}/", standalone.api)).current_dir(folder("python"));
    drive(command, async |wish| grant(&standalone.client, wish).await).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a JDK, Maven and packages of a registry; run by `cargo xtask eureka`"]
async fn netflix_client_agrees_about_every_hash() {
    java("netflix").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a JDK, Maven and packages of a registry; run by `cargo xtask eureka`"]
async fn spring_cloud_is_at_home() {
    java("spring").await;
}

async fn java(name: &str) {
    let standalone = Standalone::start().await;
    let mut command = Command::new("mvn");
    let url = format!("-Dexec.args=http://{}{SHOP}/", standalone.api);
    command.args(["-q", "-B", "compile", "exec:java", &url]).current_dir(folder(name));
    drive(command, async |wish| grant(&standalone.client, wish).await).await;
}
