//! Labels of roles: an account sees and changes the services that its labels cover, on every route.

use crate::probe::Probe;
use crate::session::{As, SERVICES, account, guarded, role, root};
use serde_json::{Value, json};

const REGISTRY: &str = "/v4/default/registry";

fn key(environment: &str) -> Value {
    json!({ "appId": "a", "serviceName": "rb", "alias": "shop:rb", "version": "1.0.0", "environment": environment })
}

/// A service of an environment with one instance: their ids.
async fn registered(who: &As<'_>, environment: &str) -> (String, String) {
    let service = who.send("POST", SERVICES, json!({ "service": key(environment) })).await.ok();
    let service = service["serviceId"].as_str().expect("an id").to_owned();
    let instance =
        json!({ "instance": { "hostName": "h", "endpoints": [format!("rest://{environment}:1")] } });
    let instance = who.send("POST", &format!("{SERVICES}/{service}/instances"), instance).await.ok();
    (service, instance["instanceId"].as_str().expect("an id").to_owned())
}

/// A registry, and an account that may do everything to services of production.
async fn prodder(probe: &Probe) -> As<'_> {
    let resource = json!({ "type": "service", "labels": { "environment": "production" } });
    role(probe, "prod", json!([{ "resources": [resource], "verbs": ["*"] }])).await;
    account(probe, "prodder", &["prod"]).await
}

#[tokio::test]
async fn a_registration_is_covered_by_its_labels() {
    let probe = guarded().await;
    let prodder = prodder(&probe).await;
    registered(&prodder, "production").await;
    let refusal = prodder.send("POST", SERVICES, json!({ "service": key("development") })).await;
    let detail = "role has no permissions[service:create] for labels \
                  [map[appId:a environment:development serviceName:rb]]";
    let expected = json!({ "errorCode": "403205", "errorMessage": "No permission(s)", "detail": detail });
    assert_eq!(refusal.refused("403205"), expected);
    probe.stop().await;
}

#[tokio::test]
async fn no_route_of_one_service_reaches_another_label() {
    let probe = guarded().await;
    let prodder = prodder(&probe).await;
    let (own, own_instance) = registered(&prodder, "production").await;
    let (other, instance) = registered(&root(&probe).await, "development").await;
    let paths = |service: &str, instance: &str| {
        let base = format!("{SERVICES}/{service}");
        [
            ("GET", base.clone(), Value::Null),
            ("PUT", format!("{base}/properties"), json!({ "properties": { "a": "b" } })),
            ("GET", format!("{base}/instances"), Value::Null),
            ("GET", format!("{base}/instances/{instance}"), Value::Null),
            ("PUT", format!("{base}/instances/{instance}/heartbeat"), Value::Null),
            ("PUT", format!("{base}/instances/{instance}/status?value=DOWN"), Value::Null),
            ("PUT", format!("{base}/instances/{instance}/properties"), json!({ "properties": {} })),
            ("GET", format!("{base}/tags"), Value::Null),
            ("POST", format!("{base}/tags"), json!({ "tags": { "a": "b" } })),
            ("GET", format!("{base}/rules"), Value::Null),
            ("GET", format!("{base}/providers"), Value::Null),
            ("GET", format!("{base}/consumers"), Value::Null),
            ("GET", format!("/v4/default/govern/microservices/{service}"), Value::Null),
            ("GET", format!("/registry/v3/microservices/{service}"), Value::Null),
            ("DELETE", format!("{base}/instances/{instance}"), Value::Null),
            ("DELETE", format!("{base}?force=true"), Value::Null),
        ]
    };
    for (method, path, body) in paths(&other, &instance) {
        let answer = prodder.send(method, &path, body).await;
        assert_eq!(answer.status, 403, "{method} {path}: {}", answer.text());
    }
    for (method, path, body) in paths(&own, &own_instance) {
        let answer = prodder.send(method, &path, body).await;
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
    }
    // Clients act on these two, so an account with some rights is told what it always was.
    prodder.get(&format!("{SERVICES}/nothing")).await.refused("400012");
    let missing = format!("{SERVICES}/nothing/instances/nothing/heartbeat");
    prodder.send("PUT", &missing, Value::Null).await.refused("400017");
    // A permission on services is none on schemas.
    prodder.get(&format!("{SERVICES}/{own}/schemas")).await.refused("403205");
    probe.stop().await;
}

#[tokio::test]
async fn a_find_is_covered_by_the_labels_it_names() {
    let probe = guarded().await;
    let prodder = prodder(&probe).await;
    let root = root(&probe).await;
    registered(&root, "production").await;
    registered(&root, "development").await;
    let find = async |who: &As<'_>, environment: &str, name: &str| {
        let path = format!("{REGISTRY}/instances?appId=a&serviceName={name}&version=0%2B&env={environment}");
        who.get(&path).await
    };
    assert!(find(&prodder, "production", "rb").await.text().contains("rest://production:1"));
    assert!(find(&prodder, "production", "shop:rb").await.text().contains("rest://production:1"));
    for name in ["rb", "shop:rb", "nothing"] {
        find(&prodder, "development", name).await.refused("403205");
    }
    // Without an environment the default one counts.
    find(&prodder, "", "rb").await.refused("403205");
    // A role for a name covers this name only. Another name of the same service is another name.
    let resource = json!({ "type": "service", "labels": { "serviceName": "rb" } });
    named_role(&probe, resource).await;
    let named = account(&probe, "named", &["named"]).await;
    find(&named, "development", "rb").await.ok();
    find(&named, "development", "shop:rb").await.refused("403205");
    let exists = |environment: &str| {
        format!(
            "{REGISTRY}/existence?type=microservice&appId=a&serviceName=rb&version=1.0.0&env={environment}"
        )
    };
    prodder.get(&exists("production")).await.ok();
    prodder.get(&exists("development")).await.refused("403205");
    probe.stop().await;
}

async fn named_role(probe: &Probe, resource: Value) {
    role(probe, "named", json!([{ "resources": [resource], "verbs": ["*"] }])).await;
}

#[tokio::test]
async fn one_element_out_of_reach_refuses_a_batch() {
    let probe = guarded().await;
    let prodder = prodder(&probe).await;
    let root = root(&probe).await;
    let (own, own_instance) = registered(&root, "production").await;
    let (other, other_instance) = registered(&root, "development").await;
    let element = |service: &str, instance: &str| json!({ "serviceId": service, "instanceId": instance });
    let provider = json!({ "appId": "a", "serviceName": "rb", "version": "0+" });
    let consumer = |environment: &str| json!({ "dependencies": [{ "consumer": key(environment), "providers": [provider] }] });
    let find = |environment: &str| {
        json!({ "services": [{ "service": { "appId": "a", "serviceName": "rb", "version": "0+",
            "environment": environment } }] })
    };
    let both = json!([element(&own, &own_instance), element(&other, &other_instance)]);
    let mine = json!([element(&own, &own_instance)]);
    let action = "instances/action?type=query";
    for (method, path, covered, refused) in [
        ("PUT", "heartbeats", json!({ "instances": mine }), json!({ "instances": both })),
        ("POST", action, find("production"), find("development")),
        (
            "POST",
            action,
            json!({ "instances": [{ "instance": element(&own, &own_instance) }] }),
            json!({ "instances": [{ "instance": element(&other, &other_instance) }] }),
        ),
        ("PUT", "dependencies", consumer("production"), consumer("development")),
        (
            "DELETE",
            "microservices",
            json!({ "serviceIds": [own], "force": true }),
            json!({ "serviceIds": [own, other], "force": true }),
        ),
    ] {
        let path = format!("{REGISTRY}/{path}");
        let answer = prodder.send(method, &path, refused).await;
        assert_eq!(answer.status, 403, "{method} {path}: {}", answer.text());
        let answer = prodder.send(method, &path, covered).await;
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
    }
    root.get(&format!("{SERVICES}/{other}")).await.ok();
    probe.stop().await;
}

#[tokio::test]
async fn lists_and_totals_leave_out_what_is_not_covered() {
    let probe = guarded().await;
    let prodder = prodder(&probe).await;
    let root = root(&probe).await;
    registered(&root, "production").await;
    let (_, hidden) = registered(&root, "development").await;
    for path in [
        SERVICES.to_owned(),
        "/registry/v3/microservices".to_owned(),
        "/v4/default/govern/microservices?options=all".to_owned(),
        "/v4/default/govern/relations".to_owned(),
        "/registry/v3/govern/services?options=all".to_owned(),
        "/registry/v3/govern/relation".to_owned(),
    ] {
        let answer = prodder.get(&path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let text = answer.text();
        assert!(!text.contains("\"development\"") && !text.contains(&hidden), "{path}: {text}");
    }
    let count = async |who: &As<'_>| {
        let statistics = who.get("/v4/default/govern/statistics?withShared=false").await.ok();
        statistics["statistics"]["instances"]["count"].as_u64()
    };
    let all = count(&root).await.expect("a count");
    let seen = count(&prodder).await.expect("a count");
    assert!(seen >= 1 && seen < all, "{seen} of {all}");
    // An account without any right on services sees none of it.
    role(&probe, "nothing", json!([])).await;
    let nothing = account(&probe, "nothing", &["nothing"]).await;
    let refusal = nothing.get(SERVICES).await.refused("403205");
    assert_eq!(refusal["detail"], "role has no any permissions");
    probe.stop().await;
}

#[tokio::test]
async fn a_path_that_no_route_has_is_told_to_accounts_only() {
    let probe = guarded().await;
    let prodder = prodder(&probe).await;
    let path = "/v4/default/registry/no-route";
    assert_eq!(prodder.get(path).await.status, 404);
    assert_eq!(prodder.send("POST", &format!("{REGISTRY}/existence"), Value::Null).await.status, 405);
    probe.send("GET", path, &[], String::new()).await.refused("401204");
    let header = prodder.header.clone().expect("a token");
    let twice = [("authorization", header.as_str()), ("authorization", header.as_str())];
    let refusal = probe.send("GET", SERVICES, &twice, String::new()).await.refused("401201");
    assert_eq!(refusal["detail"], "invalid auth header");
    probe.stop().await;
}
