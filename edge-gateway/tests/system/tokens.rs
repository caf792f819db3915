//! A signing key, and tokens of accounts.

use std::sync::{Arc, OnceLock};

use access::keys::{KeyPairText, PublicKey, SigningKey};
use access::policy::AccountState;
use access::role::{Permission, Resource};
use access::token::{Claims, Issuer};
use access::{Policy, Role};
use shared::clock::Clock;

/// The key that signs all tokens of these tests.
struct Signer {
    public: PublicKey,
    issuer: Issuer,
}

fn signer() -> &'static Signer {
    static SIGNER: OnceLock<Signer> = OnceLock::new();
    SIGNER.get_or_init(|| {
        let pair = KeyPairText::generate().expect("is made");
        let key = SigningKey::from_pem(pair.private.as_bytes()).expect("a key");
        Signer { public: key.public().clone(), issuer: Issuer::new(key) }
    })
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    Clock::system().micros() / 1_000_000
}

/// A token of `account` that ends after so many seconds.
pub(crate) fn token(account: &str, seconds: u64) -> String {
    signed(Claims {
        account: account.to_owned(),
        exp: now() + seconds,
        jti: format!("{account}-{seconds}"),
        ..claims()
    })
}

/// The claims of a token of nobody that begins now and ends in an hour.
pub(crate) fn claims() -> Claims {
    Claims { exp: now() + 3600, iat: Some(now()), ..Claims::default() }
}

/// A token with these claims.
pub(crate) fn signed(claims: Claims) -> String {
    signer().issuer.issue(&claims).expect("is signed")
}

/// The line of a header with a token that counts for an hour.
pub(crate) fn bearer(account: &str) -> String {
    format!("Authorization: Bearer {}\r\n", token(account, 3600))
}

/// A policy with some accounts: `dev` may do everything but manage accounts; `reader` may read services;
/// `shop` may read the services of the application `app` whose name begins with `shop`; `bound` may enter the
/// domain `mine` only; `idle` has a role without permissions.
pub(crate) fn policy() -> Policy {
    let [admin, developer] = Role::built_in();
    let service = |verbs: &[&str], labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Permission {
            resources: vec![Resource { kind: "service".to_owned(), labels }],
            verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        }
    };
    let role = |name: &str, perms| Role { name: name.to_owned(), perms, ..Role::default() };
    let roles = [
        admin,
        developer,
        role("reader", vec![service(&["get"], &[])]),
        role("shop", vec![service(&["get"], &[("appId", "app"), ("serviceName", "shop*")])]),
        role("nothing", Vec::new()),
    ];
    let account = |role: &str| AccountState { roles: vec![role.to_owned()], ..AccountState::default() };
    let accounts = [
        ("root", account("admin")),
        ("dev", account("developer")),
        ("reader", account("reader")),
        ("shop", account("shop")),
        ("idle", account("nothing")),
        ("bound", AccountState { tenants: vec!["mine/*".to_owned()], ..account("developer") }),
    ];
    Policy {
        enabled: true,
        keys: vec![signer().public.clone()],
        accounts: accounts.into_iter().map(|(name, state)| (name.to_owned(), state)).collect(),
        roles: roles.into_iter().map(|role| (role.name.clone(), Arc::new(role))).collect(),
        ..Policy::default()
    }
}
