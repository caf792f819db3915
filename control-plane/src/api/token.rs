//! Operations on tokens: login, logout, the own permissions, and the keys that verify tokens.

use access::keys::PublicKey;
use access::{Identity, Permission};
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::model::null_default;

use super::accounts::{failures, held};
use super::call::Call;
use super::client::Client;
use super::failure::{Code, Failure};
use super::operation::{Operation, delete, get, object, post};
use super::reply::{self, Reply};
use super::state::Api;
use crate::registry::RegistryError;
use crate::registry::account::form::is_name;
use crate::registry::login::permissions;
use crate::trail::{self, About};

pub(super) fn operations() -> Vec<Operation> {
    let mut all = vec![
        post(
            "/v4/token",
            login,
            "LoginAccount",
            "Log in. The token lives for 12h, or as tokenExpirationTime says: 15m to 24h.",
        )
        .takes(object! { "name": String, "password": String, "tokenExpirationTime": String })
        .returns(object! { "token": String })
        .fails_with(failures![WrongLogin, AccountBlocked]),
        delete("/v4/token", logout, "LogoutAccount", "Log out: the token of this request counts no more.")
            .fails_with(failures![]),
        get("/v4/self-perms", own_permissions, "ListSelfPerms", "List the permissions of the own roles.")
            .returns(object! { "perms": Vec<Value> })
            .fails_with(failures![]),
        get("/.well-known/jwks.json", keys, "TokenKeys", "Read the keys that verify tokens, as a JWK set.")
            .returns(object! { "keys": Vec<Value> })
            .fails_with(&[Code::NotReady]),
    ];
    for operation in &mut all {
        operation.tenantless = true;
    }
    all
}

/// Never shown in a log: it has a password.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Login {
    #[serde(deserialize_with = "null_default")]
    name: String,
    #[serde(deserialize_with = "null_default")]
    password: String,
    #[serde(deserialize_with = "null_default")]
    token_expiration_time: String,
}

#[derive(Serialize)]
struct Token {
    token: String,
}

async fn login(State(api): State<Api>, client: Client, call: Call) -> Reply {
    let Login { name, password, token_expiration_time } = call.json()?;
    // Only what can be a name: people type their password into the wrong field.
    if is_name(&name) {
        trail::about(|| About::At(format!("/v4/accounts/{name}")));
    }
    let token = api.accounts()?.login(&name, &password, &token_expiration_time, client.0).await?;
    reply::json(&Token { token })
}

async fn logout(State(api): State<Api>, call: Call) -> Reply {
    let Identity::Token(token) = held(&call)?.identity() else {
        return Err(Failure::invalid(
            "the request has no token; a certificate is revoked where it was issued",
        ));
    };
    if token.issuer.is_some() {
        return Err(Failure::invalid("the token is another issuer's, and is revoked there"));
    }
    api.accounts()?.revoke(&token.claims).await?;
    reply::empty()
}

#[derive(Serialize)]
struct OwnPermissions {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    perms: Vec<Permission>,
}

async fn own_permissions(call: Call) -> Reply {
    let held = held(&call)?;
    let roles = held.policy.role_names(held.identity());
    reply::json(&OwnPermissions { perms: permissions(&held.policy, &roles) })
}

/// The keys as a JWK set (RFC 7517).
#[derive(Serialize)]
struct KeySet<'a> {
    keys: Vec<Jwk<'a>>,
}

#[derive(Serialize)]
struct Jwk<'a> {
    kty: &'static str,
    alg: &'static str,
    r#use: &'static str,
    #[serde(flatten)]
    key: &'a PublicKey,
}

async fn keys(State(api): State<Api>) -> Reply {
    let snapshot = api.accounts()?.registry().view().now().map_err(RegistryError::ReadView)?;
    let jwk = |key| Jwk { kty: "RSA", alg: "RS512", r#use: "sig", key };
    reply::json(&KeySet { keys: snapshot.policy.keys.iter().map(jwk).collect() })
}
