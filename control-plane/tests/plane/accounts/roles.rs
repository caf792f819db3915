//! Roles, and the limits of how many roles and accounts there are.

use serde_json::{Value, json};

use super::refused;
use crate::session::{
    ACCOUNTS, PASSWORD, ROLES, SERVICES, account, guarded, guarded_with, nobody, role, root,
};

#[tokio::test]
async fn roles_are_answered_as_service_center_does() {
    let probe = guarded().await;
    let root = root(&probe).await;
    let dev = account(&probe, "dev_account", &["developer"]).await;
    let all_but = r#"{"type":"governance"},{"type":"ops"},{"type":"service/schema"}],"verbs":["*"]}]"#;
    let admin_perms = format!(
        r#""perms":[{{"resources":[{{"type":"account"}},{{"type":"config"}},{{"type":"role"}},{{"type":"service"}},{all_but}"#
    );
    assert_eq!(root.get("/v4/self-perms").await.text(), format!("{{{admin_perms}}}"));
    let dev_perms =
        format!(r#"{{"perms":[{{"resources":[{{"type":"config"}},{{"type":"service"}},{all_but}}}"#);
    assert_eq!(dev.get("/v4/self-perms").await.text(), dev_perms);
    nobody(&probe).get("/v4/self-perms").await.refused("401204");
    let all = root.get(ROLES).await.ok();
    assert_eq!((&all["total"], &all["data"][1]["name"]), (&json!(2), &json!("developer")));
    let one = root.get("/v4/roles/admin").await;
    let text = one.text();
    let one = one.ok();
    let times = format!(r#""createTime":{},"updateTime":{}}}"#, one["createTime"], one["updateTime"]);
    assert_eq!(text, format!(r#"{{"id":{},"name":"admin",{admin_perms},{times}"#, one["id"]));
    assert_eq!(all["data"][0], one);
    dev.get(ROLES).await.refused("403205");
    refused(root.get("/v4/roles/nope").await, "400201", "Role not exists", "");

    let create = async |body: Value| root.send("POST", ROLES, body).await;
    let some = |kind: &str, verbs: &[&str]| json!([{ "resources": [{ "type": kind }], "verbs": verbs }]);
    create(json!({ "name": "tester", "perms": some("service", &["get", "create", "update"]) })).await.empty();
    let again = create(json!({ "name": "tester", "perms": some("service", &["get"]) })).await;
    refused(again, "409201", "role name is duplicated", "role is duplicated");
    create(json!({ "name": "t3", "perms": some("service", &["fly"]) })).await.empty();
    create(json!({ "name": "t3" })).await.refused("409201");
    create(json!({ "name": "t3", "perms": some("nope", &["get"]) })).await.refused("409201");
    create(json!({ "name": "tester2", "perms": some("rule", &["*"]) })).await.empty();
    create(json!({ "name": "a/b", "perms": some("rule", &["*"]) })).await.refused("400001");
    let huge = vec![some("service", &["get"])[0].clone(); 2000];
    create(json!({ "name": "huge", "perms": huge })).await.refused("400001");
    let update = async |name: &str, perms: Value| {
        root.send("PUT", &format!("{ROLES}/{name}"), json!({ "name": name, "perms": perms })).await
    };
    update("tester", some("service", &["get", "create"])).await.empty();
    let tester = root.get("/v4/roles/tester").await.ok();
    assert_eq!(tester["perms"], some("service", &["get", "create"]));
    let built_in = ("403203", "Forbid to operate build-in role(s)", "build-in role can not be operated");
    refused(update("admin", json!([])).await, built_in.0, built_in.1, built_in.2);
    refused(update("nope", some("service", &["get"])).await, "400201", "Role not exists", "");
    let delete = async |name: &str| root.send("DELETE", &format!("{ROLES}/{name}"), Value::Null).await;
    refused(delete("admin").await, built_in.0, built_in.1, built_in.2);
    refused(delete("nope").await, "400201", "Role not exists", "");

    let tester = account(&probe, "dev_test2", &["tester", "tester2"]).await;
    refused(delete("tester").await, "400205", "Role is bound to some user(s)", "");
    tester.get(SERVICES).await.ok();
    let registered = json!({ "service": { "appId": "a", "serviceName": "rb", "version": "1.0.0" } });
    tester.send("POST", SERVICES, registered).await.ok();
    let detail = "role has no permissions[ops:get]";
    refused(tester.get("/v4/default/admin/dump").await, "403205", "No permission(s)", detail);
    tester.get("/v4/default/registry/health").await.ok();
    root.send("DELETE", "/v4/accounts/dev_test2", Value::Null).await.empty();
    let deleted = "The account that owns the token is deleted";
    refused(tester.get(SERVICES).await, "401206", deleted, "account [dev_test2] is deleted");
    delete("tester").await.empty();
    probe.stop().await;
}

#[tokio::test]
async fn a_role_is_given_or_deleted_and_never_both() {
    let probe = guarded().await;
    let root = root(&probe).await;
    for round in 0..8 {
        role(&probe, "racer", json!([])).await;
        let name = format!("racer{round}");
        let body = json!({ "name": name, "password": PASSWORD, "roles": ["racer"] });
        let (given, deleted) = tokio::join!(
            root.send("POST", ACCOUNTS, body),
            root.send("DELETE", "/v4/roles/racer", Value::Null)
        );
        assert_ne!(given.status == 200, deleted.status == 200, "{} {}", given.text(), deleted.text());
        if given.status == 200 {
            root.send("DELETE", &format!("{ACCOUNTS}/{name}"), Value::Null).await.empty();
            root.send("DELETE", "/v4/roles/racer", Value::Null).await.empty();
        }
    }
    probe.stop().await;
}

#[tokio::test]
async fn quotas_limit_accounts_and_roles() {
    let probe = guarded_with(&[("MUSTER_QUOTA_ACCOUNTS", "3"), ("MUSTER_QUOTA_ROLES", "4")]).await;
    let root = root(&probe).await;
    let count = async |path: &str, body: fn(usize) -> Value| {
        let all = (0..6).map(|number| root.send("POST", path, body(number)));
        let answers = futures_util::future::join_all(all).await;
        answers.iter().filter(|answer| answer.status == 200).count()
    };
    let accounts = count(
        ACCOUNTS,
        |number| json!({ "name": format!("a{number}"), "password": PASSWORD, "roles": ["developer"] }),
    );
    assert_eq!(accounts.await, 2);
    // Before anything else is looked at.
    root.send("POST", ACCOUNTS, json!({})).await.refused("400203");
    assert_eq!(count(ROLES, |number| json!({ "name": format!("r{number}") })).await, 2);
    root.send("POST", ROLES, json!({ "name": "one-more" })).await.refused("400204");
    probe.stop().await;
}
