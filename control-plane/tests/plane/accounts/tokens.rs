//! Tokens: how long they count, how they end, and the keys that verify them.

use access::keys::PublicKey;
use access::token::Verifier;
use serde_json::{Value, json};

use crate::session::{PASSWORD, SERVICES, account, guarded, login, nobody, role, root, token, with};

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
