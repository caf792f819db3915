//! The model: what each hop carries in each situation, and which of them is full first.
//!
//! Averages only. Where a queue decides, the simulation is asked.

use crate::coefficients::Coefficients;
use crate::fleet::Fleet;
use crate::table::{Table, figure, time};

/// Changes of a provider's instances while all of them are replaced: one comes, one goes, both are updated.
const CHANGES_OF_A_ROLLOUT: f64 = 3.0;
/// Time that a rollout takes, in seconds.
const ROLLOUT: f64 = 600.0;
/// Part of the fleet that a zone is, and seconds in which its leases run out.
const ZONE: f64 = 0.1;
const ZONE_EXPIRES_IN: f64 = 30.0;
/// Bytes of a bookmark with what it names, of a heartbeat with its answer, of a pull with a 304.
const BOOKMARK_BYTES: f64 = 200.0;

/// Something that happens.
#[derive(Clone, Debug)]
pub struct Situation {
    /// In words.
    pub name: &'static str,
    /// Changes a second.
    pub events: f64,
    /// The share of the watchers that receive one.
    pub audience: f64,
    /// The share of the gateways that receive one.
    pub reach: f64,
}

/// The situations of a fleet, from calm to bad.
pub fn situations(fleet: &Fleet) -> Vec<Situation> {
    let popularity = fleet.popularity();
    let services = popularity.len() as f64;
    let mean = popularity.iter().sum::<f64>() / services;
    let reach = |part: f64| fleet.reach(part * services);
    let mean_reach = popularity.iter().map(|part| reach(*part)).sum::<f64>() / services;
    let top = popularity.first().copied().unwrap_or(0.0);
    vec![
        Situation { name: "a usual second", events: fleet.changes(), audience: mean, reach: mean_reach },
        Situation {
            name: "a rollout of the most popular provider",
            events: fleet.instances() * CHANGES_OF_A_ROLLOUT / ROLLOUT,
            audience: top,
            reach: reach(top),
        },
        Situation {
            name: "a rollout of a tenth of the services",
            events: services / 10.0 * fleet.instances() * CHANGES_OF_A_ROLLOUT / ROLLOUT,
            audience: mean,
            reach: mean_reach,
        },
        Situation {
            name: "a zone of a tenth of the fleet is lost",
            events: ZONE * fleet.watchers as f64 / ZONE_EXPIRES_IN,
            audience: mean,
            reach: mean_reach,
        },
    ]
}

/// A part of the path under a situation.
#[derive(Clone, Debug)]
pub struct Hop {
    /// The hop.
    pub name: &'static str,
    /// Messages a second that it takes in.
    pub messages_in: f64,
    /// Messages a second that it gives out.
    pub messages_out: f64,
    /// Bytes a second that it gives out.
    pub bytes_out: f64,
    /// Cores that it keeps busy.
    pub busy: f64,
    /// Cores that it can keep busy.
    pub cores: f64,
}

impl Hop {
    /// The part of it that is used.
    pub fn load(&self) -> f64 {
        self.busy / self.cores
    }
}

/// The load of each hop.
pub fn hops(fleet: &Fleet, with: &Coefficients, situation: &Situation) -> Vec<Hop> {
    let us = |name: &str| with.get(name) / 1e6;
    let gateways = fleet.gateways() as f64;
    let events = situation.events;
    let copies = events * situation.reach * gateways;
    let watchers = (fleet.watchers as f64).min(fleet.per_gateway as f64);
    let of_gateway = fleet.watchers as f64 / gateways;
    let deliveries = events * situation.audience * of_gateway;
    let beats = fleet.watchers as f64 / fleet.beat;
    let pulls = fleet.watchers as f64 / fleet.pull;
    let planes = fleet.control_planes as f64;
    let idle = of_gateway / 30.0 * us("gateway_ping_us");
    let forwarding = (beats + pulls) / gateways * us("gateway_forward_us");
    let audiences = events * situation.audience * fleet.services as f64 * situation.reach;
    debug_assert!(of_gateway <= watchers + 1.0);
    vec![
        Hop {
            name: "etcd, its leader",
            messages_in: events + beats,
            messages_out: events * planes,
            bytes_out: events * planes * with.get("bus_bytes"),
            busy: events * us("etcd_write_us") + beats * us("etcd_beat_us"),
            // Raft and the applier are one thread each.
            cores: 2.0,
        },
        Hop {
            name: "each control plane, requests",
            messages_in: (beats + pulls) / planes,
            messages_out: (beats + pulls) / planes,
            bytes_out: (beats + pulls) / planes * BOOKMARK_BYTES,
            busy: (beats * us("control_beat_us") + pulls * us("control_find_us")) / planes,
            cores: fleet.cores as f64,
        },
        Hop {
            name: "the publisher",
            messages_in: events,
            messages_out: events,
            bytes_out: events * with.get("bus_bytes"),
            busy: events * us("publisher_event_us"),
            cores: 1.0,
        },
        Hop {
            name: "NATS, one server",
            messages_in: events,
            messages_out: copies + gateways,
            bytes_out: copies * with.get("bus_bytes") + gateways * BOOKMARK_BYTES,
            busy: (copies + gateways) * us("nats_message_us"),
            cores: 4.0,
        },
        Hop {
            name: "each gateway, pushing",
            messages_in: events * situation.reach,
            messages_out: deliveries,
            bytes_out: deliveries * with.get("frame_bytes"),
            busy: idle
                + events * situation.reach * us("gateway_event_us")
                + audiences * us("gateway_append_us")
                + deliveries * us("gateway_write_us"),
            cores: fleet.cores as f64,
        },
        Hop {
            name: "each gateway, passing on",
            messages_in: (beats + pulls) / gateways,
            messages_out: (beats + pulls) / gateways,
            bytes_out: (beats + pulls) / gateways * BOOKMARK_BYTES * 2.0,
            busy: forwarding,
            cores: fleet.cores as f64,
        },
    ]
}

/// The load of each hop in each situation.
pub fn hop_table(fleet: &Fleet, with: &Coefficients) -> Table {
    let mut table = Table::new(&[
        "situation",
        "hop",
        "messages in /s",
        "messages out /s",
        "MB out /s",
        "cores busy",
        "of it used",
    ]);
    for situation in situations(fleet) {
        for hop in hops(fleet, with, &situation) {
            table.row([
                situation.name.to_owned(),
                hop.name.to_owned(),
                figure(hop.messages_in),
                figure(hop.messages_out),
                figure(hop.bytes_out / 1e6),
                figure(hop.busy),
                format!("{} %", figure(hop.load() * 100.0)),
            ]);
        }
    }
    table
}

/// The hop that is full first as changes become more frequent, and the rate at which it is full.
pub fn limit_table(fleet: &Fleet, with: &Coefficients) -> Table {
    let mut table =
        Table::new(&["situation", "changes /s", "full first", "full at changes /s", "how often", "then"]);
    for situation in situations(fleet) {
        let quiet = Situation { events: 0.0, ..situation.clone() };
        let base = hops(fleet, with, &quiet);
        let limits = hops(fleet, with, &situation).into_iter().zip(base).filter_map(|(hop, idle)| {
            let each = (hop.busy - idle.busy) / situation.events;
            (each > 0.0).then(|| ((hop.cores - idle.busy).max(0.0) / each, hop.name))
        });
        let mut limits: Vec<(f64, &str)> = limits.collect();
        limits.sort_by(|one, other| one.0.total_cmp(&other.0));
        let [(at, first), (next_at, next), ..] = limits[..] else { continue };
        table.row([
            situation.name.to_owned(),
            figure(situation.events),
            first.to_owned(),
            figure(at),
            format!("{} times", figure(at / situation.events)),
            format!("{next}, at {} /s", figure(next_at)),
        ]);
    }
    table
}

/// The needs of gateways of several sizes, and the number of them that the fleet needs.
pub fn size_table(fleet: &Fleet, with: &Coefficients) -> Table {
    let mut table = Table::new(&[
        "watchers of a gateway",
        "gateways",
        "memory of its watchers",
        "one event to the most popular audience: last one after",
        "used in a usual second",
        "cold start of all: time",
        "copies of an event on the bus",
    ]);
    for per_gateway in [10_000, 25_000, 50_000, 100_000, 200_000] {
        let fleet = Fleet { per_gateway, ..fleet.clone() };
        let all = situations(&fleet);
        let usual = &all[0];
        let top = &all[1];
        let of_gateway = fleet.watchers as f64 / fleet.gateways() as f64;
        let bytes = of_gateway * (with.get("gateway_bytes") + with.get("kernel_bytes"));
        let last = of_gateway * top.audience * with.get("gateway_write_us") / fleet.cores as f64;
        let pushing: f64 = hops(&fleet, with, usual)
            .iter()
            .filter(|hop| hop.name.starts_with("each gateway"))
            .map(Hop::load)
            .sum();
        let cold = of_gateway * with.get("gateway_open_us") / fleet.cores as f64;
        table.row([
            crate::table::count(per_gateway),
            fleet.gateways().to_string(),
            format!("{} MiB", figure(bytes / f64::from(1 << 20))),
            time(last),
            format!("{} %", figure(pushing * 100.0)),
            time(cold),
            figure(usual.reach * fleet.gateways() as f64),
        ]);
    }
    table
}

/// The lag of a session in a lasting overload: the events that each write must carry so that the cores
/// suffice, and so the time between two writes to a watcher. `None` when even whole bursts are too much.
pub fn overload(fleet: &Fleet, with: &Coefficients, situation: &Situation) -> Option<(f64, f64)> {
    let of_gateway = fleet.watchers as f64 / fleet.gateways() as f64;
    let each = situation.events * situation.audience;
    let deliveries = each * of_gateway;
    let single = with.get("gateway_write_us") / 1e6;
    let burst = with.get("gateway_burst_us") / 1e6;
    let left = fleet.cores as f64 - deliveries * burst;
    if left <= 0.0 || each <= 0.0 {
        return None;
    }
    let together = (deliveries * (single - burst) / left).max(1.0);
    Some((together, if together > 1.0 { together / each } else { 0.0 }))
}

/// The effect of overload on pushing, by the factor by which more happens than usual.
pub fn overload_table(fleet: &Fleet, with: &Coefficients) -> Table {
    let mut table =
        Table::new(&["changes /s", "deliveries /s of a gateway", "events a write", "each watcher waits"]);
    let Some(usual) = situations(fleet).into_iter().next() else { return table };
    for events in [100.0, 1_000.0, 10_000.0, 30_000.0, 100_000.0] {
        let situation = Situation { events, ..usual.clone() };
        let of_gateway = fleet.watchers as f64 / fleet.gateways() as f64;
        let (together, waits) = match overload(fleet, with, &situation) {
            Some((together, waits)) => (figure(together), time(waits * 1e6)),
            None => ("merged per instance".to_owned(), "until merged".to_owned()),
        };
        table.row([figure(events), figure(events * situation.audience * of_gateway), together, waits]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built_in() -> Coefficients {
        Coefficients::built_in().expect("the file is right")
    }

    #[test]
    fn popularity_and_reach_are_what_counting_gives() {
        let fleet = Fleet { watchers: 4000, services: 200, uses: 3, per_gateway: 1000, ..Fleet::default() };
        let mut dice = fastrand::Rng::with_seed(7);
        let weights: Vec<f64> = (1..=200).map(|rank| 1.0 / f64::from(rank)).collect();
        let sum: f64 = weights.iter().sum();
        let mut users = vec![0_u32; 200];
        let rounds = 20_000;
        for _ in 0..rounds {
            let mut used: Vec<usize> = (0..3)
                .map(|_| {
                    let mut left = dice.f64() * sum;
                    weights
                        .iter()
                        .position(|weight| {
                            left -= weight;
                            left <= 0.0
                        })
                        .unwrap_or(199)
                })
                .collect();
            used.sort_unstable();
            used.dedup();
            used.iter().for_each(|rank| users[*rank] += 1);
        }
        for (rank, part) in fleet.popularity().iter().enumerate().take(20) {
            let counted = f64::from(users[rank]) / f64::from(rounds);
            assert!((counted - part).abs() < 0.015, "rank {rank}: {counted} and {part}");
        }
        let hits = (0..rounds).filter(|_| (0..20).any(|_| dice.u32(0..4) == 0)).count();
        assert!((hits as f64 / f64::from(rounds) - fleet.reach(1.0)).abs() < 0.01);
    }

    #[test]
    fn more_gateways_take_more_and_cost_the_bus_more() {
        let with = built_in();
        let fleet = Fleet::default();
        let more = Fleet { per_gateway: 25_000, ..fleet.clone() };
        let at = |fleet: &Fleet, name: &str| {
            let usual = &situations(fleet)[0];
            hops(fleet, &with, usual).into_iter().find(|hop| hop.name == name).expect("is one").load()
        };
        assert!(at(&more, "each gateway, pushing") < at(&fleet, "each gateway, pushing"));
        assert!(at(&more, "NATS, one server") > at(&fleet, "NATS, one server"));
        assert_eq!(at(&more, "the publisher"), at(&fleet, "the publisher"));
    }

    #[test]
    fn overload_is_answered_with_larger_writes_until_nothing_helps() {
        let with = built_in();
        let fleet = Fleet::default();
        let usual = situations(&fleet).remove(0);
        let with_events = |events| overload(&fleet, &with, &Situation { events, ..usual.clone() });
        assert_eq!(with_events(10.0), Some((1.0, 0.0)));
        let (together, waits) = with_events(30_000.0).expect("bursts suffice");
        assert!(together > 1.0 && waits > 0.0);
        assert_eq!(with_events(1e9), None);
    }
}
