//! Passwords, and locks of accounts and addresses that try too many of them.

use serde_json::{Value, json};

use super::refused;
use crate::session::{ACCOUNTS, As, PASSWORD, account, guarded, login, root, token, with};

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
