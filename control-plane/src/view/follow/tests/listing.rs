//! Lists of several pages.

use std::collections::BTreeMap;

use super::*;
use crate::view::follow::listing::{self, Listed};

/// The keys of a small registry. Instances come before their services, as in every list.
fn records() -> Vec<(String, String)> {
    let mut records = Vec::new();
    for s in 0..5 {
        let service = format!("default/default/s{s}");
        for i in 0..4 {
            let instance = format!(r#"{{"hostName":"h{i}","status":"UP"}}"#);
            records.push((format!("/cse-sr/inst/files/{service}/i{i}"), instance));
            records.push((format!("/cse-sr/inst/leases/{service}/i{i}"), "7".to_owned()));
        }
        let record = format!(r#"{{"serviceName":"s{s}","appId":"shop","version":"1.0.0"}}"#);
        records.push((format!("/cse-sr/ms/files/{service}"), record));
        records.push((format!("/cse-sr/ms/indexes/default/default//shop/s{s}/1.0.0"), format!("s{s}")));
        records.push((format!("/cse-sr/ms/schemas/{service}/schema"), "a long text".to_owned()));
        records.push((format!("/cse-sr/foreign/{s}"), "of another system".to_owned()));
    }
    records
}

async fn filled(stores: &Stores) -> Arc<Restorable> {
    let store = Arc::new(Restorable::of(stores.with("present", &["first"]).await));
    for (key, value) in records() {
        store.txn(Txn { then: vec![Op::put(key, value)], ..Txn::default() }).await.expect("written");
    }
    store
}

fn empty_view() -> (ViewWriter, View) {
    view::empty(History::new(100), Protection::default(), Clock::manual(1))
}

async fn read(store: &Restorable, writer: &ViewWriter, most: usize) -> Result<Listed, StoreError> {
    let at = listing::newest_revision(store).await?;
    listing::read(store, writer, at, most).await
}

/// The instances of each service, with the service's digest and the position of its last event.
fn shown(view: &View) -> BTreeMap<String, String> {
    let now = view.now().expect("listed");
    let tenant = now.tenant(&shared::model::Tenant::default()).expect("a tenant");
    let shown = |service: &crate::view::ServiceView| {
        let instances: Vec<_> = service.instances.values().map(|view| view.instance.json()).collect();
        let schemas: Vec<_> = service.schemas.keys().collect();
        format!("{:?} {} {:?} {instances:?} {schemas:?}", service.last, service.digest, service.key)
    };
    tenant.services.iter().map(|(id, service)| (id.clone(), shown(service))).collect()
}

#[tokio::test]
async fn a_list_is_the_same_in_pages_of_any_size() {
    let stores = Stores::new();
    let store = filled(&stores).await;
    let whole = store.range(RangeRequest::prefix(ROOT)).await.expect("read");
    let (mut writer, at_once) = empty_view();
    writer.reset(whole.items, whole.revision);
    // Five pages of four instances; one page of all of them exactly; one with room.
    for most in [1, 2, 3, 4, 20, 100] {
        let (mut writer, view) = empty_view();
        store.reads.lock().clear();
        let listed = read(&store, &writer, most).await.expect("listed");
        assert!(view.now().is_err(), "nothing is shown before the list is whole");
        assert_eq!(listed.keys, records().len() - 20 + 1, "all but the leases, and a project");
        let (newest, writing) = listed.newest.as_ref().expect("a witness");
        assert_eq!(
            (&newest[..], writing.mod_rev),
            ("/cse-sr/ms/schemas/default/default/s4/schema", 61.into())
        );
        writer.replace(listed.view);
        assert_eq!(shown(&view), shown(&at_once), "pages of {most}");
        assert_eq!(view.now().expect("listed").changed, 61.into());
        assert!(view.history().is_empty());
        assert_eq!(view.timeline().len(), 0);
        let reads = store.reads.lock();
        let longest = reads[1..].iter().map(|read| read.limit).max();
        assert_eq!(longest, Some(most.min(512)), "{most}");
        assert!(reads[1..].iter().all(|read| read.revision == Some(whole.revision)));
        let of_schemas = reads.iter().filter(|read| read.start.starts_with("/cse-sr/ms/schemas/"));
        assert!(of_schemas.clone().count() > 0 && of_schemas.clone().all(|read| read.keys_only));
        assert!(!reads.iter().any(|read| read.start.starts_with("/cse-sr/inst/leases/")));
    }
}

#[tokio::test]
async fn an_empty_store_is_listed() {
    let stores = Stores::new();
    let store = Restorable::of(stores.with("empty", &[]).await);
    let (mut writer, view) = empty_view();
    let listed = read(&store, &writer, 10).await.expect("listed");
    assert_eq!((listed.keys, listed.newest.is_none()), (0, true));
    writer.replace(listed.view);
    assert_eq!(view.now().expect("listed").tenants.size(), 0);
}

#[tokio::test]
async fn a_list_that_breaks_off_leaves_the_view_as_it_was() {
    let stores = Stores::new();
    let store = filled(&stores).await;
    let (mut writer, view) = empty_view();
    let listed = read(&store, &writer, 5).await.expect("listed");
    writer.replace(listed.view);
    let delete = Op::Delete("/cse-sr/inst/files/default/default/s0/i0".into());
    let rev = store.txn(Txn { then: vec![delete], ..Txn::default() }).await.expect("deleted").revision;
    writer.apply(vec![KvEvent::Delete { key: "/cse-sr/inst/files/default/default/s0/i0".into(), rev }]);
    let before = (writer.revision(), view.history().len(), view.timeline().len(), shown(&view));
    assert_eq!((before.1, before.2), (1, 1));
    let silence = Arc::new(Notify::new());
    for midway in [Midway::Compaction, Midway::Silence(silence.clone())] {
        store.reads.lock().clear();
        *store.midway.lock() = Some((5, midway));
        tokio::select! {
            listed = read(&store, &writer, 5) => {
                assert!(matches!(listed, Err(StoreError::Compacted(_))), "a page of a revision that is gone");
            }
            () = silence.notified() => {}
        }
        assert!(store.midway.lock().is_none(), "it happened");
        let now = (writer.revision(), view.history().len(), view.timeline().len(), shown(&view));
        assert_eq!(now, before);
    }
    store.reads.lock().clear();
    writer.replace(read(&store, &writer, 5).await.expect("a list that is begun anew").view);
    assert!(view.history().is_empty());
    assert_eq!(shown(&view).len(), 5);
}

#[tokio::test]
async fn a_list_that_is_compacted_midway_begins_anew() {
    let stores = Stores::new();
    let store = filled(&stores).await;
    *store.midway.lock() = Some((4, Midway::Compaction));
    let stop = CancellationToken::new();
    let view = follow_in_background(&store, &stop);
    shows(&view, &["first", "midway"]).await;
    assert!(store.midway.lock().is_none());
    assert_eq!(shown(&view).len(), 5);
    stop.cancel();
}

#[tokio::test]
async fn a_list_of_two_histories_is_not_shown() {
    let stores = Stores::new();
    let store = filled(&stores).await;
    // It has fewer revisions than the list's.
    let backup = stores.with("backup", &["kept"]).await;
    *store.midway.lock() = Some((4, Midway::Restore(backup)));
    let stop = CancellationToken::new();
    let view = follow_in_background(&store, &stop);
    shows(&view, &["kept"]).await;
    let now = view.now().expect("listed");
    assert_eq!(now.tenants.size(), 0, "nothing of the store before");
    stop.cancel();
}

#[test]
fn a_store_that_goes_back_ends_the_list() {
    let mut pages = listing::Pages::of_root(5.into(), 10);
    let page = |rev: u64| RangeReply { revision: rev.into(), ..RangeReply::default() };
    pages.advance(&page(7)).expect("it goes on");
    pages.advance(&page(7)).expect("it stays");
    assert!(matches!(pages.advance(&page(6)), Err(StoreError::Unavailable(_))));
}

#[test]
fn pages_have_as_many_keys_as_fit() {
    let mut pages = listing::Pages::of_root(5.into(), 10_000);
    let page = |bytes: usize| {
        let kv = KeyValue {
            key: "/cse-sr/inst/files/a".into(),
            value: vec![0; bytes].into(),
            create_rev: 1.into(),
            mod_rev: 1.into(),
            version: 1,
            lease: None,
        };
        RangeReply { items: vec![kv; 4], more: true, revision: 5.into() }
    };
    let mut limits = Vec::new();
    for bytes in [10, 10, 10, 10, 10, 10, 8 << 10, 1 << 20, 16 << 20, 10] {
        limits.push(pages.next().expect("there are more").limit);
        pages.advance(&page(bytes)).expect("it goes on");
    }
    assert_eq!(limits, [512, 1024, 2048, 4096, 8192, 10_000, 10_000, 2031, 15, 1]);
}
