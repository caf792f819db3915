//! Heartbeats that gateways answer by themselves: the real reporters and keepers, against a bus that loses,
//! delays, repeats and reorders, gateways that die, publishers that change or stand still, and clocks that
//! differ.
//!
//! Instances beat at gateways. A gateway that is not trusted passes the heartbeat on, and the instance's
//! lease is renewed in the store, as without gateways that answer. The keeper of the publisher asks the
//! lease of an instance before it ends it, and the store refuses a publisher that has lost its seat.
//!
//! Some instances are unregistered while their clients go on. The gateways but one know instances as gateways
//! do: from the answers of control planes, whose views may be a little behind, and from the ends of which the
//! publisher tells. Their clients must be told that their instance is gone.
//!
//! The judge knows the true time. It checks that no instance was ended while its time had not passed since
//! its last heartbeat that was answered. When the faults are over, each instance that stopped must be ended,
//! once and within a bound, and the others must live.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;
use liveness::{Endings, Keeper, Key, Known, Moment, Report, Reporter, ReporterId, Tick, Timing};
use shared::model::{Revision, ServiceRef, Tenant};

/// The step of the simulation.
const STEP: Duration = Duration::from_millis(50);
const INSTANCES: usize = 6;
const GATEWAYS: usize = 3;
const REPLICAS: usize = 2;
/// The time during which faults happen.
const FAULTS: Duration = Duration::from_secs(90);
/// The ends that a replica's history has when it takes the seat.
const HISTORY: usize = 2;
/// Rates of clocks differ by up to this many thousandths.
const DRIFT: u64 = 2;

/// A process' clock: it began at some time, and runs a little too fast or too slow.
#[derive(Clone, Copy, Debug)]
struct Skewed {
    offset: Duration,
    thousandths: u64,
}

impl Skewed {
    fn by_dice(dice: &mut Rng) -> Self {
        let offset = Duration::from_millis(dice.u64(..1_000_000));
        Self { offset, thousandths: dice.u64(1000 - DRIFT..=1000 + DRIFT) }
    }

    fn at(&self, now: Moment) -> Moment {
        self.offset + now * (self.thousandths as u32) / 1000
    }

    /// The length of a time by this clock, in true time.
    fn elapsed(&self, length: Duration) -> Duration {
        length * 1000 / (self.thousandths as u32)
    }
}

struct Instance {
    key: Key,
    interval: Duration,
    time: Duration,
    next: Moment,
    /// The gateway of its last heartbeat, by index.
    gateway: usize,
    stops: Option<Moment>,
    /// The last heartbeat that was answered, by true time.
    answered: Moment,
    /// The last renewal of its lease in the store, by true time.
    renewed: Moment,
    ended: Option<Moment>,
    /// An operator unregisters it then, whether it beats or not.
    unregistered: Option<Moment>,
    /// Its client was told that it is gone.
    told: bool,
}

struct Gateway {
    reporter: Reporter,
    /// The instances that it knows. `None` for a control plane, which has a view.
    known: Option<Known>,
    clock: Skewed,
    next_report: Moment,
    /// Cut off from the bus until then.
    cut_until: Moment,
}

/// A replica of the control plane.
struct Replica {
    clock: Skewed,
    keeper: Option<Keeper<usize>>,
    endings: Endings,
    /// The ends in `endings`, counted.
    noted: usize,
    next_tick: Moment,
    cut_until: Moment,
    /// The process stands still until then: it reads nothing and writes nothing.
    still_until: Moment,
    /// Instances that are over and whose leases are being asked: since when by this clock, and the true time
    /// of the answer.
    asked: Vec<(Key, Moment, Moment)>,
}

enum Letter {
    Report(Report),
    Tick(Tick),
}

struct World {
    dice: Rng,
    now: Moment,
    timing: Timing,
    faults: bool,
    instances: Vec<Instance>,
    gateways: Vec<Gateway>,
    replicas: Vec<Replica>,
    /// The holder of the seat and its term, in the store.
    seat: (usize, u64),
    /// The time until which the holder renews its seat.
    seat_until: Moment,
    /// Letters on their way, by the time of their arrival.
    bus: BTreeMap<(Moment, u64), (usize, Letter)>,
    letters: u64,
    reporters: u128,
    /// The revision of the store.
    rev: Revision,
    /// Every end, by its revision.
    ends: Vec<(Revision, Key)>,
}

fn key_of(index: usize) -> Key {
    Key::of(&ServiceRef::new(Tenant::default(), "s"), &index.to_string())
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Rng::with_seed(seed);
        let instances = (0..INSTANCES).map(|index| {
            let interval = Duration::from_millis(dice.u64(1000..5000));
            let times = dice.u32(0..4);
            let stops = dice.bool().then(|| Duration::from_millis(dice.u64(1000..80_000)));
            Instance {
                key: key_of(index),
                interval,
                // Half an interval to spare: a heartbeat is never exactly in time.
                time: interval * (times + 1) + interval / 2,
                next: Duration::from_millis(dice.u64(..1000)),
                gateway: 0,
                stops,
                answered: Moment::ZERO,
                renewed: Moment::ZERO,
                ended: None,
                unregistered: dice.u8(..4).eq(&0).then(|| Duration::from_millis(dice.u64(1000..80_000))),
                told: false,
            }
        });
        let instances = instances.collect();
        let mut world = Self {
            now: Moment::ZERO,
            timing: Timing::default(),
            faults: true,
            instances,
            gateways: Vec::new(),
            replicas: Vec::new(),
            seat: (0, 1),
            seat_until: Moment::ZERO,
            bus: BTreeMap::new(),
            letters: 0,
            reporters: 0,
            rev: Revision::new(1),
            ends: Vec::new(),
            dice,
        };
        for index in 0..GATEWAYS {
            let gateway = world.new_gateway(index);
            world.gateways.push(gateway);
        }
        for _ in 0..REPLICAS {
            let clock = Skewed::by_dice(&mut world.dice);
            let zero = Moment::ZERO;
            world.replicas.push(Replica {
                clock,
                keeper: None,
                endings: Endings::after(Revision::ZERO),
                noted: 0,
                next_tick: zero,
                cut_until: zero,
                still_until: zero,
                asked: Vec::new(),
            });
        }
        world.take_seat(0);
        world
    }

    fn new_gateway(&mut self, index: usize) -> Gateway {
        self.reporters += 1;
        let reporter = Reporter::new(ReporterId(self.reporters), self.timing, 10_000);
        Gateway {
            reporter,
            known: (index > 0).then(|| Known::new(self.timing, INSTANCES - 1)),
            clock: Skewed::by_dice(&mut self.dice),
            next_report: self.now,
            cut_until: self.now,
        }
    }

    fn take_seat(&mut self, replica: usize) {
        self.seat = (replica, self.seat.1 + 1);
        self.seat_until = self.now + Duration::from_secs(3);
        let epoch = self.seat.1;
        let Some(taker) = self.replicas.get_mut(replica) else { return };
        let now = taker.clock.at(self.now);
        let mut keeper = Keeper::new(self.timing, epoch, now);
        for (index, instance) in self.instances.iter().enumerate() {
            if instance.ended.is_none() {
                keeper.keep(instance.key, instance.time, index, now);
            }
        }
        taker.keeper = Some(keeper);
        // Gateways were told of those before by the last term, or forget everything.
        taker.noted = self.ends.len().saturating_sub(HISTORY);
        let before = taker.noted.checked_sub(1).and_then(|last| self.ends.get(last));
        taker.endings = Endings::after(before.map_or(Revision::new(1), |(rev, _)| *rev));
        taker.asked.clear();
        taker.next_tick = self.now;
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.faults && self.dice.u64(..one_in) == 0
    }

    /// Sends a letter to a receiver: gateways first, then replicas.
    fn send(&mut self, to: usize, make: impl Fn() -> Letter) {
        let copies = if self.chance(20) { 2 } else { 1 };
        for _ in 0..copies {
            if self.chance(8) {
                continue;
            }
            let most = if self.chance(30) { 6000 } else { 200 };
            let delay = Duration::from_millis(self.dice.u64(1..=if self.faults { most } else { 20 }));
            self.letters += 1;
            self.bus.insert((self.now + delay, self.letters), (to, make()));
        }
    }

    fn faults(&mut self) {
        for index in 0..GATEWAYS {
            if self.chance(600) {
                self.gateways[index] = self.new_gateway(index);
            }
            if self.chance(600) {
                let cut = Duration::from_millis(self.dice.u64(..15_000));
                self.gateways[index].cut_until = self.now + cut;
            }
        }
        for index in 0..REPLICAS {
            if self.chance(1200) {
                let cut = Duration::from_millis(self.dice.u64(..15_000));
                self.replicas[index].cut_until = self.now + cut;
            }
            if self.chance(1200) {
                let still = Duration::from_millis(self.dice.u64(..12_000));
                self.replicas[index].still_until = self.now + still;
            }
        }
        if self.chance(1000) {
            // Given up, or the holder dies: another one, or the same, takes it.
            let next = self.dice.usize(..REPLICAS);
            let holder = self.seat.0;
            self.replicas[holder].keeper = None;
            self.take_seat(next);
        }
    }

    /// The holder renews its seat, or loses it. A process that stood still knows by its own clock, before it
    /// does anything else, that its seat is gone.
    fn seat(&mut self) {
        let (holder, epoch) = self.seat;
        for (index, replica) in self.replicas.iter_mut().enumerate() {
            let holds = index == holder && replica.keeper.as_ref().is_some_and(|of| of.epoch() == epoch);
            if replica.still_until > self.now {
                continue;
            }
            if !holds || self.now >= self.seat_until {
                replica.keeper = None;
            } else {
                self.seat_until = self.now + Duration::from_secs(3);
            }
        }
        if self.now >= self.seat_until {
            let next = (holder + 1) % REPLICAS;
            if self.replicas[next].still_until <= self.now {
                self.take_seat(next);
            }
        }
    }

    /// Notes that an instance has ended now.
    fn end_at(&mut self, index: usize) {
        self.rev = Revision::new(self.rev.get() + 1);
        self.instances[index].ended = Some(self.now);
        self.ends.push((self.rev, self.instances[index].key));
    }

    fn unregister(&mut self) {
        for index in 0..INSTANCES {
            let instance = &self.instances[index];
            if instance.ended.is_none() && instance.unregistered.is_some_and(|at| at <= self.now) {
                self.end_at(index);
            }
        }
    }

    fn beats(&mut self) -> Result<(), String> {
        for index in 0..INSTANCES {
            let moves = self.chance(10);
            let lags = self.chance(4);
            let instance = &mut self.instances[index];
            if instance.told
                || (instance.ended.is_some() && instance.unregistered.is_none())
                || instance.next > self.now
                || instance.stops.is_some_and(|stops| stops <= self.now)
            {
                continue;
            }
            instance.next = self.now + instance.interval;
            if moves {
                instance.gateway = self.dice.usize(..GATEWAYS);
            }
            let gateway = &mut self.gateways[instance.gateway];
            let now = gateway.clock.at(self.now);
            let is_known = match &mut gateway.known {
                Some(known) => known.has(instance.key, now),
                None => instance.ended.is_none(),
            };
            if is_known && gateway.reporter.beat(instance.key, now) {
                instance.answered = self.now;
                continue;
            }
            // Passed on. The view of the control plane that answers may be one change behind.
            let view = if lags { Revision::new(self.rev.get() - 1) } else { self.rev };
            let end = self.ends.iter().find(|(_, key)| *key == instance.key);
            if end.is_some_and(|(rev, _)| *rev <= view) {
                instance.told = true;
                continue;
            }
            if let Some(known) = &mut gateway.known {
                known.learn(instance.key, view);
            }
            if instance.ended.is_none() {
                instance.answered = self.now;
                instance.renewed = self.now;
            }
        }
        Ok(())
    }

    fn reports(&mut self) {
        for index in 0..GATEWAYS {
            let gateway = &mut self.gateways[index];
            if gateway.next_report > self.now {
                continue;
            }
            gateway.next_report = self.now + self.timing.interval;
            let reports = gateway.reporter.reports(gateway.clock.at(self.now), 2);
            if gateway.cut_until > self.now {
                continue;
            }
            for report in reports {
                for replica in 0..REPLICAS {
                    // Through the form of the bus.
                    let report = Report::decode(&report.encode());
                    let Some(report) = report else { continue };
                    self.send(GATEWAYS + replica, || Letter::Report(report.clone()));
                }
            }
        }
    }

    fn deliver(&mut self) {
        while let Some(first) = self.bus.first_entry().filter(|first| first.key().0 <= self.now) {
            let (to, letter) = first.remove();
            match letter {
                Letter::Tick(tick) => {
                    let gateway = &mut self.gateways[to];
                    let now = gateway.clock.at(self.now);
                    if let Some(known) = gateway.known.as_mut().filter(|_| gateway.cut_until <= self.now) {
                        known.heard(&tick, now);
                    }
                    if gateway.cut_until <= self.now
                        && gateway.reporter.heard(&tick, gateway.clock.at(self.now))
                    {
                        gateway.next_report = self.now;
                    }
                }
                Letter::Report(report) => {
                    let replica = &mut self.replicas[to - GATEWAYS];
                    if replica.cut_until > self.now {
                        continue;
                    }
                    if replica.still_until > self.now {
                        // The bus keeps it for a process that does not read.
                        self.letters += 1;
                        let at = (replica.still_until, self.letters);
                        self.bus.insert(at, (to, Letter::Report(report)));
                        continue;
                    }
                    let now = replica.clock.at(self.now);
                    if let Some(keeper) = &mut replica.keeper {
                        keeper.heard(&report, now, |_, _| {});
                    }
                }
            }
        }
    }

    fn keepers(&mut self) -> Result<(), String> {
        for index in 0..REPLICAS {
            let replica = &mut self.replicas[index];
            if replica.still_until > self.now {
                continue;
            }
            let now = replica.clock.at(self.now);
            let Some(keeper) = &mut replica.keeper else { continue };
            for (rev, key) in self.ends.iter().skip(replica.noted) {
                keeper.forget(*key);
                replica.endings.push(*rev, *key, now);
            }
            replica.noted = self.ends.len();
            replica.endings.advance(self.rev);
            let judgement = keeper.judge(now, 100);
            for key in judgement.over {
                let answer = self.now + Duration::from_millis(self.dice.u64(..300));
                replica.asked.push((key, now, answer));
            }
            let is_cut = replica.cut_until > self.now;
            let mut tick = None;
            if judgement.needs_call || replica.next_tick <= self.now {
                let is_due = replica.next_tick <= self.now;
                let mut next = keeper.tick(now, judgement.needs_call);
                if is_due {
                    replica.next_tick = self.now + self.timing.interval;
                    next.ended = Some(replica.endings.told(now));
                }
                tick = Some(next);
            }
            if let Some(tick) = tick.filter(|_| !is_cut) {
                for gateway in 0..GATEWAYS {
                    let tick = Tick::decode(&tick.encode());
                    self.send(gateway, || Letter::Tick(tick.clone()));
                }
            }
            self.end(index)?;
        }
        Ok(())
    }

    /// The answers of the store about leases, and the end of instances.
    fn end(&mut self, index: usize) -> Result<(), String> {
        let seat = self.seat;
        let replica = &mut self.replicas[index];
        let Some(keeper) = &mut replica.keeper else { return Ok(()) };
        let now = replica.clock.at(self.now);
        let asked = std::mem::take(&mut replica.asked);
        let mut ended = Vec::new();
        for (key, since_when, answer) in asked {
            if answer > self.now {
                replica.asked.push((key, since_when, answer));
                continue;
            }
            let Some(found) = self.instances.iter().position(|instance| instance.key == key) else {
                continue;
            };
            let instance = &self.instances[found];
            let since = self.now - instance.renewed;
            if !keeper.settle(key, now.saturating_sub(since), since_when) {
                continue;
            }
            keeper.forget(key);
            if seat != (index, keeper.epoch()) || instance.ended.is_some() {
                // The transaction compares the seat and the instance, and loses.
                continue;
            }
            ended.push(found);
            let silent = self.now - instance.answered;
            let least = replica.clock.elapsed(instance.time) - STEP;
            if silent < least {
                return Err(format!(
                    "at {:?} an instance was ended {silent:?} after its last heartbeat, not {:?}",
                    self.now, instance.time
                ));
            }
        }
        ended.into_iter().for_each(|index| self.end_at(index));
        Ok(())
    }

    fn step(&mut self) -> Result<(), String> {
        self.now += STEP;
        self.seat();
        if self.faults {
            self.faults();
        }
        self.deliver();
        self.unregister();
        self.beats()?;
        self.reports();
        self.keepers()
    }
}

/// Plays the simulation of a seed.
///
/// # Errors
/// The reason why the run was wrong.
pub fn explore(seed: u64) -> Result<(), String> {
    let wrong = |reason: String| format!("seed {seed}: {reason}");
    let mut world = World::new(seed);
    while world.now < FAULTS {
        world.step().map_err(wrong)?;
    }
    world.faults = false;
    // A standstill may last 12 s and hides the loss of the seat. Then the next term begins with its full
    // times, and everything else takes a few round trips.
    let longest = Duration::from_secs(23);
    let bound = Duration::from_secs(15) + world.timing.trust + world.timing.margin + longest;
    let rest = FAULTS + bound + Duration::from_secs(5);
    while world.now < rest {
        world.step().map_err(wrong)?;
    }
    // Some more time: those that beat must still live.
    while world.now < rest + Duration::from_secs(30) {
        world.step().map_err(wrong)?;
    }
    for (index, instance) in world.instances.iter().enumerate() {
        if instance.unregistered.is_some() {
            let beats = instance.stops.is_none();
            if instance.ended.is_none() || (beats && !instance.told) {
                return Err(wrong(format!("the client of instance {index} goes on although that is gone")));
            }
            continue;
        }
        match (instance.stops, instance.ended) {
            (None, Some(ended)) => {
                return Err(wrong(format!("instance {index} beats and was ended at {ended:?}")));
            }
            (Some(stopped), None) => {
                return Err(wrong(format!("instance {index} stopped at {stopped:?} and lives")));
            }
            (Some(_), Some(ended)) if ended > rest => {
                return Err(wrong(format!("instance {index} ended at {ended:?}")));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The longest time from the end of an instance's time until it is ended, without faults.
///
/// # Errors
/// The reason why the run was wrong.
pub fn longest_delay(seed: u64) -> Result<Duration, String> {
    let mut world = World::new(seed);
    world.faults = false;
    // The first term begins with full times.
    for instance in &mut world.instances {
        instance.unregistered = None;
        instance.stops = instance.stops.map(|stops| stops + Duration::from_secs(40));
    }
    while world.now < Duration::from_secs(150) {
        world.step()?;
    }
    let delay = |instance: &Instance| {
        let ended = instance.ended?;
        Some(ended.saturating_sub(instance.answered + instance.time))
    };
    if let Some(lives) = world.instances.iter().position(|of| of.stops.is_some() != of.ended.is_some()) {
        return Err(format!("seed {seed}: instance {lives} was not judged right"));
    }
    Ok(world.instances.iter().filter_map(delay).max().unwrap_or_default())
}
