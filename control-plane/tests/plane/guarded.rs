//! The API with access control on: no route is open by oversight, and a token of `root` opens all.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::probe::Probe;
use access::keys::{KeyPairText, PublicKey, SigningKey};
use access::token::{Claims, Issuer, Verifier};
use access::{Access, LabelSource};
use arc_swap::ArcSwap;
use control_plane::store::{Op, Txn};
use data_encoding::BASE64URL_NOPAD;
use host::admin::access::AccessState;
use serde_json::json;

/// A registry with access control, once the account `root` exists.
async fn guarded(directory: &Path, more: &[(&str, &str)]) -> Probe {
    let mut variables =
        vec![("MUSTER_RBAC_ENABLE", "true"), ("MUSTER_RBAC_ROOT_PASSWORD", "Complicated_password1")];
    variables.extend(more);
    let probe = Probe::start_configured(directory, &variables).await;
    let mut revisions = probe.revisions();
    while !policy(&probe).accounts.contains_key("root") {
        revisions.changed().await.expect("the view lives");
    }
    probe
}

/// A token that the registry's own key has signed.
fn token(directory: &Path, account: &str) -> String {
    token_of(directory, Claims { account: account.into(), ..claims() })
}

fn claims() -> Claims {
    Claims { exp: 4_000_000_000, jti: "j".into(), ..Claims::default() }
}

fn token_of(directory: &Path, claims: Claims) -> String {
    let pem = std::fs::read(directory.join("private.key")).expect("the key was made");
    let issuer = Issuer::new(SigningKey::from_pem(&pem).expect("a key"));
    format!("Bearer {}", issuer.issue(&claims).expect("signed"))
}

fn policy(probe: &Probe) -> Arc<access::Policy> {
    probe.view().now().expect("listed").policy.clone()
}

fn filled(path: &str) -> String {
    path.replace("{project}", "default").replace(['{', '}'], "")
}

#[tokio::test]
async fn logins_before_the_first_account_lock_nobody() {
    let directory = tempfile::tempdir().expect("a directory");
    let probe = Probe::start_configured(directory.path(), &[("MUSTER_RBAC_ENABLE", "true")]).await;
    let login = json!({"name": "root", "password": "Complicated_password1"}).to_string();
    for _ in 0..5 {
        let answer = probe.send("POST", "/v4/token", &[], login.clone()).await;
        assert_eq!(answer.status, 503, "{}", answer.text());
    }
}

#[tokio::test]
async fn no_route_is_open_without_a_token() {
    let directory = tempfile::tempdir().expect("a directory");
    let probe = guarded(directory.path(), &[]).await;
    for (method, path, access) in access::route::all() {
        let answer = probe.send(method, &filled(&path), &[], "{}".into()).await;
        match access {
            // A login has a refusal of its own.
            Access::Free if path == "/v4/token" => assert!(answer.text().contains("401202")),
            Access::Free => assert_ne!(answer.status, 401, "{method} {path}"),
            _ => {
                assert_eq!(answer.status, 401, "{method} {path}: {}", answer.text());
                assert!(answer.text().contains("401204"), "{method} {path}: {}", answer.text());
                for told in ["x-muster-shown", "x-muster-revision"] {
                    assert!(!answer.headers.contains_key(told), "{method} {path}: {told}");
                }
            }
        }
    }
    // Somebody without a token does not even learn which paths there are.
    for (method, path) in
        [("GET", "/v4/default/registry/nothing"), ("POST", "/v4/default/registry/existence"), ("HEAD", "/")]
    {
        assert_eq!(probe.send(method, path, &[], String::new()).await.status, 401, "{method} {path}");
    }
    probe.stop().await;
}

#[tokio::test]
async fn root_may_do_everything_and_a_stranger_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let probe = guarded(directory.path(), &[]).await;
    let root = token(directory.path(), "root");
    let nobody = token(directory.path(), "nobody");
    for (method, path, access) in access::route::all() {
        // A logout would end the token of the other requests.
        if (method, path.as_str()) == ("DELETE", "/v4/token") {
            continue;
        }
        // Watches and dialects are a gateway's.
        if matches!(access, Access::Free | Access::Needs(_, LabelSource::Watch | LabelSource::Dialect)) {
            continue;
        }
        let answer = probe.send(method, &filled(&path), &[("authorization", &nobody)], "{}".into()).await;
        assert!(answer.text().contains("401206"), "{method} {path}: {}", answer.text());
        let answer = probe.send(method, &filled(&path), &[("authorization", &root)], "{}".into()).await;
        assert!(![401, 403].contains(&answer.status), "{method} {path}: {}", answer.text());
    }
    let two = [("authorization", root.as_str()), ("authorization", root.as_str())];
    let answer = probe.send("GET", "/v4/default/registry/microservices", &two, String::new()).await;
    assert_eq!(answer.status, 401, "{}", answer.text());
    let answer = probe.send("GET", "/v4/default/registry/nothing", &two[..1], String::new()).await;
    assert_eq!(answer.status, 404);
    let answer = probe.send("POST", "/v4/default/registry/existence", &two[..1], String::new()).await;
    assert_eq!(answer.status, 405);
    probe.stop().await;
}

#[tokio::test]
async fn a_token_of_a_replica_that_is_ahead_is_waited_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let probe = guarded(directory.path(), &[]).await;
    let services = "/v4/default/registry/microservices";
    let rev = probe.view().now().expect("listed").revision.next();
    let authorization = token_of(directory.path(), Claims { account: "late".into(), rev, ..claims() });
    let headers = [("authorization", authorization.as_str())];
    let account = Op::put(control_plane::keys::account("late"), r#"{"name":"late","roles":["admin"]}"#);
    let (answer, _) = tokio::join!(
        probe.send("GET", services, &headers, String::new()),
        probe.store().txn(Txn { then: vec![account], ..Txn::default() }),
    );
    assert_eq!(answer.status, 200, "{}", answer.text());
    // Logins of this replica name the revision by which their account is there.
    let body = json!({ "name": "root", "password": "Complicated_password1" }).to_string();
    let login = probe.send("POST", "/v4/token", &[], body).await.ok();
    let policy = policy(&probe);
    let verified = Verifier::default().verify(login["token"].as_str().expect("a token"), &policy, 0);
    let named = verified.expect("is ours").claims.rev;
    assert!(named >= rev && named <= probe.view().now().expect("listed").revision, "{named}");
    probe.stop().await;
}

#[tokio::test]
async fn the_console_is_served_without_a_token_or_not_at_all() {
    for is_on in [true, false] {
        let directory = tempfile::tempdir().expect("a directory");
        let probe = guarded(directory.path(), &[("MUSTER_CONSOLE", &is_on.to_string())]).await;
        for (method, path, expected) in [
            ("GET", "/console/", 200),
            ("HEAD", "/console/app.js", 200),
            ("GET", "/console", 302),
            ("POST", "/console/", 405),
            ("GET", "/console/nothing", 404),
            ("GET", "/console/../Cargo.toml", 404),
        ] {
            let answer = probe.send(method, path, &[], String::new()).await;
            assert_eq!(answer.status, if is_on { expected } else { 404 }, "{method} {path}");
            let rules = answer.header("content-security-policy").unwrap_or_default();
            assert_eq!(rules.starts_with("default-src 'none'"), answer.status == 200, "{method} {path}");
            assert_eq!(answer.body.is_empty(), method == "HEAD" && is_on || answer.status == 302, "{path}");
        }
        let browser = [("accept", "text/html,*/*;q=0.8")];
        let led = probe.send("GET", "/", &browser, String::new()).await;
        assert_eq!(led.status, if is_on { 302 } else { 404 });
        assert_eq!(probe.send("GET", "/", &[], String::new()).await.status, 401, "no browser");
        probe.stop().await;
    }
}

#[tokio::test]
async fn routes_out_of_scope_need_no_token() {
    let directory = tempfile::tempdir().expect("a directory");
    let probe = guarded(directory.path(), &[("MUSTER_RBAC_SCOPE", "account,ops")]).await;
    let status = async |path| probe.send("GET", path, &[], String::new()).await.status;
    assert_eq!(status("/v4/default/registry/microservices").await, 200);
    assert_eq!(status("/v4/default/admin/clusters").await, 401);
    assert_eq!(status("/v4/roles").await, 401, "accounts and roles always need one");
    probe.stop().await;
}

#[tokio::test]
async fn a_restart_keeps_the_keys_and_changes_no_account() {
    let directory = tempfile::tempdir().expect("a directory");
    let probe = guarded(directory.path(), &[]).await;
    let before = policy(&probe);
    probe.stop().await;
    let probe = guarded(directory.path(), &[("MUSTER_RBAC_ROOT_PASSWORD", "Complicated_password2")]).await;
    assert_eq!(policy(&probe).keys, before.keys);
    assert_eq!(policy(&probe).accounts, before.accounts);
    let root = token(directory.path(), "root");
    let answer = probe
        .send("GET", "/v4/default/registry/microservices", &[("authorization", &root)], String::new())
        .await;
    assert_eq!(answer.status, 200);
    probe.stop().await;
}

#[tokio::test]
async fn older_roles_get_the_resource_config_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let probe = Probe::start_in(directory.path()).await;
    let role =
        r#"{"id":"1","name":"old","perms":[{"resources":[{"type":"service"}],"verbs":["get"]}],"new":1}"#;
    // The second one has no resource either, and the third one cannot be read.
    let put = |key: &str, value: &str| Op::put(format!("/cse-sr/roles/{key}"), value.to_owned());
    let then = vec![put("old", role), put("developer", r#"{"name":"developer"}"#), put("broken", "{")];
    probe.store().txn(Txn { then, ..Txn::default() }).await.expect("written");
    probe.stop().await;

    // `root` is created after the roles have been looked at.
    let probe = guarded(directory.path(), &[]).await;
    let config = json!({ "resources": [{ "type": "config" }], "verbs": ["*"] });
    let service = json!({ "resources": [{ "type": "service" }], "verbs": ["get"] });
    let old = stored(&probe, "roles/old").await;
    assert_eq!((&old["perms"], &old["new"]), (&json!([service, config]), &json!(1)));
    assert_eq!(stored(&probe, "roles/developer").await["perms"], json!([config]));
    assert_eq!(stored(&probe, "role-migrated").await, json!(true));
    let then = vec![put("later", role), Op::Delete("/cse-sr/accounts/root".into())];
    probe.store().txn(Txn { then, ..Txn::default() }).await.expect("written");
    probe.stop().await;

    let probe = guarded(directory.path(), &[]).await;
    assert_eq!(stored(&probe, "roles/later").await["perms"], json!([service]));
    assert_eq!(stored(&probe, "roles/old").await, old);
    probe.stop().await;
}

/// A stored value as JSON.
async fn stored(probe: &Probe, key: &str) -> serde_json::Value {
    let then = vec![Op::Get(format!("/cse-sr/{key}"))];
    let mut reply = probe.store().txn(Txn { then, ..Txn::default() }).await.expect("read");
    let kv = reply.got.pop().flatten().expect("it is stored");
    serde_json::from_slice(&kv.value).expect("JSON")
}

/// An issuer of a moment: its discovery document and its keys over HTTP.
struct TestIssuer {
    address: String,
    kid: &'static str,
    key: aws_lc_rs::signature::EcdsaKeyPair,
    published: Arc<ArcSwap<String>>,
}

impl TestIssuer {
    #[expect(clippy::disallowed_methods, reason = "the issuer lives as long as its test")]
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let (key, published) = Self::key_pair("one");
        let published = Arc::new(ArcSwap::from_pointee(published));
        let document = json!({"issuer": address, "jwks_uri": format!("{address}/keys")}).to_string();
        let keys = published.clone();
        let routes = axum::Router::new()
            .route("/.well-known/openid-configuration", axum::routing::get(async move || document))
            .route("/keys", axum::routing::get(async move || keys.load().to_string()));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { address, kid: "one", key, published }
    }

    /// A key, and its public half as a set.
    fn key_pair(kid: &str) -> (aws_lc_rs::signature::EcdsaKeyPair, String) {
        let kind = &aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let key = aws_lc_rs::signature::EcdsaKeyPair::generate(kind).expect("a key");
        let point = aws_lc_rs::signature::KeyPair::public_key(&key).as_ref();
        let [x, y] = [&point[1..33], &point[33..]].map(|half| BASE64URL_NOPAD.encode(half));
        let keys = json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": kid, "x": x, "y": y}]}).to_string();
        (key, keys)
    }

    /// Replaces the key.
    fn replace_key(&mut self, kid: &'static str) {
        let (key, published) = Self::key_pair(kid);
        self.key = key;
        self.kid = kid;
        self.published.store(Arc::new(published));
    }

    fn token(&self, groups: &[&str]) -> String {
        let claims = json!({"iss": self.address, "aud": "muster", "exp": 4_000_000_000u64, "jti": "x",
            "preferred_username": "peter", "groups": groups});
        let [header, claims] = [json!({"alg": "ES256", "kid": self.kid}), claims]
            .map(|part| BASE64URL_NOPAD.encode(part.to_string().as_bytes()));
        let content = format!("{header}.{claims}");
        let random = aws_lc_rs::rand::SystemRandom::new();
        let signature = self.key.sign(&random, content.as_bytes()).expect("it signs");
        format!("Bearer {content}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
    }
}

/// Waits until the registry has this key of the issuer.
async fn fetched(probe: &Probe, kid: &str) {
    let mut revisions = probe.revisions();
    let is_there = || policy(probe).issuers.iter().any(|issuer| issuer.keys.to_json().contains(kid));
    while !is_there() {
        revisions.changed().await.expect("the view lives");
    }
}

async fn status(probe: &Probe, token: &str) -> u16 {
    let path = "/v4/default/registry/microservices";
    probe.send("GET", path, &[("authorization", token)], String::new()).await.status
}

#[tokio::test]
async fn tokens_of_an_external_issuer_count_once_its_keys_are_fetched() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut issuer = TestIssuer::start().await;
    let probe = guarded(
        directory.path(),
        &[
            ("MUSTER_RBAC_OIDC_ISSUER", &issuer.address),
            ("MUSTER_RBAC_OIDC_AUDIENCE", "muster"),
            ("MUSTER_RBAC_OIDC_ROLES", "engineers=developer"),
            ("MUSTER_RBAC_OIDC_REFRESH", "1s"),
        ],
    )
    .await;
    fetched(&probe, "one").await;
    let token = issuer.token(&["engineers"]);
    assert_eq!(status(&probe, &token).await, 200);
    assert_eq!(status(&probe, &issuer.token(&["admin"])).await, 403, "a group is no role");
    let stranger = TestIssuer::start().await.token(&["engineers"]);
    assert_eq!(status(&probe, &stranger).await, 401, "another issuer");

    issuer.replace_key("two");
    fetched(&probe, "two").await;
    assert_eq!(status(&probe, &issuer.token(&["engineers"])).await, 200);
    assert_eq!(status(&probe, &token).await, 401, "its key is not published any more");
    probe.stop().await;
}

/// The policy's keys, once there are this many and the reloads have been counted.
async fn keys(probe: &Probe, count: usize, applied: u32, refused: u32) -> Vec<PublicKey> {
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    loop {
        tick.tick().await;
        let figures = probe.figures();
        let counted = |result: &str, number: u32| {
            let mut lines = figures.lines().filter(|line| line.starts_with("muster_token_key_reloads_total"));
            lines.any(|line| line.contains(result) && line.ends_with(&format!(" {number}")))
        };
        if counted("applied", applied) && counted("refused", refused) && policy(probe).keys.len() == count {
            return policy(probe).keys.clone();
        }
    }
}

#[tokio::test]
async fn new_key_files_are_taken_without_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let probe = guarded(directory.path(), &[]).await;
    let status = async |token: &str| {
        probe.send("GET", "/v4/accounts", &[("authorization", token)], String::new()).await.status
    };
    let file = |name: &str| directory.path().join(name);
    // In one step, so that nobody reads half a file.
    let replace = |name: &str, text: &str| {
        std::fs::write(file("next"), text).expect("written");
        std::fs::rename(file("next"), file(name)).expect("renamed");
    };
    let login = async || {
        let body = json!({ "name": "root", "password": "Complicated_password1" }).to_string();
        let answer = probe.send("POST", "/v4/token", &[], body).await.ok();
        format!("Bearer {}", answer["token"].as_str().expect("a token"))
    };
    let signer = |token: &str| {
        let head = token.trim_start_matches("Bearer ").split('.').next().expect("a head").to_owned();
        let head = BASE64URL_NOPAD.decode(head.as_bytes()).expect("base64");
        serde_json::from_slice::<serde_json::Value>(&head).expect("JSON")["kid"].clone()
    };
    let old = login().await;
    let old_public = std::fs::read_to_string(file("public.key")).expect("made");
    let new = KeyPairText::generate().expect("made");

    // A file that is no key changes nothing.
    replace("private.key", "no key");
    let before = keys(&probe, 1, 0, 1).await;
    let still = login().await;
    assert_eq!((status(&old).await, signer(&still)), (200, json!(before[0].kid)));

    // The new key signs; the old one is listed and goes on counting.
    replace("private.key", &new.private);
    replace("public.key", &format!("{old_public}\n{}", new.public));
    let both = keys(&probe, 2, 1, 1).await;
    assert_eq!(both[1], before[0]);
    let fresh = loop {
        let fresh = login().await;
        // The issuer follows the policy.
        if signer(&fresh) == json!(both[0].kid) {
            break fresh;
        }
    };
    assert_eq!((status(&old).await, status(&fresh).await), (200, 200));

    // A file of public keys that has gone takes no key away.
    std::fs::remove_file(file("public.key")).expect("removed");
    assert_eq!(keys(&probe, 2, 1, 2).await, both);
    assert_eq!(status(&old).await, 200);

    replace("public.key", &new.public);
    assert_eq!(keys(&probe, 1, 2, 2).await, both[..1]);
    assert_eq!((status(&old).await, status(&fresh).await), (401, 200));
    probe.stop().await;
}

#[tokio::test]
async fn the_admin_port_knows_the_accounts_of_tokens() {
    let directory = tempfile::tempdir().expect("a directory");
    let probe = guarded(directory.path(), &[("MUSTER_RBAC_SCOPE", "account")]).await;
    let access = probe.access_control();
    let operator = |tokens: &[&str]| {
        let mut headers = http::HeaderMap::new();
        for token in tokens {
            headers.append("authorization", token.parse().expect("a value"));
        }
        // Believed of gateways alone, and nowhere on the admin port.
        headers.insert("x-muster-account", "root".parse().expect("a value"));
        access.operator(&http::Method::POST, &headers)
    };
    let root = token(directory.path(), "root");
    let shown = operator(&[&root]).expect("root has a token");
    assert_eq!((shown.account.as_str(), shown.token.as_str(), shown.is_permitted), ("root", "j", true));
    assert_eq!(shown.revision, policy(&probe).revision);
    for tokens in [&[][..], &["x"], &[&token(directory.path(), "nobody")], &[&root, &root]] {
        assert_eq!(operator(tokens), None, "{tokens:?}");
    }
    let report = access.report();
    assert_eq!((report.state, report.demanded), (AccessState::Guarded, true));
    assert_eq!(report.keys, [policy(&probe).keys[0].kid.clone()]);
    probe.stop().await;

    let open = Probe::start().await;
    let headers = http::HeaderMap::new();
    assert_eq!(open.access_control().operator(&http::Method::GET, &headers), None);
    assert_eq!(open.access_control().report().state, AccessState::Open);
    open.stop().await;
}
