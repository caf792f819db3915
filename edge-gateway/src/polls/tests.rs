use proptest::prelude::*;

use super::*;

const SILENT_AFTER: Duration = Duration::from_secs(60);
const CLIENTS: usize = 5;
const PROVIDERS: usize = 3;

fn provider(index: usize) -> ServiceRef {
    ServiceRef::new(Tenant::default(), format!("p{index}"))
}

fn config() -> PollsConfig {
    PollsConfig { silent_after: SILENT_AFTER, none_before: true }
}

fn begin(polls: &Polls, client: usize, question: usize, floor: Revision, now: Instant) -> Flight {
    let tenant = Tenant::default();
    let question = [question as u8];
    let asker = Asker {
        tenant: &tenant,
        consumer: "c",
        peer: Some(SocketAddr::from(([10, 0, 0, 1], 1000 + client as u16))),
        words: vec![&question],
    };
    polls.begin_at(&asker, floor, now).expect("clients are followed")
}

fn found(rev: u64, services: &[usize]) -> Given {
    let services = services.iter().map(|index| (provider(*index), None)).collect();
    Given { rev: Revision::new(rev), services: Some(services) }
}

fn waiting(reach: PollReach) -> (u64, u64, Vec<PollState>) {
    (reach.pollers, reach.reached, reach.waiting.iter().map(|waiting| waiting.state).collect())
}

#[test]
fn a_client_waits_until_it_is_given_the_change() {
    let start = Instant::now();
    let polls = Polls::new(config(), start);
    let ask = |rev: u64, now| waiting(polls.ask_at(&provider(0), Revision::new(rev), None, 9, now));
    assert_eq!(ask(7, start), (0, 0, vec![]));
    let mut first = begin(&polls, 0, 0, Revision::new(3), start);
    assert_eq!(ask(7, start), (1, 0, vec![PollState::Asking]), "its answer may be one from before");
    first.offer(found(3, &[0]));
    first.taken_at(start);
    assert_eq!(ask(7, start), (1, 0, vec![PollState::NotAsked]));
    assert_eq!(ask(3, start), (1, 1, vec![]));
    let mut second = begin(&polls, 0, 0, Revision::new(6), start);
    second.offer(found(7, &[0]));
    assert_eq!(ask(7, start), (1, 0, vec![PollState::Asking]), "it has not taken it");
    second.taken_at(start);
    assert_eq!(ask(7, start), (1, 1, vec![]));
    // Half of an answer is none, and nobody knows what the client has made of it.
    let mut third = begin(&polls, 0, 0, Revision::new(9), start);
    third.offer(found(9, &[0]));
    drop(third);
    assert_eq!(ask(7, start), (1, 0, vec![PollState::NotAsked]));
    assert_eq!(ask(7, start + SILENT_AFTER + Duration::from_secs(1)), (0, 0, vec![]), "it polls no more");
}

#[test]
fn only_what_a_client_was_given_concerns_it() {
    let start = Instant::now();
    let polls = Polls::new(config(), start);
    let give = |client, given| {
        let mut flight = begin(&polls, client, 0, Revision::ZERO, start);
        flight.offer(given);
        flight.taken_at(start);
    };
    give(0, found(3, &[0, 1]));
    give(1, Given { rev: Revision::new(3), services: None });
    give(2, found(3, &[2]));
    let waits = |index| polls.ask_at(&provider(index), Revision::new(7), None, 9, start).waiting.len();
    assert_eq!((waits(0), waits(1), waits(2)), (2, 2, 2), "a batch may hold anything");
    // A find without an answer is forgotten.
    drop(begin(&polls, 3, 0, Revision::ZERO, start));
    assert_eq!(waits(0), 2);
    // The position of an answer proves more than its bookmark.
    let at = Position::first_of(Revision::new(7));
    let services = Some(vec![(provider(0), Some(at))]);
    give(0, Given { rev: Revision::new(6), services });
    let ask = |at| polls.ask_at(&provider(0), Revision::new(7), at, 9, start).reached;
    assert_eq!((ask(None), ask(Some(at))), (0, 1));
    let other = ServiceRef::new(Tenant::new("d", "p"), "x");
    assert_eq!(polls.ask_at(&other, Revision::new(7), None, 9, start).pollers, 0, "another tenant's");
}

#[test]
fn a_restore_makes_everybody_wait() {
    let start = Instant::now();
    let polls = Polls::new(config(), start);
    polls.of_incarnation(Some(1));
    let mut flight = begin(&polls, 0, 0, Revision::new(900), start);
    flight.offer(found(900, &[0]));
    let mut other = begin(&polls, 1, 0, Revision::new(900), start);
    other.offer(found(900, &[0]));
    other.taken_at(start);
    polls.of_incarnation(None);
    polls.of_incarnation(Some(2));
    let ask = |now| waiting(polls.ask_at(&provider(0), Revision::new(7), None, 99, now));
    let (pollers, reached, states) = ask(start);
    assert!(pollers > reached && states.iter().all(|state| *state == PollState::Many), "{states:?}");
    let again = begin(&polls, 0, 0, Revision::new(7), start);
    flight.taken_at(start + Duration::from_secs(30));
    drop(again);
    assert_eq!(ask(start + Duration::from_secs(80)).0, 1, "the find from before has ended later");
    assert_eq!(ask(start + Duration::from_secs(100)).0, 0);
}

#[test]
fn memory_has_a_bound_and_the_proof_stays_true() {
    let start = Instant::now();
    let polls = Polls::with_room(config(), start, PARTS);
    for client in 0..1000 {
        let mut flight = begin(&polls, client, 0, Revision::new(3), start);
        flight.offer(found(3, &[0]));
        flight.taken_at(start);
    }
    let listed: usize = polls.0.parts.iter().map(|part| part.lock().len()).sum();
    assert!(listed <= PARTS, "{listed}");
    let at = |seconds| start + Duration::from_secs(seconds);
    let ask = |seconds| polls.ask_at(&provider(0), Revision::new(7), None, 99, at(seconds));
    assert!(ask(0).waiting.iter().any(|waiting| waiting.state == PollState::Many));
    assert!(ask(59).waiting.len() > listed.min(1), "for as long as they may not have asked again");
    assert_eq!(ask(62).pollers, 0);
    // The room of those that have gone is used again.
    let mut flight = begin(&polls, 7, 0, Revision::new(7), at(70));
    flight.offer(found(7, &[0]));
    flight.taken_at(at(70));
    assert_eq!((ask(70).pollers, ask(70).reached), (1, 1));
}

/// A step of the world: clients find, the registry changes, time passes.
#[derive(Clone, Debug)]
enum Step {
    Begin(usize, usize),
    /// The answer is made from the state of now.
    Make(usize),
    Take(usize),
    Break(usize),
    Change(usize),
    /// A bookmark tells that nothing before it is missing.
    Bookmark,
    Pass(u64),
    Ask(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..CLIENTS, 0..PROVIDERS).prop_map(|(client, provider)| Step::Begin(client, provider)),
        4 => (0..CLIENTS).prop_map(Step::Make),
        4 => (0..CLIENTS).prop_map(Step::Take),
        1 => (0..CLIENTS).prop_map(Step::Break),
        2 => (0..PROVIDERS).prop_map(Step::Change),
        2 => Just(Step::Bookmark),
        2 => (1..40_u64).prop_map(Step::Pass),
        4 => (0..PROVIDERS).prop_map(Step::Ask),
    ]
}

/// A client as it is: one find at a time, and what it holds of each provider.
#[derive(Default)]
struct Client {
    /// The find under way, the provider that it asks for, and the last change in the answer, once it is made.
    flight: Option<(Flight, usize, Option<u64>)>,
    /// Of each provider, the oldest last change that it may go by, and the second at which it got that.
    holds: [Option<(u64, u64)>; PROVIDERS],
    /// Of each provider, the second at which a find ended without an answer. The client is there, and goes on by
    /// what it holds.
    unanswered: [Option<u64>; PROVIDERS],
}

proptest! {
    #[test]
    fn nothing_is_proven_while_a_client_goes_by_an_older_answer(
        steps in prop::collection::vec(step(), 1..120),
        room in prop_oneof![Just(MOST_CLIENTS), Just(PARTS)],
    ) {
        let start = Instant::now();
        let polls = Polls::with_room(config(), start, room);
        let mut clients: [Client; CLIENTS] = Default::default();
        let (mut rev, mut bookmark, mut second) = (1_u64, 1_u64, 0_u64);
        let mut changed = [1_u64; PROVIDERS];
        for step in steps {
            let now = start + Duration::from_secs(second);
            match step {
                Step::Begin(index, provider) => {
                    let client = &mut clients[index];
                    if client.flight.is_none() {
                        let flight = begin(&polls, index, provider, Revision::new(bookmark), now);
                        client.flight = Some((flight, provider, None));
                    }
                }
                Step::Make(index) => {
                    if let Some((flight, index, made @ None)) = &mut clients[index].flight {
                        let at = Position::first_of(Revision::new(changed[*index]));
                        let services = Some(vec![(provider(*index), Some(at))]);
                        flight.offer(Given { rev: Revision::new(bookmark), services });
                        *made = Some(changed[*index]);
                    }
                }
                Step::Take(index) => {
                    let client = &mut clients[index];
                    if let Some((flight, provider, Some(made))) =
                        client.flight.take_if(|(_, _, made)| made.is_some())
                    {
                        flight.taken_at(now);
                        client.holds[provider] = Some((made, second));
                    }
                }
                Step::Break(index) => {
                    let client = &mut clients[index];
                    if let Some((mut flight, provider, made)) = client.flight.take() {
                        flight.end(now, false);
                        // It may have read the answer, and is there in any case.
                        if let Some(made) = made {
                            let before = client.holds[provider].map_or(made, |(holds, _)| holds);
                            client.holds[provider] = Some((before.min(made), second));
                        } else {
                            client.unanswered[provider] = Some(second);
                        }
                    }
                }
                Step::Change(provider) => {
                    rev += 1;
                    changed[provider] = rev;
                }
                Step::Bookmark => bookmark = rev,
                Step::Pass(seconds) => second += seconds,
                Step::Ask(index) => {
                    let change = changed[index];
                    // A gateway answers only for what it has seen confirmed.
                    if bookmark < change {
                        continue;
                    }
                    let at = Some(Position::first_of(Revision::new(change)));
                    let reach = polls.ask_at(&provider(index), Revision::new(change), at, 99, now);
                    let is_proven = reach.reached == reach.pollers;
                    let is_recent = |got: u64| second < got + SILENT_AFTER.as_secs();
                    let goes_by_older = clients.iter().any(|client| {
                        let holds = client.holds[index];
                        let is_old = holds.is_some_and(|(holds, got)| holds < change && is_recent(got));
                        let comes = client.flight.as_ref().is_some_and(|(_, provider, made)| {
                            *provider == index && made.is_some_and(|made| made < change)
                        });
                        is_old || comes
                    });
                    prop_assert!(!(is_proven && goes_by_older), "{reach:?}");
                    // And the other way round, where everybody is told apart: a drain ends.
                    let is_busy = clients.iter().any(|client| client.flight.is_some());
                    let is_broken = reach.waiting.iter().any(|waiting| waiting.state == PollState::NotAsked);
                    if room == MOST_CLIENTS && !is_busy && !goes_by_older {
                        let may_be_broken = clients.iter().any(|client| {
                            let got = client.holds[index].map(|(_, got)| got);
                            got.into_iter().chain(client.unanswered[index]).any(is_recent)
                        });
                        prop_assert!(is_proven || (is_broken && may_be_broken), "{reach:?}");
                    }
                }
            }
        }
    }
}
