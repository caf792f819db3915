//! Limits: each at its edge and one past it, and that a refusal changes nothing.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::Run;
use crate::script::full_path;
use crate::server::Server;

/// A field, the request that carries it (`$` stands for the value), a value at the edge, one past it.
struct Limit {
    field: &'static str,
    method: &'static str,
    path: &'static str,
    body: &'static str,
    edge: fn() -> String,
    past: fn() -> String,
}

macro_rules! limits {
    ($($field:literal $method:ident $path:literal $body:literal: $edge:expr, $past:expr;)*) => {
        const LIMITS: &[Limit] = &[$(Limit {
            field: $field, method: stringify!($method), path: $path, body: $body,
            edge: || $edge.to_string(), past: || $past.to_string(),
        }),*];
    };
}

fn a(times: usize) -> String {
    "a".repeat(times)
}

/// A list of so many texts, without the brackets.
fn many(times: usize, one: &str) -> String {
    vec![format!("\"{one}\""); times].join(",")
}

fn members(times: usize) -> String {
    (0..times).map(|n| format!("\"t{n}\":\"v\"")).collect::<Vec<_>>().join(",")
}

fn schemas(times: usize) -> String {
    let all = (0..times).map(|n| format!(r#"{{"schemaId":"s{n}","summary":"s","schema":"S"}}"#));
    all.collect::<Vec<_>>().join(",")
}

fn rules(times: usize) -> String {
    let all = (0..times).map(|n| format!(r#"{{"ruleType":"BLACK","attribute":"AppId","pattern":"p{n}"}}"#));
    all.collect::<Vec<_>>().join(",")
}

const EXISTS: &str = "/existence?type=microservice";

// In every request, `s` is a service that is there, and `i` its instance.
limits! {
    "appId" POST "/microservices" r#"{"service":{"serviceName":"x","appId":"$"}}"#: a(160), a(161);
    "serviceName" POST "/microservices" r#"{"service":{"serviceName":"$"}}"#: a(128), a(129);
    "serviceName, none" POST "/microservices" r#"{"service":{"serviceName":"$"}}"#: "a", "";
    "serviceName, ends" POST "/microservices" r#"{"service":{"serviceName":"$"}}"#: "a_-.b", "a_-.";
    "version, number" POST "/microservices" r#"{"service":{"serviceName":"x","version":"$"}}"#: "32767", "32768";
    "version, parts" POST "/microservices" r#"{"service":{"serviceName":"x","version":"$"}}"#: "1.2.3.4", "1.2.3.4.5";
    "version, length" POST "/microservices" r#"{"service":{"serviceName":"x","version":"$"}}"#: format!("{:064}", 1), format!("{:065}", 1);
    "environment" POST "/microservices" r#"{"service":{"serviceName":"x","environment":"$"}}"#: "acceptance", "staging";
    "description, in characters" POST "/microservices" r#"{"service":{"serviceName":"x","description":"$"}}"#: "é".repeat(256), "é".repeat(257);
    "level" POST "/microservices" r#"{"service":{"serviceName":"x","level":"$"}}"#: "FRONT", "TOP";
    "status of a service" POST "/microservices" r#"{"service":{"serviceName":"x","status":"$"}}"#: "DOWN", "AWAY";
    "serviceId" POST "/microservices" r#"{"service":{"serviceName":"x","serviceId":"$"}}"#: a(64), a(65);
    "serviceId, blank" POST "/microservices" r#"{"service":{"serviceName":"x","serviceId":"$"}}"#: "a:b", "a b";
    "schemas, number" POST "/microservices" r#"{"service":{"serviceName":"x","schemas":[$]}}"#: many(100, "s"), many(101, "s");
    "schemas, length" POST "/microservices" r#"{"service":{"serviceName":"x","schemas":["$"]}}"#: a(160), a(161);
    "paths" POST "/microservices" r#"{"service":{"serviceName":"x","paths":[{"path":"$"}]}}"#: "/a?b={c}&d=~", "/a b";
    "alias" POST "/microservices" r#"{"service":{"serviceName":"x","alias":"$"}}"#: a(128), a(129);
    "registerBy" POST "/microservices" r#"{"service":{"serviceName":"x","registerBy":"$"}}"#: "SIDECAR", "HAND";
    "framework.name" POST "/microservices" r#"{"service":{"serviceName":"x","framework":{"name":"$"}}}"#: a(64), a(65);
    "framework.version" POST "/microservices" r#"{"service":{"serviceName":"x","framework":{"version":"$"}}}"#: a(64), a(65);
    "instanceId" POST "/microservices/s/instances" r#"{"instance":{"hostName":"n","instanceId":"$"}}"#: a(64), a(65);
    "endpoints" POST "/microservices/s/instances" r#"{"instance":{"hostName":"n","endpoints":["$"]}}"#: "x", " ";
    "hostName" POST "/microservices/s/instances" r#"{"instance":{"hostName":"$"}}"#: a(64), a(65);
    "hostName, blank" POST "/microservices/s/instances" r#"{"instance":{"hostName":"$"}}"#: " a ", "  ";
    "status of an instance" POST "/microservices/s/instances" r#"{"instance":{"hostName":"n","status":"$"}}"#: "TESTING", "UNKNOWN";
    "healthCheck.mode" POST "/microservices/s/instances" r#"{"instance":{"hostName":"n","healthCheck":{"mode":"$","interval":1}}}"#: "push", "";
    "healthCheck.port" POST "/microservices/s/instances" r#"{"instance":{"hostName":"n","healthCheck":{"mode":"push","interval":1,"port":$}}}"#: 65535, 65536;
    "healthCheck.port, lowest" POST "/microservices/s/instances" r#"{"instance":{"hostName":"n","healthCheck":{"mode":"push","interval":1,"port":$}}}"#: 0, -1;
    "healthCheck.times, lowest" POST "/microservices/s/instances" r#"{"instance":{"hostName":"n","healthCheck":{"mode":"push","interval":1,"times":$}}}"#: 0, -1;
    "healthCheck.interval" POST "/microservices/s/instances" r#"{"instance":{"hostName":"n","healthCheck":{"mode":"pull","interval":$}}}"#: 1, 0;
    "healthCheck.interval, highest" POST "/microservices/s/instances" r#"{"instance":{"hostName":"n","healthCheck":{"mode":"pull","interval":$}}}"#: i32::MAX, 2_147_483_648_u32;
    "healthCheck.times" POST "/microservices/s/instances" r#"{"instance":{"hostName":"n","healthCheck":{"mode":"pull","interval":1,"times":$}}}"#: i32::MAX, 2_147_483_648_u32;
    "healthCheck.url" POST "/microservices/s/instances" r#"{"instance":{"hostName":"n","healthCheck":{"mode":"push","interval":1,"url":"$"}}}"#: "/a", "/a b";
    "dataCenterInfo" POST "/microservices/s/instances" r#"{"instance":{"hostName":"n","dataCenterInfo":{"name":"$","region":"r","availableZone":"z"}}}"#: a(128), a(129);
    "dataCenterInfo, empty" POST "/microservices/s/instances" r#"{"instance":{"hostName":"n","dataCenterInfo":{"name":"n","region":"$","availableZone":"z"}}}"#: "r", "";
    "status of an instance, changed" PUT "/microservices/s/instances/i/status?value=$" "": "OUTOFSERVICE", "UNKNOWN";
    "status of an instance, none" PUT "/microservices/s/instances/i/status?value=$" "": "UP", "";
    "instanceId of a path" PUT "/microservices/s/instances/$/heartbeat" "": "i", "i:";
    "appId, ends" POST "/microservices" r#"{"service":{"serviceName":"x","appId":"$"}}"#: "a_-.b", "_a";
    "alias, form" POST "/microservices" r#"{"service":{"serviceName":"x","alias":"$"}}"#: "-a:b_.", "a/b";
    "registerBy, length" POST "/microservices" r#"{"service":{"serviceName":"x","registerBy":"$"}}"#: "SDK".repeat(21), "SDK".repeat(22);
    "framework.name, form" POST "/microservices" r#"{"service":{"serviceName":"x","framework":{"name":"$"}}}"#: "go-chassis", "go chassis";
    "instance registration, bytes" POST "/microservices/s/instances" r#"{"instance":{"hostName":"n","properties":{"p":"$"}}}"#: a(5120 - 51), a(5120 - 50);
    "properties of a service, bytes" PUT "/microservices/s/properties" r#"{"properties":{"p":"$"}}"#: a(3072 - 23), a(3072 - 22);
    "properties of an instance, bytes" PUT "/microservices/s/instances/i/properties" r#"{"properties":{"p":"$"}}"#: a(3072 - 23), a(3072 - 22);
    "schema, bytes" PUT "/microservices/s/schemas/x" r#"{"schema":"$"}"#: a(1_500_000), a(1_600_000);
    "a service's record, bytes" POST "/microservices" r#"{"service":{"serviceName":"x","properties":{"p":"$"}}}"#: a(1_500_000), a(1_600_000);
    "any body, bytes" PUT "/heartbeats" r#"{"instances":[{"serviceId":"$"}]}"#: a((2 << 20) - 32), a((2 << 20) - 31);
    "tag" POST "/microservices/s/tags" r#"{"tags":{"k":"$"}}"#: a(64), a(65);
    "tag, key" POST "/microservices/s/tags" r#"{"tags":{"$":"v"}}"#: a(64), a(65);
    "tag, form" POST "/microservices/s/tags" r#"{"tags":{"k":"$"}}"#: "a1_-.", "1a";
    "schemaId, ends" PUT "/microservices/s/schemas/$" r#"{"schema":"S"}"#: "a_-.b", "a.";
    "summary, form" PUT "/microservices/s/schemas/x" r#"{"schema":"S","summary":"$"}"#: "aB0", "a-b";
    "appId of a dependency's consumer" POST "/dependencies" r#"{"dependencies":[{"consumer":{"appId":"$","serviceName":"s","version":"0.0.1"},"providers":[{"serviceName":"p","version":"1+"}]}]}"#: "default", "";
    "name of a dependency's consumer" POST "/dependencies" r#"{"dependencies":[{"consumer":{"appId":"default","serviceName":"$","version":"0.0.1"},"providers":[{"serviceName":"p","version":"1+"}]}]}"#: "s", "";
    "version of a dependency's consumer" POST "/dependencies" r#"{"dependencies":[{"consumer":{"appId":"default","serviceName":"s","version":"$"},"providers":[{"serviceName":"p","version":"1+"}]}]}"#: "0.0.1", "0.0.1+";
    "appId of a dependency's provider" POST "/dependencies" r#"{"dependencies":[{"consumer":{"appId":"default","serviceName":"s","version":"0.0.1"},"providers":[{"appId":"$","serviceName":"p","version":"1+"}]}]}"#: a(160), a(161);
    "name of a dependency's provider" POST "/dependencies" r#"{"dependencies":[{"consumer":{"appId":"default","serviceName":"s","version":"0.0.1"},"providers":[{"serviceName":"$","version":"1+"}]}]}"#: a(128), a(129);
    "version of a dependency's provider" POST "/dependencies" r#"{"dependencies":[{"consumer":{"appId":"default","serviceName":"s","version":"0.0.1"},"providers":[{"serviceName":"p","version":"$"}]}]}"#: "1.0-2.0", "1.0-x";
    "environment of a dependency's provider" POST "/dependencies" r#"{"dependencies":[{"consumer":{"appId":"default","serviceName":"s","version":"0.0.1"},"providers":[{"serviceName":"p","version":"1+","environment":"$"}]}]}"#: "testing", "prod";
    "schemaId" PUT "/microservices/s/schemas/$" r#"{"schema":"S"}"#: a(160), a(161);
    "schema" PUT "/microservices/s/schemas/x" r#"{"schema":"$"}"#: "S", "";
    "summary" PUT "/microservices/s/schemas/x" r#"{"schema":"S","summary":"$"}"#: a(128), a(129);
    "summary in a batch" POST "/microservices/s/schemas" r#"{"schemas":[{"schemaId":"x","schema":"S","summary":"$"}]}"#: a(128), "";
    "schemas in a batch" POST "/microservices/s/schemas" r#"{"schemas":[$]}"#: schemas(100), schemas(101);
    "ruleType" POST "/microservices/s/rules" r#"{"rules":[{"ruleType":"$","attribute":"AppId","pattern":"x"}]}"#: "WHITE", "white";
    "rule attribute" POST "/microservices/s/rules" r#"{"rules":[{"ruleType":"BLACK","attribute":"$","pattern":"x"}]}"#: format!("tag_{}", a(64)), format!("tag_{}", a(65));
    "rule pattern" POST "/microservices/s/rules" r#"{"rules":[{"ruleType":"BLACK","attribute":"AppId","pattern":"$"}]}"#: a(64), a(65);
    "rule description" POST "/microservices/s/rules" r#"{"rules":[{"ruleType":"BLACK","attribute":"AppId","pattern":"x","description":"$"}]}"#: a(256), a(257);
    "rules" POST "/microservices/s/rules" r#"{"rules":[$]}"#: rules(100), rules(101);
    "tags of a find" GET "/instances?appId=default&serviceName=s&version=0%2B&tags=$" "": a(64), a(65);
    "version of a find" GET "/instances?appId=default&serviceName=s&version=$" "": "0-1.2.3.4", "0-1.2.3.4.5";
    "version of a find, length" GET "/instances?appId=default&serviceName=s&version=$" "": format!("{:0128}%2B", 0), format!("{:0129}%2B", 0);
    "version of a find in a batch" POST "/instances/action?type=query" r#"{"services":[{"service":{"appId":"default","serviceName":"s","version":"0+"}},{"service":{"appId":"default","serviceName":"s","version":"$"}}]}"#: "0-1.2.3.4", "0-1.2.3.4.5";
    "environment of a find" GET "/instances?appId=default&serviceName=s&version=0%2B&env=$" "": "", "prod";
}

/// Requests that are refused as not found at the edge, and as malformed past it.
fn lookups() -> Vec<(String, String)> {
    vec![
        (
            format!("{EXISTS}&appId={}&serviceName=x&version=1", a(160)),
            format!("{EXISTS}&appId={}&serviceName=x&version=1", a(161)),
        ),
        (
            format!("{EXISTS}&appId=x&serviceName={}&version=1", a(289)),
            format!("{EXISTS}&appId=x&serviceName={}&version=1", a(290)),
        ),
        (
            format!("{EXISTS}&appId=x&serviceName=a:b&version=1"),
            format!("{EXISTS}&appId=x&serviceName=a/b&version=1"),
        ),
        (
            format!("/instances?appId=x&serviceName={}&version=1", a(289)),
            format!("/instances?appId=x&serviceName={}&version=1", a(290)),
        ),
        (format!("/microservices/{}", a(64)), format!("/microservices/{}", a(65))),
        (format!("/microservices/s/instances/{}", a(64)), format!("/microservices/s/instances/{}", a(65))),
        (format!("/microservices/s/schemas/{}", a(160)), format!("/microservices/s/schemas/{}", a(161))),
    ]
}

/// The cases of this room.
pub(crate) fn trials() -> Vec<(String, Run)> {
    let mut trials: Vec<(String, Run)> = Vec::new();
    for limit in LIMITS {
        trials.push((
            format!("{} is taken at its edge, refused past it", limit.field),
            Box::new(move |server| Box::pin(hold(server, limit))),
        ));
    }
    trials
        .push(("names are looked up to their edge".to_owned(), Box::new(|server| Box::pin(look_up(server)))));
    trials.push((
        "a service has at most sixty-four overrides".to_owned(),
        Box::new(|server| Box::pin(overrides(server))),
    ));
    trials.push((
        "a service has at most five hundred and twelve drains".to_owned(),
        Box::new(|server| Box::pin(drains(server))),
    ));
    trials.push((
        "a service has at most a hundred tags, and a request as many keys".to_owned(),
        Box::new(|server| Box::pin(tags(server))),
    ));
    trials.push((
        "a service has at most a hundred schemas and rules".to_owned(),
        Box::new(|server| Box::pin(one_too_many(server))),
    ));
    trials.push((
        "a consumer's id has at most 64 characters".to_owned(),
        Box::new(|server| Box::pin(consumer(server))),
    ));
    trials.push((
        "bytes that are no JSON are refused".to_owned(),
        Box::new(|server| Box::pin(no_json(server))),
    ));
    trials.push((
        "ten thousand elements are answered, each".to_owned(),
        Box::new(|server| Box::pin(ten_thousand(server))),
    ));
    trials.push((
        "a hundred dependencies are taken, not more".to_owned(),
        Box::new(|server| Box::pin(dependencies(server))),
    ));
    trials
}

/// A domain with the service `s` and its instance `i`.
struct Scene {
    server: Arc<Server>,
    domain: String,
}

impl Scene {
    async fn set(server: Arc<Server>) -> Result<Self, String> {
        let domain = server.domain();
        let scene = Self { server, domain };
        let body = json!({"service": {"serviceId": "s", "serviceName": "s"}, "instances": [{"instanceId": "i", "hostName": "n"}]});
        scene.send("POST", "/microservices", body.to_string()).await?;
        Ok(scene)
    }

    /// Status and code of the answer, and the answer.
    async fn send(
        &self,
        method: &str,
        path: &str,
        body: impl Into<Vec<u8>>,
    ) -> Result<(u16, String, Value), String> {
        self.send_as(method, path, "", body).await
    }

    async fn send_as(
        &self,
        method: &str,
        path: &str,
        consumer: &str,
        body: impl Into<Vec<u8>>,
    ) -> Result<(u16, String, Value), String> {
        let headers = [("X-Domain-Name", self.domain.as_str()), ("X-ConsumerId", consumer)];
        let answer = self.server.send(method, &full_path(path), &headers, body.into()).await?;
        let json: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        Ok((answer.status, json["errorCode"].as_str().unwrap_or_default().to_owned(), json))
    }

    /// Everything that can be seen of the domain.
    async fn state(&self) -> Result<Value, String> {
        let everything = "@/v4/default/govern/microservices?options=all";
        let (_, _, all) = self.send("GET", everything, "").await?;
        Ok(json!([all, self.send("GET", "/microservices", "").await?.2]))
    }

    async fn refused(
        &self,
        code: &str,
        method: &str,
        path: &str,
        body: impl Into<Vec<u8>>,
    ) -> Result<(), String> {
        let (_, found, json) = self.send(method, path, body).await?;
        if found == code { Ok(()) } else { Err(format!("{method} {path}: expected {code}, answered {json}")) }
    }
}

async fn hold(server: Arc<Server>, limit: &Limit) -> Result<(), String> {
    let scene = Scene::set(server).await?;
    let method = limit.method;
    let before = scene.state().await?;
    let past = (limit.past)();
    scene.refused("400001", method, &limit.path.replace('$', &past), limit.body.replace('$', &past)).await?;
    if scene.state().await? != before {
        return Err("the refusal has changed something".into());
    }
    // The accepted value comes last, because it changes the state that the refusal is compared with.
    let edge = (limit.edge)();
    let (status, _, json) =
        scene.send(method, &limit.path.replace('$', &edge), limit.body.replace('$', &edge)).await?;
    if status == 200 { Ok(()) } else { Err(format!("at its edge it is refused: {json}")) }
}

async fn look_up(server: Arc<Server>) -> Result<(), String> {
    let scene = Scene::set(server).await?;
    for (edge, past) in lookups() {
        let (status, code, json) = scene.send("GET", &edge, "").await?;
        let absent = ["400012", "400016", "400017"].contains(&code.as_str());
        if status != 400 || !absent {
            return Err(format!("{edge}: {json}"));
        }
        scene.refused("400001", "GET", &past, "").await?;
    }
    Ok(())
}

async fn tags(server: Arc<Server>) -> Result<(), String> {
    let scene = Scene::set(server).await?;
    for (count, code) in [(100, ""), (101, "400001")] {
        let body = format!(r#"{{"tags":{{{}}}}}"#, members(count));
        scene.refused(code, "POST", "/microservices/s/tags", body).await?;
    }
    let keys: Vec<_> = (0..101).map(|n| format!("t{n}")).collect();
    scene.refused("400001", "DELETE", &format!("/microservices/s/tags/{}", keys.join(",")), "").await?;
    scene.refused("400001", "DELETE", &format!("/microservices/s/rules/{}", keys.join(",")), "").await?;
    let (_, _, json) = scene.send("GET", "/microservices/s/tags", "").await?;
    let count = json["tags"].as_object().map(serde_json::Map::len);
    if count == Some(100) { Ok(()) } else { Err(format!("{count:?} tags")) }
}

async fn overrides(server: Arc<Server>) -> Result<(), String> {
    let scene = Scene::set(server).await?;
    for n in 0..65 {
        let body = format!(r#"{{"serviceId":"s","zone":"z{n}","weight":1,"reason":"r"}}"#);
        scene.refused(if n < 64 { "" } else { "400100" }, "PUT", "/overrides", body).await?;
    }
    // Changing one of them is not one more.
    let again = r#"{"serviceId":"s","zone":"z5","weight":2,"reason":"r"}"#;
    scene.refused("", "PUT", "/overrides", again).await?;
    // A shift sets overrides, which count with the others.
    let shift = r#"{"from":{"serviceId":"s","zone":"a"},"to":{"serviceId":"s","zone":"b"},
        "steps":[{"toWeight":1,"seconds":60}],"reason":"r"}"#;
    scene.refused("400100", "POST", "/shifts", shift).await
}

async fn drains(server: Arc<Server>) -> Result<(), String> {
    let scene = Scene::set(server).await?;
    for n in 0..513 {
        let body = format!(r#"{{"instance":{{"hostName":"n","instanceId":"d{n}"}}}}"#);
        scene.refused("", "POST", "/microservices/s/instances", body).await?;
        let mark = format!("/microservices/s/instances/d{n}/drain");
        scene.refused(if n < 512 { "" } else { "400100" }, "PUT", &mark, "").await?;
    }
    // One that goes on is not one more, and one that ends makes room.
    scene.refused("", "PUT", "/microservices/s/instances/d5/drain", "").await?;
    scene.refused("", "DELETE", "/microservices/s/instances/d5/drain", "").await?;
    scene.refused("", "PUT", "/microservices/s/instances/d512/drain", "").await
}

async fn one_too_many(server: Arc<Server>) -> Result<(), String> {
    let scene = Scene::set(server).await?;
    scene
        .refused("", "POST", "/microservices/s/schemas", format!("{{\"schemas\":[{}]}}", schemas(100)))
        .await?;
    // Replacing one of a hundred schemas is not one more, so a service at its limit can still be changed.
    scene.refused("", "PUT", "/microservices/s/schemas/s5", r#"{"schema":"again"}"#).await?;
    scene.refused("400100", "PUT", "/microservices/s/schemas/more", r#"{"schema":"more"}"#).await?;
    scene.refused("", "POST", "/microservices/s/rules", format!("{{\"rules\":[{}]}}", rules(100))).await?;
    let more = r#"{"rules":[{"ruleType":"BLACK","attribute":"AppId","pattern":"more"}]}"#;
    scene.refused("400100", "POST", "/microservices/s/rules", more).await
}

async fn consumer(server: Arc<Server>) -> Result<(), String> {
    let scene = Scene::set(server).await?;
    for (length, expected) in [(64, "400012"), (65, "400001")] {
        let (_, code, _) = scene.send_as("GET", "/microservices/s/instances", &a(length), "").await?;
        if code != expected {
            return Err(format!("{length} characters: {code}"));
        }
    }
    Ok(())
}

async fn no_json(server: Arc<Server>) -> Result<(), String> {
    let scene = Scene::set(server).await?;
    let before = scene.state().await?;
    // Nesting this deep overflows the stack of a parser that does not limit it.
    let deep = format!("{{\"service\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let bodies: [&[u8]; 6] = [
        b"{\"service\":{\"serviceName\":\"\xff\xfe\"}}",
        b"\0",
        b"{",
        b"\xef\xbb\xbf{}",
        deep.as_bytes(),
        b"{\"service\":{\"serviceName\":\"\\ud800\"}}",
    ];
    for (method, path) in [
        ("POST", "/microservices"),
        ("DELETE", "/microservices"),
        ("PUT", "/microservices/s/properties"),
        ("POST", "/microservices/s/instances"),
        ("PUT", "/microservices/s/instances/i/properties"),
        ("PUT", "/microservices/s/schemas/x"),
        ("POST", "/microservices/s/schemas"),
        ("POST", "/microservices/s/tags"),
        ("POST", "/microservices/s/rules"),
        ("PUT", "/microservices/s/rules/x"),
        ("POST", "/dependencies"),
        ("PUT", "/dependencies"),
        ("PUT", "/heartbeats"),
        ("PUT", "/instances/status"),
        ("POST", "/instances/action?type=query"),
    ] {
        for body in bodies {
            scene.refused("400001", method, path, body).await?;
        }
    }
    scene.refused("400001", "GET", "/microservices/%ff", "").await?;
    if scene.state().await? == before { Ok(()) } else { Err("a refusal has changed something".into()) }
}

fn length(list: &Value) -> usize {
    list.as_array().map_or(0, Vec::len)
}

async fn ten_thousand(server: Arc<Server>) -> Result<(), String> {
    const MANY: usize = 10_000;
    let scene = Scene::set(server).await?;
    let beats: Vec<_> = (0..MANY)
        .map(|n| json!({"serviceId": "s", "instanceId": if n == 0 { "i".into() } else { format!("i{n}") }}))
        .collect();
    let (_, _, json) = scene.send("PUT", "/heartbeats", json!({ "instances": beats }).to_string()).await?;
    if length(&json["instances"]) != MANY || json["instances"][0].get("errMessage").is_some() {
        return Err(format!("heartbeats: {} answers", length(&json["instances"])));
    }
    let mut services = Vec::new();
    for n in 0..MANY {
        // Every other element fails, so a server that stops at the first failure is found out.
        let name = if n.is_multiple_of(2) { "s" } else { "nope" };
        services.push(json!({"service": {"appId": "default", "serviceName": name, "version": "0+"}}));
    }
    let instances: Vec<_> = beats.iter().map(|beat| json!({ "instance": beat })).collect();
    for consumer in ["", "s"] {
        let body = json!({ "services": services }).to_string();
        let (_, _, json) = scene.send_as("POST", "/instances/action?type=query", consumer, body).await?;
        let json = &json["services"];
        if length(&json["updated"]) != MANY / 2 || length(&json["failed"][0]["indexes"]) != MANY / 2 {
            return Err("services: not every element is answered".into());
        }
    }
    let (_, _, json) = scene
        .send("POST", "/instances/action?type=query", json!({ "instances": instances }).to_string())
        .await?;
    if length(&json["instances"]["failed"][0]["indexes"]) != MANY - 1 {
        return Err("instances: not every element is answered".into());
    }
    let ids: Vec<_> = (0..MANY).map(|n| format!("nobody-{n}")).collect();
    let (_, _, json) =
        scene.send("DELETE", "/microservices", json!({ "serviceIds": ids }).to_string()).await?;
    if length(&json["services"]) == MANY {
        Ok(())
    } else {
        Err("deletes: not every element is answered".into())
    }
}

async fn dependencies(server: Arc<Server>) -> Result<(), String> {
    let scene = Scene::set(server).await?;
    let one = json!({"consumer": {"appId": "default", "serviceName": "s", "version": "0.0.1"}, "providers": [{"serviceName": "p", "version": "1+"}]});
    for (count, code) in [(101, "400001"), (100, "")] {
        let body = json!({ "dependencies": vec![one.clone(); count] }).to_string();
        scene.refused(code, "POST", "/dependencies", body).await?;
    }
    Ok(())
}
