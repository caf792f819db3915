//! Random bodies for every route of accounts, roles and logins.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::session::{ACCOUNTS, PASSWORD, ROLES, guarded, root};

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
