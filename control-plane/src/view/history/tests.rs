//! What the history keeps, and what it finds.

use shared::event::{Action, Position, Via};
use shared::model::{Instance, ServiceRef, Tenant};

use super::*;

fn change(rev: u64) -> Change {
    Change::Interest(Arc::new(pb::InterestChange { rev, ..Default::default() }))
}

#[test]
fn a_revision_is_dropped_as_a_whole_and_reported_as_missing() {
    let history = History::new(4);
    history.restart(10.into());
    history.extend([change(11), change(11), change(12)]);
    assert!(history.since(10.into(), 99.into(), |_| true).complete);
    history.extend([change(13), change(14)]);
    let all = history.since(10.into(), 99.into(), |_| true);
    assert_eq!(all.changes.iter().map(|change| change.rev().get()).collect::<Vec<_>>(), [12, 13, 14]);
    assert!(!all.complete);
    assert!(history.since(11.into(), 99.into(), |_| true).complete);
}

#[test]
fn large_changes_are_dropped_by_their_size() {
    let change = |rev: u64, bytes: usize| {
        let properties = [("key".to_owned(), "x".repeat(bytes))].into();
        let instance = Instance { properties, ..Default::default() };
        Change::Instance(Arc::new(InstanceEvent {
            provider: ServiceRef::new(Tenant::default(), "provider"),
            at: Position::first_of(rev.into()),
            prev: Position::default(),
            action: Action::Update,
            key: Arc::default(),
            instance: Arc::new(instance),
            mod_rev: rev.into(),
            committed_at: 0,
            via: Via::default(),
        }))
    };
    let history = History::new(1_000).within(100_000);
    (1..=500).for_each(|rev| history.extend([change(rev, 10_000)]));
    assert!((1..10).contains(&history.len()) && history.bytes() <= 100_000, "{}", history.len());
    assert!(!history.since(400.into(), 500.into(), |_| true).complete);
    assert!(history.since(history.complete_since(), 500.into(), |_| true).complete);
    history.extend([change(501, 1_000_000)]);
    assert_eq!(history.len(), 1, "the newest revision is kept in any case");
    history.extend([change(502, 1)]);
    assert_eq!((history.len(), history.bytes()), (1, size(&change(502, 1))));
    history.restart(600.into());
    assert_eq!(history.bytes(), 0);
}

#[test]
fn the_changes_end_at_the_requested_revision() {
    let history = History::new(10);
    history.restart(1.into());
    history.extend((2..8).map(change));
    let some = history.since(3.into(), 5.into(), |change| change.rev() != 4.into());
    assert_eq!(some.changes.iter().map(|change| change.rev().get()).collect::<Vec<_>>(), [5]);
}

fn service(number: u64) -> ServiceRef {
    ServiceRef::new(Tenant { domain: format!("d{}", number % 2), ..Tenant::default() }, format!("s{number}"))
}

fn any_change(rev: u64, dice: &mut fastrand::Rng) -> Change {
    let service = service(dice.u64(0..5));
    match dice.u8(0..3) {
        0 => Change::Instance(Arc::new(InstanceEvent {
            provider: service,
            at: Position::first_of(rev.into()),
            prev: Position::default(),
            action: Action::Update,
            key: Arc::default(),
            instance: Arc::default(),
            mod_rev: rev.into(),
            committed_at: 0,
            via: Via::default(),
        })),
        1 => Change::Interest(Arc::new(pb::InterestChange {
            consumer: Some((&service).into()),
            rev,
            ..Default::default()
        })),
        _ => Change::Services(Arc::new(pb::ServicesChange {
            domain: service.tenant.domain,
            project: service.tenant.project,
            rev,
            ..Default::default()
        })),
    }
}

#[test]
fn the_index_finds_what_a_look_at_every_change_finds() {
    let mut dice = fastrand::Rng::with_seed(7);
    let history = History::new(50);
    let mut rev = 1;
    history.restart(rev.into());
    for round in 0..3000 {
        if dice.u32(0..300) == 0 {
            history.restart(rev.into());
        }
        rev += 1;
        history.extend((0..dice.usize(1..4)).map(|_| any_change(rev, &mut dice)).collect::<Vec<_>>());
        let since = Revision::new(rev.saturating_sub(dice.u64(0..70)));
        let until = Revision::new(rev.saturating_sub(dice.u64(0..70)));
        let service = service(dice.u64(0..5));
        let of_service = pb::ServiceRef::from(&service);
        let changes = history.since(since, until, |_| true).changes;
        let mut events = Vec::new();
        let mut interests = Vec::new();
        let mut services = Vec::new();
        for change in changes {
            match change {
                Change::Instance(event) if event.provider == service => events.push(event),
                Change::Interest(change) if change.consumer.as_ref() == Some(&of_service) => {
                    interests.push(change)
                }
                Change::Services(change) if change.domain == service.tenant.domain => services.push(change),
                _ => {}
            }
        }
        let context = format!("round {round}: after {since} until {until}");
        let found = history.of_provider(&service, since, until);
        assert_eq!(
            found.iter().map(|event| event.at).collect::<Vec<_>>(),
            events.iter().map(|event| event.at).collect::<Vec<_>>(),
            "{context}"
        );
        assert_eq!(history.of_consumer(&service, since, until), interests, "{context}");
        assert_eq!(history.of_tenant(&service.tenant, since, until), services, "{context}");
        let unchanged_since = history.interest_unchanged_since(&service, until);
        assert!(history.of_consumer(&service, unchanged_since, until).is_empty(), "{context}");
    }
    history.restart(rev.into());
    assert!(history.state.read().index.is_empty());
}

#[test]
fn the_index_keeps_nothing_of_what_was_dropped() {
    let mut dice = fastrand::Rng::with_seed(7);
    let history = History::new(1);
    (1..500).for_each(|rev| history.extend([any_change(rev, &mut dice)]));
    history.state.write().drop_oldest_of(499.into());
    assert!(history.state.read().index.is_empty() && history.bytes() == 0);
}
