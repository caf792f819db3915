//! The simulation of the fan-out tree: single events, with a queue at each hop.
//!
//! ```text
//! commit ─▶ publisher ─▶ NATS, a copy per gateway ─▶ gateway ─▶ shards ─▶ watchers (─▶ clients, same cores)
//! ```
//! A shard is played as it is built: it looks at its inbox between two chunks of a round, and a watcher is
//! given all that is pending in one write. Gateways are alike, so that some of them stand for all; NATS
//! serves all of them. It promises: the same seed gives the same figures; every watcher gets every change of
//! its providers, once and in order, and the end checks that.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use fastrand::Rng;
use hdrhistogram::Histogram;

use crate::coefficients::Coefficients;
use crate::fleet::Fleet;

mod shard;

use shard::Shard;

/// The scenario.
#[derive(Clone, Debug)]
pub struct Tree {
    /// Gateways of the fleet.
    pub gateways: u32,
    /// The number of gateways that are played; the others are like them.
    pub played: u32,
    /// Shards of a gateway, each on a core of its own unless `processors` says otherwise.
    pub shards: u32,
    /// Watchers of a gateway.
    pub watchers: u32,
    /// Services that watch.
    pub consumers: u32,
    /// Services that are watched.
    pub providers: u32,
    /// Providers that each consumer uses.
    pub uses: u32,
    /// Exponent of the providers' popularity.
    pub zipf: f64,
    /// Only this provider changes; else each as often.
    pub only: Option<u32>,
    /// Changes a second.
    pub rate: f64,
    /// At even distances, not at random.
    pub regular: bool,
    /// The time during which changes are made.
    pub seconds: f64,
    /// CPU of the client for a frame, when it shares the cores.
    pub client_us: f64,
    /// Cores that all of them share; else each hop has its own.
    pub processors: Option<u32>,
}

impl Tree {
    /// Two gateways of a fleet, in a situation with `rate` changes a second.
    pub fn of(fleet: &Fleet, rate: f64, seconds: f64) -> Self {
        let of_gateway = fleet.watchers.div_ceil(fleet.gateways());
        let narrow = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            gateways: narrow(fleet.gateways()),
            played: narrow(fleet.gateways()).min(2),
            shards: narrow(fleet.cores),
            watchers: narrow(of_gateway),
            consumers: narrow(fleet.services),
            providers: narrow(fleet.services),
            uses: narrow(fleet.uses),
            zipf: fleet.zipf,
            only: None,
            rate,
            regular: false,
            seconds,
            client_us: 0.0,
            processors: None,
        }
    }
}

/// The outcome. Times are microseconds from the request for a change to the frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Changes made.
    pub events: u64,
    /// Frames that watchers got.
    pub received: u64,
    /// Frames that they were to get.
    pub expected: u64,
    /// Quantiles of all receipts.
    pub p50: f64,
    /// The slowest hundredth.
    pub p99: f64,
    /// The slowest thousandth.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
    /// Frames that went out together, on average.
    pub together: f64,
    /// The part of the time in which the publisher, NATS, and a shard were busy.
    pub busy: [f64; 3],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// A change has been committed and seen.
    Publish(u32),
    /// A copy has come to a gateway.
    Arrive(u32, u32),
    /// A shard goes on.
    Step(u32),
    /// Frames have come to the client.
    Read(u32),
}

/// A hop that does one thing after the other.
#[derive(Clone, Copy, Debug, Default)]
struct Server {
    free: f64,
    busy: f64,
}

impl Server {
    /// Does work that is there at `now`; gives when it is done.
    fn work(&mut self, now: f64, cost: f64) -> f64 {
        self.free = self.free.max(now) + cost;
        self.busy += cost;
        self.free
    }
}

/// Plays it.
///
/// # Panics
/// When a watcher got too much or too little: the simulation would be wrong.
pub fn play(tree: &Tree, with: &Coefficients, seed: u64) -> Outcome {
    let mut dice = Rng::with_seed(seed);
    let world = World::new(tree, &mut dice);
    let mut shards = world.shards(tree, &mut dice);
    let mut agenda = Agenda::default();
    let commits = commits(tree, &world, &mut dice);
    // The measured way from etcd to a subscriber has the hop and the publisher's work in it.
    let known = with.get("nats_hop_us") + with.get("publisher_event_us");
    let before = with.get("commit_us") + (with.get("view_us") - known).max(0.0);
    for (event, (at, _)) in commits.iter().enumerate() {
        agenda.at(at + before, What::Publish(event as u32));
    }
    let mut publisher = Server::default();
    let mut nats = Server::default();
    let mut client = Server::default();
    let mut upstream = vec![Server::default(); tree.played as usize];
    let mut lag = Histogram::<u64>::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are in order");
    let mut batches: VecDeque<Vec<(u32, f64)>> = VecDeque::new();
    let mut stepping = 0_u32;
    let mut writes = 0_u64;
    let mut now = 0.0_f64;
    while let Some((at, what)) = agenda.next() {
        now = now.max(at);
        // More threads than cores take turns on them.
        let reading = u32::from(client.free > at);
        let slower =
            tree.processors.map_or(1.0, |cores| (f64::from(stepping + reading) / f64::from(cores)).max(1.0));
        match what {
            What::Publish(event) => {
                let sent = publisher.work(at, with.get("publisher_event_us"));
                let provider = commits[event as usize].1;
                for gateway in world.interested(provider, tree, &mut dice) {
                    let out = nats.work(sent, with.get("nats_message_us"));
                    if gateway < tree.played {
                        agenda.at(out + with.get("nats_hop_us"), What::Arrive(gateway, event));
                    }
                }
            }
            What::Arrive(gateway, event) => {
                let ready = upstream[gateway as usize].work(at, with.get("gateway_event_us") * slower);
                for shard in gateway * tree.shards..(gateway + 1) * tree.shards {
                    if shards[shard as usize].take(event, ready) {
                        stepping += 1;
                        agenda.at(ready, What::Step(shard));
                    }
                }
            }
            What::Step(number) => {
                let mut frames = Vec::new();
                let shard = &mut shards[number as usize];
                let consumers = |event: u32| &world.users[commits[event as usize].1 as usize][..];
                let (end, more) =
                    shard.step(at, slower, with, consumers, |event, time| frames.push((event, time)));
                writes += shard.take_writes();
                if tree.client_us > 0.0 && !frames.is_empty() {
                    batches.push_back(frames);
                    agenda.at(end, What::Read(0));
                } else {
                    for (event, time) in frames {
                        lag.saturating_record((time - commits[event as usize].0).max(1.0) as u64);
                    }
                }
                if more { agenda.at(end, What::Step(number)) } else { stepping -= 1 }
            }
            What::Read(_) => {
                for (event, time) in batches.pop_front().unwrap_or_default() {
                    let seen = client.work(time.max(at), tree.client_us * slower);
                    lag.saturating_record((seen - commits[event as usize].0).max(1.0) as u64);
                }
            }
        }
    }
    let expected: u64 = commits.iter().map(|(_, provider)| world.audience(*provider)).sum();
    for shard in &shards {
        shard.check();
    }
    let received = lag.len();
    assert_eq!(received, expected, "nothing is lost or repeated");
    let at = |quantile| lag.value_at_quantile(quantile) as f64;
    let span = now.max(tree.seconds * 1e6);
    let shard_busy = shards.iter().map(Shard::busy).sum::<f64>() / shards.len().max(1) as f64;
    Outcome {
        events: commits.len() as u64,
        received,
        expected,
        p50: at(0.5),
        p99: at(0.99),
        p999: at(0.999),
        max: lag.max() as f64,
        together: if writes == 0 { 0.0 } else { received as f64 / writes as f64 },
        busy: [publisher.busy / span, nats.busy / span, shard_busy / span],
    }
}

/// When something changes, and at which provider.
fn commits(tree: &Tree, world: &World, dice: &mut Rng) -> Vec<(f64, u32)> {
    let mut at = 0.0;
    let mut all = Vec::new();
    let pause = 1e6 / tree.rate.max(1e-9);
    loop {
        at += if tree.regular { pause } else { -pause * (1.0 - dice.f64()).ln() };
        if at > tree.seconds * 1e6 {
            return all;
        }
        let any = dice.u32(0..world.users.len() as u32);
        all.push((at, tree.only.unwrap_or(any)));
    }
}

#[derive(Default)]
struct Agenda {
    heap: BinaryHeap<Reverse<(u64, u64, What)>>,
    order: u64,
}

impl Agenda {
    fn at(&mut self, us: f64, what: What) {
        self.order += 1;
        // Whole nanoseconds, never before the time itself: what is waited for has come then.
        let at = (us * 1e3).max(0.0).ceil() as u64;
        // The running number decides between events at the same time, so that a seed always gives the
        // same figures.
        self.heap.push(Reverse((at, self.order, what)));
    }

    fn next(&mut self) -> Option<(f64, What)> {
        self.heap.pop().map(|Reverse((at, _, what))| (at as f64 / 1e3, what))
    }
}

/// The dependencies, and the placement of the watchers.
struct World {
    /// By provider, the consumers that use it.
    users: Vec<Vec<u32>>,
    /// By played gateway and consumer, its watchers there.
    watchers: Vec<Vec<u32>>,
}

impl World {
    fn new(tree: &Tree, dice: &mut Rng) -> Self {
        let mut sum = 0.0;
        let ranks = 1..=tree.providers;
        let reached: Vec<f64> = ranks
            .map(|rank| {
                sum += f64::from(rank).powf(-tree.zipf);
                sum
            })
            .collect();
        let mut users = vec![Vec::new(); tree.providers as usize];
        for consumer in 0..tree.consumers {
            for _ in 0..tree.uses {
                let drawn = dice.f64() * sum;
                let rank = reached.partition_point(|reached| *reached < drawn).min(reached.len() - 1);
                let users: &mut Vec<u32> = &mut users[rank];
                // Drawn with replacement: a consumer that draws a provider twice depends on it once.
                if users.last() != Some(&consumer) {
                    users.push(consumer);
                }
            }
        }
        let mut watchers = vec![vec![0; tree.consumers as usize]; tree.played as usize];
        for gateway in &mut watchers {
            for number in 0..tree.watchers {
                // One gateway has them evenly, as a load generator opens them; of many, chance decides.
                let consumer =
                    if tree.gateways == 1 { number % tree.consumers } else { dice.u32(0..tree.consumers) };
                gateway[consumer as usize] += 1;
            }
        }
        Self { users, watchers }
    }

    fn shards(&self, tree: &Tree, dice: &mut Rng) -> Vec<Shard> {
        let mut shards = Vec::new();
        for gateway in &self.watchers {
            let mut members = vec![vec![0_u32; gateway.len()]; tree.shards as usize];
            for (consumer, watchers) in gateway.iter().enumerate() {
                for _ in 0..*watchers {
                    members[dice.usize(0..tree.shards as usize)][consumer] += 1;
                }
            }
            shards.extend(members.into_iter().map(|members| Shard::new(&members)));
        }
        shards
    }

    /// The number of watchers on the played gateways that receive a change.
    fn audience(&self, provider: u32) -> u64 {
        let users = &self.users[provider as usize];
        self.watchers
            .iter()
            .flat_map(|gateway| users.iter().map(|user| u64::from(gateway[*user as usize])))
            .sum()
    }

    /// Gateways that get a copy, in the order in which NATS serves them.
    fn interested(&self, provider: u32, tree: &Tree, dice: &mut Rng) -> Vec<u32> {
        let users = &self.users[provider as usize];
        let of_each = f64::from(tree.watchers) / f64::from(tree.consumers);
        // Of gateways that are not played, chance decides whether somebody there cares.
        let cares = 1.0 - (-(users.len() as f64) * of_each).exp();
        let mut all: Vec<u32> = (0..tree.gateways)
            .filter(|gateway| match self.watchers.get(*gateway as usize) {
                Some(watchers) => users.iter().any(|user| watchers[*user as usize] > 0),
                None => dice.f64() < cares,
            })
            .collect();
        // In a fixed order the same gateways would always be served last.
        dice.shuffle(&mut all);
        all
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn built_in() -> Coefficients {
        Coefficients::built_in().expect("the file is right")
    }

    fn small() -> Tree {
        Tree {
            gateways: 1,
            played: 1,
            shards: 1,
            watchers: 1000,
            consumers: 1,
            providers: 1,
            uses: 1,
            zipf: 1.0,
            only: None,
            rate: 1.0,
            regular: true,
            seconds: 5.0,
            client_us: 0.0,
            processors: None,
        }
    }

    #[test]
    fn one_event_takes_the_sum_of_its_hops_and_then_a_write_each() {
        let with = built_in();
        let outcome = play(&small(), &with, 1);
        assert_eq!((outcome.events, outcome.received, outcome.together), (5, 5000, 1.0));
        let hops = with.get("commit_us")
            + with.get("view_us")
            + with.get("nats_message_us")
            + with.get("gateway_event_us")
            + with.get("gateway_append_us");
        let last = hops + 1000.0 * with.get("gateway_write_us");
        assert!((outcome.max - last).abs() / last < 0.01, "{} and {last}", outcome.max);
        assert!((outcome.p50 - hops - 500.0 * with.get("gateway_write_us")).abs() / last < 0.01);
    }

    #[test]
    fn events_that_come_too_fast_are_written_together() {
        let with = built_in();
        let calm = play(&Tree { rate: 50.0, ..small() }, &with, 1);
        let rush = play(&Tree { rate: 1000.0, ..small() }, &with, 1);
        assert!(calm.together < 1.01, "{calm:?}");
        assert!(rush.together > 5.0 && rush.max < 1e5, "{rush:?}");
        assert!(rush.busy[2] > 0.9, "{rush:?}");
    }

    #[test]
    fn threads_that_share_cores_take_turns() {
        let with = built_in();
        let alone = play(&small(), &with, 1);
        let shared = play(&Tree { client_us: 9.07, processors: Some(1), ..small() }, &with, 1);
        assert!(shared.max > 1.5 * alone.max, "{} and {}", shared.max, alone.max);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn the_same_seed_gives_the_same_figures_and_loses_nothing(
            gateways in 1..6_u32, shards in 1..5_u32, watchers in 1..600_u32, consumers in 1..60_u32,
            providers in 1..60_u32, uses in 1..5_u32, rate in 1..3000_u32, regular in any::<bool>(), seed in any::<u64>(),
        ) {
            let tree = Tree {
                gateways, played: gateways.min(2), shards, watchers, consumers, providers,
                uses: uses.min(providers), rate: rate.into(), regular, seconds: 0.2, ..small()
            };
            let outcome = play(&tree, &built_in(), seed);
            prop_assert_eq!(outcome.received, outcome.expected);
            prop_assert_eq!(&outcome, &play(&tree, &built_in(), seed));
        }
    }
}
