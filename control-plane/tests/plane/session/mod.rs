//! Requests of accounts to a registry with access control.

#![allow(unreachable_pub, missing_docs, reason = "helpers of the tests beside them")]

use serde_json::{Value, json};

use crate::probe::{Answer, Probe};

pub const PASSWORD: &str = "Complicated_password1";
pub const ACCOUNTS: &str = "/v4/accounts";
pub const ROLES: &str = "/v4/roles";
pub const SERVICES: &str = "/v4/default/registry/microservices";

/// A registry with access control, which hashes passwords quickly.
pub async fn guarded() -> Probe {
    guarded_with(&[]).await
}

pub async fn guarded_with(more: &[(&str, &str)]) -> Probe {
    let mut variables = vec![
        ("MUSTER_RBAC_ENABLE", "true"),
        ("MUSTER_RBAC_ROOT_PASSWORD", PASSWORD),
        ("MUSTER_RBAC_PASSWORD_HASH", "scrypt"),
    ];
    variables.extend(more);
    let probe = Probe::start_with(&variables).await;
    let mut revisions = probe.revisions();
    while !probe.view().now().expect("listed").policy.accounts.contains_key("root") {
        revisions.changed().await.expect("the view lives");
    }
    probe
}

/// Sends requests with the token of an account.
pub struct As<'a> {
    pub probe: &'a Probe,
    pub header: Option<String>,
}

impl As<'_> {
    pub async fn send(&self, method: &str, path: &str, body: Value) -> Answer {
        let headers: Vec<(&str, &str)> =
            self.header.iter().map(|header| ("authorization", header.as_str())).collect();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.probe.send(method, path, &headers, body).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, Value::Null).await
    }
}

pub fn nobody(probe: &Probe) -> As<'_> {
    As { probe, header: None }
}

pub fn with<'a>(probe: &'a Probe, token: &str) -> As<'a> {
    As { probe, header: Some(format!("Bearer {token}")) }
}

pub async fn login(probe: &Probe, name: &str, password: &str) -> Answer {
    nobody(probe).send("POST", "/v4/token", json!({ "name": name, "password": password })).await
}

pub async fn token(probe: &Probe, name: &str, password: &str) -> String {
    login(probe, name, password).await.ok()["token"].as_str().expect("a token").to_owned()
}

pub async fn root(probe: &Probe) -> As<'_> {
    with(probe, &token(probe, "root", PASSWORD).await)
}

/// A new account with this password and these roles, logged in.
pub async fn account<'a>(probe: &'a Probe, name: &str, roles: &[&str]) -> As<'a> {
    let body = json!({ "name": name, "password": PASSWORD, "roles": roles });
    root(probe).await.send("POST", ACCOUNTS, body).await.empty();
    with(probe, &token(probe, name, PASSWORD).await)
}

pub async fn role(probe: &Probe, name: &str, perms: Value) {
    root(probe).await.send("POST", ROLES, json!({ "name": name, "perms": perms })).await.empty();
}
