//! Providers that a group was told of once and is not any more: for sessions that resume from before they left.
//!
//! A group follows those that it has now. Who was away is told what happened to the others until they left, as
//! those who stayed were. A replica is asked for it, once for all sessions of a group that resume, and the answer
//! is good until the interest changes.

use std::sync::Arc;

use shared::event::{InstanceEvent, Position};
use shared::model::{Revision, ServiceRef};

use super::{Core, Group};
use crate::push::Push;
use crate::upstream::topic::Replayed;
use crate::watch::GroupId;
use crate::watch::Selector;

/// What a replica told of those that left.
#[derive(Clone, Debug, Default)]
pub(crate) struct Departed {
    /// It was asked who left after this revision,
    pub since: Revision,
    /// and the answer is complete after this one.
    pub after: Revision,
    /// The revision of the answer.
    pub rev: Revision,
    /// What happened to each until it left, in order.
    pub events: Vec<(ServiceRef, Arc<Push>)>,
}

/// What became of an answer about one that left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Added {
    /// It is among the events.
    Told,
    /// History does not reach back so far: nobody's departure is known.
    Forgotten,
    /// The replica has not come as far as the one that told who left, and must be asked again.
    Behind,
}

impl Departed {
    /// Takes what happened to one that left at `until`; the replica that tells need not be the one that told who left.
    pub(crate) fn add(
        &mut self,
        selector: &Selector,
        provider: &ServiceRef,
        until: Revision,
        replayed: &Replayed,
    ) -> Added {
        if !replayed.continuous {
            (self.after, self.events) = (self.rev, Vec::new());
            return Added::Forgotten;
        }
        if replayed.at < Position::end_of(until) {
            return Added::Behind;
        }
        let in_scope = |event: &&InstanceEvent| {
            event.at.rev <= until && selector.scope().is_none_or(|scope| scope.matches(&event.key))
        };
        let told = replayed.events.iter().filter(in_scope);
        self.events.extend(told.map(|event| (provider.clone(), Arc::new(Push::of(0, event)))));
        Added::Told
    }
}

/// How a group's departures are known to a session that resumes.
pub(super) enum Known<'a> {
    /// A replica must be asked.
    Unknown,
    /// History does not reach back so far.
    Forgotten,
    /// What happened after the session's revision.
    Events(Vec<&'a Arc<Push>>),
}

impl Group {
    /// What happened after `since` to providers that have left.
    pub(super) fn departures(&self, since: Revision) -> Known<'_> {
        if let Selector::Providers(_) = self.selector {
            // These stay whatever happens to them.
            return Known::Events(Vec::new());
        }
        let current = |it: &&Departed| it.since <= since && it.rev >= self.known().rev;
        let Some(departed) = self.departed.as_ref().filter(current) else { return Known::Unknown };
        if since < departed.after {
            return Known::Forgotten;
        }
        let events = departed.events.iter().filter(|(provider, push)| {
            // Of one that is still followed here, or again, its topic tells everything. What the replica knew further
            // than this gateway, the group is told when it arrives, and with it the session.
            let arrived = push.at.rev > since && push.at.rev <= self.covered;
            arrived && !self.providers.contains(provider)
        });
        Known::Events(events.map(|(_, push)| push).collect())
    }
}

impl Core {
    /// A replica told who left the group.
    pub(crate) fn on_departed(&mut self, id: GroupId, departed: Departed) {
        self.seen = self.seen.max(departed.rev);
        if let Some(group) = self.groups.get_mut(&id) {
            group.departed = Some(departed);
        }
    }

    /// Nobody of the group resumes any more.
    pub(crate) fn forget_departed(&mut self, resumes: impl Fn(GroupId) -> bool) {
        for (id, group) in &mut self.groups {
            if !resumes(*id) {
                group.departed = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use shared::event::{Action, Via};
    use shared::model::{Instance, Tenant};

    use super::super::preface::{Missing, Preface};
    use super::super::{Effect, Interest, InterestChange, Want};
    use super::*;

    fn service(id: &str) -> ServiceRef {
        ServiceRef::new(Tenant::default(), id)
    }

    /// A group of a consumer of `p`, known since revision 20, at rest.
    fn group() -> (Core, GroupId) {
        let mut core = Core::new(1);
        let id = core.join(&Selector::Consumer(service("c"))).0;
        core.on_interest(id, Interest { exists: true, rev: 20, providers: vec![service("p")] });
        answer(&mut core, id, 20, &[service("p")]);
        (core, id)
    }

    /// Answers what is asked until a bookmark has made it certain.
    fn answer(core: &mut Core, id: GroupId, rev: Revision, providers: &[ServiceRef]) {
        for bookmark in rev..rev + 4 {
            for effect in core.take_effects() {
                match effect {
                    Effect::AskInterest(..) => {
                        core.on_interest(id, Interest { exists: true, rev, providers: providers.to_vec() });
                    }
                    Effect::OpenTopics(wants) => {
                        for Want { provider, since, .. } in wants {
                            let key = Some(Arc::default());
                            let replayed =
                                Replayed { key, continuous: true, at: since, ..Replayed::default() };
                            core.on_loaded(&provider, since, replayed);
                        }
                    }
                    Effect::Replay(_, wants) => {
                        for Want { provider, since, .. } in wants {
                            let replayed = Replayed { continuous: true, at: since, ..Replayed::default() };
                            core.on_replayed(&provider, since, replayed);
                        }
                    }
                    _ => {}
                }
            }
            core.on_bookmark(bookmark, rev);
        }
    }

    fn delete(provider: &str, rev: Revision) -> (ServiceRef, Arc<Push>) {
        let instance = Arc::new(Instance { instance_id: provider.into(), ..Instance::default() });
        let push = Push::found(0, Position::first_of(rev), Action::Delete, Arc::default(), instance);
        (service(provider), Arc::new(push))
    }

    /// The first event of `p` after what the group knows.
    fn created(at: Position) -> InstanceEvent {
        InstanceEvent {
            provider: service("p"),
            at,
            prev: Position::end_of(20),
            action: Action::Create,
            key: Arc::default(),
            instance: Arc::new(Instance { instance_id: "i".into(), ..Instance::default() }),
            mod_rev: at.rev,
            committed_at: 1,
            via: Via::default(),
        }
    }

    fn preface(core: &Core, id: GroupId, since: Revision) -> Result<Preface, Missing> {
        // The provider's own history is known, and empty.
        let at = Position::end_of(20);
        let known = HashMap::from([(service("p"), Replayed { continuous: true, at, ..Replayed::default() })]);
        core.preface(id, since, &known).expect("the group is there")
    }

    fn told(preface: Result<Preface, Missing>) -> Vec<Revision> {
        preface.expect("nothing is missing").events.iter().map(|push| push.at.rev).collect()
    }

    #[test]
    fn who_resumes_is_told_what_happened_meanwhile_to_providers_that_left() {
        let (mut core, id) = group();
        assert!(matches!(preface(&core, id, 12), Err(Missing::Departed)), "a replica is asked first");
        let events = vec![delete("early", 12), delete("gone", 14), delete("p", 15)];
        core.on_departed(id, Departed { since: 12, after: 12, rev: 20, events });
        assert_eq!(told(preface(&core, id, 12)), [14], "of what is followed the topic tells");
        assert_eq!(told(preface(&core, id, 14)), [] as [Revision; 0]);
        assert!(matches!(preface(&core, id, 11), Err(Missing::Departed)), "it was not asked so far back");
    }

    #[test]
    fn a_state_in_the_middle_of_a_revision_does_not_claim_all_of_it() {
        let (mut core, id) = group();
        core.on_event(created(Position { rev: 40, sub: 0 }));
        let state =
            core.preface(id, 0, &HashMap::new()).expect("the group is there").expect("nothing is missing");
        assert_eq!(state.states[0].1.len(), 1);
        assert_eq!(state.rev, 39, "the rest of 40 is on its way");
        core.on_bookmark(40, 20);
        let state =
            core.preface(id, 0, &HashMap::new()).expect("the group is there").expect("nothing is missing");
        assert_eq!(state.rev, 40);
    }

    #[test]
    fn who_was_told_elsewhere_what_was_lost_here_waits_until_it_is_known_and_is_not_told_again() {
        let (mut core, id) = group();
        core.on_departed(id, Departed { since: 12, after: 12, rev: 30, events: Vec::new() });
        let other = core.join(&Selector::Consumer(service("d"))).0;
        core.on_interest(other, Interest { exists: true, rev: 30, providers: Vec::new() });
        core.take_effects();
        assert_eq!(core.seen(), 30, "of others it is known what happened");
        let waits = |core: &Core| core.preface(id, 28, &HashMap::new()).is_none();
        assert!(waits(&core), "another gateway has told of 28");
        let lost = Position::first_of(28);
        core.on_reached([(service("p"), lost)].into_iter(), std::iter::empty(), std::iter::empty());
        core.on_bookmark(30, 23);
        assert!(waits(&core), "what was lost is being asked for");
        let (events, at) = (vec![created(lost)], Position::end_of(30));
        let replayed = Replayed { continuous: true, events, at, ..Replayed::default() };
        core.on_replayed(&service("p"), Position::end_of(23), replayed);
        let appended = core.take_effects().into_iter().any(|it| matches!(it, Effect::Append(..)));
        assert!(appended, "who was here hears of it");
        let resumed = core.preface(id, 28, &HashMap::new()).expect("it is known");
        assert_eq!(told(resumed), [] as [Revision; 0]);
    }

    #[test]
    fn who_resumes_at_a_gateway_that_has_just_opened_does_not_wait_for_bookmarks() {
        let mut core = Core::new(1);
        let id = core.join(&Selector::Consumer(service("c"))).0;
        core.on_interest(id, Interest { exists: true, rev: 20, providers: vec![service("p")] });
        for effect in core.take_effects() {
            let Effect::OpenTopics(wants) = effect else { continue };
            let at = Position::end_of(20);
            core.on_loaded(&wants[0].provider, at, Replayed { continuous: true, at, ..Replayed::default() });
        }
        core.on_bookmark(21, 20);
        core.on_departed(id, Departed { since: 21, after: 12, rev: 21, events: Vec::new() });
        assert!(core.preface(id, 21, &HashMap::new()).is_none(), "it was told of 21 elsewhere");
        for _ in 0..2 {
            core.hasten(id, 21);
        }
        let asked: Vec<_> = core.take_effects();
        let asks = |it: &Effect| matches!(it, Effect::AskInterest(..) | Effect::Replay(..));
        assert_eq!(asked.iter().filter(|it| asks(it)).count(), 2, "each is asked for once: {asked:?}");
        core.on_interest(id, Interest { exists: true, rev: 21, providers: vec![service("p")] });
        let at = Position::end_of(21);
        let replayed = Replayed { continuous: true, at, ..Replayed::default() };
        core.on_replayed(&service("p"), Position::end_of(20), replayed);
        assert!(core.preface(id, 21, &HashMap::new()).is_some_and(|it| it.is_ok()));
    }

    #[test]
    fn who_resumes_is_told_no_difference_that_only_a_comparison_showed() {
        let (mut core, id) = group();
        core.on_departed(id, Departed { since: 12, after: 12, rev: 20, events: Vec::new() });
        let provider = service("p");
        let written = Arc::new(Instance { instance_id: "i".into(), ..Instance::default() });
        let state =
            Replayed { snapshot: Some(vec![(written, 23)]), at: Position::end_of(26), ..Replayed::default() };
        core.on_replayed(&provider, Position::end_of(20), state);
        core.on_bookmark(26, 23);
        // Elsewhere it was told of the writing at 23, and has come to 24.
        let resume = |known: &HashMap<_, _>| core.preface(id, 24, known).expect("the group is there");
        assert!(matches!(resume(&HashMap::new()), Err(Missing::Events(_))), "a replica may know it exactly");
        let at = Position::end_of(26);
        let nothing = Replayed { continuous: true, at, ..Replayed::default() };
        let preface = resume(&HashMap::from([(provider.clone(), nothing)])).expect("nothing is missing");
        assert_eq!((preface.events.len(), preface.states.len()), (0, 0));
        let unknown = Replayed { at, ..Replayed::default() };
        let preface = resume(&HashMap::from([(provider, unknown)])).expect("nothing is missing");
        assert_eq!((preface.events.len(), preface.states.len()), (0, 1), "a state says it without a place");
    }

    #[test]
    fn what_happened_to_who_left_is_asked_of_a_replica_that_has_come_as_far() {
        let selector = Selector::Consumer(service("c"));
        let mut departed = Departed { since: 12, after: 12, rev: 20, events: Vec::new() };
        let mut add = |continuous, at| {
            let replayed = Replayed { continuous, at: Position::end_of(at), ..Replayed::default() };
            departed.add(&selector, &service("gone"), 18, &replayed)
        };
        assert_eq!(add(true, 17), Added::Behind, "it does not know of the deletes at 18 yet");
        assert_eq!(add(true, 18), Added::Told);
        assert_eq!(add(false, 20), Added::Forgotten);
        assert_eq!(departed.after, 20, "nothing before is known");
    }

    #[test]
    fn an_answer_is_good_until_the_interest_changes() {
        let (mut core, id) = group();
        core.on_departed(id, Departed { since: 12, after: 12, rev: 20, events: Vec::new() });
        assert!(preface(&core, id, 12).is_ok());
        let removed = vec![service("p")];
        core.on_interest_change(
            id,
            InterestChange { at: Position::end_of(24), removed, ..InterestChange::default() },
        );
        assert!(
            core.preface(id, 12, &HashMap::new()).is_none(),
            "it is not certain yet what was told of `p`"
        );
        answer(&mut core, id, 24, &[]);
        assert!(matches!(preface(&core, id, 12), Err(Missing::Departed)));
        core.on_departed(id, Departed { since: 12, after: 12, rev: 28, events: vec![delete("p", 24)] });
        assert_eq!(told(preface(&core, id, 12)), [24]);
        core.forget_departed(|_| false);
        assert!(matches!(preface(&core, id, 12), Err(Missing::Departed)));
    }

    #[test]
    fn when_history_does_not_reach_back_everything_is_void_and_the_states_follow() {
        let (mut core, id) = group();
        core.on_departed(id, Departed { since: 12, after: 16, rev: 20, events: vec![delete("gone", 18)] });
        let preface_of = |since| preface(&core, id, since).expect("nothing is missing");
        let voided = preface_of(15);
        assert!(voided.void);
        assert_eq!((voided.states.len(), voided.events.len()), (1, 0));
        let told = preface_of(16);
        assert!(!told.void);
        assert_eq!((told.states.len(), told.events.len()), (0, 1));
    }

    #[test]
    fn a_listed_provider_that_is_gone_and_forgotten_makes_everything_void() {
        let mut core = Core::new(1);
        let providers = [service("p"), service("q")].into();
        let id = core.join(&Selector::Providers(providers)).0;
        core.on_interest(id, Interest { exists: true, rev: 20, providers: Vec::new() });
        for effect in core.take_effects() {
            let Effect::OpenTopics(wants) = effect else { continue };
            for want in wants {
                let key = (want.provider.id == "p").then(Arc::default);
                let replayed = Replayed { key, continuous: true, at: want.since, ..Replayed::default() };
                core.on_loaded(&want.provider, want.since, replayed);
            }
        }
        let forgotten = || Replayed { at: Position::end_of(20), ..Replayed::default() };
        let known = HashMap::from([(service("p"), forgotten()), (service("q"), forgotten())]);
        let preface = core.preface(id, 12, &known).expect("is there").expect("nothing is missing");
        assert!(preface.void, "there is no name to reset `q` by");
        assert_eq!(preface.states.len(), 1);
    }
}
