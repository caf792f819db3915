//! Accounts with few rights that reach for other tenants, and for services that their labels do not cover.

use futures_util::StreamExt as _;
use harness::deadline;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use super::*;

type Headers<'a> = Vec<(&'a str, &'a str)>;

#[tokio::test(flavor = "multi_thread")]
async fn an_account_stays_in_its_tenants() {
    let site = Site::start().await;
    let token = site.login("bound").await;
    let own = [("authorization", token.as_str()), ("x-domain-name", "a")];
    eventually("the account is known", || async {
        let answer =
            site.client.try_send("GET", "/v4/p1/registry/microservices", &own, String::new()).await?;
        (answer.status == 200).then_some(())
    })
    .await;
    let service = json!({"service": {"serviceName": "x", "appId": "shop", "version": "1.0.0"}}).to_string();
    let attacks: Vec<(&str, &str, &str, Headers<'_>, String)> = vec![
        ("the default tenant", "GET", LIST, vec![], String::new()),
        (
            "another domain",
            "GET",
            "/v4/p1/registry/microservices",
            vec![("x-domain-name", "b")],
            String::new(),
        ),
        (
            "a domain in capitals",
            "GET",
            "/v4/p1/registry/microservices",
            vec![("x-domain-name", "A")],
            String::new(),
        ),
        (
            "another project",
            "GET",
            "/v4/q/registry/microservices",
            vec![("x-domain-name", "a")],
            String::new(),
        ),
        (
            "an encoded project",
            "GET",
            "/v4/%71/registry/microservices",
            vec![("x-domain-name", "a")],
            String::new(),
        ),
        ("writing elsewhere", "POST", LIST, vec![], service.clone()),
        ("deleting elsewhere", "DELETE", "/v4/default/registry/microservices/x", vec![], String::new()),
        (
            "v3, where another header counts",
            "GET",
            "/registry/v3/microservices",
            vec![("x-domain-name", "a"), ("x-tenant-name", "b")],
            String::new(),
        ),
        (
            "v3 without a project",
            "GET",
            "/registry/v3/microservices",
            vec![("x-tenant-name", "a")],
            String::new(),
        ),
        ("the dashboard of another", "GET", "/v4/default/govern/microservices", vec![], String::new()),
        ("the dump of all tenants", "GET", "/v4/p1/admin/dump", vec![("x-domain-name", "a")], String::new()),
        (
            "the addresses of the store",
            "GET",
            "/v4/p1/admin/clusters",
            vec![("x-domain-name", "a")],
            String::new(),
        ),
        (
            "heartbeats elsewhere",
            "PUT",
            "/v4/default/registry/heartbeats",
            vec![],
            "{\"instances\":[]}".into(),
        ),
        ("a watch elsewhere", "GET", "/v4/default/registry/microservices/x/watcher", vec![], String::new()),
        (
            "a header that claims another account",
            "GET",
            LIST,
            vec![("x-account", "root"), ("x-forwarded-user", "root")],
            String::new(),
        ),
    ];
    for (attack, method, path, more, body) in attacks {
        let mut headers = vec![("authorization", token.as_str())];
        headers.extend(more);
        if path.ends_with("/watcher") {
            headers.extend(UPGRADE);
        }
        let answer = site.client.try_send(method, path, &headers, body).await.expect("an answer");
        assert_eq!(answer.status, 403, "{attack}: {}", answer.text());
    }
    // No tenant has such a name, so there is nothing to be kept from.
    let slash = "/v4/p1%2F..%2Fq/registry/microservices";
    let answer = site.client.try_send("GET", slash, &own, String::new()).await.expect("an answer");
    assert_eq!(answer.status, 400, "a slash in the project: {}", answer.text());
    // The tenant of a body's key does not count: the declaration stays in the caller's tenant.
    let key =
        |tenant: &str| json!({"tenant": tenant, "appId": "shop", "serviceName": "x", "version": "1.0.0"});
    let body = json!({"dependencies": [{"consumer": key("default/default"), "providers": [key("default/default")]}]});
    let answer = site.client.try_send("PUT", "/v4/p1/registry/dependencies", &own, body.to_string()).await;
    assert_ne!(answer.expect("an answer").status, 200, "a consumer of another tenant");
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_hold_on_every_way_to_a_service() {
    let site = Site::start().await;
    let own = site.service("production", "shop-1", "order").await;
    let foreign = site.service("development", "shop-1", "order").await;
    let other_app = site.service("production", "bank", "account").await;
    for (id, instance) in [(&own, "o"), (&foreign, "f"), (&other_app, "b")] {
        let body = json!({"instance": {"instanceId": instance, "hostName": "n", "endpoints": ["rest://10.0.0.1:80"]}});
        site.send("POST", &format!("{LIST}/{id}/instances"), &site.root, &body).await.ok();
    }
    let token = site.login("shopper").await;
    assert_eq!(site.get(&format!("{LIST}/{own}"), &token).await.status, 200);
    let register = |environment: &str, app: &str| json!({"service": {"serviceName": "new", "appId": app, "environment": environment, "version": "1.0.0"}});
    let beat = |id: &str, instance: &str| json!({"serviceId": id, "instanceId": instance});
    let find = |environment: &str, app: &str| json!({"service": {"environment": environment, "appId": app, "serviceName": "order", "version": "0+"}});
    let consumer = |app: &str| json!({"environment": "production", "appId": app, "serviceName": "account", "version": "1.0.0"});
    let base = "/v4/default/registry";
    let null = Value::Null;
    let attacks: Vec<(&str, &str, String, Value)> = vec![
        ("by id", "GET", format!("{LIST}/{foreign}"), null.clone()),
        ("another application by id", "GET", format!("{LIST}/{other_app}"), null.clone()),
        ("its instances", "GET", format!("{LIST}/{foreign}/instances"), null.clone()),
        ("one instance", "GET", format!("{LIST}/{foreign}/instances/f"), null.clone()),
        ("v3", "GET", format!("/registry/v3/microservices/{foreign}/instances"), null.clone()),
        ("the dashboard", "GET", format!("/v4/default/govern/microservices/{foreign}"), null.clone()),
        ("its schemas", "GET", format!("{LIST}/{foreign}/schemas"), null.clone()),
        ("its tags", "GET", format!("{LIST}/{foreign}/tags"), null.clone()),
        ("its rules", "GET", format!("{LIST}/{foreign}/rules"), null.clone()),
        ("its consumers", "GET", format!("{LIST}/{foreign}/consumers"), null.clone()),
        (
            "a find",
            "GET",
            format!("{base}/instances?appId=shop-1&serviceName=order&env=development&version=0%2B"),
            null.clone(),
        ),
        (
            "a find of another application",
            "GET",
            format!("{base}/instances?appId=bank&serviceName=account&env=production&version=0%2B"),
            null.clone(),
        ),
        (
            "a find that names a service too",
            "GET",
            format!(
                "{base}/instances?serviceId={foreign}&appId=shop-1&serviceName=order&env=production&version=0%2B"
            ),
            null.clone(),
        ),
        (
            "existence",
            "GET",
            format!(
                "{base}/existence?type=microservice&appId=bank&serviceName=account&env=production&version=0%2B"
            ),
            null.clone(),
        ),
        (
            "existence of a schema",
            "GET",
            format!("{base}/existence?type=schema&serviceId={foreign}&schemaId=s"),
            null.clone(),
        ),
        ("registering in another environment", "POST", LIST.into(), register("development", "shop-1")),
        ("registering in the default environment", "POST", LIST.into(), register("", "shop-1")),
        ("registering another application", "POST", LIST.into(), register("production", "bank")),
        (
            "registering an instance",
            "POST",
            format!("{LIST}/{foreign}/instances"),
            json!({"instance": {"hostName": "n", "endpoints": []}}),
        ),
        ("a heartbeat", "PUT", format!("{LIST}/{foreign}/instances/f/heartbeat"), null.clone()),
        (
            "a batch of heartbeats with one foreign",
            "PUT",
            format!("{base}/heartbeats"),
            json!({"instances": [beat(&own, "o"), beat(&foreign, "f")]}),
        ),
        ("its status", "PUT", format!("{LIST}/{foreign}/instances/f/status?value=DOWN"), null.clone()),
        ("its properties", "PUT", format!("{LIST}/{foreign}/properties"), json!({"properties": {}})),
        ("deleting", "DELETE", format!("{LIST}/{foreign}?force=1"), null.clone()),
        (
            "deleting many with one foreign",
            "DELETE",
            LIST.into(),
            json!({"serviceIds": [own.clone(), foreign.clone()], "force": true}),
        ),
        (
            "many finds with one foreign",
            "POST",
            format!("{base}/instances/action?type=query"),
            json!({"services": [find("production", "shop-1"), find("development", "shop-1")]}),
        ),
        (
            "many finds by instance",
            "POST",
            format!("{base}/instances/action?type=query"),
            json!({"instances": [{"instance": {"serviceId": foreign, "instanceId": "f"}}]}),
        ),
        (
            "declaring for another",
            "POST",
            format!("{base}/dependencies"),
            json!({"dependencies": [{"consumer": consumer("bank"), "providers": []}]}),
        ),
        ("accounts", "GET", "/v4/accounts".into(), null.clone()),
        ("roles", "POST", "/v4/roles".into(), json!({"name": "mine", "perms": []})),
        (
            "the password of another",
            "POST",
            "/v4/accounts/root/password".into(),
            json!({"password": "Complicated_password9"}),
        ),
        ("locks", "DELETE", "/v4/account-locks/root::127.0.0.1".into(), null.clone()),
        ("the dump", "GET", "/v4/default/admin/dump".into(), null.clone()),
    ];
    for (attack, method, path, body) in &attacks {
        let answer = site.send(method, path, &token, body).await;
        assert_eq!(answer.status, 403, "{attack}: {method} {path}: {}", answer.text());
    }
    // Nothing of it was done.
    for (id, instance) in [(&own, "o"), (&foreign, "f")] {
        let instance = site.get(&format!("{LIST}/{id}/instances/{instance}"), &site.root).await.ok();
        assert_eq!(instance["instance"]["status"], "UP");
    }
    // Lists show only what the labels cover.
    let listed = site.get(LIST, &token).await.ok();
    let listed: Vec<&str> = listed["services"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|service| service["serviceId"].as_str())
        .collect();
    assert_eq!(listed, [own.as_str()]);
    for path in [
        "/v4/default/govern/microservices?options=all",
        "/v4/default/govern/relations",
        "/v4/default/govern/apps?env=production",
    ] {
        let text = site.get(path, &token).await.text();
        assert!(!text.contains("bank") && !text.contains(&foreign), "{path}: {text}");
    }
    // An account with some right is told that a service does not exist, so that SDKs register again.
    let answer = site.get(&format!("{LIST}/gone"), &token).await;
    assert_eq!((answer.status, answer.text().contains("400012")), (400, true), "{}", answer.text());
    let answer = site.send("PUT", &format!("{LIST}/gone/instances/i/heartbeat"), &token, &Value::Null).await;
    assert_eq!((answer.status, answer.text().contains("400017")), (400, true), "{}", answer.text());
}

pub(super) const UPGRADE: [(&str, &str); 4] = [
    ("connection", "upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

#[tokio::test(flavor = "multi_thread")]
async fn watches_show_nothing_that_a_find_would_not() {
    let site = Site::start().await;
    let own = site.service("production", "shop-1", "order").await;
    let foreign = site.service("development", "shop-1", "order").await;
    let token = site.login("shopper").await;
    let nobody = site.login("nobody").await;
    let attacks: Vec<(&str, String, &str)> = vec![
        ("a consumer of another environment", format!("{LIST}/{foreign}/watcher"), &token),
        ("the same, resumable", format!("{LIST}/{foreign}/watcher?rev=0"), &token),
        (
            "a provider of another environment",
            format!("/v4/default/registry/watcher?providers={own},{foreign}&rev=0"),
            &token,
        ),
        ("v3", format!("/registry/v3/microservices/{foreign}/watcher"), &token),
        ("without any right", format!("{LIST}/{own}/watcher"), &nobody),
        (
            "server-sent events of another environment",
            format!("/v4/default/registry/events?providers={own},{foreign}"),
            &token,
        ),
        ("server-sent events without any right", "/v4/default/registry/events?all".to_owned(), &nobody),
        ("heartbeats of another", format!("{LIST}/{foreign}/instances/f/heartbeat"), &nobody),
    ];
    for (attack, path, token) in &attacks {
        let mut headers = vec![("authorization", *token)];
        headers.extend(UPGRADE);
        let answer = site.client.try_send("GET", path, &headers, String::new()).await.expect("an answer");
        assert_eq!(answer.status, 403, "{attack}: {}", answer.text());
    }
    let mut headers = vec![("authorization", token.as_str())];
    headers.extend(UPGRADE);
    let answer = site.client.try_send("GET", &format!("{LIST}/{own}/watcher"), &headers, String::new()).await;
    assert_eq!(answer.expect("an answer").status, 101, "its own");
    // A watch over everything is granted, and tells of what the labels cover.
    for terms in ["all", "app=shop-1"] {
        let url = format!("ws://{}/v4/default/registry/watcher?{terms}&rev=0", site.api);
        let mut request = url.into_client_request().expect("a request");
        request.headers_mut().insert("authorization", token.parse().expect("a value"));
        let (mut socket, _) = tokio_tungstenite::connect_async(request).await.expect("a watch is granted");
        for (service, instance) in [(&foreign, "hidden"), (&own, "shown")] {
            let instance = format!("{instance}-{}", terms.len());
            let body = json!({"instance": {"instanceId": instance, "hostName": "n", "endpoints": ["rest://10.0.0.1:80"]}});
            site.send("POST", &format!("{LIST}/{service}/instances"), &site.root, &body).await.ok();
        }
        let told = async {
            loop {
                let text = socket.next().await.expect("the watch goes on").expect("a frame").to_string();
                assert!(!text.contains("hidden") && !text.contains(&foreign), "{terms}: {text}");
                if text.contains(&format!("shown-{}", terms.len())) {
                    return;
                }
            }
        };
        tokio::time::timeout(deadline(), told).await.expect("its own change comes");
    }
}
