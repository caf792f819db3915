//! Attacks on access control, each against a running registry with real keys: what a stranger, an account
//! without rights and an account with few rights may try.
//!
//! | room | attacks |
//! | --- | --- |
//! | `tokens` | forged, changed, expired and revoked tokens |
//! | `crossing` | other tenants, and services that a role's labels do not cover |
//! | `dialects` | every transport, for what another one hides |
//! | `doors` | paths, headers, upgrades, gRPC, the admin port, guessed passwords |

use std::net::SocketAddr;

use access::keys::SigningKey;
use access::token::{Claims, Issuer};
use data_encoding::BASE64URL_NOPAD;
use harness::client::Answer;
use harness::{Client, Process, eventually, port};
use serde_json::{Value, json};

mod crossing;
mod dialects;
mod doors;
mod tokens;

const PASSWORD: &str = "Complicated_password1";
/// A path that every account with some right on services may read.
const LIST: &str = "/v4/default/registry/microservices";

/// A registry with access control, and accounts with different rights.
struct Site {
    process: Process,
    client: Client,
    api: SocketAddr,
    issuer: Issuer,
    root: String,
}

impl Site {
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts it with further flags.
    async fn start_with(flags: &[&str]) -> Self {
        let api = port::local();
        let process = Process::ours("muster")
            .args(["standalone", "--data-dir", "data", "--listen", &api.to_string(), "--rbac-enable"])
            .args(flags)
            .env("SC_INIT_ROOT_PASSWORD", PASSWORD);
        process.start();
        let client = Client::new(api);
        eventually("root can log in", || async {
            assert!(process.is_running(), "it has ended: {}", process.log());
            let body = json!({"name": "root", "password": PASSWORD}).to_string();
            let answer = client.try_send("POST", "/v4/token", &[], body).await?;
            (answer.status == 200).then_some(())
        })
        .await;
        let pem = std::fs::read(process.directory().join("data/private.key")).expect("the key was made");
        let issuer = Issuer::new(SigningKey::from_pem(&pem).expect("a key"));
        let site = Self { process, client, api, issuer, root: String::new() };
        let root = site.login("root").await;
        let site = Self { root, ..site };
        site.role("reader", json!([{"resources": [{"type": "service"}], "verbs": ["get"]}])).await;
        let labels = json!({"environment": "production", "appId": "shop*"});
        let shop = json!([{"resources": [{"type": "service", "labels": labels}, {"type": "service/schema", "labels": labels}],
            "verbs": ["*"]}]);
        site.role("shop", shop).await;
        site.role("nothing", json!([])).await;
        for (name, role, more) in [
            ("reader", "reader", json!({})),
            ("shopper", "shop", json!({})),
            ("bound", "developer", json!({"tenants": ["a/p*"]})),
            ("nobody", "nothing", json!({})),
            ("developer", "developer", json!({})),
        ] {
            site.account(name, role, more).await;
        }
        // A role counts at the gateway as soon as the policy has come over the bus.
        for name in ["reader", "shopper", "developer"] {
            let token = site.login(name).await;
            eventually("the account is known at the gateway", || async {
                (site.get(LIST, &token).await.status == 200).then_some(())
            })
            .await;
        }
        site
    }

    async fn send(&self, method: &str, path: &str, token: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let sent = self.client.try_send(method, path, &[("authorization", token)], body).await;
        sent.unwrap_or_else(|| panic!("no answer: {method} {path}"))
    }

    async fn get(&self, path: &str, token: &str) -> Answer {
        self.send("GET", path, token, &Value::Null).await
    }

    async fn login(&self, name: &str) -> String {
        let answer = self.send("POST", "/v4/token", "", &json!({"name": name, "password": PASSWORD})).await;
        format!("Bearer {}", answer.ok()["token"].as_str().expect("a token"))
    }

    async fn role(&self, name: &str, perms: Value) {
        self.send("POST", "/v4/roles", &self.root, &json!({"name": name, "perms": perms})).await.ok();
    }

    async fn account(&self, name: &str, role: &str, more: Value) {
        let mut body = json!({"name": name, "password": PASSWORD, "roles": [role]});
        for (key, value) in more.as_object().into_iter().flatten() {
            body[key] = value.clone();
        }
        self.send("POST", "/v4/accounts", &self.root, &body).await.ok();
    }

    /// Registers a service as root in the tenant `default/default`, and returns its id.
    async fn service(&self, environment: &str, app_id: &str, name: &str) -> String {
        let service =
            json!({"serviceName": name, "appId": app_id, "environment": environment, "version": "1.0.0"});
        let answer = self.send("POST", LIST, &self.root, &json!({"service": service})).await.ok();
        answer["serviceId"].as_str().expect("an id").to_owned()
    }

    /// A token that the site's own key has signed.
    fn signed(&self, claims: &Claims) -> String {
        format!("Bearer {}", self.issuer.issue(claims).expect("signed"))
    }
}

/// Claims of `developer` that are good for a long time.
fn claims() -> Claims {
    Claims {
        account: "developer".into(),
        exp: 4_000_000_000,
        iat: Some(4_000_000_000 - 60),
        ..Claims::default()
    }
}

fn encoded(part: &Value) -> String {
    BASE64URL_NOPAD.encode(part.to_string().as_bytes())
}
