//! Accounts, roles and logins, as a Service-Center with access control answered the same requests.

mod bodies;
mod locks;
mod roles;
mod tokens;

use crate::probe::{Answer, Probe};
use crate::session::{ACCOUNTS, PASSWORD, SERVICES, account, guarded, login, nobody, root, token, with};
use serde_json::{Value, json};

const NAME_RULE: &str = r"Regexp: ^[a-zA-Z0-9]*$|^[a-zA-Z0-9][a-zA-Z0-9_\\-.]*[a-zA-Z0-9]$}";

/// Asserts status, code, message and detail of a refusal; an empty detail is absent.
#[track_caller]
fn refused(answer: Answer, code: &str, message: &str, detail: &str) {
    let expected = match detail {
        "" => json!({ "errorCode": code, "errorMessage": message }),
        _ => json!({ "errorCode": code, "errorMessage": message, "detail": detail }),
    };
    assert_eq!(answer.clone().refused(code), expected, "{}", answer.text());
}

#[tokio::test]
async fn logins_are_answered_as_service_center_does() {
    let probe = guarded().await;
    let send = async |body: Value| nobody(&probe).send("POST", "/v4/token", body).await;
    let wrong = "User name or password is wrong";
    let text = send(json!({ "name": "root", "password": PASSWORD })).await.text();
    assert!(text.starts_with(r#"{"token":"ey"#) && text.ends_with(r#""}"#), "{text}");
    refused(login(&probe, "dev_account", PASSWORD).await, "401202", wrong, "");
    refused(login(&probe, "root", "Complicated_password").await, "401202", wrong, "");
    refused(send(json!({})).await, "401202", wrong, "");
    let not_json = probe.send("POST", "/v4/token", &[], "x".into()).await;
    assert_eq!(not_json.refused("400001")["errorMessage"], "Invalid parameter(s)");
    for (time, refusal) in [("10s", true), ("15m", false), ("25h", true), ("24h", false), ("x", true)] {
        let body = json!({ "name": "root", "password": PASSWORD, "tokenExpirationTime": time });
        let answer = send(body).await;
        if refusal {
            let detail = format!(
                "field 'Account.TokenExpirationTime' invalid value '{time}' does not match rule: \
                 {{Regexp: TokenExpirationTime}}"
            );
            refused(answer, "400001", "Invalid parameter(s)", &detail);
        } else {
            answer.ok();
        }
    }
    let long = probe.send("POST", "/v4/token", &[], format!("{{{}}}", " ".repeat(5000))).await;
    long.refused("400001");
    let unauthorized =
        async |header: &str| probe.send("GET", ACCOUNTS, &[("authorization", header)], String::new()).await;
    refused(nobody(&probe).get(ACCOUNTS).await, "401204", "No authorization header", "");
    refused(unauthorized("").await, "401204", "No authorization header", "");
    refused(unauthorized("x").await, "401201", "Request unauthorized", "invalid auth header");
    let detail = "token contains an invalid number of segments";
    refused(unauthorized("Bearer x").await, "401201", "Request unauthorized", detail);
    probe.stop().await;
}

#[tokio::test]
async fn accounts_are_answered_as_service_center_does() {
    let probe = guarded().await;
    let root = root(&probe).await;
    let create = async |body: Value| root.send("POST", ACCOUNTS, body).await;
    let dev_body = json!({ "name": "dev_account", "password": PASSWORD, "roles": ["developer"] });
    create(dev_body.clone()).await.empty();
    refused(create(dev_body).await, "409200", "account name is duplicated", "account is duplicated");
    let unknown_role = json!({ "name": "x1", "password": PASSWORD, "roles": ["nope"] });
    refused(create(unknown_role).await, "400202", "Account has invalid role(s)", "role not exist");
    let weak = create(json!({ "name": "x1", "password": "abc", "roles": ["developer"] })).await;
    let weak = weak.refused("400001").to_string();
    assert!(weak.contains("Regexp: password") && !weak.contains("abc"), "{weak}");
    let no_roles = format!(
        "field 'Account.Roles' invalid value '[]' does not match rule: {{Min: 1, Max: 5, {NAME_RULE}"
    );
    let answer = create(json!({ "name": "x1", "password": PASSWORD })).await;
    refused(answer, "400001", "Invalid parameter(s)", &no_roles);
    let answer = create(json!({ "name": "x 1", "password": PASSWORD, "roles": ["developer"] })).await;
    let detail = format!(
        "field 'Account.Name' invalid value 'x 1' does not match rule: {{Min: 1, Max: 64, {NAME_RULE}"
    );
    refused(answer, "400001", "Invalid parameter(s)", &detail);

    let shown = root.get("/v4/accounts/dev_account").await;
    let text = shown.text();
    let shown = shown.ok();
    let expected = format!(
        r#"{{"id":{},"name":"dev_account","roles":["developer"],"status":"active","createTime":{},"updateTime":{}}}"#,
        shown["id"], shown["createTime"], shown["updateTime"]
    );
    assert_eq!(text, expected);
    let not_exists = "account [nope] not exist";
    refused(root.get("/v4/accounts/nope").await, "400200", "Account not exists", not_exists);
    let all = root.get(ACCOUNTS).await;
    assert!(!all.text().contains("password"), "{}", all.text());
    let all = all.ok();
    assert_eq!((&all["total"], &all["data"][0]), (&json!(2), &shown));
    assert_eq!(all["data"][1]["name"], "root");

    let dev = with(&probe, &token(&probe, "dev_account", PASSWORD).await);
    let no_permission = "No permission(s)";
    let detail = |need: &str| format!("role has no permissions[{need}]");
    refused(dev.get(ACCOUNTS).await, "403205", no_permission, &detail("account:get"));
    let answer = dev.send("DELETE", "/v4/accounts/dev_account", Value::Null).await;
    refused(answer, "403205", no_permission, &detail("account:delete"));
    let built_in = ("403202", "Forbid to operate build-in account(s)", "root can not be operated");
    let answer = root.send("DELETE", "/v4/accounts/root", Value::Null).await;
    refused(answer, built_in.0, built_in.1, built_in.2);
    let answer = root.send("DELETE", "/v4/accounts/nope", Value::Null).await;
    refused(answer, "400200", "Account not exists", not_exists);

    let update = async |name: &str, body: Value| root.send("PUT", &format!("{ACCOUNTS}/{name}"), body).await;
    refused(update("root", json!({ "roles": ["admin"] })).await, built_in.0, built_in.1, built_in.2);
    update("dev_account", json!({ "roles": ["admin"] })).await.empty();
    dev.get(ACCOUNTS).await.ok();
    update("dev_account", json!({ "roles": ["developer"] })).await.empty();
    dev.get(ACCOUNTS).await.refused("403205");
    refused(update("dev_account", json!({})).await, "400001", "Invalid parameter(s)", &no_roles);
    let answer = update("nope", json!({ "roles": ["admin"] })).await;
    refused(answer, "400200", "Account not exists", not_exists);
    let answer = update("dev_account", json!({ "roles": ["nope"] })).await;
    refused(answer, "400202", "Account has invalid role(s)", "role not exist");

    let admin = account(&probe, "second_admin", &["admin"]).await;
    let own = ("403204", "Forbid to operate your own account", "your account can not be operated");
    let answer = admin.send("DELETE", "/v4/accounts/second_admin", Value::Null).await;
    refused(answer, own.0, own.1, own.2);
    let answer = admin.send("PUT", "/v4/accounts/second_admin", json!({ "roles": ["developer"] })).await;
    refused(answer, own.0, own.1, own.2);
    probe.stop().await;
}

#[tokio::test]
async fn a_batch_answers_for_each_of_its_accounts() {
    let probe = guarded().await;
    let root = root(&probe).await;
    let batch = async |accounts: Value| {
        root.send("POST", "/v4/accounts/batch-create", json!({ "accounts": accounts })).await
    };
    let answer = batch(json!([
        { "name": "b1", "password": PASSWORD, "roles": ["developer"] },
        { "name": "b2", "roles": ["developer"] },
        { "name": "b3", "password": "x", "roles": ["developer"] },
        { "name": "root", "password": PASSWORD, "roles": ["x"] },
    ]))
    .await
    .ok();
    let accounts = &answer["accounts"];
    assert_eq!(accounts[0], json!({ "name": "b1" }));
    let made = accounts[1]["password"].as_str().expect("the password that was made");
    token(&probe, "b2", made).await;
    assert_eq!((&accounts[2]["name"], &accounts[2]["errorCode"]), (&json!("b3"), &json!("400001")));
    let unknown = json!({ "name": "root", "errorCode": "400202", "errorMessage": "Account has invalid role(s)",
        "detail": "role not exist" });
    assert_eq!(accounts[3], unknown);
    let detail = "field 'BatchCreateAccountsRequest.Accounts' invalid value '[]' does not match rule: {Min: 1, Max: 20}";
    refused(batch(json!([])).await, "400001", "Invalid parameter(s)", detail);
    batch(json!(vec![json!({ "name": "b1" }); 21])).await.refused("400001");
    probe.stop().await;
}

#[tokio::test]
async fn an_account_is_bound_to_its_tenants() {
    let probe = guarded().await;
    let root = root(&probe).await;
    let body =
        json!({ "name": "bound", "password": PASSWORD, "roles": ["admin"], "tenants": ["default/other"] });
    root.send("POST", ACCOUNTS, body).await.empty();
    let bound = with(&probe, &token(&probe, "bound", PASSWORD).await);
    bound.get(SERVICES).await.refused("403205");
    bound.get("/v4/other/registry/microservices").await.ok();
    // An administrator of one tenant does not become one of all.
    let change = json!({ "password": "Complicated_password9" });
    bound.send("POST", "/v4/accounts/root/password", change).await.refused("403205");
    bound.get(ACCOUNTS).await.refused("403205");
    assert_eq!(root.get("/v4/accounts/bound").await.ok()["tenants"], json!(["default/other"]));
    root.send("PUT", "/v4/accounts/bound", json!({ "tenants": ["default"] })).await.refused("400001");
    root.send("PUT", "/v4/accounts/bound", json!({ "tenants": [] })).await.empty();
    bound.get(SERVICES).await.ok();
    probe.stop().await;
}

#[tokio::test]
async fn without_access_control_there_are_no_accounts() {
    let probe = Probe::start().await;
    for (method, path) in [("POST", "/v4/token"), ("GET", ACCOUNTS), ("GET", "/.well-known/jwks.json")] {
        assert_eq!(probe.send(method, path, &[], "{}".into()).await.status, 404, "{path}");
    }
    probe.stop().await;
}
