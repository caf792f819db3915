//! Accounts, roles and logins, as a Service-Center with access control answered the same requests.

mod probe;
mod session;

use access::keys::PublicKey;
use access::token::Verifier;
use probe::{Answer, Probe};
use proptest::prelude::*;
use serde_json::{Value, json};
use session::{
    ACCOUNTS, As, PASSWORD, ROLES, SERVICES, account, guarded, guarded_with, login, nobody, role, root,
    token, with,
};

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
async fn passwords_and_locks_are_those_of_service_center() {
    let probe = guarded().await;
    let root = root(&probe).await;
    let wrong = "User name or password is wrong";
    // The failures of the first two tests of the recorded session, whose locks are listed below.
    login(&probe, "dev_account", PASSWORD).await.refused("401202");
    login(&probe, "root", "Complicated_password").await.refused("401202");
    login(&probe, "", "").await.refused("401202");
    account(&probe, "dev_account", &["developer"]).await;
    let change = async |who: &As<'_>, name: &str, body: Value| {
        who.send("POST", &format!("{ACCOUNTS}/{name}/password"), body).await
    };
    let both = |current: &str, new: &str| json!({ "currentPassword": current, "password": new });
    let second = "Complicated_password2";
    change(&root, "dev_account", both(PASSWORD, second)).await.empty();
    refused(login(&probe, "dev_account", PASSWORD).await, "401202", wrong, "");
    let dev = with(&probe, &token(&probe, "dev_account", second).await);
    let answer = change(&root, "root", json!({ "password": second })).await;
    refused(answer, "400001", "Invalid parameter(s)", "current password should not be empty");
    let answer = change(&dev, "root", both(PASSWORD, second)).await;
    refused(answer, "403001", "Forbidden", "can not change other account password");
    let answer = change(&dev, "dev_account", both(PASSWORD, "Complicated_password3")).await;
    refused(answer, "401207", "Password is wrong", "");
    let answer = change(&dev, "dev_account", both(second, second)).await;
    refused(answer, "403201", "Account blocked", "");
    let answer = change(&root, "nope", json!({ "password": second })).await;
    refused(answer, "400200", "Account not exists", "account [nope] not exist");

    let locks = root.get("/v4/account-locks").await;
    let text = locks.text();
    let locks = locks.ok();
    let ends: Vec<&Value> = (0..3).map(|index| &locks["data"][index]["releaseAt"]).collect();
    let expected = format!(
        r#"{{"total":3,"data":[{{"key":"::127.0.0.1","status":"attempted","releaseAt":{}}},{{"key":"dev_account::127.0.0.1","status":"banned","releaseAt":{}}},{{"key":"root::127.0.0.1","status":"attempted","releaseAt":{}}}]}}"#,
        ends[0], ends[1], ends[2]
    );
    assert_eq!(text, expected);
    dev.get("/v4/account-locks").await.refused("403205");
    refused(login(&probe, "dev_account", second).await, "403201", "Account blocked", "");

    account(&probe, "b1", &["developer"]).await;
    for _ in 0..3 {
        refused(login(&probe, "b1", "Complicated_passwordX").await, "401202", wrong, "");
    }
    refused(login(&probe, "b1", "Complicated_passwordX").await, "403201", "Account blocked", "");
    refused(login(&probe, "b1", PASSWORD).await, "403201", "Account blocked", "");
    assert_eq!(root.get("/v4/account-locks").await.ok()["total"], 4);
    // Another address of the same account is not touched.
    let body = json!({ "name": "b1", "password": PASSWORD }).to_string();
    probe.send("POST", "/v4/token", &[("x-forwarded-for", "192.0.2.1")], body).await.ok();
    // An operator ends the lock.
    root.send("DELETE", "/v4/account-locks/b1::127.0.0.1", Value::Null).await.empty();
    login(&probe, "b1", PASSWORD).await.ok();
    root.send("DELETE", "/v4/account-locks/b1::127.0.0.1", Value::Null).await.refused("400001");
    probe.stop().await;
}

#[tokio::test]
async fn an_address_that_tries_many_accounts_is_locked() {
    let probe = guarded().await;
    let root = root(&probe).await;
    let from = async |address: &str, name: &str, password: &str| {
        let body = json!({ "name": name, "password": password }).to_string();
        probe.send("POST", "/v4/token", &[("x-forwarded-for", address)], body).await
    };
    for number in 0..20 {
        from("198.51.100.1", &format!("name{number}"), "x").await.refused("401202");
    }
    from("198.51.100.1", "root", PASSWORD).await.refused("403201");
    from("198.51.100.2", "root", PASSWORD).await.ok();
    let locks = root.get("/v4/account-locks").await.ok();
    assert_eq!(
        (&locks["data"][0]["key"], &locks["data"][0]["status"]),
        (&json!("*::198.51.100.1"), &json!("banned"))
    );
    root.send("DELETE", "/v4/account-locks/*::198.51.100.1", Value::Null).await.empty();
    from("198.51.100.1", "root", PASSWORD).await.ok();
    // Texts that cannot be names share one key.
    for name in ["a/b", "\u{0}", "é", ".."] {
        assert_ne!(from("198.51.100.3", name, "x").await.status, 200);
    }
    let locks = root.get("/v4/account-locks").await.text();
    assert!(locks.contains(r#""::198.51.100.3","status":"banned""#) && !locks.contains("a/b"), "{locks}");
    probe.stop().await;
}

#[tokio::test]
async fn a_crowd_of_addresses_locks_an_account_for_new_ones() {
    let probe = guarded().await;
    let root = root(&probe).await;
    account(&probe, "b1", &["developer"]).await;
    let from = async |address: &str, name: &str, password: &str| {
        let body = json!({ "name": name, "password": password }).to_string();
        probe.send("POST", "/v4/token", &[("x-forwarded-for", address)], body).await
    };
    from("192.0.2.1", "b1", PASSWORD).await.ok();
    for name in ["b1", "ghost"] {
        for failure in 0..100 {
            from(&format!("198.51.{}.1", failure / 3), name, "x").await.refused("401202");
        }
        // A name that no account has is refused alike.
        from("203.0.113.1", name, PASSWORD).await.refused("403201");
    }
    from("192.0.2.1", "b1", PASSWORD).await.ok();
    from("203.0.113.1", "root", PASSWORD).await.ok();
    let locks = root.get("/v4/account-locks").await.text();
    assert!(locks.contains(r#""key":"b1::*","status":"banned""#), "{locks}");
    root.send("DELETE", "/v4/account-locks/b1::*", Value::Null).await.empty();
    from("203.0.113.1", "b1", PASSWORD).await.ok();
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
async fn a_reset_ends_earlier_tokens_and_no_later_one() {
    let probe = guarded().await;
    let root = root(&probe).await;
    let mut current = PASSWORD.to_owned();
    let mut before = account(&probe, "peter", &["developer"]).await;
    before.get(SERVICES).await.ok();
    // Several in the same second: each token lives exactly until the next reset.
    for round in 2..5 {
        let new = format!("Complicated_password{round}");
        let body = json!({ "currentPassword": current, "password": new });
        before.send("POST", "/v4/accounts/peter/password", body).await.empty();
        before.get(SERVICES).await.refused("401201");
        let after = with(&probe, &token(&probe, "peter", &new).await);
        after.get(SERVICES).await.ok();
        root.send("DELETE", "/v4/accounts/peter/sessions", Value::Null).await.empty();
        after.get(SERVICES).await.refused("401201");
        before = with(&probe, &token(&probe, "peter", &new).await);
        before.get(SERVICES).await.ok();
        current = new;
    }
    let state = async |status: &str| {
        root.send("PUT", "/v4/accounts/peter", json!({ "status": status })).await.empty();
    };
    state("inactive").await;
    before.get(SERVICES).await.refused("401201");
    let refusal = login(&probe, "peter", &current).await.refused("401202");
    assert_eq!(refusal["detail"], "the account is not active");
    state("active").await;
    before.get(SERVICES).await.refused("401201");
    token(&probe, "peter", &current).await;
    // Another account of the same name does not inherit the tokens of the first.
    let old = with(&probe, &token(&probe, "peter", &current).await);
    root.send("DELETE", "/v4/accounts/peter", Value::Null).await.empty();
    let new = account(&probe, "peter", &["developer"]).await;
    old.get(SERVICES).await.refused("401201");
    new.get(SERVICES).await.ok();
    probe.stop().await;
}

#[tokio::test]
async fn a_logout_ends_one_token() {
    let probe = guarded().await;
    let one = root(&probe).await;
    let other = root(&probe).await;
    one.send("DELETE", "/v4/token", Value::Null).await.empty();
    let refusal = one.get(SERVICES).await.refused("401201");
    assert_eq!(refusal["detail"], "the token is revoked");
    other.get(SERVICES).await.ok();
    nobody(&probe).send("DELETE", "/v4/token", Value::Null).await.refused("401204");
    probe.stop().await;
}

#[tokio::test]
async fn a_long_lived_token_counts_while_its_record_exists() {
    let probe = guarded().await;
    let root = root(&probe).await;
    account(&probe, "robot", &["developer"]).await;
    let tokens = "/v4/accounts/robot/tokens";
    let body = json!({ "description": "the build", "tokenExpirationTime": "8760h" });
    let issued = root.send("POST", tokens, body).await.ok();
    let id = issued["id"].as_str().expect("an id");
    let robot = with(&probe, issued["token"].as_str().expect("a token"));
    robot.get(SERVICES).await.ok();
    let listed = root.get(tokens).await;
    assert!(!listed.text().contains("ey"), "the token is kept nowhere: {}", listed.text());
    let listed = listed.ok();
    assert_eq!(
        (&listed["data"][0]["id"], &listed["data"][0]["description"]),
        (&issued["id"], &json!("the build"))
    );
    for time in ["8761h", "1m", "x"] {
        root.send("POST", tokens, json!({ "tokenExpirationTime": time })).await.refused("400001");
    }
    root.send("DELETE", &format!("{tokens}/nope"), Value::Null).await.refused("400001");
    root.send("DELETE", &format!("{tokens}/{id}"), Value::Null).await.empty();
    robot.get(SERVICES).await.refused("401201");
    // A permission on accounts is not enough for a token of an administrator.
    role(&probe, "clerk", json!([{ "resources": [{ "type": "account" }], "verbs": ["*"] }])).await;
    let clerk = account(&probe, "clerk", &["clerk"]).await;
    clerk.send("POST", "/v4/accounts/root/tokens", json!({})).await.refused("403001");
    clerk.send("POST", tokens, json!({})).await.refused("403001");
    clerk.send("DELETE", "/v4/accounts/root/sessions", Value::Null).await.refused("403001");
    clerk.send("POST", "/v4/accounts/root/password", json!({ "password": PASSWORD })).await.refused("403001");
    clerk.send("POST", "/v4/accounts/clerk/tokens", json!({})).await.ok();
    for _ in 0..20 {
        root.send("POST", tokens, json!({})).await.ok();
    }
    root.send("POST", tokens, json!({})).await.refused("400001");
    root.send("DELETE", "/v4/accounts/robot/sessions", Value::Null).await.empty();
    assert_eq!(root.get(tokens).await.text(), "{}");
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

#[tokio::test]
async fn the_published_keys_verify_tokens() {
    let probe = guarded().await;
    let token = token(&probe, "root", PASSWORD).await;
    let set = nobody(&probe).get("/.well-known/jwks.json").await.ok();
    let key = &set["keys"][0];
    assert_eq!((&key["kty"], &key["alg"], &key["use"]), (&json!("RSA"), &json!("RS512"), &json!("sig")));
    let keys: Vec<PublicKey> = serde_json::from_value(set["keys"].clone()).expect("keys");
    let policy = access::Policy { keys, ..access::Policy::default() };
    let verified = Verifier::default().verify(&token, &policy, 0).expect("verified");
    let claims = verified.claims;
    assert_eq!((claims.account.as_str(), claims.roles.as_slice()), ("root", &["admin".to_owned()][..]));
    assert!(claims.iat.is_some() && claims.jti.len() == 32 && claims.iss == "muster");
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

/// Any JSON, with the members of accounts and roles in it more often than others.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        prop::sample::select(vec![
            "root",
            "admin",
            "developer",
            "active",
            "service",
            "*",
            "get",
            PASSWORD,
            "a/b"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let member = prop::sample::select(vec![
            "name",
            "password",
            "roles",
            "role",
            "status",
            "tenants",
            "perms",
            "resources",
            "verbs",
            "type",
            "labels",
            "accounts",
            "currentPassword",
            "tokenExpirationTime",
            "id",
            "description",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(member, inner, 0..5).prop_map(|members| {
                Value::Object(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
            }),
        ]
    })
}

#[test]
fn no_body_makes_the_registry_fail() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let probe = runtime.block_on(guarded());
    let root = runtime.block_on(root(&probe));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(128));
    let routes = prop::sample::select(vec![
        ("POST", "/v4/token"),
        ("POST", ACCOUNTS),
        ("POST", "/v4/accounts/batch-create"),
        ("PUT", "/v4/accounts/peter"),
        ("POST", "/v4/accounts/peter/password"),
        ("POST", "/v4/accounts/peter/tokens"),
        ("POST", ROLES),
        ("PUT", "/v4/roles/tester"),
    ]);
    let run = runner.run(&(routes, any_json()), |((method, path), body)| {
        let answer = runtime.block_on(root.send(method, path, body));
        prop_assert!(answer.status < 500, "{} {}: {}", method, path, answer.text());
        Ok(())
    });
    run.expect("no body is answered with a fault");
    // The registry still works, and root is still root.
    let answer = runtime.block_on(root.get("/v4/accounts/root")).ok();
    assert_eq!(answer["roles"], json!(["admin"]));
    drop(root);
    runtime.block_on(probe.stop());
}
