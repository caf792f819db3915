//! Tokens that must not count.

use access::keys::KeyPairText;
use aws_lc_rs::{hmac, rand, rsa, signature};

use super::*;

/// A token with any header and claims, signed by whatever `sign` makes of them.
fn token(header: Value, claims: Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let content = format!("{}.{}", encoded(&header), encoded(&claims));
    let signature = BASE64URL_NOPAD.encode(&sign(content.as_bytes()));
    format!("Bearer {content}.{signature}")
}

/// Signs with an RSA key and any padding.
fn rsa_signed(pem: &str, padding: &'static dyn signature::RsaEncoding, content: &[u8]) -> Vec<u8> {
    let block = pem_contents(pem);
    let key = rsa::KeyPair::from_der(&block).expect("a key");
    let mut bytes = vec![0; key.public_modulus_len()];
    key.sign(padding, &rand::SystemRandom::new(), content, &mut bytes).expect("signed");
    bytes
}

fn pem_contents(pem: &str) -> Vec<u8> {
    let lines: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    data_encoding::BASE64.decode(lines.as_bytes()).expect("base64")
}

#[tokio::test(flavor = "multi_thread")]
async fn no_forged_or_worn_out_token_opens_anything() {
    let site = Site::start().await;
    let read = |name: &str| {
        std::fs::read_to_string(site.process.directory().join("data").join(name)).expect("a file")
    };
    let own_key = read("private.key");
    let public_pem = read("public.key");
    let strange = KeyPairText::generate().expect("a key");
    let kid = site.signed(&claims());
    let kid = kid.trim_start_matches("Bearer ").split('.').next().expect("a header");
    let kid: Value =
        serde_json::from_slice(&BASE64URL_NOPAD.decode(kid.as_bytes()).expect("base64")).expect("JSON");
    let kid = kid["kid"].as_str().expect("a key id").to_owned();
    let good = json!({"account": "developer", "roles": ["developer"], "exp": 4_000_000_000u64});
    let as_root = json!({"account": "root", "roles": ["admin"], "exp": 4_000_000_000u64});
    let head = |alg: &str| json!({"alg": alg, "typ": "JWT", "kid": kid});
    let sha512: &'static dyn signature::RsaEncoding = &signature::RSA_PKCS1_SHA512;
    let by_own = |content: &[u8]| rsa_signed(&own_key, sha512, content);
    let by_strange = |content: &[u8]| rsa_signed(&strange.private, sha512, content);
    let real = site.signed(&claims());
    let (content, _) = real.rsplit_once('.').expect("three parts");
    let other = site.signed(&Claims { account: "root".into(), ..claims() });
    let (_, other_signature) = other.rsplit_once('.').expect("three parts");
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        token(head("RS512"), claims, by_own)
    };
    let without = |name: &str| {
        let mut claims = good.clone();
        claims.as_object_mut().expect("an object").remove(name);
        token(head("RS512"), claims, by_own)
    };
    let hmac512 = |content: &[u8]| {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA512, public_pem.as_bytes()), content).as_ref().to_vec()
    };
    let hmac256 = |content: &[u8]| {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, public_pem.as_bytes()), content).as_ref().to_vec()
    };
    let embedded = json!({"alg": "RS512", "jwk": {"kty": "RSA", "n": "AQAB", "e": "AQAB"}});
    let attacks: Vec<(&str, String)> = vec![
        ("no header", String::new()),
        ("a scheme alone", "Bearer".into()),
        ("a scheme and a blank", "Bearer ".into()),
        ("two blanks", real.replacen(' ', "  ", 1)),
        ("a token without a scheme", real.trim_start_matches("Bearer ").to_owned()),
        ("a password in place of a token", "Basic cm9vdDpDb21wbGljYXRlZF9wYXNzd29yZDE=".into()),
        ("garbage", "Bearer garbage".into()),
        ("two segments", format!("Bearer {}", content.trim_start_matches("Bearer "))),
        ("four segments", format!("{real}.x")),
        ("empty segments", "Bearer ..".into()),
        ("alg none without a signature", token(head("none"), as_root.clone(), |_| Vec::new())),
        ("alg none in capitals", token(head("NONE"), as_root.clone(), |_| Vec::new())),
        ("alg none with a signature", token(head("none"), as_root.clone(), by_own)),
        ("no alg", token(json!({"typ": "JWT"}), good.clone(), by_own)),
        ("alg in small letters", token(head("rs512"), good.clone(), by_own)),
        ("HS512 with the public key as the secret", token(head("HS512"), as_root.clone(), hmac512)),
        ("HS256 with the public key as the secret", token(head("HS256"), as_root.clone(), hmac256)),
        (
            "RS256 of the right key",
            token(head("RS256"), good.clone(), |content| {
                rsa_signed(&own_key, &signature::RSA_PKCS1_SHA256, content)
            }),
        ),
        (
            "PS512 of the right key",
            token(head("PS512"), good.clone(), |content| {
                rsa_signed(&own_key, &signature::RSA_PSS_SHA512, content)
            }),
        ),
        ("ES256", token(head("ES256"), good.clone(), by_own)),
        ("another key under our id", token(head("RS512"), good.clone(), by_strange)),
        ("another key without an id", token(json!({"alg": "RS512"}), good.clone(), by_strange)),
        (
            "another key under its own id",
            token(json!({"alg": "RS512", "kid": "other"}), good.clone(), by_strange),
        ),
        ("a key in the header", token(embedded, as_root.clone(), by_strange)),
        (
            "the address of a key in the header",
            token(
                json!({"alg": "RS512", "jku": "http://127.0.0.1:9/keys", "x5u": "http://127.0.0.1:9/"}),
                as_root.clone(),
                by_strange,
            ),
        ),
        (
            "a path as the id of the key",
            token(json!({"alg": "RS512", "kid": "../../dev/null"}), good.clone(), |_| Vec::new()),
        ),
        ("no signature", format!("{content}.")),
        ("half a signature", real[..real.len() - 300].to_owned()),
        ("the signature of another token", format!("{content}.{other_signature}")),
        ("a padded signature", format!("{real}==")),
        ("a changed account", {
            let parts: Vec<&str> = real.split('.').collect();
            format!("{}.{}.{}", parts[0], encoded(&as_root), parts[2])
        }),
        ("over since long", with("exp", json!(1_000_000_000))),
        ("without an end", without("exp")),
        ("an end that is a text", with("exp", json!("4000000000"))),
        ("an end before 1970", with("exp", json!(-1))),
        ("not yet valid", with("nbf", json!(3_900_000_000u64))),
        ("an account that does not exist", with("account", json!("ghost"))),
        ("an account in capitals", with("account", json!("Developer"))),
        ("an account with a blank", with("account", json!("developer "))),
        ("an account with a slash", with("account", json!("../accounts/root"))),
        ("an empty account", with("account", json!(""))),
        ("without an account", without("account")),
        ("a list of accounts", with("account", json!(["developer"]))),
        ("a long-lived token without a record", with("kind", json!("service"))),
        ("claims that are no object", token(head("RS512"), json!([1]), by_own)),
        ("a token that is too long", with("more", json!("x".repeat(9_000)))),
        ("a token inside quotes", format!("Bearer \"{}\"", real.trim_start_matches("Bearer "))),
    ];
    for (attack, token) in &attacks {
        for (method, path) in
            [("GET", LIST), ("GET", "/v4/accounts"), ("PUT", "/v4/default/registry/heartbeats")]
        {
            let answer = site.send(method, path, token, &Value::Null).await;
            assert_eq!(answer.status, 401, "{attack}: {method} {path}: {}", answer.text());
            let body: Value =
                serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("{attack}: no JSON"));
            assert!(
                body["errorCode"].as_str().is_some_and(|code| code.starts_with("4012")),
                "{attack}: {body}"
            );
        }
    }
    assert_eq!(site.get(LIST, &real).await.status, 200, "the token that was played with is good itself");
    assert_eq!(
        site.get("/v4/accounts", &with("roles", json!(["admin"]))).await.status,
        403,
        "roles of a token"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_ends_with_everything_that_stands_behind_it() {
    let site = Site::start().await;
    // Whatever is taken away is refused by the gateway as soon as the policy has come over the bus, and never
    // let through again.
    let refused = async |what: &str, token: &str| {
        eventually(what, || async { (site.get(LIST, token).await.status == 401).then_some(()) }).await;
        assert_eq!(site.get(LIST, token).await.status, 401, "{what}");
    };
    let token = site.login("developer").await;
    let answer = site.send("DELETE", "/v4/token", &token, &Value::Null).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    refused("a token that was logged out", &token).await;

    let token = site.login("developer").await;
    site.send("PUT", "/v4/accounts/developer", &site.root, &json!({"status": "inactive"})).await.ok();
    refused("a token of an inactive account", &token).await;
    let body = json!({"name": "developer", "password": PASSWORD});
    assert_eq!(site.send("POST", "/v4/token", "", &body).await.status, 401, "an inactive account logs in");

    let token = site.login("reader").await;
    let body = json!({"password": "Complicated_password2"});
    site.send("POST", "/v4/accounts/reader/password", &site.root, &body).await.ok();
    refused("a token from before the password changed", &token).await;

    let token = site.login("shopper").await;
    site.send("DELETE", "/v4/accounts/shopper/sessions", &site.root, &Value::Null).await;
    refused("a token of sessions that were ended", &token).await;

    let token = site.login("bound").await;
    site.send("DELETE", "/v4/accounts/bound", &site.root, &Value::Null).await;
    refused("a token of a deleted account", &token).await;

    let body = json!({"description": "ci", "tokenExpirationTime": "24h"});
    site.account("robot", "reader", json!({})).await;
    let made = site.send("POST", "/v4/accounts/robot/tokens", &site.root, &body).await.ok();
    let token = format!("Bearer {}", made["token"].as_str().expect("a token"));
    eventually("a long-lived token counts", || async {
        (site.get(LIST, &token).await.status == 200).then_some(())
    })
    .await;
    let path = format!("/v4/accounts/robot/tokens/{}", made["id"].as_str().expect("an id"));
    site.send("DELETE", &path, &site.root, &Value::Null).await;
    refused("a long-lived token that was revoked", &token).await;

    // A role that is taken away counts no more, though the token still names it.
    site.account("other", "developer", json!({})).await;
    let token = site.login("other").await;
    eventually("the account is known", || async {
        (site.get(LIST, &token).await.status == 200).then_some(())
    })
    .await;
    site.send("PUT", "/v4/accounts/other", &site.root, &json!({"roles": ["nothing"]})).await.ok();
    eventually("the role is gone", || async { (site.get(LIST, &token).await.status == 403).then_some(()) })
        .await;
}
