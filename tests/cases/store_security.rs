//! The store on an etcd that asks who is there, and on one of several members.

use std::time::Duration;

use control_plane::store::etcd::{EtcdConfig, EtcdStore, EtcdTls};
use control_plane::store::{Op, Store, StoreError, Txn};
use etcd_client::{Client, PermissionType};
use futures_util::StreamExt;
use harness::{Authority, Etcd, Identity};
use host::lifecycle::Tasks;

fn config(etcd: &Etcd) -> EtcdConfig {
    let connect_timeout = Duration::from_secs(1);
    EtcdConfig { endpoints: vec![etcd.endpoint()], connect_timeout, ..EtcdConfig::default() }
}

fn txn() -> Txn {
    Txn { then: vec![Op::put("/t/a", "x")], ..Txn::default() }
}

/// One call of each kind.
async fn assert_works(config: EtcdConfig) {
    let store = EtcdStore::connect(config, &Tasks::new());
    let rev = store.txn(txn()).await.expect("txn").revision;
    let lease = store.grant(60).await.expect("grant");
    store.keep_alive(lease).await.expect("keep-alive");
    let mut watch = store.watch("/t/", rev).await.expect("a watch opens");
    watch.next().await.expect("an item").expect("sound");
    assert!(store.barrier("/t/").await.expect("barrier") >= rev);
}

async fn assert_unavailable(config: EtcdConfig, reason: &str) {
    let store = EtcdStore::connect(config, &Tasks::new());
    match store.txn(txn()).await {
        Err(StoreError::Unavailable(why)) => assert!(why.contains(reason), "{why}"),
        other => panic!("{other:?}"),
    }
}

fn tls(authority: &Authority, identity: Option<Identity>) -> EtcdTls {
    EtcdTls {
        ca_pem: Some(authority.certificate_pem().into()),
        identity_pem: identity.map(|found| (found.certificate_pem.into(), found.key_pem.into())),
        server_name: None,
    }
}

#[tokio::test]
async fn an_etcd_with_tls_is_used_with_certificates_only() {
    let authority = Authority::new();
    let etcd = Etcd::start_with_tls(&authority).await;
    let with = |tls| EtcdConfig { tls, ..config(&etcd) };
    assert_works(with(Some(tls(&authority, Some(authority.issue(&["client"])))))).await;

    let stranger = Authority::new();
    assert_unavailable(with(None), "cannot be reached").await;
    assert_unavailable(with(Some(tls(&authority, None))), "cannot be reached").await;
    assert_unavailable(with(Some(tls(&stranger, Some(authority.issue(&["client"]))))), "certificate").await;
    let broken = EtcdTls { ca_pem: Some(b"junk".to_vec()), ..EtcdTls::default() };
    assert_unavailable(with(Some(broken)), "cannot be reached").await;
}

#[tokio::test]
async fn an_etcd_with_users_is_used_with_the_right_password_only() {
    let etcd = Etcd::start().await;
    let mut client = Client::connect([etcd.endpoint()], None).await.expect("connects");
    for user in ["root", "muster"] {
        client.user_add(user, "secret", None).await.expect("a user");
        client.role_add(user).await.expect("a role");
        client.user_grant_role(user, user).await.expect("granted");
    }
    let all = etcd_client::Permission::new(PermissionType::Readwrite, "/t/").with_prefix();
    client.role_grant_permission("muster", all).await.expect("granted");
    client.auth_enable().await.expect("enabled");

    let right = EtcdConfig { user: Some(("muster".into(), "secret".into())), ..config(&etcd) };
    let wrong = EtcdConfig { user: Some(("muster".into(), "wrong".into())), ..config(&etcd) };
    assert_works(right.clone()).await;
    assert_unavailable(wrong, "authentication failed").await;

    let store = EtcdStore::connect(right, &Tasks::new());
    let elsewhere = Txn { then: vec![Op::put("/elsewhere", "x")], ..Txn::default() };
    assert!(matches!(store.txn(elsewhere).await, Err(StoreError::Refused(why)) if why.contains("denied")));
    store.txn(txn()).await.expect("a refused call is not the end of the connection");
}

#[tokio::test]
async fn a_dead_member_is_passed_over() {
    let dead = Etcd::start().await;
    let alive = Etcd::start().await;
    dead.kill();
    for _ in 0..4 {
        let endpoints = vec![dead.endpoint(), alive.endpoint()];
        let store = EtcdStore::connect(EtcdConfig { endpoints, ..config(&alive) }, &Tasks::new());
        harness::eventually("the living member is used", || async { store.txn(txn()).await.ok() }).await;
    }
}
